"""A circuit breaker: stops requests to a model, account or host that is down, and probes now and then whether it is
back."""

from __future__ import annotations

import math
import random

from batchgen.errors import ProviderError, Scope
from batchgen.scheduling.retry import hint_with_margin_s

FAILED_SAMPLES_TO_OPEN = 3  # different samples that have to fail in a row
FIRST_PROBE_S = {
    "lane": 2.0,
    "host": 2.0,
    "account": 30.0,
}  # then twice as long each time; at most four probes a minute
MAX_PROBE_S = 60.0
MAX_BILLABLE_PROBE_S = 300.0  # for a probe that may be billed


class Breaker:
    """Closed while requests are served, open after a streak of failures, half-open while a probe is in flight.

    Only a request that was sent after the breaker opened can close it or postpone the next probe: earlier requests say
    nothing about the present. Times are seconds of the event loop's clock.
    """

    def __init__(self, scope: Scope, name: str) -> None:
        self.scope = scope
        self.name = name
        self.error: ProviderError | None = None  # the last failure while it is open
        self.first_failure_s = 0.0  # first failure of the streak that opened it
        self.last_served_s = -math.inf  # when a request was last answered properly
        self.probe_at_s = 0.0
        self._wait_s = 0.0
        self._opened_s = math.inf
        self._probing = False
        self._streak: dict[str, float] = {}  # by sample, its last failure since something was served

    @property
    def has_served(self) -> bool:
        return self.last_served_s > -math.inf

    @property
    def open(self) -> bool:
        return self.error is not None

    def earliest_start_s(self, now_s: float) -> float:
        """When a request may start: now, at the next probe, or not before the probe in flight is answered."""
        if not self.open:
            return now_s
        return math.inf if self._probing else max(now_s, self.probe_at_s)

    def started(self) -> None:
        """Note that a request starts. While the breaker is open, it is the probe."""
        self._probing = self.open

    def ended_without_evidence(self, started_s: float) -> None:
        """Note that a request ended without saying anything about what the breaker watches."""
        if self._is_probe(started_s):
            self._probing = False

    def served(self, started_s: float, now_s: float) -> bool:
        """Note that a request was answered properly. Returns whether that closes the breaker."""
        self.last_served_s = now_s
        self._streak = {key: at_s for key, at_s in self._streak.items() if at_s > started_s}
        if not self._is_probe(started_s):
            return False
        self.error, self._probing, self._opened_s = None, False, math.inf
        self._streak.clear()
        return True

    def failed(self, key: str, error: ProviderError, started_s: float, now_s: float, rng: random.Random) -> bool:
        """Note that a request for sample `key` failed. Returns whether this opens the breaker, or keeps it open after a
        probe."""
        if self.open:
            probe = self._is_probe(started_s)
            if probe:
                self._schedule_probe(error, now_s, self._wait_s * 2, rng)
            return probe
        self._streak[key] = now_s
        opens_at_once = self.scope == "account"  # the server said who is to blame
        if len(self._streak) < FAILED_SAMPLES_TO_OPEN and not opens_at_once:
            return False
        self.first_failure_s, self._opened_s = min(self._streak.values()), now_s
        self._schedule_probe(error, now_s, FIRST_PROBE_S[self.scope], rng)
        return True

    def _schedule_probe(self, error: ProviderError, now_s: float, wait_s: float, rng: random.Random) -> None:
        self.error, self._probing = error, False
        self._wait_s = min(MAX_BILLABLE_PROBE_S if error.maybe_billed else MAX_PROBE_S, wait_s)
        hint_s = 0.0 if error.retry_after_s is None else hint_with_margin_s(error.retry_after_s, rng)
        self.probe_at_s = now_s + max(self._wait_s, hint_s)

    def _is_probe(self, started_s: float) -> bool:
        return started_s > self._opened_s
