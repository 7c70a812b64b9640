"""What earlier runs and workers left behind is put in order before a run plans anything."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from batchgen.engine.batch.startup import resume_unsent_chunks
from batchgen.engine.links import fetch_pending_links, settle_downloaded
from batchgen.engine.outcome import RunOptions
from batchgen.engine.recovery.open_attempts import finish_moves, settle_open_attempts
from batchgen.engine.recovery.replay import read_kept_answers
from batchgen.engine.recovery.unrecorded_files import find_moved_files, last_run_ended
from batchgen.engine.routes import link_routes
from batchgen.http.transport import Transport
from batchgen.ledger.ledger import Ledger
from batchgen.ledger.location import read_pointer
from batchgen.profiles.catalogue import Catalogue
from batchgen.settings import Settings
from batchgen.store.store import Store


async def recover(
    ledger: Ledger,
    store: Store,
    catalogue: Catalogue,
    settings: Settings,
    options: RunOptions,
    *,
    server_url: str,
    note: Callable[[str], None],
) -> bool:
    """Whether lines of results.jsonl may be out of date. server_url: of the ledger's server, if it has one."""
    if (pointer := read_pointer(store.folder)) is not None:  # workers write this ledger, and may have died
        from batchgen.engine.cluster.orphan_recovery import recover_after_workers  # needs psycopg, an extra

        recover_after_workers(store, server_url, pointer.schema, catalogue, note)
    repairs = bool(ledger.reader.open_attempts())
    finish_moves(ledger, store, note)
    repairs = read_kept_answers(ledger, store, catalogue, note) > 0 or repairs
    settle_downloaded(ledger, store, catalogue, ledger.reader.open_attempts())
    settle_open_attempts(ledger, store, note)
    ledger.flush()  # placing is not waited for
    resume_unsent_chunks(ledger, store, options.batches.batch_mode, note)
    if not last_run_ended(ledger):
        find_moved_files(ledger, store, note)
    await _fetch_links(ledger, store, catalogue, settings, options, note)
    ledger.flush()
    return repairs


async def _fetch_links(
    ledger: Ledger,
    store: Store,
    catalogue: Catalogue,
    settings: Settings,
    options: RunOptions,
    note: Callable[[str], None],
) -> None:
    """Pictures that an earlier run paid for and could not fetch from their links."""
    models = {attempt.lane.split("/", 1)[1] for attempt in ledger.reader.open_attempts() if attempt.links}
    if models:
        routes = link_routes(map(catalogue.resolve, models), settings, options.emulator_url)
        with ThreadPoolExecutor(1) as executor:
            async with Transport(1, executor) as transport:
                await fetch_pending_links(ledger, store, transport, routes, note)
