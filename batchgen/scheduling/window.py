"""What binds a lane's starts: a window of requests, in which `asyncio_throttle.Throttler` admits with a log that is kept so that the
server never counts one too many; what all processes share; whose quota and whose bill it is."""

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

MARGIN_S = 0.5  # above the jitter between sending and arriving; costs 0.8 % of a minute's quota
RECOVERY_PER_MINUTE = 0.05  # of the declared rate, after it went down
LOWERED_RATE_HOLD_S = 300.0  # a limit learnt from a refusal is kept to for so long before more is tried
LONG_RETRY_HINT_S = 900.0  # a server that asks for more than this means another window than the minute's


@dataclass(frozen=True, slots=True)
class Reserved:
    """One more may start. quota_slot: its number in the shared log, None when nothing is shared after all.

    used: requests of all processes in the window before this one.
    """

    quota_slot: int | None
    used: int = 0


@dataclass(frozen=True, slots=True)
class NotBefore:
    """Others have used the quota up, the USD of ten minutes are spent, or the server has refused another process; ask
    again in `wait_s`."""

    wait_s: float
    why: Literal["quota", "usd_per_10_min", "cooling"] = "quota"


@dataclass(frozen=True, slots=True)
class DayUsedUp:
    """As many requests as were declared for a day (Pacific time) have been sent."""

    rpd: int


@dataclass(frozen=True, slots=True)
class BudgetReached:
    """What is spent and reserved leaves too little of the day's or the month's budget."""

    period: BudgetPeriod


@dataclass(frozen=True, slots=True)
class Parked:
    """Another process has been told that the quota is used up for so long. why: in the server's words."""

    wait_s: float
    why: str


@dataclass(frozen=True, slots=True)
class LoweredRate:
    """Requests per window that a refusal has shown to be allowed; more is tried after `rises_in_s`."""

    rate: float
    rises_in_s: float


BudgetPeriod = Literal["day", "month"]
QuotaDenied = NotBefore | DayUsedUp | Parked
ReserveResult = Reserved | QuotaDenied | BudgetReached


class SharedQuota(Protocol):
    """Starts and spend of one lane as all who share its quota have written them down. A file behind it, or a server."""

    async def reserve(self, rate: int | None, usd: float = 0.0) -> ReserveResult:
        """Forget, count and reserve a place and USD in one transaction.

        rate: requests per window now, None without a quota. A place nobody confirms expires with its period; USD that
        nobody settles stay spent, for the request may have been billed, until the job's own ledger says better.
        """

    async def wait_until_visible(self, quota_slot: int) -> None:
        """Returns when all others can read of the reservation: nothing is sent before."""

    def sent(self, quota_slot: int) -> None:
        """The headers left now: the place counts from here. Never waits."""

    def record_cost(self, quota_slot: int, usd: float) -> None:
        """What the request has cost in the end, in place of what was reserved. Never waits."""

    def refund(self, quota_slot: int) -> None:
        """The request was never sent: place and USD are free. Never waits."""

    def publish_cooldown(self, wait_s: float, lowered_rate: LoweredRate | None) -> None:
        """The server has refused: nobody starts for so long, and then at most so many. Never waits."""

    def publish_parking(self, why: str, hint_s: float | None) -> None:
        """The server has refused for the day, or for as long as it hints at: nobody starts. Never waits."""

    async def current_denial(self) -> QuotaDenied | None:
        """What others have said by `cooled` and `parked`; None when that keeps nobody from starting."""


@dataclass(frozen=True, slots=True)
class Budget:
    """At most `usd` in each local day or month. account: of its spend alone; None: of all."""

    period: BudgetPeriod
    usd: float
    account: str | None = None


def period_start(period: BudgetPeriod, now: float) -> float:
    """UTC seconds of the last local midnight, or of the one that began the month."""
    midnight = datetime.fromtimestamp(now).astimezone().replace(hour=0, minute=0, second=0, microsecond=0)
    return (midnight if period == "day" else midnight.replace(day=1)).timestamp()


def recovered_rate(lowered_to: float, elapsed_s: float, limit: int) -> float:
    """Requests per window so long after a lowered rate began to rise; before that, where it is held."""
    return lowered_to + limit * RECOVERY_PER_MINUTE * max(0.0, elapsed_s) / 60.0


