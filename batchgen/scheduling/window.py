"""The limits on a lane's starts: a window of requests, in which `asyncio_throttle.Throttler` admits with a log that
never lets the server count one too many; the quota that all processes share; and whose quota and bill it is."""

from __future__ import annotations

import contextlib
import hashlib
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Literal, Protocol
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo

from asyncio_throttle.throttler import Throttler

MARGIN_S = 0.5  # more than the jitter between sending and arriving; costs 0.8 % of a minute's quota
RECOVERY_PER_MINUTE = 0.05  # of the declared rate, after it was lowered
LOWERED_RATE_HOLD_S = 300.0  # how long a limit learnt from a refusal is kept before more is tried
LONG_RETRY_HINT_S = 900.0  # a server that asks for more than this means another window than the minute's


@dataclass(frozen=True, slots=True)
class Reserved:
    """One more request may start. quota_slot: its number in the shared log, None if nothing is shared after all.

    used: requests of all processes in the window before this one.
    """

    quota_slot: int | None
    used: int = 0


@dataclass(frozen=True, slots=True)
class NotBefore:
    """Other processes have used up the quota or the USD of ten minutes, or one was refused by the server. Ask again in
    `wait_s`."""

    wait_s: float
    why: Literal["quota", "usd_per_10_min", "cooling"] = "quota"


@dataclass(frozen=True, slots=True)
class DayUsedUp:
    """The number of requests declared for a day (in Pacific time) has been sent."""

    rpd: int


@dataclass(frozen=True, slots=True)
class BudgetReached:
    """What is spent and reserved leaves too little of the budget for the day or the month."""

    period: BudgetPeriod


@dataclass(frozen=True, slots=True)
class Parked:
    """The server told another process that the quota is used up for this long. why: in the server's words."""

    wait_s: float
    why: str


@dataclass(frozen=True, slots=True)
class LoweredRate:
    """The number of requests per window that a refusal showed to be allowed. More is tried after `rises_in_s`."""

    rate: float
    rises_in_s: float


BudgetPeriod = Literal["day", "month"]
QuotaDenied = NotBefore | DayUsedUp | Parked
ReserveResult = Reserved | QuotaDenied | BudgetReached


class SharedQuota(Protocol):
    """The starts and the spending of one lane, as recorded by all who share its quota, in a file or on a server."""

    async def reserve(self, rate: int | None, usd: float = 0.0) -> ReserveResult:
        """Forget old entries, count, and reserve a place and USD in one transaction.

        rate: requests per window now, None without a quota. A place that is not confirmed expires with its period. USD
        that are not settled stay spent, as the request may have been billed, until the job's own ledger says better.
        """

    async def wait_until_visible(self, quota_slot: int) -> None:
        """Wait until all other processes can see the reservation: nothing is sent before that."""

    def sent(self, quota_slot: int) -> None:
        """Count the place from now on: the headers have left. Never waits."""

    def record_cost(self, quota_slot: int, usd: float) -> None:
        """Replace what was reserved by what the request cost. Never waits."""

    def refund(self, quota_slot: int) -> None:
        """Free the place and the USD of a request that was never sent. Never waits."""

    def publish_cooldown(self, wait_s: float, lowered_rate: LoweredRate | None) -> None:
        """Publish a refusal by the server: nobody starts for this long, and then at most at this rate. Never waits."""

    def publish_parking(self, why: str, hint_s: float | None) -> None:
        """Publish a refusal for the day, or for as long as the server's hint says: nobody starts. Never waits."""

    async def current_denial(self) -> QuotaDenied | None:
        """What other processes have published with `publish_cooldown` and `publish_parking`, None if that keeps nobody
        from starting."""


@dataclass(frozen=True, slots=True)
class Budget:
    """A limit of `usd` in each local day or month. account: on its spending alone; None: on all spending."""

    period: BudgetPeriod
    usd: float
    account: str | None = None


def period_start(period: BudgetPeriod, now: float) -> float:
    """UTC seconds of the last local midnight, or of the one at which the month began."""
    midnight = datetime.fromtimestamp(now).astimezone().replace(hour=0, minute=0, second=0, microsecond=0)
    return (midnight if period == "day" else midnight.replace(day=1)).timestamp()


