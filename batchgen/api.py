"""The Python API: a job is loaded, planned and run. The command line is its first user."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Coroutine, Iterable, Sequence
from concurrent.futures import Future, wait
from contextlib import suppress
from contextvars import copy_context
from dataclasses import replace
from datetime import datetime, timedelta
from importlib import import_module
from typing import TYPE_CHECKING, Any, Literal, TypedDict, TypeVar, Unpack

from batchgen.engine.engines import Engine, RemoteEngine
from batchgen.engine.job import Job, Results, load
from batchgen.engine.outcome import BATCH_MODES, RunOptions
from batchgen.engine.run import run_job
from batchgen.errors import UsageError
from batchgen.events import Observer
from batchgen.manifest.diagnostics import did_you_mean
from batchgen.planning.plan import RetrySelection, Step
from batchgen.report.outcome import Outcome

if TYPE_CHECKING:
    from batchgen.engine.plan import Plan

__all__ = ["RunKeywords", "load", "load_engine", "plan", "run", "run_sync"]
ENGINES = {
    **dict.fromkeys(("online", *BATCH_MODES), "batchgen.engine.engines:OnlineEngine"),
    "cluster": "batchgen.engine.cluster.engine:ClusterEngine",
}
SIGNAL_POLL_S = 0.2  # a signal that another thread gets does not wake a thread that waits
T = TypeVar("T")


class RunKeywords(TypedDict, total=False):
    """The command line's options under its names, for `plan`, `run` and `run_sync`. Each overrides the same one in `options`.

    only: patterns of ids, or `tag:NAME`. limit: at most so many requests. max_cost: USD. fresh: everything once more. retry:
    states to try again. on_uncertain: whether a request that was never answered is repeated. until: start nothing after it;
    max_duration: seconds, unless it is a timedelta. by: be done by then, each request the cheapest way that is in time.
    """

    only: str | Iterable[str]
    limit: int
    concurrency: int
    max_cost: float
    fresh: bool
    retry: Iterable[Literal["failed", "refused", "uncertain", "rejected"]]
    on_uncertain: Literal["retry", "hold"]
    until: datetime
    max_duration: float | timedelta
    by: datetime


def plan(
    job: Job,
    *,
    options: RunOptions | None = None,
    engine: str = "online",
    on_step: Callable[[Step], None] | None = None,
    **keywords: Unpack[RunKeywords],
) -> Plan:
    """What `run` with the same options would do: nothing is sent and nothing is written.

    on_step: called with every sample that is not simply kept, in the order of the manifest. Raises ManifestError, LedgerError,
    UsageError.
    """
    from batchgen.engine.plan import plan as plan_job  # a run plans by itself

    return plan_job(job, options=_run_options(options, keywords), on_step=on_step, engine=engine)


async def run(
    job: Job,
    *,
    options: RunOptions | None = None,
    engine: str = "online",
    observers: Sequence[Observer] = (),
    **keywords: Unpack[RunKeywords],
) -> Outcome:
    """Make what is missing. Returns when everything has ended one way or another; cancelling it cancels the run.

    engine: online, batch, auto or cluster. observers: each hears every event. An emulated job starts a server of its own on
    loopback unless the options name one. Raises ManifestError, SettingsError, StoreError, LedgerError, JobLocked, UsageError.
    """
    options = _run_options(options, keywords).for_engine(engine)
    driver = load_engine(engine)
    if job.emulated and options.emulator_url is None:
        from batchgen.emulator import EmulatorOptions, serve  # no other job needs a server
        from batchgen.http.package_emulators import package_routes  # likewise

        async with await serve(EmulatorOptions(), more_routes=package_routes()) as emulator:
            figures = await run_job(job, replace(options, emulator_url=emulator.base_url), driver, observers)
    else:
        figures = await run_job(job, options, driver, observers)
    return Outcome.of(figures, Results(job, options.ledger))


def run_sync(
    job: Job,
    *,
    options: RunOptions | None = None,
    engine: str = "online",
    observers: Sequence[Observer] = (),
    **keywords: Unpack[RunKeywords],
) -> Outcome:
    """`run` for callers that are not coroutines. Where an event loop runs already, as in a notebook, the run has a thread of
    its own, in which the observers are called too. Ctrl-C cancels it."""
    running = run(job, observers=observers, options=options, engine=engine, **keywords)
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(running)
    return _run_in_thread(running)


def _run_in_thread(running: Coroutine[Any, Any, T]) -> T:
    """What it returns or raises. Waits until it has ended, also after Ctrl-C."""
    outcome, started = Future[T](), Future[Callable[[], object]]()

    async def start() -> T:
        task, loop = asyncio.ensure_future(running), asyncio.get_running_loop()
        started.set_result(lambda: loop.call_soon_threadsafe(task.cancel))
        return await task

    def work() -> None:
        try:
            outcome.set_result(asyncio.run(start()))
        except BaseException as error:
            outcome.set_exception(error)

    thread = threading.Thread(target=copy_context().run, args=(work,), name="batchgen run")
    thread.start()
    try:
        while wait([outcome], SIGNAL_POLL_S).not_done:
            pass
        return outcome.result()
    except KeyboardInterrupt:
        with suppress(RuntimeError):  # the run has ended meanwhile
            started.result()()
        raise
    finally:
        thread.join()


def _run_options(options: RunOptions | None, keywords: RunKeywords) -> RunOptions:
    """Raises TypeError for a keyword that there is not, UsageError for a value that cannot be."""
    known = RunKeywords.__annotations__
    if unknown := next((name for name in keywords if name not in known), None):
        hint = did_you_mean(unknown, known) or f"; there are {', '.join(known)}"
        raise TypeError(f"there is no option {unknown!r}{hint}")
    asked: dict[str, Any] = {name: value for name, value in keywords.items() if name in ("limit", "concurrency")}
    if "only" in keywords:
        only = keywords["only"]
        asked["only"] = (only,) if isinstance(only, str) else tuple(only)
    if "max_cost" in keywords:
        asked["max_usd"] = keywords["max_cost"]
    if keywords.keys() & {"fresh", "retry", "on_uncertain"}:
        hold = keywords.get("on_uncertain") == "hold"
        states = frozenset(keywords["retry"]) if "retry" in keywords else None
        asked["retry_selection"] = RetrySelection.of(states, fresh=keywords.get("fresh", False), hold_uncertain=hold)
        asked["hold_uncertain"] = hold
    if "by" in keywords:
        asked["by"] = keywords["by"].timestamp()
    if keywords.keys() & {"until", "max_duration"}:
        asked["deadline"] = _deadline(keywords)
    return replace(options or RunOptions(), **asked)


def _deadline(keywords: RunKeywords) -> float:
    """The earlier of the two, in UTC seconds."""
    most = keywords.get("max_duration")
    seconds = most.total_seconds() if isinstance(most, timedelta) else most
    latest = None if seconds is None else time.time() + seconds
    until = keywords["until"].timestamp() if "until" in keywords else None
    return min(at for at in (until, latest) if at is not None)


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
