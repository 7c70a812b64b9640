"""Starts of a worker of the cluster, which takes its places in a quota in blocks: as many at once as it uses in a second.

A block holds places that are free now and those that become free within a second. What a worker does not use it gives back;
what one that has died had taken comes back with the window, and its money with it.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Sequence
from functools import partial
from typing import NamedTuple, cast

from batchgen.ledger.database import Connection, GroupedChange, LockedChange
from batchgen.ledger.quota_database import QuotaDatabase
from batchgen.ledger.quota_store import POLL_MAX_S, SharedStartLog, allowed_rate, current_hold
from batchgen.scheduling.quota_terms import StartLimits
from batchgen.scheduling.window import NotBefore, QuotaDenied, Reserved, ReserveResult, quota_day_start

AHEAD_S = 1.0
MAX_BLOCK = 100
UNUSED = "unused\t"  # before a worker's name, of money that no request has been sent for yet
NEXT_FREE_SQL = """
SELECT at FROM start WHERE quota = ? AND at > ? AND at <= ? AND (place > 0 OR (at > ? AND at < ?)) ORDER BY at LIMIT ? OFFSET ?
"""
TAKE_PLACES_SQL = "INSERT INTO start SELECT place, ?, at FROM unnest(?::bigint[], ?::float8[]) AS r (place, at)"
TAKE_MONEY_SQL = (
    "INSERT INTO spending (at, usd, job, account, purse, worker, place) SELECT ?, ?, ?, ?, ?, ?, unnest(?::bigint[])"
)
SENT_SQL = """
INSERT INTO start SELECT * FROM unnest(?::bigint[], ?::text[], ?::float8[]) AS r (place, quota, at)
 ON CONFLICT (place) DO UPDATE SET quota = excluded.quota, at = excluded.at
"""
COUNT_OF_DAY_SQL = """
INSERT INTO daily SELECT quota, day, job, count(*) FROM unnest(?::text[], ?::float8[], ?::text[]) AS r (quota, day, job) GROUP BY 1, 2, 3
 ON CONFLICT (quota, day, job) DO UPDATE SET requests = daily.requests + excluded.requests
"""
IN_USE_SQL = """
UPDATE spending SET usd = r.usd, worker = r.worker FROM unnest(?::bigint[], ?::float8[], ?::text[]) AS r (place, usd, worker)
 WHERE spending.place = r.place AND ended IS NULL
"""
SETTLE_SQL = """
UPDATE spending SET usd = r.usd, ended = r.ended FROM unnest(?::bigint[], ?::float8[], ?::float8[]) AS r (place, usd, ended)
 WHERE spending.place = r.place
