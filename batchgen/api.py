"""The Python API: a job is loaded, planned and run. The command line is its first user."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from importlib import import_module

from batchgen.engine.job import Job, load
from batchgen.engine.online import Engine
from batchgen.engine.outcome import BATCH_MODES, Outcome, RunOptions
from batchgen.engine.plan import Plan, plan
from batchgen.engine.remote_engine import RemoteEngine
from batchgen.engine.run import run_job
from batchgen.errors import UsageError
from batchgen.events import Observer

__all__ = ["Job", "Plan", "load", "load_engine", "plan", "run", "run_sync"]
ENGINES = {
    **dict.fromkeys(("online", *BATCH_MODES), "batchgen.engine.online:OnlineEngine"),
    "cluster": "batchgen.engine.cluster.engine:ClusterEngine",
}


async def run(
    job: Job, *, observers: Sequence[Observer] = (), options: RunOptions | None = None, engine: str = "online"
) -> Outcome:
    """Make what is missing. Returns when everything has ended one way or another; cancelling it cancels the run.

    An emulated job starts a server of its own on loopback unless the options name one. Raises ManifestError,
    SettingsError, StoreError, LedgerError, JobLocked, UsageError.
    """
    options = (options or RunOptions()).for_engine(engine)
    driver = load_engine(engine)
    if job.emulated and options.emulator_url is None:
        from batchgen.emulator import EmulatorOptions, serve  # no other job needs a server

        async with await serve(EmulatorOptions()) as emulator:
            return await run_job(job, replace(options, emulator_url=emulator.base_url), driver, observers)
    return await run_job(job, options, driver, observers)


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
