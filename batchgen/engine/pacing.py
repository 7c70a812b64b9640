"""The dispatch of one run: its lanes under their quotas, as this job's ledger and the other processes know them."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from batchgen.engine.outcome import RunOptions
from batchgen.engine.routes import Route
from batchgen.events import Event, LaneCooled, LaneParked, Outage, OutageBegan, OutageContinues, OutageEnded
from batchgen.ledger.ledger import Ledger
from batchgen.manifest import Limits
from batchgen.planning.plan import LaneLoad
from batchgen.scheduling.blame import Served
from batchgen.scheduling.breaker import Breaker
from batchgen.scheduling.dispatcher import Dispatch, Lane, Supply
from batchgen.scheduling.quota_terms import account_name
from batchgen.scheduling.retry import RetryPolicy
from batchgen.scheduling.window import MARGIN_S, Held, NotBefore, Parked, SharedLog, Window, daily_reset

OWN_RPD = "the requests a day that the manifest declares are used up"
OUTAGES_MOST = 50  # that are remembered of a run
STORING = 16  # answers being checked and written at once; as many again as are in flight may wait for that
PROOF_S = 7 * 86400.0
PROOF_SHARE = 0.9  # of the declared limit, accepted in one minute of late: then the server does allow it


@contextlib.asynccontextmanager
async def hearing(dispatch: Dispatch) -> AsyncIterator[None]:
    """While it lasts, what the server tells other machines closes the lanes here too."""
    task = asyncio.ensure_future(dispatch.hear())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])


@dataclass(frozen=True, slots=True)
class Pacing:
    """What the lanes of a run are paced by. far: the shared log is a server's, which knows by its own clock what was sent
    before."""

    ledger: Ledger
    loads: Mapping[str, LaneLoad]
    routes: Mapping[str, Route]
    limits: Limits
    options: RunOptions
    emit: Callable[[Event], None]
    far: bool = False
    outages: dict[tuple[str, str, float], Outage] = field(default_factory=dict)  # of this run, by what and since when

    @property
    def concurrency(self) -> int:
        return self.options.concurrency or self.limits.concurrency

    @property
    def policy(self) -> RetryPolicy:
        return RetryPolicy(attempts=self.limits.attempts, no_image=self.limits.no_image_attempts)

    def dispatch(self, supply: Supply, logs: Mapping[str, SharedLog], parked: Mapping[str, float]) -> Dispatch:
        """logs: of starts and money of all processes, by lane; parked: lanes that stay shut."""
        options, now_s = self.options, asyncio.get_running_loop().time()
        dispatch = Dispatch(
            {lane: self._window(lane, now_s) for lane, load in self.loads.items() if not load.batch},
            supply,
            concurrency=self.concurrency,
            storing=self.concurrency + STORING,
            policy=self.policy,
            budget_usd=options.max_usd if options.max_usd is not None else self.limits.budget_usd,
            shared=logs,
            on_held=self._held,
            stall_s=options.patience_s,
            served_by={lane: served_by(route) for lane, route in self.routes.items()},
            on_breaker=self._breaker_changed,
            deadline_s=None if options.deadline is None else now_s + max(0.0, options.deadline - time.time()),
        )
        self.ledger.outages(())
        for lane in parked:
            if lane in dispatch.lanes:
                dispatch.park(lane)
        return dispatch

    def still_parked(self) -> dict[str, float]:
        """UTC seconds until which lanes are parked that an earlier run has parked."""
        parked: dict[str, float] = {}
        for lane, (until, message) in self.ledger.reader.parked().items():
            # Parked by the manifest's own figure: the shared log is asked again, for the figure may have changed.
            if until > time.time() and not message.startswith(OWN_RPD):
                parked[lane] = until
            else:
                self.ledger.unparked(lane)
        return parked

    def _held(self, lane: str, why: Held) -> None:
        now, model = time.time(), self.loads[lane].model
        if isinstance(why, NotBefore):
            self.ledger.cooled(lane, now + why.wait_s)
            self.emit(LaneCooled(at=now, model=model, seconds=why.wait_s, reason=why.why))
            return
        if isinstance(why, Parked):
            until, message = now + why.wait_s, why.why
        else:
            until, message = daily_reset(now, None), f"{OWN_RPD}: {why.rpd}"
        self.ledger.parked(lane, until, message)
        self.emit(LaneParked(at=now, model=model, until=until, message=message))

    def _breaker_changed(self, breaker: Breaker, lanes: Sequence[Lane]) -> None:
        now, now_s = time.time(), asyncio.get_running_loop().time()
        began = self.outages.get((breaker.scope, breaker.name, breaker.since_s))
        error = breaker.error
        if error is None and began is None:
            return  # something wider was said to be down
        kind = OutageEnded if error is None else OutageContinues if began else OutageBegan
        outage = kind(
            at=now,
            scope=breaker.scope,
            name=breaker.name.partition("|")[0],  # of an account, without the hash of its key
            models=tuple(dict.fromkeys(self.loads[lane.key].model for lane in lanes)),
            since=began.since if began else now - (now_s - breaker.since_s),
            retry_at=None if error is None else now + breaker.probe_at_s - now_s,
            reason=error.reason if error else began.reason if began else "",
            message=error.message if error else began.message if began else "",
        )
        self.outages[breaker.scope, breaker.name, breaker.since_s] = outage
        self.ledger.outages(list(self.outages.values())[-OUTAGES_MOST:])
        self.emit(outage)

    def _window(self, lane: str, now_s: float) -> Window | None:
        """The lane's quota, seeded with what was sent in the minute before this process began."""
        rpm, reader = self.loads[lane].rpm, self.ledger.reader
        if rpm is None:
            return None
        at = time.time()
        window = Window(rpm, proven=reader.most_accepted(lane, at - PROOF_S) >= PROOF_SHARE * rpm)
        sends = () if self.far else reader.recent_sends(lane, at - window.period_s - MARGIN_S - 60.0)
        window.seed([now_s - (at - sent) for sent in sends], now_s)
        return window


def served_by(route: Route) -> Served:
    """Whose account and whose host answers the requests of a lane."""
    return Served(account_name(route.base_url, route.auth[1] if route.auth else ""), urlsplit(route.base_url).netloc)
