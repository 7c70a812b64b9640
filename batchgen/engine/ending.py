"""The end of a run: what it comes to in figures, its exit code, and what the ledger keeps of it."""

from __future__ import annotations

import time
from collections.abc import Callable

from batchgen.engine.batch.startup import saved_usd
from batchgen.engine.discrepancies import find_discrepancies
from batchgen.engine.outcome import Discrepancies, Outcome, RunEnding, RunOptions, exit_code
from batchgen.engine.reconciliation import Reconciliation
from batchgen.ledger.ledger import Ledger
from batchgen.planning.plan import Forecast
from batchgen.profiles.catalogue import Catalogue
from batchgen.store.store import Store


async def end_run(
    ledger: Ledger,
    store: Store,
    options: RunOptions,
    catalogue: Catalogue,
    reconciliation: Reconciliation,
    ending: RunEnding,
    *,
    run_forecast: Forecast,
    started: float,
    note: Callable[[str], None],
) -> Outcome:
    """Looks for discrepancies between the ledger and the store, and records the end. started: UTC seconds."""
    discrepancies = await _discrepancies(ledger, store, ending, note)
    reader = ledger.reader
    money = reader.money(ledger.run_id)
    attempts = reader.attempts(ledger.run_id)
    counts = reader.counts()
    made = reader.image_count_of_run(ledger.run_id)
    skipped = 0 if options.retry_selection.explicit else reconciliation.skipped - reconciliation.over_limit
    missing = reconciliation.wanted + reconciliation.submitted - made + skipped
    code = exit_code(
        ending.stop_reason,
        max(0, missing) + len(discrepancies.missing),
        made,
        sum(attempts.values()),
        bool(ending.stopped_lanes),
        ending.waits_for_quota,
        counts.get("submitted", 0) + ending.unsubmitted + ending.with_workers + ending.derived.queued > 0,
        ending.derived.failed > 0 or not ending.derived.finished,
        ending.waiting_uploads > 0,
        bool(discrepancies.changed or discrepancies.check_failed),
    )
    outcome = Outcome(
        run_id=ledger.run_id,
        exit_code=code,
        stop_reason=ending.stop_reason,
        message=ending.message or discrepancies.check_failed,
        seconds=time.time() - started,
        kept=reconciliation.kept,
        moved=len(reconciliation.moves),
        counts=counts,
        attempts=attempts,
        made=made,
        left=ending.left,
        usd=money.spent,
        estimated_usd=money.estimated,
        maybe_usd=money.maybe,
        maybe_requests=money.maybe_requests,
        unpriced=money.unknown,
        folder=store.root,
        emulated=options.emulator_url is not None,
        forecast=run_forecast,
        parked={**ending.parked, **{lane: until for lane, (until, _) in reader.parked().items()}},
        stopped_lanes=ending.stopped_lanes,
        submitted=counts.get("submitted", 0),
        unsubmitted=ending.unsubmitted,
        saved_usd=saved_usd(ledger, catalogue),
        derived=ending.derived,
        bucket=store.url,
        waiting=ending.waiting_uploads,
        discrepancies=discrepancies,
        exposed_ms=ending.exposed_ms,
    )
    summary = {"made": made, "usd": money.spent, "estimated_usd": money.estimated, "message": outcome.message}
    found = {"discrepancies": discrepancies.listed} if discrepancies.checked else {}
    ledger.run_ended(code, outcome.stopped_by, {**summary, **found})
    return outcome


async def _discrepancies(ledger: Ledger, store: Store, ending: RunEnding, note: Callable[[str], None]) -> Discrepancies:
    """Skipped for a run that was stopped, which does not end with 0, and while workers are still placing pictures."""
    if ending.stop_reason or ending.with_workers or ending.waiting_uploads:
        return Discrepancies()
    return await find_discrepancies(ledger, store, note)
