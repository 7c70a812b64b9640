"""The starts of a cluster worker, which takes its places in a quota in blocks: as many at once as it uses in a second.

A block contains places that are free now and those that become free within a second. What a worker does not use it
gives back; what a dead worker had taken comes back with the window, and its money with it.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from collections.abc import Sequence
from typing import NamedTuple, cast

from batchgen.ledger.database import Connection, GroupedChange
from batchgen.ledger.quota_database import PostgresQuotaBackend, QuotaDatabase
from batchgen.ledger.quota_store import POLL_MAX_S, QUEUED_START_S, SharedStartLog
from batchgen.scheduling.window import NotBefore, QuotaDenied, Reserved, ReserveResult, StartLimits, quota_day_start

AHEAD_S = 1.0
MAX_BLOCK = 100
UNUSED = "unused\t"  # before a worker's name, for money that no request has been sent for yet
# Places that may be used now, and those that leave the window within `ahead` seconds; none if refusals bind it or
# others wait for their turn. A statement sees what was done before it, so the lock comes first.
TAKE_SQL = """
WITH given AS (SELECT ?::text AS quota, ?::float8 AS period, ?::float8 AS ahead, ?::bigint AS rate, ?::bigint[] AS places,
  extract(epoch FROM clock_timestamp())::float8 AS now),
used AS MATERIALIZED (SELECT count(*) AS n, count(*) FILTER (WHERE place < 0) AS turns FROM start, given WHERE start.quota = given.quota
  AND at > now - period AND at <= now + period AND (place > 0 OR at > now - ?)),
open AS MATERIALIZED (SELECT turns = 0 AND NOT EXISTS (SELECT 1 FROM held WHERE held.quota = given.quota AND (held.rate IS NOT NULL
  OR cooled > now OR parked > now)) AS yes FROM used, given),
leaving AS (SELECT at + given.period AS at, row_number() OVER (ORDER BY at) AS k FROM (SELECT at FROM start WHERE
   quota = (SELECT quota FROM given) AND at > (SELECT now - period FROM given) AND at <= (SELECT now + period FROM given) AND place > 0
   ORDER BY at LIMIT (SELECT cardinality(places) FROM given) OFFSET (SELECT greatest(0, n - rate) FROM used, given)) AS l, given),
taken AS MATERIALIZED (SELECT p.place, CASE WHEN p.k <= rate - n THEN now ELSE greatest(now, leaving.at) END AS at, n + p.k - 1 AS used
  FROM given CROSS JOIN used CROSS JOIN unnest(places) WITH ORDINALITY AS p (place, k)
  LEFT JOIN leaving ON leaving.k = p.k - greatest(0, rate - n)
  CROSS JOIN open WHERE yes AND (p.k <= rate - n OR leaving.at <= now + ahead)),
started AS (INSERT INTO start SELECT place, (SELECT quota FROM given), at FROM taken ON CONFLICT DO NOTHING),
kept AS (INSERT INTO spending (at, usd, job, account, purse, worker, place) SELECT (SELECT now FROM given), ?, ?, ?, ?, ?, place FROM taken
  ON CONFLICT DO NOTHING)
SELECT place, at, used, yes::int FROM open LEFT JOIN taken ON true ORDER BY at, used
"""
UNBOUND = 1 << 40  # a rate that no server reaches
SENT_SQL = """
INSERT INTO start SELECT * FROM unnest(?::bigint[], ?::text[], ?::float8[]) AS r (place, quota, at)
 ON CONFLICT (place) DO UPDATE SET quota = excluded.quota, at = excluded.at
"""
COUNT_OF_DAY_SQL = """
INSERT INTO daily SELECT quota, day, job, count(*) FROM unnest(?::text[], ?::float8[], ?::text[]) AS r (quota, day, job) GROUP BY 1, 2, 3
 ON CONFLICT (quota, day, job) DO UPDATE SET requests = daily.requests + excluded.requests
"""
IN_USE_SQL = """
INSERT INTO spending (place, at, usd, job, account, purse, worker) SELECT * FROM
 unnest(?::bigint[], ?::float8[], ?::float8[], ?::text[], ?::text[], ?::text[], ?::text[]) AS r
 ON CONFLICT (place) WHERE place IS NOT NULL DO UPDATE SET usd = excluded.usd, worker = excluded.worker WHERE spending.ended IS NULL
