"""A manifest and the folder beside it: the one object that the Python API and the command line work with."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path

from batchgen.derivatives.diff import DerivativeForecast, missing_derivatives
from batchgen.engine.budgets import counts_all_jobs, remaining_budget, require_shared_spend
from batchgen.engine.online import Engine
from batchgen.engine.outcome import Outcome, RunOptions
from batchgen.engine.reconcile import Reconciler
from batchgen.engine.reconciliation import Reconciliation, refuse_online_only
from batchgen.engine.recovery.missing_state import refuse_lost_pictures, refuse_lost_results
from batchgen.engine.remote_engine import RemoteEngine
from batchgen.engine.run import run_job
from batchgen.errors import UsageError
from batchgen.events import Observer
from batchgen.ledger.derivatives import DerivativeReader
from batchgen.ledger.location import LedgerServer, has_ledger, job_identity, ledger_url, open_registered, server_address
from batchgen.ledger.reader import Reader
from batchgen.ledger.results import has_result_lines
from batchgen.manifest import Manifest, open_manifest
from batchgen.manifest.addresses import has_url_scheme, normalize_bucket_url
from batchgen.planning.batchable import BatchMode
from batchgen.planning.plan import Forecast, RetrySelection, Step, forecast, spend_rate_problem
from batchgen.profiles.profile import Profile
from batchgen.providers import registry
from batchgen.references.local import DisabledRemoteReferences, RemoteReferenceSource
from batchgen.references.remote import RemoteReferences
from batchgen.scheduling.window import quota_day_start
from batchgen.settings import Settings, state_folder
from batchgen.store.store import last_location, open_store, refuse_other_location

# `batch` and `auto` send what a batch API takes in batches, and what goes online like any other.
BATCH_MODES: Mapping[str, BatchMode] = {"batch": "batch", "auto": "auto"}
UNTRUSTED_ADDRESS = (
    "is not read: `.env` beside the manifest says where requests go, so pictures from your buckets could be sent there; set"
    " that address in the environment instead"
)
ENGINES = {
    **dict.fromkeys(("online", *BATCH_MODES), "batchgen.engine.online:OnlineEngine"),
    "cluster": "batchgen.engine.cluster.engine:ClusterEngine",
}


@dataclass(frozen=True, slots=True)
class Job:
    """A manifest, the folder of its pictures, and the settings it runs under."""

    manifest: Manifest
    folder: Path
    settings: Settings
    emulated: bool = False
    bucket: str = ""  # where its pictures live, when not in the folder


@dataclass(frozen=True, slots=True)
class Plan:
    """What a run would do. reconciliation: counts by reason; forecast: requests, images, USD, seconds and the limit that binds;
    derivatives: files to make of the pictures, at most, for a picture may turn out smaller than a width."""

    reconciliation: Reconciliation
    forecast: Forecast
    warnings: tuple[str, ...] = ()
    derivatives: int = 0


def load(
    path: str | Path,
    *,
    output: str | Path | None = None,
    emulate: bool = False,
    environ: Mapping[str, str] | None = None,
) -> Job:
    """Open a manifest. Its head is read and checked now, its items when it is planned or run.

    output: the folder for pictures and ledger; default what the manifest says, else NAME beside it, and NAME.emulated
    when emulate is set. The address of a bucket, there or in the manifest, takes the pictures, and the folder is NAME
    beside the manifest; an emulated job uses a bucket only when `output` names it. environ: instead of the process's
    environment. Raises ManifestError, SettingsError, UsageError.
    """
    path = Path(path)
    bucket = _bucket_address(output) if isinstance(output, str) else ""
    settings = Settings.load(path.absolute().parent, environ)

    def allow_retired(profile: Profile) -> bool:
        return emulate or not _is_asked_itself(profile.provider, settings)

    def remote_references(warn: Callable[[str], None]) -> RemoteReferenceSource:
        if not emulate and _dotenv_leads_elsewhere(settings):
            return DisabledRemoteReferences(UNTRUSTED_ADDRESS)
        return RemoteReferences(state_folder(settings), warn)

    manifest = open_manifest(path, allow_retired=allow_retired, remote_references=remote_references)
    if output is not None and not bucket:
        folder = Path(output).absolute()
    else:
        folder = Path(manifest.output)
        if emulate:
            folder = folder.with_name(folder.name + ".emulated")
        elif not bucket:
            bucket = manifest.bucket
    return Job(manifest, folder, settings, emulate, bucket or last_location(folder))


def _is_asked_itself(provider: str, settings: Settings) -> bool:
    """Whether requests for a provider reach its vendor. Raises SettingsError, UsageError."""
    endpoint = registry.endpoint_of(provider)
    return endpoint.is_vendor_url(settings.access(endpoint).base_url)


def _dotenv_leads_elsewhere(settings: Settings) -> bool:
    """Whether a folder's `.env` says where requests go, be it to a provider that nobody asks."""
    names = settings.dotenv_base_urls
    if any(name.startswith("BATCHGEN_") for name in names):
        return True
    declared = registry.endpoints(registry.provider_names()) if names else ()
    return any(name in endpoint.base_url_names for endpoint in declared for name in names)


def _bucket_address(output: str) -> str:
    if not has_url_scheme(output):
        return ""
    try:
        return normalize_bucket_url(output)
    except ValueError as error:
        raise UsageError(f"--output: {error}") from None


