"""A manifest and the folder beside it: the one object that the Python API and the command line work with."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path

from batchgen.derivatives.forecast import Coming, to_be_made
from batchgen.engine.budgets import counts_all_jobs, left_of_budgets, refuse_unshared
from batchgen.engine.online import Engine
from batchgen.engine.outcome import Outcome, RunOptions
from batchgen.engine.reconcile import Surveyor
from batchgen.engine.reconcile_items import Survey, refuse_derivatives, refuse_online_only
from batchgen.engine.recovery.missing_state import refuse_lost_pictures, refuse_lost_results
from batchgen.engine.remote_engine import Distributed
from batchgen.engine.run import run_job
from batchgen.errors import UsageError
from batchgen.events import Observer
from batchgen.ledger.derivatives import Derived
from batchgen.ledger.location import Server, address, has_ledger, kept_by, known_as, ledger_url
from batchgen.ledger.missing_state import has_lines
from batchgen.ledger.reader import Reader
from batchgen.manifest import Manifest, open_manifest
from batchgen.manifest.storage_url import bucket_url, names_bucket
from batchgen.planning.batchable import By
from batchgen.planning.plan import Forecast, Step, Wishes, forecast, too_dear
from batchgen.profiles.profile import Profile
from batchgen.profiles.vendor import is_vendor
from batchgen.references.local import Afar, BucketsRefused
from batchgen.references.remote import PicturesAfar
from batchgen.scheduling.window import day_began
from batchgen.settings import Settings, state_folder
from batchgen.store.open_store import open_store, refuse_elsewhere, remembered, take_up

# `batch` and `auto` send what a batch API takes in batches, and what goes online like any other.
BY_BATCH: Mapping[str, By] = {"batch": "batch", "auto": "auto"}
STRANGERS_SERVER = (
    "is not read: `.env` beside the manifest says where requests go, so pictures from your buckets could be sent there; set"
    " that address in the environment instead"
)
ENGINES = {
    **dict.fromkeys(("online", *BY_BATCH), "batchgen.engine.online:OnlineEngine"),
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
    """What a run would do. survey: counts by reason; forecast: requests, images, USD, seconds and the limit that binds;
    derivatives: files to make of the pictures, at most, for a picture may turn out smaller than a width."""

    survey: Survey
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
    bucket = _bucket(output) if isinstance(output, str) else ""
    settings = Settings.load(path.absolute().parent, environ)

    def allow_retired(profile: Profile) -> bool:
        return emulate or not is_vendor(profile.provider, settings.base_url(profile.provider))

    def afar(warn: Callable[[str], None]) -> Afar:
        if settings.folder_names_server and not emulate:
            return BucketsRefused(STRANGERS_SERVER)
        return PicturesAfar(state_folder(settings), warn)

    manifest = open_manifest(path, allow_retired=allow_retired, afar=afar)
    if output is not None and not bucket:
        folder = Path(output).absolute()
    else:
        folder = Path(manifest.output)
        if emulate:
            folder = folder.with_name(folder.name + ".emulated")
        elif not bucket:
            bucket = manifest.bucket
    return Job(manifest, folder, settings, emulate, bucket or remembered(folder))


def _bucket(output: str) -> str:
    if not names_bucket(output):
        return ""
    try:
        return bucket_url(output)
    except ValueError as error:
        raise UsageError(f"--output: {error}") from None


def plan(
    job: Job,
    *,
    wishes: Wishes | None = None,
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
    has_lines(job.folder)
    reader = _reader(job)
    limits = job.manifest.limits
    coming = Coming(job.manifest.name, on_step)
    try:
        store = open_store(job.folder, job.bucket)
        if reader is None or reader.last_run() is None:
            refuse_lost_results(job.manifest, store)
        if reader is not None:
            refuse_elsewhere(reader, store)
            take_up(store, reader)
        survey = Surveyor(
            job.manifest, reader, store, wishes or Wishes(), only=only, limit=limit, on_step=coming,
            by=BY_BATCH.get(engine, "online"),
        ).walk()  # fmt: skip
        refuse_derivatives(job.manifest, store)
        refuse_lost_pictures(job.manifest, store, survey, reader)
        files = coming.files
        if reader is not None and job.manifest.derives:
            due = to_be_made(job.manifest, Derived.of(reader), str(job.folder), only, emulated=job.emulated)
            files += sum(len(each.outputs) for each in due if each.key not in coming.again)
        budget, budget_of = _left_of_budgets(job, survey, reader, max_usd)
        for lane, load in survey.loads.items():
            if load.rpd is not None:
                load.rpd_left = max(0, load.rpd - (reader.sent_since(lane, day_began(time.time())) if reader else 0))
    finally:
        if reader is not None:
            reader.close()
    refuse_online_only(survey)
    loads = list(survey.loads.values())
    if (never := too_dear(loads)) is not None:
        raise UsageError(never)
    prospect = forecast(loads, concurrency or limits.concurrency, budget, budget_of, chain_s=survey.chain_s)
    return Plan(survey, prospect, tuple(job.manifest.warnings), files)


def _left_of_budgets(
    job: Job, survey: Survey, reader: Reader | None, max_usd: float | None
) -> tuple[float | None, str]:
    """(USD, of what). Raises LedgerError when a budget counts all jobs and what they spend cannot be read."""
    state = (
        None if job.emulated else address(job.folder, None) or ledger_url(job.settings) or state_folder(job.settings)
    )
    providers = {profile.provider for profile in survey.profiles.values()}
    if counts_all_jobs(job.manifest.limits, providers, emulated=job.emulated):
        refuse_unshared(state)
    return left_of_budgets(job.manifest.limits, max_usd, state, reader)


def _reader(job: Job) -> Reader | None:
    """Of what is known so far; of a job that a server knows, even when this folder is new."""
    url = ledger_url(job.settings)
    if has_ledger(job.folder):
        return Reader.open(job.folder, url)
    if url is None:
        return None
    kept = kept_by(Server(url, job.manifest.name, known_as(job.bucket or str(job.folder))))
    return None if kept is None else Reader(kept)


async def run(
    job: Job, *, observers: Sequence[Observer] = (), options: RunOptions | None = None, engine: str = "online"
) -> Outcome:
    """Make what is missing. Returns when everything has ended one way or another; cancelling it cancels the run.

    An emulated job starts a server of its own on loopback unless the options name one. Raises ManifestError,
    SettingsError, StoreError, LedgerError, JobLocked, UsageError.
    """
    options = options or RunOptions()
    options = replace(options, batches=replace(options.batches, by=BY_BATCH.get(engine, "online")))
    driver = engine_named(engine)
    if job.emulated and options.emulator_url is None:
        from batchgen.emulator import EmulatorOptions, serve

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


def engine_named(name: str) -> Engine | Distributed:
    """Our own engine of this name, else one installed under `batchgen.engines`. Raises UsageError naming those there are."""
    if name in ENGINES:
        module, _, attribute = ENGINES[name].partition(":")
        engine: Engine | Distributed = getattr(import_module(module), attribute)()
        return engine
    from importlib.metadata import entry_points

    found = {point.name: point for point in entry_points(group="batchgen.engines")}
    if name not in found:
        raise UsageError(f"there is no engine {name!r}; installed are {', '.join(sorted({*ENGINES, *found}))}")
    installed: Engine | Distributed = found[name].load()()
    return installed