"""
SETTLE_SQL = """
UPDATE spending SET usd = r.usd, ended = r.ended FROM unnest(?::bigint[], ?::float8[], ?::float8[]) AS r (place, usd, ended)
 WHERE spending.place = r.place
"""
# Forgets starts that have left the window, and the money of places for which no request was sent.
FORGET_UNUSED_SQL = (
    "WITH gone AS (DELETE FROM start WHERE quota = ? AND (at <= ? OR at > ? OR (place < 0 AND at <= ?)) RETURNING place)"
    " DELETE FROM spending USING gone WHERE spending.place = gone.place AND ended IS NULL AND starts_with(worker, ?)"
)


class Place(NamedTuple):
    """A place that may be used from `at` on, in UTC seconds of the server. used: requests in the window before it."""

    number: int
    at: float
    used: int


class Sent(NamedTuple):
    """A request whose headers left. usd: what it reserves."""

    place: int
    quota: str
    at: float
    usd: float
    terms: StartLimits


class Settled(NamedTuple):
    """A request that has ended. usd: what it cost; 0 frees what it had reserved."""

    place: int
    usd: float
    at: float


class BlockStartLog(SharedStartLog):
    """The start log of a lane that is limited by nothing but its requests per minute, if at all."""

    def __init__(self, store: QuotaDatabase, quota: str, period_s: float, terms: StartLimits) -> None:
        super().__init__(store, quota, period_s, terms)
        self._ahead_s = min(AHEAD_S, period_s / 10)
        self._block: deque[Place] = deque()
        self._in_use: dict[int, tuple[Place, float]] = {}  # with the USD they reserve; not sent yet
        self._used_s: deque[float] = deque(maxlen=MAX_BLOCK)  # when places were used, in monotonic seconds
        self._rate: int | None = None
        self._open_s = -math.inf  # when only the rate last limited it, in monotonic seconds
        self._timer: asyncio.TimerHandle | None = None
        self._taking: asyncio.Future[QuotaDenied | None] | None = None

    async def reserve(self, rate: int | None, usd: float = 0.0) -> ReserveResult:
        if rate is not None and (self._rate is None or rate < self._rate):
            self._give_back(list(self._block))  # they were taken when more was allowed
        self._rate = rate
        self._give_back([place for place in self._block if self._is_stale(place)])
        if not self._block:
            # One request serves everybody who waits; what was taken is kept even if they have given up.
            if self._taking is None or self._taking.done():
                self._taking = asyncio.ensure_future(self._take_block(rate, usd))
            if (denied := await asyncio.shield(self._taking)) is not None:
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

    async def current_denial(self) -> QuotaDenied | None:
        """Return None: whoever has just taken places knows that nothing keeps it from starting."""
        return None if time.monotonic() - self._open_s < self._ahead_s else await super().current_denial()

    def _block_size(self, rate: int | None) -> int:
        """A little more than is used in a second, and at most a second's share of the quota."""
        since_s = time.monotonic() - 2 * self._ahead_s  # starts come in bursts: those whose answers come together
        used = sum(at_s > since_s for at_s in self._used_s)
        return max(1, min(math.ceil(0.6 * used) + 1, int(self._share(rate))))

    def _share(self, rate: int | None) -> float:
        """The number of places that become free while a block is used."""
        return MAX_BLOCK if rate is None else min(rate * self._ahead_s / self._period_s, MAX_BLOCK)

    async def _take_block(self, rate: int | None, usd: float) -> QuotaDenied | None:
        places, is_open = await self._store.await_server(asyncio.to_thread(self._take, rate, usd))
        if not places and is_open and self._share(rate) >= 1:
            return NotBefore(self._ahead_s / 4)  # others have taken all that leave the window so soon
        if not places:  # refusals limit it, or everybody waits for a turn
            answer = await super().reserve(rate, usd)
            if not isinstance(answer, Reserved):
                return cast("QuotaDenied", answer)
            places = [Place(cast("int", answer.quota_slot), self._store.clock(), answer.used)]
        self._block.extend(places)
        self._watch_block()
        return None

    def _watch_block(self) -> None:
        if self._block and self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(self._ahead_s, self._give_back_stale)

    def _take(self, rate: int | None, usd: float) -> tuple[list[Place], bool]:
        """Take places. Returns them, and whether only the rate limits how many there are. Call it in a thread."""
        terms, numbers = self._terms, [self._store.new_start_id() for _ in range(self._block_size(rate))]
        values = (
            *(self._quota, self._period_s, self._ahead_s, UNBOUND if rate is None else rate, numbers, QUEUED_START_S),
            *(usd, terms.job, terms.account, terms.spend_scope, f"{UNUSED}{terms.worker}"),
        )
        backend = cast("PostgresQuotaBackend", self._store.backend)
        rows = backend.run_locked(*self._own_lock, TAKE_SQL, values)
        places = [Place(int(n), float(at), int(used)) for n, at, used, _ in rows if n is not None]
        if rows[0][3]:
            self._open_s = time.monotonic()
        if places:
            self._store.submit_lazily(lambda connection: self._purge(connection, backend.transaction_at))
        return places, bool(rows[0][3])

    def _write(self, connection: Connection, quota_slot: int, usd: float, now: float) -> None:
        """Take a single place, if blocks are not available. The day counts it once it is sent."""
        self._write_start(connection, quota_slot, usd, now, f"{UNUSED}{self._terms.worker}")

    def _purge_rows(self, connection: Connection, values: Sequence[object]) -> None:
        connection.execute(FORGET_UNUSED_SQL, (*values, UNUSED))

    # --- what happens to a place

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

    def _forget(self, quota_slot: int) -> tuple[Place | None, float]:
        self._pending_writes.pop(quota_slot, None)
        self._reserved_at.pop(quota_slot, None)
        return self._in_use.pop(quota_slot, (None, 0.0))

    def sent(self, quota_slot: int) -> None:
        usd = self._forget(quota_slot)[1]
        sent = Sent(quota_slot, self._quota, self._store.clock(), usd, self._terms)
        self._store.submit_lazily(GroupedChange(_record, sent))

    def record_cost(self, quota_slot: int, usd: float) -> None:
        self._forget(quota_slot)
        self._store.submit_lazily(GroupedChange(_record, Settled(quota_slot, usd, self._store.clock())))

    def refund(self, quota_slot: int) -> None:
        place, _ = self._forget(quota_slot)
        if place is not None and not self._is_stale(place):
            self._block.appendleft(place)
        else:
            self._give_back([place or Place(quota_slot, 0.0, 0)])


