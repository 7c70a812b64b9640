"""What a run settles about batches before it begins, and what they have saved when it ends."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable
from dataclasses import replace

from batchgen.engine.batch.chunk_submitter import delete_stale_files
from batchgen.engine.batch.context import BATCH_FOLDER
from batchgen.engine.outcome import RunOptions
from batchgen.ledger.chunk_writer import ChunkWriter
from batchgen.ledger.chunks import UNSENT_STEPS
from batchgen.ledger.ledger import Ledger
from batchgen.ledger.schema import STATE_FOLDER
from batchgen.planning.batchable import BatchMode, BatchOptions, is_batch
from batchgen.profiles.catalogue import Catalogue
from batchgen.store.store import Store

EMULATED_POLL_S, LOCAL_POLL_S = 0.1, 0.4


def resume_unsent_chunks(ledger: Ledger, store: Store, batch_mode: BatchMode, note: Callable[[str], None]) -> None:
    """Chunks that an earlier run left before they were sent: gone on with, or dropped by a run without batches."""
    dropped = ChunkWriter(ledger).drop_unsent(UNSENT_STEPS if batch_mode == "online" else UNSENT_STEPS[:1])
    if dropped:
        note(f"{dropped:,} request(s) of an interrupted run were in no batch yet and are planned anew")
    delete_stale_files(ledger.reader, os.path.join(store.root, STATE_FOLDER, BATCH_FOLDER))


def batch_options(run: RunOptions, local: bool) -> BatchOptions:
    """Without an engine that sends batches, what is out is looked at once and not waited for. local: the server is on this
    machine, and minds no questions."""
    options = run.batches
    if run.emulator_url is not None:  # whose batches take seconds
        options = replace(
            options, poll_s=min(options.poll_s, EMULATED_POLL_S), listing_grace_s=min(options.listing_grace_s, 1.0)
        )
    elif local:
        options = replace(options, poll_s=min(options.poll_s, LOCAL_POLL_S))
    return replace(options, wait=options.wait and options.batch_mode != "online", hold_uncertain=run.hold_uncertain)


def name_prefix(ledger: Ledger) -> str:
    """Unlike that of any other ledger: a batch is known again by its display name."""
    token = ledger.reader.meta("batches") or secrets.token_hex(6)
    ledger.set_meta(batches=token)
    return f"batchgen {token}"


def saved_usd(ledger: Ledger, catalogue: Catalogue) -> float:
    """What this run's batches have cost less than the same requests one by one."""
    saved = 0.0
    for lane, usd in ledger.reader.usd_by_lane(ledger.run_id).items():
        factor = catalogue.resolve(lane.partition("/")[2]).prices.batch_factor if is_batch(lane) else None
        saved += usd / factor - usd if factor else 0.0
    return saved
