"""Deals with chunks of batches that an earlier run planned and did not send."""

from __future__ import annotations

import os
from collections.abc import Callable

from batchgen.ledger.chunk_writer import ChunkWriter
from batchgen.ledger.chunks import UNSENT_STEPS
from batchgen.ledger.ledger import Ledger
from batchgen.ledger.schema import STATE_FOLDER
from batchgen.planning.batchable import BatchMode

CHUNK_FILE_KINDS = ("jsonl", "results", "inline")  # endings of a chunk's files that are deleted when it is over
BATCH_FOLDER = "batch"  # beside the spool: lines of chunks in progress, and results not settled yet


def resume_unsent_chunks(ledger: Ledger, root: str, batch_mode: BatchMode, note: Callable[[str], None]) -> None:
    """Resume chunks that an earlier run left unsent, or drop them in a run without batches."""
    dropped = ChunkWriter(ledger).drop_unsent(UNSENT_STEPS if batch_mode == "online" else UNSENT_STEPS[:1])
    if dropped:
        note(f"{dropped:,} request(s) of an interrupted run were in no batch yet and are planned again")
    folder, kept = (
        os.path.join(root, STATE_FOLDER, BATCH_FOLDER),
        {str(chunk.id) for chunk in ledger.reader.open_chunks()},
    )
    for name in os.listdir(folder) if os.path.isdir(folder) else ():  # of finished chunks, left by a run that died
        number, _, kind = name.partition(".")
        if kind in CHUNK_FILE_KINDS and number not in kept:
            os.unlink(os.path.join(folder, name))
