"""Plans what a run would do and cost: the manifest minus what the ledger and the store have. Nothing is sent or
written."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing, nullcontext
from dataclasses import dataclass

from batchgen.derivatives.diff import DerivativeForecast, missing_derivatives
from batchgen.engine.budgets import remaining_budget
from batchgen.engine.job import Job, open_reader
from batchgen.engine.outcome import RunOptions
from batchgen.engine.preflight import refuse_lost_pictures, refuse_lost_results, refuse_online_only, refuse_unstartable
from batchgen.engine.reconcile import Reconciler
from batchgen.engine.reconciliation import Reconciliation
from batchgen.engine.ways import Ways, requests_left
from batchgen.ledger.reader import Reader
from batchgen.ledger.results import has_result_lines
from batchgen.manifest.duplicates import repeats_note
from batchgen.money import usd
from batchgen.planning.plan import Forecast, Step
from batchgen.records import Sample
from batchgen.store.store import Store, open_store, refuse_other_location

REPEATS_LOOKED_FOR_MAX = 100_000  # items; for more, reading the manifest twice more would take too long


@dataclass(frozen=True, slots=True)
class Plan:
    """What a run would do. reconciliation: counts by reason. forecast: requests, images, USD, seconds and the limit
    that binds. derivatives: the most files that will be made of the images, some of which may turn out smaller than a
    width. ways: which way the requests go and when that ends, for a run that has to be done by a given time."""

    reconciliation: Reconciliation
    forecast: Forecast
    warnings: tuple[str, ...] = ()
    derivatives: int = 0
    ways: Ways | None = None

    def __repr__(self) -> str:
        known = self.forecast.known_usd
        unpriced = f", {self.forecast.unpriced:,} requests of unknown price" if self.forecast.unpriced else ""
        kept = self.reconciliation.kept
        return f"<plan: {self.forecast.images:,} images to make, {kept:,} kept; {usd(known)} estimated{unpriced}>"


def plan(
    job: Job,
    *,
    options: RunOptions | None = None,
    on_step: Callable[[Step], None] | None = None,
    engine: str = "online",
) -> Plan:
    """Plan the manifest minus the ledger; nothing is sent or written. Raises ManifestError, LedgerError, UsageError.

    on_step: called with every sample that is not simply kept, in the order of the manifest.
    """
    options = (options or RunOptions()).for_engine(engine)
    has_result_lines(job.folder)
    derivative_forecast = DerivativeForecast(job.manifest.name, on_step)
    opened = open_reader(job)
    with nullcontext() if opened is None else closing(opened) as reader:
        store = open_store(job.folder, job.bucket)
        reconciliation, ways = _reconcile(job, store, reader, options, derivative_forecast)
        files = derivative_forecast.files
        if reader is not None and job.manifest.has_derivatives:
            due = missing_derivatives(job.manifest, reader, store, options.only, emulated=job.emulated)
            files += sum(len(each.outputs) for each in due if each.key not in derivative_forecast.replaced)
        budget = remaining_budget(job, reconciliation.profiles.values(), reader, options.max_usd)
        for lane, load in reconciliation.loads.items():
            load.rpd_left = requests_left(load, lane, reader)
    refuse_online_only(reconciliation)
    refuse_unstartable(reconciliation)
    notes = [] if reconciliation.items > REPEATS_LOOKED_FOR_MAX else [repeats_note(job.manifest.items)]
    run_forecast = reconciliation.forecast(options.concurrency or job.manifest.limits.concurrency, *budget)
    return Plan(reconciliation, run_forecast, (*job.manifest.warnings, *filter(None, notes)), files, ways)


def check(job: Job) -> tuple[int, int]:
    """The numbers of items and samples in a manifest, after all checks of a plan that need neither the network nor the
    ledger.

    Raises ManifestError, UsageError.
    """
    wanted = Reconciliation(job.manifest.limits, job.manifest.catalogue)
    for item in job.manifest.items():
        wanted.items += 1
        for n in range(1, item.count + 1):
            wanted.add_request(Sample(item=item, n=n, fingerprint="", wire=""), batch=False)
    refuse_unstartable(wanted)
    return wanted.items, wanted.wanted


def _reconcile(
    job: Job, store: Store, reader: Reader | None, options: RunOptions, on_step: Callable[[Step], None]
) -> tuple[Reconciliation, Ways | None]:
    """Reconcile the manifest with the ledger. Raises LedgerError if state is missing."""
    if reader is None or reader.last_run() is None:
        refuse_lost_results(job.manifest, store)
    if reader is not None:
        refuse_other_location(reader, store)
        store.load_pending(reader.unplaced())
    reconciler = Reconciler(job.manifest, reader, store, options, on_step=on_step)
    reconciliation = reconciler.reconcile()
    refuse_lost_pictures(job.manifest, store, reconciliation, reader)
    return reconciliation, reconciler.ways
