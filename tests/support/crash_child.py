"""Runs a job and dies the hard way just before or after the k-th call of one function.

`crash_child MANIFEST OUT URL MODULE:NAME K [OPTIONS]`. `MODULE:NAME!` dies when the call has returned, awaited where it can be.
OPTIONS, JSON: engine; codec: `NAME MODULE CLASS`; requests of a batch; piece_bytes of uploads; ledger; wait; pause_s between
tries of a link.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import batchgen
from batchgen.engine import http_attempt
from batchgen.http import uploads
from batchgen.planning.batchable import BatchOptions, ChunkLimits
from batchgen.providers import registry
from batchgen.testing.dying import die_at


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
    hold = said.get("hold_uncertain", False)
    chosen = batchgen.RetrySelection.of(None, hold_uncertain=hold)
    options = batchgen.RunOptions(
        emulator_url=url, ledger=ledger, batches=batches, hold_uncertain=hold, retry_selection=chosen
    )
    return said.get("engine", "online"), options


def run(manifest: str, out: str, url: str, place: str, k: str, said: str = "{}") -> int:
    if place != "-":
        die_at(place, int(k))
    job = batchgen.load(manifest, output=out if "://" in out else Path(out), emulate=True, environ={})
    engine, options = options_of(url, said)
    return batchgen.run_sync(job, options=options, engine=engine).exit_code


if __name__ == "__main__":
    sys.exit(run(*sys.argv[1:]))
