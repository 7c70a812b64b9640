"""One quota and one purse for the workers of many machines: real processes, a real server, clocks that are wrong."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
import struct
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator

import psycopg
import pytest

from batchgen.emulator import serve
from batchgen.engine.budgets import JobBudgets
from batchgen.errors import LedgerError
from batchgen.ledger import postgresql
from batchgen.ledger import quota_database as quota_module
from batchgen.ledger.quota_database import FILE_NAME, REQUEST_MAX_S, advisory_lock_id
from batchgen.ledger.quota_store import QuotaStore
from batchgen.ledger.reader import Reader
from batchgen.manifest import Limits
from batchgen.scheduling.window import MARGIN_S, Budget, BudgetReached, DayUsedUp, NotBefore, Reserved, StartLimits
from tests.support.postgres import running
from tests.support.shared_quota import FAST, child, real_run
from tests.support.sliding_window import most_in_a_minute

STAMPED = 35  # SO_TIMESTAMPNS of Linux, as number of the option and of what comes with a datagram


class Arrivals:
    """A server that counts what arrives, by the kernel's stamps: a busy machine may keep the thread itself waiting."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(("127.0.0.1", 0))
        self._socket.setsockopt(socket.SOL_SOCKET, STAMPED, 1)
        self.port = self._socket.getsockname()[1]
        self.at_s: list[float] = []
        self.by: Counter[bytes] = Counter()
        self._thread = threading.Thread(target=self._receive)
        self._thread.start()

    def _receive(self) -> None:
        while True:
            data, [(_, _, stamp)], *_ = self._socket.recvmsg(100, 100)
            if not data:
                return
            seconds, nanoseconds = struct.unpack("qq", stamp)
            self.at_s.append(seconds + nanoseconds / 1e9)
            self.by[data] += 1

    def close(self) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as way:
            way.sendto(b"", ("127.0.0.1", self.port))
        self._thread.join()
        self._socket.close()


@pytest.fixture
def arrivals() -> Iterator[Arrivals]:
    if sys.platform != "linux":
        pytest.skip("no stamps of the kernel")
    with contextlib.closing(Arrivals()) as server:
        yield server


async def stop(*children: asyncio.subprocess.Process) -> None:
    for one in children:
        with contextlib.suppress(ProcessLookupError):
            one.send_signal(signal.SIGKILL)
        await one.communicate()


@pytest.mark.parametrize("worker_names", [(), ("w",)], ids=["one by one", "in blocks"])
async def test_four_workers_use_the_quota_and_never_exceed_it_while_one_is_killed_and_comes_back(
    database, arrivals, worker_names
):
    limit, period_s = 50, 2.0

    async def worker() -> asyncio.subprocess.Process:
        return await child("sends", database, limit, period_s + MARGIN_S, arrivals.port, 0, *worker_names)

    workers = [await worker() for _ in range(4)]
    async with asyncio.timeout(60.0):
        while len(arrivals.at_s) < 1.5 * limit:
            await asyncio.sleep(0.01)
        await stop(workers.pop())
        workers.append(await worker())
        while len(arrivals.at_s) < 3 * limit:
            await asyncio.sleep(0.01)
    await stop(*workers)
    print(f"{3 * limit} starts in {arrivals.at_s[3 * limit - 1] - arrivals.at_s[0]:.2f} s")
    assert most_in_a_minute(arrivals.at_s, period_s) <= limit


async def test_workers_whose_clocks_are_wrong_by_hours_neither_overrun_nor_starve(database, arrivals):
    limit, period_s = 12, 1.5
    workers = [
        await child("sends", database, limit, period_s + MARGIN_S, arrivals.port, each) for each in (0, 1e4, -1e4)
    ]
    async with asyncio.timeout(30.0):
        while min(arrivals.by[name] for name in (b"0", b"10000.0", b"-10000.0")) < 4:
            await asyncio.sleep(0.05)
    await stop(*workers)
    assert most_in_a_minute(arrivals.at_s, period_s) <= limit


async def test_a_day_and_a_budget_are_those_of_the_servers_clock(database, monkeypatch):
    right = QuotaStore(database, print)
    terms = StartLimits(job="j", account="a", rpd=3, budgets=(Budget("day", 1.0),), usd_per_10_min=0.7)
    for _ in range(2):
        await right.start_log("q", 60.0, terms).reserve(60, 0.3)
    clock = time.time
    for ahead_s in (86400.0, -86400.0):
        monkeypatch.setattr(time, "time", lambda ahead_s=ahead_s: clock() + ahead_s)
        wrong = QuotaStore(database, print)
        log = wrong.start_log("q", 60.0, terms)
        assert await log.reserve(60, 0.5) == BudgetReached("day")
        assert (await log.reserve(60, 0.2)).why == "usd_per_10_min"
        assert wrong.clock() == pytest.approx(clock(), abs=5.0)
        wrong.close()
    log = right.start_log("q", 60.0, terms)
    assert isinstance(await log.reserve(60, 0.0), Reserved)
    assert await log.reserve(60, 0.0) == DayUsedUp(3)
    right.close()


async def test_reservations_of_different_quotas_do_not_wait_for_each_other_and_of_one_they_do(database):
    book = QuotaStore(database, print)
    with psycopg.connect(database) as other:
        other.execute("SELECT pg_advisory_xact_lock(%s)", (advisory_lock_id("quota q"),))
        assert isinstance(await book.start_log("another", 60.0).reserve(60), Reserved)
        waits = asyncio.ensure_future(book.start_log("q", 60.0).reserve(60))
        assert not (await asyncio.wait([waits], timeout=0.3))[0]
    assert isinstance(await waits, Reserved)
    book.close()


