"""`python -m batchgen.testing.dying MANIFEST MODULE:NAME K`: a run that is killed right before the K-th call of a function.

`MODULE:NAME!` kills it when that call has returned, awaited where it can be.
"""

from __future__ import annotations

import functools
import inspect
import os
import sys
from importlib import import_module
from typing import Any

import batchgen

EXIT_KILLED = 9


def die_at(place: str, k: int) -> None:
    """From here on this process dies at the k-th call, without any clean-up."""
    module, _, path = place.removesuffix("!").partition(":")
    owner: Any = import_module(module)
    *outer, name = path.split(".")
    owner = functools.reduce(getattr, outer, owner)
    real, calls, late = getattr(owner, name), [0], place.endswith("!")

    def due() -> bool:
        calls[0] += 1
        return calls[0] == k

    def wrapped(*args: Any, **kwargs: Any) -> Any:
        dies = due()
        if dies and not late:
            os._exit(EXIT_KILLED)
        result = real(*args, **kwargs)
        if dies:
            os._exit(EXIT_KILLED)
        return result

    async def awaited(*args: Any, **kwargs: Any) -> Any:
        dies, result = due(), await real(*args, **kwargs)
        if dies:
            os._exit(EXIT_KILLED)
        return result

    setattr(owner, name, awaited if late and inspect.iscoroutinefunction(real) else wrapped)


if __name__ == "__main__":
    manifest, place, k = sys.argv[1:]
    die_at(place, int(k))
    sys.exit(batchgen.run_sync(batchgen.load(manifest)).exit_code)