def _record(connection: Connection, said: Sequence[Sent | Settled]) -> list[None]:
    """Record what was sent first: it may have ended already."""
    if sent := [each for each in said if isinstance(each, Sent)]:
        places, at, quotas = [each.place for each in sent], [each.at for each in sent], [each.quota for each in sent]
        terms = [each.terms for each in sent]
        jobs, usd = [each.job for each in terms], [each.usd for each in sent]
        whose = [each.account for each in terms], [each.spend_scope for each in terms], [each.worker for each in terms]
        connection.execute(SENT_SQL, (places, quotas, at))
        connection.execute(IN_USE_SQL, (places, at, usd, jobs, *whose))
        # Last, because it is one row for all workers, and each waits for whoever has written it.
        connection.execute(COUNT_OF_DAY_SQL, (quotas, [quota_day_start(each) for each in at], jobs))
    ended = [each for each in said if isinstance(each, Settled)]
    if spent := [each for each in ended if each.usd]:
        connection.execute(SETTLE_SQL, tuple(list(column) for column in zip(*spent, strict=True)))
    if free := [each.place for each in ended if not each.usd]:
        connection.execute("DELETE FROM spending WHERE place = ANY(?::bigint[])", (free,))
    return [None] * len(said)


def start_log(store: QuotaDatabase, quota: str, period_s: float, terms: StartLimits) -> SharedStartLog:
    """A lane's starts as recorded by all processes, in blocks if the lane's limits allow that."""
    in_blocks = store.is_remote and terms.worker and not terms.has_limits
    return (BlockStartLog if in_blocks else SharedStartLog)(store, quota, period_s, terms)