def recovered_rate(lowered_to: float, elapsed_s: float, limit: int) -> float:
    """Requests per window, this long after a lowered rate began to rise. Before that it stays where it is."""
    return lowered_to + limit * RECOVERY_PER_MINUTE * max(0.0, elapsed_s) / 60.0


class StartLog(Throttler):
    """Admits while fewer than `rate` requests have started within `period_s`, as the server counts them.

    A server counts arrivals, a plain log counts decisions: with a period of exactly 60 s a server saw up to 117
    arrivals of 60 in one of its minutes. So the period is longer by MARGIN_S, and the stamp is taken again when the
    headers leave (`sent`). It is a log, not a pacer: a fresh window may start with a burst of `limit`. Times are
    seconds of `time.monotonic()`, which is also the event loop's clock.

    The catch: it uses the library's private log, so the library is pinned, and a test checks what is read of it.
    """

    def __init__(self, limit: int, period_s: float) -> None:
        super().__init__(rate_limit=limit, period=period_s + MARGIN_S)
        self._starts_s: deque[float] = self._task_logs

    def rate(self, now_s: float) -> int:
        """The number of requests that may start within a period."""
        return self.rate_limit

    def earliest_start_s(self, now_s: float) -> float:
        """The earliest moment at which one more request fits the window; `now_s` if it fits now."""
        rate = self.rate(now_s)
        if len(self._starts_s) < rate:
            return now_s
        # The library forgets a stamp once its age is strictly greater than the period, which a microsecond ensures.
        return max(now_s, self._starts_s[-rate] + float(self.period) + 1e-6)

    async def admit(self, now_s: float) -> float:
        """Take one place and return its stamp. Call it only if `earliest_start_s(now_s)` is now: then it never
        waits."""
        self.rate_limit = self.rate(now_s)
        await self.acquire()  # type: ignore[no-untyped-call] # the library has no types
        return self._starts_s[-1]

    def sent(self, stamp_s: float, now_s: float) -> float:
        """Move a stamp to `now_s`, when the headers left, so that connecting and queueing do not count as margin."""
        self.refund(stamp_s)  # already gone if connecting took longer than the window
        self._starts_s.append(now_s)
        return now_s

    def refund(self, stamp_s: float) -> None:
        """Remove the stamp of a request that never left. A 429 is never refunded: the server counted it."""
        with contextlib.suppress(ValueError):
            self._starts_s.remove(stamp_s)

    def seed(self, stamps_s: Iterable[float], now_s: float) -> None:
        """Add what an earlier process sent, clamped into the window. Without this, three restarts in a minute sent 180
        of 60."""
        seeded = [min(stamp, now_s) for stamp in stamps_s if stamp > now_s - self.period]
        ordered = sorted([*self._starts_s, *seeded])
        self._starts_s.clear()
        self._starts_s.extend(ordered)

    def used(self, now_s: float) -> int:
        """The number of requests in the last window."""
        return sum(stamp > now_s - self.period for stamp in self._starts_s)


