"""Runs a job and dies the hard way just before or after the k-th call of one function.

`crash_child MANIFEST OUT URL MODULE:NAME K [OPTIONS]`. `MODULE:NAME!` dies when the call has returned, awaited where it can be.
OPTIONS, JSON: engine; codec: `NAME MODULE CLASS`; requests of a batch; piece_bytes of uploads; ledger; wait; pause_s between
tries of a link.
"""

from __future__ import annotations

import functools
import inspect
import json
import os
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import batchgen
from batchgen.engine import http_attempt
from batchgen.http import uploads
from batchgen.planning.batchable import BatchOptions, ChunkLimits
from batchgen.providers import registry


def die_at(place: str, k: int) -> None:
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
            os._exit(9)
        result = real(*args, **kwargs)
        if dies:
            os._exit(9)
        return result

    async def awaited(*args: Any, **kwargs: Any) -> Any:
        dies, result = due(), await real(*args, **kwargs)
        if dies:
            os._exit(9)
        return result

    setattr(owner, name, awaited if late and inspect.iscoroutinefunction(real) else wrapped)


def add_codec(codec: str) -> None:
    """codec: `NAME MODULE CLASS`."""
    name, module, attribute = codec.split()
    registry.BUILT_IN = {**registry.BUILT_IN, name: (module, attribute)}


def options_of(url: str, text: str) -> tuple[str, batchgen.RunOptions]:
    """The engine, and the run's options."""
    said = json.loads(text)
    if codec := said.get("codec"):
        add_codec(codec)
    uploads.PIECE_BYTES = said.get("piece_bytes", uploads.PIECE_BYTES)
    http_attempt.FIRST_RETRY_DELAY_S = said.get("pause_s", http_attempt.FIRST_RETRY_DELAY_S)
    limits = ChunkLimits(requests=said["requests"]) if "requests" in said else ChunkLimits()
    batches = BatchOptions(limits=limits, wait=said.get("wait", True))
    ledger = said.get("ledger") or os.environ.get("BATCHGEN_LEDGER")
    options = batchgen.RunOptions(emulator_url=url, ledger=ledger, batches=batches)
    return said.get("engine", "online"), options


def run(manifest: str, out: str, url: str, place: str, k: str, said: str = "{}") -> int:
    if place != "-":
        die_at(place, int(k))
    job = batchgen.load(manifest, output=out if "://" in out else Path(out), emulate=True, environ={})
    engine, options = options_of(url, said)
    return batchgen.run_sync(job, options=options, engine=engine).exit_code


if __name__ == "__main__":
    sys.exit(run(*sys.argv[1:]))