"""
# A worker that died has sent nothing for it.
FORGET_UNUSED_SQL = (
    "WITH gone AS (DELETE FROM start WHERE quota = ? AND (at <= ? OR at > ? OR (place < 0 AND at <= ?)) RETURNING place)"
    " DELETE FROM spending USING gone WHERE spending.place = gone.place AND ended IS NULL AND starts_with(worker, ?)"
)


class Place(NamedTuple):
    """That may be used from `at` on, in UTC seconds of the server. used: requests in the window before it."""

    number: int
    at: float
    used: int


class Sent(NamedTuple):
    """A request whose headers left. usd: that it keeps back."""

    place: int
    quota: str
    at: float
    job: str
    usd: float
    worker: str


class BlockStartLog(SharedStartLog):
    """For a lane that only its requests per minute bind, if anything does."""

    def __init__(self, store: QuotaDatabase, quota: str, period_s: float, terms: StartLimits) -> None:
        super().__init__(store, quota, period_s, terms)
        self._ahead_s = min(AHEAD_S, period_s / 10)
        self._block: deque[Place] = deque()
        self._in_use: dict[int, tuple[Place, float]] = {}  # with the USD it keeps back; not sent yet
        self._used_s: deque[float] = deque(maxlen=MAX_BLOCK)  # when places were used, in monotonic seconds
        self._rate: int | None = None
        self._timer: asyncio.TimerHandle | None = None

    async def reserve(self, rate: int | None, usd: float = 0.0) -> ReserveResult:
        if rate is not None and (self._rate is None or rate < self._rate):
            self._give_back(list(self._block))  # they were taken when more was allowed
        self._rate = rate
        self._give_back([place for place in self._block if self._is_stale(place)])
        if not self._block:
            # What was taken is there, whoever has lost patience meanwhile.
            denied = await asyncio.shield(asyncio.ensure_future(self._take_block(rate, usd)))
            if denied is not None:
                return denied
        if not self._block:  # others have used it up
            return NotBefore(0.001)
        place, now = self._block[0], self._store.clock()
        if place.at > now:
            return NotBefore(min(max(0.001, place.at - now), POLL_MAX_S))
        self._block.popleft()
        self._used_s.append(time.monotonic())
        self._in_use[place.number] = place, usd
        return Reserved(place.number, place.used)

    def _block_size(self, rate: int | None) -> int:
        """One more than in the last second, and at most a second's share of the quota."""
        since_s = time.monotonic() - self._ahead_s
        used = sum(at_s > since_s for at_s in self._used_s)
        share = MAX_BLOCK if rate is None else int(rate * self._ahead_s / self._period_s)
        return max(1, min(used + 1, share, MAX_BLOCK))

    async def _take_block(self, rate: int | None, usd: float) -> QuotaDenied | None:
        size = self._block_size(rate)
        take = partial(self._take, rate=rate, usd=usd, size=size)
        answer = await self._store.transact(LockedChange(take, self._own_lock), None)
        if not isinstance(answer, list):
            return cast("QuotaDenied | None", answer)
        self._block.extend(answer)
        self._watch_block()
        return None

    def _watch_block(self) -> None:
        if self._block and self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(self._ahead_s, self._give_back_stale)

    def _take(self, connection: Connection, rate: int | None, usd: float, size: int) -> list[Place] | QuotaDenied:
        now, terms = self._store.backend.transaction_at, self._terms
        used, *refusals = self._count(connection, now)
        if (held := current_hold(now, refusals)) is not None:
            return held
        at = [now] * size
        if rate is not None:
            rate = allowed_rate(rate, now, refusals)
            at = self._next_free(connection, rate, used, size, now)
            if not at:
                return NotBefore(self._queue_wait_s(connection, rate, now))
        places = [Place(self._store.new_start_id(), each, used + n) for n, each in enumerate(at)]
        numbers = [place.number for place in places]
        self._purge(connection, now)
        self._leave_queue(connection)
        connection.execute(TAKE_PLACES_SQL, (self._quota, numbers, at))
        whose = (terms.job, terms.account, terms.spend_scope, f"{UNUSED}{terms.worker}")
        connection.execute(TAKE_MONEY_SQL, (now, usd, *whose, numbers))
        return places

    def _next_free(self, connection: Connection, rate: int, used: int, size: int, now: float) -> list[float]:
        """When the next places may be used, the first of them within a second."""
        at = [now] * max(0, min(rate - used, size))
        if len(at) == size:
            return at
        values = (*self._window(now), size - len(at), max(0, used - rate))
        leaving = [float(left) + self._period_s for (left,) in connection.execute(NEXT_FREE_SQL, values).fetchall()]
        return at + [max(now, each) for each in leaving if each <= now + self._ahead_s]

    def _purge_rows(self, connection: Connection, values: Sequence[object]) -> None:
        connection.execute(FORGET_UNUSED_SQL, (*values, UNUSED))

    # --- what becomes of a place

    def _is_stale(self, place: Place) -> bool:
        return self._store.clock() > place.at + self._ahead_s

    def _give_back_stale(self) -> None:
        self._timer = None
        self._give_back([place for place in self._block if self._is_stale(place)])
        self._watch_block()

    def _give_back(self, places: Sequence[Place]) -> None:
        if not places:
            return
        numbers = [place.number for place in places]
        self._block = deque(place for place in self._block if place not in places)
        for table in ("start", "spending"):
            sql = f"DELETE FROM {table} WHERE place = ANY(?::bigint[])"
            self._store.execute_soon(sql, numbers)

    def sent(self, quota_slot: int) -> None:
        _, usd = self._in_use.pop(quota_slot, (None, 0.0))
        said = Sent(quota_slot, self._quota, self._store.clock(), self._terms.job, usd, self._terms.worker)
        self._store.submit_lazily(GroupedChange(_record_sent, said))

    def record_cost(self, quota_slot: int, usd: float) -> None:
        self._in_use.pop(quota_slot, None)
        self._store.submit_lazily(GroupedChange(_record_costs, (quota_slot, usd, self._store.clock())))

    def refund(self, quota_slot: int) -> None:
        place, _ = self._in_use.pop(quota_slot, (None, 0.0))
        if place is not None and not self._is_stale(place):
            self._block.appendleft(place)
        else:
            self._give_back([place or Place(quota_slot, 0.0, 0)])


def _record_sent(connection: Connection, sent: Sequence[Sent]) -> list[None]:
    places, at = [each.place for each in sent], [each.at for each in sent]
    connection.execute(SENT_SQL, (places, [each.quota for each in sent], at))
    days = [quota_day_start(each) for each in at]
    connection.execute(COUNT_OF_DAY_SQL, ([each.quota for each in sent], days, [each.job for each in sent]))
    connection.execute(IN_USE_SQL, (places, [each.usd for each in sent], [each.worker for each in sent]))
    return [None] * len(sent)


def _record_costs(connection: Connection, costs: Sequence[tuple[int, float, float]]) -> list[None]:
    if spent := [each for each in costs if each[1]]:
        connection.execute(SETTLE_SQL, tuple(list(column) for column in zip(*spent, strict=True)))
    if free := [place for place, usd, _ in costs if not usd]:
        connection.execute("DELETE FROM spending WHERE place = ANY(?::bigint[])", (free,))
    return [None] * len(costs)


def start_log(store: QuotaDatabase, quota: str, period_s: float, terms: StartLimits) -> SharedStartLog:
    """A lane's starts as all processes have written them down, in blocks where that keeps what binds it."""
    in_blocks = store.is_remote and terms.worker and not terms.has_limits
    return (BlockStartLog if in_blocks else SharedStartLog)(store, quota, period_s, terms)