async def test_a_worker_that_begins_waits_for_nobody_who_is_at_work(database):
    QuotaStore(database, print).close()
    with psycopg.connect(database) as other:
        other.execute("INSERT INTO batchgen.start VALUES (1, 'q', 0.0)")
        async with asyncio.timeout(30.0):
            (await asyncio.to_thread(QuotaStore, database, print)).close()


async def test_workers_that_begin_at_the_same_time_change_no_sum(database):
    with contextlib.closing(QuotaStore(database, print)) as book:
        sql = "INSERT INTO spending SELECT 7.0, 8.0, 0.5, 'j', 'a', '', i FROM generate_series(1, 3000) AS i"
        await book.transact(lambda db: db.execute(sql).rowcount, None)
        await book.transact(
            lambda db: db.execute("UPDATE spending SET at = ?, ended = at + 1", (book.clock() - 9e4,)), None
        )
        for other in await asyncio.gather(*(asyncio.to_thread(QuotaStore, database, print) for _ in range(5))):
            other.close()
        assert await book.spent_since(0.0) == 1500.0


async def test_what_workers_reserved_stays_spent_when_one_of_them_is_known_to_be_dead(database):
    book = QuotaStore(database, print)
    logs = [book.start_log("q", 60.0, StartLimits(job="j", worker=worker)) for worker in ("living", "dead", "")]
    for log in logs:
        await log.wait_until_visible((await log.reserve(None, 1.0)).quota_slot)
    book.delete_reservations("j", "", "dead")
    assert await book.spent_since(0.0) == pytest.approx(2.0)
    book.delete_reservations("j")
    book.delete_lost_reservations("j")
    assert await book.spent_since(0.0) == pytest.approx(1.0)
    await book.transact(lambda db: db.execute("UPDATE spending SET at = at - ?", (REQUEST_MAX_S + 1.0,)).rowcount, None)
    book.delete_lost_reservations("j")
    assert await book.spent_since(0.0) == 0.0
    book.close()


async def test_two_jobs_whose_ledgers_are_on_one_server_have_one_budget_there(tmp_path, database, monkeypatch):
    limits = {"budget_usd_per_day": 0.10}
    state = tmp_path / "unused"
    environ = {"BATCHGEN_LEDGER": database, "XDG_STATE_HOME": str(state)}
    monkeypatch.setenv("BATCHGEN_LEDGER", database)
    async with await serve(FAST) as emulator:
        first = await real_run(tmp_path, "one", emulator.base_url, limits, environ)
        book = QuotaStore(database, print)
        worker = book.start_log("q", 60.0, StartLimits(job=str(tmp_path / "one"), worker="w"))
        await worker.wait_until_visible((await worker.reserve(None, 0.001)).quota_slot)
        again = await real_run(tmp_path, "one", emulator.base_url, limits, environ)
        second = await real_run(tmp_path, "two", emulator.base_url, limits, environ)
    assert (first.made, again.made, second.exit_code, second.made) == (2, 0, 6, 0)
    assert await book.spent_since(0.0) == pytest.approx(first.usd + 0.001)

    await book.transact(lambda db: db.execute("DELETE FROM spending WHERE worker = ''").rowcount, None)
    with Reader.open(tmp_path / "one") as reader:
        budgets = JobBudgets(str(tmp_path / "one"), reader, book, Limits(**limits), {}, False)
        await budgets.quota_logs({})  # what the ledger knows is made good beside what a living worker has reserved
        assert await book.spent_since(0.0) == pytest.approx(first.usd + 0.001)
        await budgets.release_worker("w")
    assert await book.spent_since(0.0) == pytest.approx(first.usd)
    book.close()
    assert not list(state.rglob(FILE_NAME))


async def test_nothing_starts_while_the_server_is_away_and_that_is_said_once(monkeypatch):
    monkeypatch.setattr(quota_module, "SLOW_SERVER_S", 0.2)
    notes: list[str] = []
    with running("fsync=off") as server:
        book = QuotaStore(server.url(), notes.append)
        log = book.start_log("q", 60.0)
        await log.reserve(2)
        server.stop(signal.SIGQUIT)
        waits = [asyncio.ensure_future(log.reserve(2)), asyncio.ensure_future(book.requests_today("q"))]
        assert not (await asyncio.wait(waits, timeout=0.6))[0]
        unbound = await book.start_log("other", 60.0).reserve(None)
        sending = asyncio.ensure_future(book.start_log("other", 60.0).wait_until_visible(unbound.quota_slot))
        server.start("fsync=off")
        assert isinstance(await waits[0], Reserved)
        await asyncio.gather(*waits, sending)
        assert isinstance(await log.reserve(2), NotBefore | Reserved)  # what was not flushed may be forgotten
        book.close()
        monkeypatch.setattr(postgresql, "RECONNECT_TIMEOUT_S", 0.2)
        impatient = QuotaStore(server.url(), lambda _: None)
        log = impatient.start_log("q", 60.0)
        server.stop(signal.SIGQUIT)
        with pytest.raises(LedgerError, match=r"127\.0\.0\.1"):
            await log.reserve(2)
        impatient.close()
    assert len(notes) == 1
    assert "does not answer" in notes[0]
