"""Chunks of batches that an earlier run has planned and not sent."""

from __future__ import annotations

import os
from collections.abc import Callable

from batchgen.ledger.chunk_writer import ChunkWriter
from batchgen.ledger.chunks import UNSENT_STEPS
from batchgen.ledger.ledger import Ledger
from batchgen.ledger.schema import STATE_FOLDER
from batchgen.planning.batchable import BatchMode

CHUNK_FILE_KINDS = ("jsonl", "results", "inline")  # endings of a chunk's files that go when it is over
BATCH_FOLDER = "batch"  # beside the spool: the lines of chunks on their way, and of results not yet settled


def resume_unsent_chunks(ledger: Ledger, root: str, batch_mode: BatchMode, note: Callable[[str], None]) -> None:
    """Chunks that an earlier run left before they were sent: gone on with, or dropped by a run without batches."""
    dropped = ChunkWriter(ledger).drop_unsent(UNSENT_STEPS if batch_mode == "online" else UNSENT_STEPS[:1])
    if dropped:
        note(f"{dropped:,} request(s) of an interrupted run were in no batch yet and are planned again")
    folder, kept = (
        os.path.join(root, STATE_FOLDER, BATCH_FOLDER),
        {str(chunk.id) for chunk in ledger.reader.open_chunks()},
    )
    for name in os.listdir(folder) if os.path.isdir(folder) else ():  # of chunks that are over, from a run that died
        number, _, kind = name.partition(".")
        if kind in CHUNK_FILE_KINDS and number not in kept:
            os.unlink(os.path.join(folder, name))
