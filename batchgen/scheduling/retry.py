"""Decides, given an error and what was tried so far, how long to wait, or to give up. Pure, and the only place that
knows about backoff."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass, field

from batchgen.errors import ProviderError


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """How often a sample may be requested in one run. attempts: the number of requests including the first; with 1,
    nothing is repeated except what `no_image` allows.

    `no_image`, `malformed` and `input` are small budgets of their own, because each such answer may have cost money.
    `uncertain` counts repeats of requests that may have been billed.
    """

    attempts: int = 5
    no_image: int = 2
    malformed: int = 2
    input: int = 1
    uncertain: int = 1
    outage: int = 3  # requests that may have been billed, while the model or host is to blame
    base_s: float = 1.0
    cap_s: float = 60.0

    def allowed_repeats(self, budget: str) -> int:
        """The number of repeats that a budget allows after the first request."""
        if budget == "no_image":
            return self.no_image
        repeats = {
            "attempts": self.attempts,
            "malformed": self.malformed,
            "input": self.input,
            "uncertain": self.uncertain,
            "tier": 1,
        }
        return min(repeats.get(budget, 0), self.attempts - 1)


@dataclass(frozen=True, slots=True)
class RetryState:
    """The errors of one sample in this run. spent: by budget. failed_requests: how many failed, whoever was to blame.

    maybe_billed_count: how many of these may have been billed. suspected_s: when the first error came for which a wider
    scope may be to blame, in seconds of the loop's clock.
    """

    spent: Mapping[str, int] = field(default_factory=dict)
    failed_requests: int = 0
    maybe_billed_count: int = 0
    suspected_s: float | None = None

    def after(self, error: ProviderError, now_s: float = 0.0) -> RetryState:
        if error.scope != "sample":
            return self  # waiting for a quota never counts as a failure
        spent = {**self.spent, error.budget: self.spent.get(error.budget, 0) + 1}
        suspected_s = now_s if error.suspects and self.suspected_s is None else self.suspected_s
        return RetryState(spent, self.failed_requests + 1, self.maybe_billed_count + error.maybe_billed, suspected_s)

    def excused(self) -> RetryState:
        """The state without the failures for which a host or model that was down is to blame."""
        kept = {budget: count for budget, count in self.spent.items() if budget not in ("attempts", "uncertain")}
        return RetryState(kept, self.failed_requests, self.maybe_billed_count)


def backoff_s(streak: int, base_s: float, cap_s: float, rng: random.Random) -> float:
    """Full jitter: uniform over [0, min(cap, base * 2^streak)], but never less than a tenth of it.

    streak: failures before this one, from 0. Source: "Exponential Backoff And Jitter", AWS Architecture Blog, 2015;
    the floor keeps a lucky draw from hitting an overloaded server at once.
    """
    ceiling = min(cap_s, base_s * 2.0 ** min(streak, 30))
    return rng.uniform(ceiling / 10, ceiling)


def hint_with_margin_s(hint_s: float, rng: random.Random) -> float:
    """The server's own delay plus a little, never less: RetryInfo is rounded down, and retrying on the second earns
    another 429."""
    return hint_s + rng.uniform(0.25, 0.25 + min(5.0, hint_s / 10))


def retry_delay_s(
    error: ProviderError, retry_state: RetryState, policy: RetryPolicy, rng: random.Random
) -> float | None:
    """Seconds until the sample may be sent again, or None to give up. `retry_state` includes this error.

    Errors of a lane or of the run have no delay of their own: the sample goes back and its lane waits.
    """
    if not error.retryable:
        return None
    if error.scope != "sample":
        return 0.0
    spent = retry_state.spent.get(error.budget, 0)
    if spent > policy.allowed_repeats(error.budget):
        return None
    if error.retry_after_s is not None:
        return hint_with_margin_s(error.retry_after_s, rng)
    return backoff_s(spent - 1, policy.base_s, policy.cap_s, rng)


# What happens to a sample after a request that brought no image, for the ledger and the observers.
@dataclass(frozen=True, slots=True)
class Requeued:
    delay_s: float


@dataclass(frozen=True, slots=True)
class GivenUp:
    pass


@dataclass(frozen=True, slots=True)
class Released:
    """The sample goes back untried because its lane or the run stopped. A later run makes it."""


@dataclass(frozen=True, slots=True)
class MovedToFallback:
    """The sample continues in the lane of a fallback."""

    lane: str


RetryDecision = Requeued | GivenUp | Released | MovedToFallback