class StartLog(Throttler):
    """Admits while fewer than `rate` requests have started within `period_s`, as the server counts them.

    A server counts arrivals, a plain log counts decisions: with a period of exactly 60 s a server saw up to 117
    arrivals of 60 in one of its minutes. So the period is longer by MARGIN_S and the stamp is taken again when the
    headers leave (`sent`). It is a log, not a pacer: a fresh window may start with a burst of `limit`.
    Times are seconds of `time.monotonic()`, which is also the event loop's clock.

    Its catch: it owns the library's private log, so the library is pinned and a test holds what is read of it.
    """

    def __init__(self, limit: int, period_s: float) -> None:
        super().__init__(rate_limit=limit, period=period_s + MARGIN_S)
        self._starts_s: deque[float] = self._task_logs

    def rate(self, now_s: float) -> int:
        """How many may start within a period."""
        return self.rate_limit

    def earliest_start_s(self, now_s: float) -> float:
        """The earliest moment at which one more request keeps the window; `now_s` when that is now."""
        rate = self.rate(now_s)
        if len(self._starts_s) < rate:
            return now_s
        # The library forgets a stamp when its age is strictly greater than the period; a microsecond makes sure of it.
        return max(now_s, self._starts_s[-rate] + float(self.period) + 1e-6)

    async def admit(self, now_s: float) -> float:
        """Take one place and return its stamp. Only when `earliest_start_s(now_s)` is now: then it never waits."""
        self.rate_limit = self.rate(now_s)
        await self.acquire()  # type: ignore[no-untyped-call] # the library has no types
        return self._starts_s[-1]

    def sent(self, stamp_s: float, now_s: float) -> float:
        """The headers left at `now_s`: move the stamp there, so that connecting and queueing do not count as margin."""
        self.refund(stamp_s)  # already gone if connecting took longer than the window
        self._starts_s.append(now_s)
        return now_s

    def refund(self, stamp_s: float) -> None:
        """The request never left. A 429 is never refunded: the server counted it."""
        with contextlib.suppress(ValueError):
            self._starts_s.remove(stamp_s)

    def seed(self, stamps_s: Iterable[float], now_s: float) -> None:
        """Put in what an earlier process sent, clamped into the window: three restarts in a minute reached 180 of 60."""
        seeded = [min(stamp, now_s) for stamp in stamps_s if stamp > now_s - self.period]
        ordered = sorted([*self._starts_s, *seeded])
        self._starts_s.clear()
        self._starts_s.extend(ordered)

    def used(self, now_s: float) -> int:
        """Requests of the last window."""
        return sum(stamp > now_s - self.period for stamp in self._starts_s)


class Window(StartLog):
    """At most `limit` requests in any sliding `period_s`, and fewer while refusals show that the server allows fewer."""

    def __init__(self, limit: int, period_s: float = 60.0, *, confirmed: bool = True) -> None:
        """confirmed: whether the server is known to allow the declared limit. Until then starts are spread a little."""
        if limit < 1:
            raise ValueError(f"limit must be at least 1, got {limit}")
        super().__init__(limit, period_s)
        self.declared_limit = self.limit = limit
        self.confirmed = confirmed
        self.period_s = period_s
        self._lowered_to = float(limit)
        self._rises_at_s: float | None = None  # None: at the full limit
        self._refused_s: deque[float] = deque(maxlen=100)  # stamps of what was answered 429

    def rate(self, now_s: float) -> int:
        """Requests per window now: the declared limit, or less while it recovers from a 429 (AIMD)."""
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
        """The server refused although we kept to the declared limit: find out what it allows.

        server_limit: the limit as the server told it, kept to from now on. used_before: requests in the window when this one was
        admitted; those of them that were accepted are what the server allows, so the rate goes there and stays for
        LOWERED_RATE_HOLD_S. Fewer than a quarter of the rate show nothing (others may use the same quota): then it goes down to half
        and rises at once. same_wave: of one wave with a refusal before it, which can only make the figure smaller.
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
        """What refusals have taught, for others; None at the declared limit."""
        if self._rises_at_s is not None:
            return LoweredRate(self._lowered_to, max(0.0, self._rises_at_s - now_s))
        return LoweredRate(self.limit, LOWERED_RATE_HOLD_S) if self.limit < self.declared_limit else None


def daily_quota_reset(now: float, hint_s: float | None) -> float:
    """UTC seconds at which a daily quota is free again: after the server's hint when that is longer than minutes, else midnight Pacific.

    Source: ai.google.dev/gemini-api/docs/rate-limits ("RPD quotas reset at midnight Pacific time"); refusals for the day
    have been seen with hints of under a minute, which are of another window.
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
    """Whose quota it is: the same key of the same server and AI model. Holds a short hash of the key, never the key."""
    digest = hashlib.sha256(secret.encode()).hexdigest()[:12]
    return f"{provider}|{urlsplit(base_url).netloc}|{digest}|{model}"


def account_key(base_url: str, secret: str) -> str:
    """Whose bill it is: the same key of the same server."""
    return "|".join(quota_key("", base_url, secret, "").split("|")[1:3])


@dataclass(frozen=True, slots=True, kw_only=True)
class StartLimits:
    """What binds the starts of a lane beside its requests per minute. usd_per_10_min: of the account."""

    job: str = ""
    account: str = ""
    spend_scope: str = ""
    rpd: int | None = None
    usd_per_10_min: float | None = None
    budgets: tuple[Budget, ...] = ()
    worker: str = ""

    @property
    def has_limits(self) -> bool:
        """Whether more than its requests per minute has to be asked for each start."""
        return self.rpd is not None or self.usd_per_10_min is not None or bool(self.budgets)
