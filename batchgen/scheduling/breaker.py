"""A circuit breaker: stops asking a model, an account or a host that is down, and probes now and then whether it is back."""

from __future__ import annotations

import math
import random

from batchgen.errors import ProviderError, Scope
from batchgen.scheduling.retry import with_margin_s

SAMPLES = 3  # different ones that have to fail in a row before their model or host is to blame
PROBE_FIRST_S = {
    "lane": 2.0,
    "host": 2.0,
    "account": 30.0,
}  # then twice as long each time; at most four probes a minute
PROBE_MOST_S = 60.0
DOUBTFUL_PROBE_MOST_S = 300.0  # of one that may be billed


class Breaker:
    """Closed while requests are served, open after a streak of failures, half-open while one probe is on its way.

    Only a request that was sent after the breaker opened can close it, or put the next probe off: what was in flight before
    says nothing about now. Times are seconds of the event loop's clock.
    """

    def __init__(self, scope: Scope, name: str) -> None:
        self.scope = scope
        self.name = name
        self.error: ProviderError | None = None  # the last failure while it is open
        self.since_s = 0.0  # first failure of the streak that opened it
        self.served_s = -math.inf  # when a request was last answered as it should be
        self.probe_at_s = 0.0
        self._wait_s = 0.0
        self._opened_s = math.inf
        self._probing = False
        self._streak: dict[str, float] = {}  # last failure of each sample since something was served

    @property
    def has_served(self) -> bool:
        return self.served_s > -math.inf

    @property
    def open(self) -> bool:
        return self.error is not None

    def earliest_s(self, now_s: float) -> float:
        """When a request may start: now, at the next probe, or not before the one on its way is answered."""
        if not self.open:
            return now_s
        return math.inf if self._probing else max(now_s, self.probe_at_s)

    def started(self) -> None:
        """A request starts. While the breaker is open, it is the probe."""
        self._probing = self.open

    def ended(self, started_s: float) -> None:
        """A request ended and says nothing about what the breaker watches."""
        if self._is_probe(started_s):
            self._probing = False

    def served(self, started_s: float, now_s: float) -> bool:
        """A request was answered as it should be. Answers whether that closes the breaker."""
        self.served_s = now_s
        self._streak = {key: at_s for key, at_s in self._streak.items() if at_s > started_s}
        if not self._is_probe(started_s):
            return False
        self.error, self._probing, self._opened_s = None, False, math.inf
        self._streak.clear()
        return True

    def failed(self, key: str, error: ProviderError, started_s: float, now_s: float, rng: random.Random) -> bool:
        """A request for sample `key` failed. Answers whether this opens the breaker, or leaves it open after a probe."""
        if self.open:
            probe = self._is_probe(started_s)
            if probe:
                self._wait(error, now_s, self._wait_s * 2, rng)
            return probe
        self._streak[key] = now_s
        of_itself = self.scope == "account"  # the server has said who is to blame
        if len(self._streak) < SAMPLES and not of_itself:
            return False
        self.since_s, self._opened_s = min(self._streak.values()), now_s
        self._wait(error, now_s, PROBE_FIRST_S[self.scope], rng)
        return True

    def _wait(self, error: ProviderError, now_s: float, wait_s: float, rng: random.Random) -> None:
        self.error, self._probing = error, False
        self._wait_s = min(DOUBTFUL_PROBE_MOST_S if error.maybe_billed else PROBE_MOST_S, wait_s)
        hint_s = 0.0 if error.retry_after_s is None else with_margin_s(error.retry_after_s, rng)
        self.probe_at_s = now_s + max(self._wait_s, hint_s)

    def _is_probe(self, started_s: float) -> bool:
        return started_s > self._opened_s
