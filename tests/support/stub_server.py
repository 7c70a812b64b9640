"""The dispatcher driven on virtual time against a server that follows a script."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from batchgen.engine.engines import OnlineEngine
from batchgen.errors import (
    ProviderError,
    RateLimited,
)
from batchgen.scheduling.decision import DispatchLimits, DispatchObserver, LaneTerms
from batchgen.scheduling.dispatcher import Dispatcher
from batchgen.scheduling.lane import InMemorySampleSource, SampleSource, Ticket
from batchgen.scheduling.retry import RetryPolicy
from batchgen.scheduling.window import Window
from tests.support.samples import make_sample


@dataclass
class StubServer:
    """A server of the outside world: takes `latency_s`, answers what its script says, counts what arrives."""

    latency_s: float | dict[str, float] = 1.0
    script: dict[str, list[ProviderError]] = field(default_factory=dict)
    quota: int | None = None
    names: int | None = None  # what its refusals say the quota is
    dearer: float = 1.0  # what a picture costs / what was estimated
    refusal_s: float = 0.0  # how long a refusal takes
    spread_s: float = 0.0  # each answer takes longer by another share of it
    arrivals: list[tuple[float, str, str]] = field(default_factory=list)  # seconds, lane, sample
    refused: int = 0
    in_flight: int = 0
    most_in_flight: int = 0

    def recent(self, lane: str, now_s: float) -> int:
        return sum(1 for at, other, _ in self.arrivals if other == lane and now_s - at < 60.0)

    async def answer(self, ticket: Ticket) -> ProviderError | None:
        now_s = asyncio.get_running_loop().time()
        recent = 0 if self.quota is None else self.recent(ticket.lane, now_s)
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            if self.quota is not None and recent >= self.quota:
                self.refused += 1
                await asyncio.sleep(self.refusal_s)
                refusal = RateLimited("quota", retry_after_s=5.0)
                refusal.rpm = self.names
                return refusal
            self.arrivals.append((now_s, ticket.lane, ticket.sample.key))
            latency = self.latency_s if isinstance(self.latency_s, float) else self.latency_s[ticket.lane]
            await asyncio.sleep(latency + self.spread_s * (len(self.arrivals) * 0.618 % 1))
            script = self.script.get(ticket.sample.key)
            return script.pop(0) if script else None
        finally:
            self.in_flight -= 1


@dataclass
class Night:
    """What happened in one driven run."""

    server: StubServer
    dispatcher: Dispatcher
    retry_decisions: list[tuple[str, object]]
    seconds: float
    done: list[tuple[float, str]]


def make_dispatcher(
    windows: Mapping[str, Window | None], source: SampleSource, *, estimate_usd: Callable[..., float] = lambda _: 0.0,
    external_samples: int = 0, rng: random.Random | None = None, shared_quotas: Mapping[str, Any] = {},
    upstream_of: Mapping[str, Any] = {}, on_quota_denied: Callable[..., None] = lambda *_: None,
    on_breaker: Callable[..., None] = lambda *_: None, on_lane_waits: Callable[..., None] = lambda *_: None, **limits: Any,
) -> Dispatcher:  # fmt: skip
    """A dispatcher out of single facts; limits: as `DispatchLimits` has them."""

    class Observer(DispatchObserver):
        quota_denied = staticmethod(on_quota_denied)
        breaker_changed = staticmethod(on_breaker)
        lane_waits = staticmethod(on_lane_waits)

    terms = {
        lane: LaneTerms(window, shared_quotas.get(lane), upstream_of.get(lane)) for lane, window in windows.items()
    }
    return Dispatcher(
        terms, source, DispatchLimits(**{"policy": RetryPolicy(), **limits}), estimate_usd=estimate_usd,
        external_samples=external_samples, observer=Observer(), rng=rng,
    )  # fmt: skip


async def drive(
    counts: dict[str, int],
    server: StubServer,
    *,
    rpm: dict[str, int | None] | None = None,
    concurrency: int = 5,
    storing_s: float = 0.0,
    on_start: Callable[[Dispatcher], None] | None = None,
    confirmed: bool = True,
    **options: Any,
) -> Night:
    loop = asyncio.get_running_loop()
    samples = [(lane, make_sample(f"{lane}{number}")) for lane, count in counts.items() for number in range(count)]
    windows = {
        lane: (Window(limit, confirmed=confirmed) if (limit := (rpm or {}).get(lane)) else None) for lane in counts
    }
    source = InMemorySampleSource(samples)
    dispatcher = make_dispatcher(windows, source, concurrency=concurrency, rng=random.Random(1), **options)
    night = Night(server, dispatcher, [], 0.0, [])
    if on_start:
        on_start(dispatcher)
    started_s = loop.time()

    async def execute(ticket: Ticket) -> None:
        if ticket.exhausted and ticket.error is not None:
            night.retry_decisions.append((ticket.sample.key, dispatcher.gave_up(ticket, ticket.error)))
            return
        dispatcher.sent(ticket)
        error = await server.answer(ticket)
        if error is None:
            dispatcher.received(ticket)
            await asyncio.sleep(storing_s)
            dispatcher.succeeded(ticket, (ticket.usd or 0.0) * server.dearer)
            night.done.append((loop.time() - started_s, ticket.sample.key))
        else:
            night.retry_decisions.append((ticket.sample.key, dispatcher.failed(ticket, error)))

    await OnlineEngine().drive(dispatcher, execute)
    night.seconds = loop.time() - started_s
    return night