def plan(
    job: Job,
    *,
    retry_selection: RetrySelection | None = None,
    only: Sequence[str] = (),
    limit: int | None = None,
    concurrency: int | None = None,
    max_usd: float | None = None,
    on_step: Callable[[Step], None] | None = None,
    engine: str = "online",
) -> Plan:
    """Manifest minus ledger, nothing sent and nothing written. Raises ManifestError, LedgerError, UsageError.

    on_step: told of every sample that is not simply kept, in the order of the manifest.
    """
    has_result_lines(job.folder)
    reader = _open_reader(job)
    limits = job.manifest.limits
    derivative_forecast = DerivativeForecast(job.manifest.name, on_step)
    try:
        store = open_store(job.folder, job.bucket)
        if reader is None or reader.last_run() is None:
            refuse_lost_results(job.manifest, store)
        if reader is not None:
            refuse_other_location(reader, store)
            store.load_pending(reader.unplaced())
        reconciliation = Reconciler(
            job.manifest, reader, store, retry_selection or RetrySelection(), only=only, limit=limit, on_step=derivative_forecast,
            batch_mode=BATCH_MODES.get(engine, "online"),
        ).reconcile()  # fmt: skip
        refuse_lost_pictures(job.manifest, store, reconciliation, reader)
        files = derivative_forecast.files
        if reader is not None and job.manifest.has_derivatives:
            due = missing_derivatives(
                job.manifest, DerivativeReader.from_reader(reader), store, only, emulated=job.emulated
            )
            files += sum(len(each.outputs) for each in due if each.key not in derivative_forecast.replaced)
        budget, budget_of = _remaining_budget(job, reconciliation, reader, max_usd)
        for lane, load in reconciliation.loads.items():
            if load.rpd is not None:
                load.rpd_left = max(
                    0, load.rpd - (reader.sent_count_since(lane, quota_day_start(time.time())) if reader else 0)
                )
    finally:
        if reader is not None:
            reader.close()
    refuse_online_only(reconciliation)
    loads = list(reconciliation.loads.values())
    if (never := spend_rate_problem(loads)) is not None:
        raise UsageError(never)
    run_forecast = forecast(loads, concurrency or limits.concurrency, budget, budget_of, chain_s=reconciliation.chain_s)
    return Plan(reconciliation, run_forecast, tuple(job.manifest.warnings), files)


def _remaining_budget(
    job: Job, reconciliation: Reconciliation, reader: Reader | None, max_usd: float | None
) -> tuple[float | None, str]:
    """(USD, of what). Raises LedgerError when a budget counts all jobs and what they spend cannot be read."""
    state = (
        None
        if job.emulated
        else server_address(job.folder, None) or ledger_url(job.settings) or state_folder(job.settings)
    )
    providers = {profile.provider for profile in reconciliation.profiles.values()}
    if counts_all_jobs(job.manifest.limits, providers, emulated=job.emulated):
        require_shared_spend(state)
    return remaining_budget(job.manifest.limits, max_usd, state, reader)


def _open_reader(job: Job) -> Reader | None:
    """Of what is known so far; of a job that a server knows, even when this folder is new."""
    url = ledger_url(job.settings)
    if has_ledger(job.folder):
        return Reader.open(job.folder, url)
    if url is None:
        return None
    kept = open_registered(LedgerServer(url, job.manifest.name, job_identity(job.bucket or str(job.folder))))
    return None if kept is None else Reader(kept)


async def run(
    job: Job, *, observers: Sequence[Observer] = (), options: RunOptions | None = None, engine: str = "online"
) -> Outcome:
    """Make what is missing. Returns when everything has ended one way or another; cancelling it cancels the run.

    An emulated job starts a server of its own on loopback unless the options name one. Raises ManifestError,
    SettingsError, StoreError, LedgerError, JobLocked, UsageError.
    """
    options = options or RunOptions()
    options = replace(options, batches=replace(options.batches, batch_mode=BATCH_MODES.get(engine, "online")))
    driver = load_engine(engine)
    if job.emulated and options.emulator_url is None:
        from batchgen.emulator import EmulatorOptions, serve  # no other job needs a server

        async with await serve(EmulatorOptions()) as emulator:
            return await run_job(
                job.manifest,
                job.folder,
                job.settings,
                replace(options, emulator_url=emulator.base_url),
                driver,
                observers,
                bucket=job.bucket,
            )
    return await run_job(job.manifest, job.folder, job.settings, options, driver, observers, bucket=job.bucket)


def run_sync(
    job: Job, *, observers: Sequence[Observer] = (), options: RunOptions | None = None, engine: str = "online"
) -> Outcome:
    """`run` for callers without an event loop."""
    return asyncio.run(run(job, observers=observers, options=options, engine=engine))


def load_engine(name: str) -> Engine | RemoteEngine:
    """Our own engine of this name, else one installed under `batchgen.engines`. Raises UsageError naming those there are."""
    if name in ENGINES:
        module, _, attribute = ENGINES[name].partition(":")
        engine: Engine | RemoteEngine = getattr(import_module(module), attribute)()
        return engine
    from importlib.metadata import entry_points  # 20 ms

    found = {point.name: point for point in entry_points(group="batchgen.engines")}
    if name not in found:
        raise UsageError(f"there is no engine {name!r}; installed are {', '.join(sorted({*ENGINES, *found}))}")
    installed: Engine | RemoteEngine = found[name].load()()
    return installed
