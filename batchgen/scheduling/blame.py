"""Decides who is to blame for a failure (the sample, its model, its account or its host) by what else was served."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from batchgen.errors import BREAKER_SCOPES, KeyRejected, ModelUnavailable, ModelUnavailableOnce, ProviderError, Scope
from batchgen.scheduling.breaker import Breaker
from batchgen.scheduling.lane import Lane, Pending


@dataclass(frozen=True, slots=True)
class Upstream:
    """The account and the host that answer a lane's requests, by which lanes are known to share them."""

    account: str
    host: str


def breakers_by_lane(upstream_of: Mapping[str, Upstream | None]) -> dict[str, tuple[Breaker, ...]]:
    """The breakers of each lane, the narrowest first. A lane without an upstream shares none."""
    breakers: dict[tuple[Scope, str], Breaker] = {}
    by_lane = {}
    for lane, known in upstream_of.items():
        upstream = known or Upstream(lane, lane)
        scopes: tuple[tuple[Scope, str], ...] = (("lane", lane), ("account", upstream.account), ("host", upstream.host))
        by_lane[lane] = tuple(breakers.setdefault(key, Breaker(*key)) for key in scopes)
    return by_lane


class FaultAttribution:
    """The breakers of a run, and what each answer means for them.

    A failure is the sample's own if its model has served another sample since (or its host, if the request did not
    reach the API). Until then the model or the host may be to blame, and is once several different samples in a row
    have failed.
    """

    def __init__(
        self, lanes: Mapping[str, Lane], on_breaker: Callable[[Breaker, Sequence[Lane]], None], rng: random.Random
    ) -> None:
        self._lanes = lanes
        self._on_breaker = on_breaker
        self._rng = rng
        self._breakers = list(dict.fromkeys(breaker for lane in lanes.values() for breaker in lane.breakers))

    @property
    def open_breakers(self) -> list[Breaker]:
        """The breakers that are open."""
        return [breaker for breaker in self._breakers if breaker.open]

    def lanes_behind(self, breaker: Breaker) -> list[Lane]:
        """The lanes that start nothing while a breaker is open."""
        return [lane for lane in self._lanes.values() if breaker in lane.breakers]

    def narrow_scope(self, lane: Lane, error: ProviderError) -> ProviderError:
        """The error with the scope that the evidence supports: a model that has just served is not gone, and a key that
        has served another model is not wrong."""
        if isinstance(error, ModelUnavailable) and lane.has_served:
            return error.as_type(ModelUnavailableOnce)
        if isinstance(error, KeyRejected) and error.http_status == 403 and not lane.has_served:
            account = next(breaker for breaker in lane.breakers if breaker.scope == "account")
            return error.as_type(ModelUnavailable) if account.has_served else error
        return error

    def served(self, lane: Lane, started_s: float, now_s: float) -> None:
        self._report_changes([breaker for breaker in reversed(lane.breakers) if breaker.served(started_s, now_s)])

    def failed(
        self, lane: Lane, pending: Pending, error: ProviderError, started_s: float, now_s: float, *, was_sent: bool
    ) -> None:
        """Count a failure. pending: the sample as it waits afterwards."""
        is_samples_own = lane.failures_are_its_own(pending) and error.scope == "sample"
        changed = []
        for breaker in reversed(lane.breakers):
            if breaker.scope in error.suspects:
                if (breaker.open or not is_samples_own) and breaker.failed(
                    pending.sample.key, error, started_s, now_s, self._rng
                ):
                    changed.append(breaker)
            elif was_sent and error.answered and (error.scope == "sample" or breaker.scope == "host"):
                changed += [breaker] * breaker.served(started_s, now_s)
        for breaker in changed:
            for each in self.lanes_behind(breaker) if breaker.open else ():
                each.excuse_failures()
        self._report_changes(changed)

    def _report_changes(self, changed: Sequence[Breaker]) -> None:
        """Report the breakers that changed, and those that are still open after a wider one has closed. Only the widest
        is reported."""
        for breaker in changed:
            lanes = self.lanes_behind(breaker)
            still_open = [] if breaker.open else [other for lane in lanes for other in lane.breakers if other.open]
            for each in dict.fromkeys((breaker, *still_open)):
                lanes_behind = self.lanes_behind(each)
                if not any(wider.open for lane in lanes_behind for wider in lane.breakers if _is_wider(wider, each)):
                    self._on_breaker(each, lanes_behind)


def _is_wider(one: Breaker, other: Breaker) -> bool:
    return BREAKER_SCOPES.index(one.scope) > BREAKER_SCOPES.index(other.scope)
