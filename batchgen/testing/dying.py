"""`python -m batchgen.testing.dying MANIFEST MODULE:NAME K`: a run that is killed right before the K-th call of a function.

`MODULE:NAME!` kills it when that call has returned, awaited where it can be.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import os
import sys
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import batchgen
from batchgen.ledger.reader import Reader
from batchgen.settings import environment

EXIT_KILLED = 9
# The calls between which a process is killed; `!`: when the call has returned.
JOB_STEPS = (
    "batchgen.ledger.ledger:Ledger.job_taken 1",
    "batchgen.ledger.ledger:Ledger.job_taken 3",
    "batchgen.ledger.ledger:Ledger.job_taken! 1",
    "batchgen.ledger.ledger:Ledger.job_taken! 4",
    "batchgen.engine.jobs:JobPolls.wait_turn 3",
)
STEPS = (
    "batchgen.http.transport:Transport.send 2",
    "batchgen.http.transport:Transport.send! 2",
    "batchgen.engine.attempts:AttemptRecorder.settle 2",
    "batchgen.engine.attempts:AttemptRecorder.settle! 2",
    "batchgen.ledger.ledger:Ledger.attempt_succeeded! 3",
    "batchgen.ledger.ledger:Ledger.record_placed 3",
)


async def run_child(command: Sequence[str], environ: Mapping[str, str], **streams: Any) -> int:
    """Run a command and return its exit code. environ: added to our own."""
    child = await asyncio.create_subprocess_exec(*command, env={**environment(), **environ}, **streams)
    return await child.wait()


def lost_answers(folder: Path) -> int:
    """Count the attempts of a killed run whose answer nobody recorded."""
    with Reader.open(folder) as reader:
        return sum(attempt.job is None for attempt in reader.open_attempts())


def die_at(place: str, k: int) -> None:
    """Arrange that this process dies at the k-th call, without any clean-up."""
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
