"""Runs a job and dies the hard way just before the k-th call of one function: `crash_child MANIFEST OUT URL MODULE:NAME K`."""

from __future__ import annotations

import functools
import os
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import batchgen


def die_before(place: str, k: int) -> None:
    module, _, path = place.partition(":")
    owner: Any = import_module(module)
    *outer, name = path.split(".")
    owner = functools.reduce(getattr, outer, owner)
    real, calls = getattr(owner, name), [0]

    def wrapped(*args: Any, **kwargs: Any) -> Any:
        calls[0] += 1
        if calls[0] == k:
            os._exit(9)
        return real(*args, **kwargs)

    setattr(owner, name, wrapped)


if __name__ == "__main__":
    manifest, out, url, place, k = sys.argv[1:]
    if place != "-":
        die_before(place, int(k))
    job = batchgen.load(manifest, output=Path(out), emulate=True, environ={})
    sys.exit(batchgen.run_sync(job, options=batchgen.RunOptions(emulator_url=url)).exit_code)