class Window(StartLog):
    """Admits at most `limit` requests in any sliding `period_s`, and fewer while refusals show that the server allows
    fewer."""

    def __init__(self, limit: int, period_s: float = 60.0, *, confirmed: bool = True) -> None:
        """confirmed: whether the server is known to allow the declared limit. Until then starts are spread out a
        little."""
        if limit < 1:
            raise ValueError(f"limit must be at least 1, got {limit}")
        super().__init__(limit, period_s)
        self.declared_limit = self.limit = limit
        self.confirmed = confirmed
        self.period_s = period_s
        self._lowered_to = float(limit)
        self._rises_at_s: float | None = None  # None: at the full limit
        self._refused_s: deque[float] = deque(maxlen=100)  # stamps of requests that were answered 429

    def rate(self, now_s: float) -> int:
        """Requests per window now: the declared limit, or less while the rate recovers from a 429 (AIMD)."""
        if self._rises_at_s is None:
            return self.limit
        rate = recovered_rate(self._lowered_to, now_s - self._rises_at_s, self.limit)
        if rate >= self.limit:
            self._rises_at_s = None
            return self.limit
        return max(1, int(rate))

    def refused(
        self,
        now_s: float,
        *,
        stamp_s: float,
        used_before: int,
        server_limit: int | None = None,
        same_wave: bool = False,
    ) -> None:
        """Find out what the server allows: it refused although the declared limit was kept.

        server_limit: the limit if the server stated it, kept from now on. used_before: requests in the window when this
        one was admitted. The accepted ones among them are what the server allows, so the rate goes there and stays for
        LOWERED_RATE_HOLD_S. Fewer than a quarter of the rate prove nothing (others may use the same quota): then the
        rate is halved and rises at once. same_wave: it was in flight together with an earlier refusal, which can only
        lower the figure.
        """
        accepted = used_before - sum(
            1 for refused_s in self._refused_s if stamp_s - self.period_s < refused_s < stamp_s
        )
        self._refused_s.append(stamp_s)
        self.confirmed = False
        rate = self.rate(now_s)
        if server_limit is not None and server_limit < rate:
            self.limit, self._rises_at_s = max(1, server_limit), None
        elif rate / 4 <= accepted < rate:
            self._lowered_to, self._rises_at_s = float(accepted), now_s + LOWERED_RATE_HOLD_S
        elif not same_wave:
            self._lowered_to, self._rises_at_s = max(1.0, rate / 2), now_s

    def lowered_rate(self, now_s: float) -> LoweredRate | None:
        """The limit that refusals have shown, for other processes; None at the declared limit."""
        if self._rises_at_s is not None:
            return LoweredRate(self._lowered_to, max(0.0, self._rises_at_s - now_s))
        return LoweredRate(self.limit, LOWERED_RATE_HOLD_S) if self.limit < self.declared_limit else None


def daily_quota_reset(now: float, hint_s: float | None) -> float:
    """UTC seconds at which a daily quota is free again: after the server's hint if that is more than minutes, else at
    midnight Pacific.

    Source: ai.google.dev/gemini-api/docs/rate-limits ("RPD quotas reset at midnight Pacific time"). Refusals for the
    day have been seen with hints of under a minute, which belong to another window.
    """
    if hint_s is not None and hint_s > LONG_RETRY_HINT_S:
        return now + hint_s
    midnight = (_pacific_time(now) + timedelta(days=1)).replace(hour=0, minute=0, second=0, microsecond=0)
    return midnight.timestamp()


def quota_day_start(now: float) -> float:
    """UTC seconds of the last midnight Pacific, from which requests per day are counted."""
    return _pacific_time(now).replace(hour=0, minute=0, second=0, microsecond=0).timestamp()


def _pacific_time(now: float) -> datetime:
    return datetime.fromtimestamp(now, UTC).astimezone(ZoneInfo("America/Los_Angeles"))


def quota_key(provider: str, base_url: str, secret: str, model: str) -> str:
    """Identifies a quota by key, server and AI model. Contains a short hash of the key, never the key."""
    digest = hashlib.sha256(secret.encode()).hexdigest()[:12]
    return f"{provider}|{urlsplit(base_url).netloc}|{digest}|{model}"


def account_key(base_url: str, secret: str) -> str:
    """Identifies an account by key and server."""
    return "|".join(quota_key("", base_url, secret, "").split("|")[1:3])


@dataclass(frozen=True, slots=True, kw_only=True)
class StartLimits:
    """The limits on a lane's starts besides its requests per minute. usd_per_10_min: for the account."""

    job: str = ""
    account: str = ""
    spend_scope: str = ""
    rpd: int | None = None
    usd_per_10_min: float | None = None
    budgets: tuple[Budget, ...] = ()
    worker: str = ""

    @property
    def has_limits(self) -> bool:
        """Whether each start has to be checked against more than the requests per minute."""
        return self.rpd is not None or self.usd_per_10_min is not None or bool(self.budgets)
