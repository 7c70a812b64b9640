"""What is shared by all processes of the user: never more than the quota of them together, and one purse."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sqlite3
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

import batchgen
from batchgen import money
from batchgen.emulator import EmulatorOptions, serve
from batchgen.engine.engines import OnlineEngine
from batchgen.errors import LedgerError, UsageError
from batchgen.events import LaneCooled, LaneParked, Notice, RunStarted
from batchgen.ledger import quota_database as quota_module
from batchgen.ledger.quota_database import FILE_NAME
from batchgen.ledger.quota_store import QuotaStore, open_quota_store
from batchgen.ledger.reader import Reader
from batchgen.scheduling.dispatcher import Dispatcher
from batchgen.scheduling.stop_reason import StopKind, StopReason
from batchgen.scheduling.window import (
    Budget,
    BudgetReached,
    DayUsedUp,
    NotBefore,
    Reserved,
    StartLimits,
    daily_quota_reset,
    period_start,
    quota_key,
)
from batchgen.settings import Settings, state_folder
from tests.support.bench import Bench, items
from tests.support.marked_key import KEY
from tests.support.shared_quota import FAST, OtherProcesses, child, dispatcher_with, real_run
from tests.support.sliding_window import most_in_a_minute


@pytest.fixture
async def in_file(state_home: Path) -> AsyncIterator[QuotaStore]:
    book = QuotaStore(state_home, print)
    yield book
    book.close()


def plant(folder: Path, *stamps: float) -> None:
    connection = sqlite3.connect(folder / FILE_NAME)
    with connection:
        connection.executemany("INSERT INTO start (quota, at) VALUES ('q', ?)", [(at,) for at in stamps])
    connection.close()


async def test_four_processes_together_never_exceed_the_quota_and_use_it(place):
    limit, period_s, seconds = 20, 2.0, 5.0
    children = [await child("starts", place, limit, period_s, seconds) for _ in range(4)]
    lines = [line.split() for one in children for line in (await one.communicate())[0].decode().splitlines()]
    assert {word for word, _ in lines} == {"at"}
    stamps = sorted(float(at) for _, at in lines)
    # A child prints a moment after its stamp, so its figures may lie closer together by a few milliseconds.
    assert most_in_a_minute(stamps, period_s - 0.05) <= limit
    bursts = (stamps[-1] - stamps[0]) / period_s
    print(f"{len(stamps)} starts in {bursts:.2f} periods of {limit}")
    assert len(stamps) >= 2 * limit


async def test_two_runs_at_once_keep_the_quota_of_their_common_key(tmp_path, state_home):
    head = "defaults: {model: flash}\nmodels: {gemini-nano-banana-2.1: {rpm: 6}}\nitems:\n"
    async with await serve(FAST) as emulator:
        children = []
        for name in ("one", "two"):
            (tmp_path / name).mkdir()
            bench = Bench(emulator.base_url, tmp_path / name)
            manifest = bench.manifest(items(*(f"{name} {n}" for n in range(9))), head)
            children.append(await child("job", manifest, tmp_path / name / "out", emulator.base_url, state_home, 4))
        codes = [await one.wait() for one in children]
        assert (codes, await bench.requests()) == ([7, 7], 6)


async def test_a_place_that_was_never_confirmed_expires_with_its_period(shared):
    log = shared.start_log("q", 0.3)
    assert isinstance(await log.reserve(1), Reserved)
    busy = await log.reserve(1)
    assert isinstance(busy, NotBefore)
    assert 0 < busy.wait_s <= 0.3
    await asyncio.sleep(busy.wait_s + 0.01)
    assert isinstance(await log.reserve(1), Reserved)


async def test_a_place_counts_from_when_the_headers_left(shared):
    log = shared.start_log("q", 0.4)
    answer = await log.reserve(1)
    await asyncio.sleep(0.3)
    log.sent(answer.quota_slot)
    busy = await log.reserve(1)
    assert busy.wait_s > 0.3


async def test_a_place_that_expired_while_it_connected_still_counts_when_it_leaves(shared):
    log = shared.start_log("q", 0.1)
    slow = await log.reserve(1)
    await asyncio.sleep(0.15)
    assert isinstance(await log.reserve(1), Reserved)  # forgets the slow one
    await asyncio.sleep(0.15)
    log.sent(slow.quota_slot)
    assert isinstance(await log.reserve(1), NotBefore)


async def test_a_refunded_place_is_free_at_once(shared):
    log = shared.start_log("q", 60.0)
    log.refund((await log.reserve(1)).quota_slot)
    assert isinstance(await log.reserve(1), Reserved)


async def test_another_quota_is_not_touched(shared):
    await shared.start_log("q", 60.0).reserve(1)
    assert isinstance(await shared.start_log("other", 60.0).reserve(1), Reserved)


async def test_stamps_of_a_clock_that_was_set_back_do_not_block(in_file, state_home):
    plant(state_home, time.time() + 3600)
    assert isinstance(await in_file.start_log("q", 60.0).reserve(1), Reserved)


def test_the_name_of_a_quota_tells_keys_servers_and_models_apart_and_holds_no_key():
    names = {
        quota_key("gemini", url, secret, model)
        for url in ("https://a.example", "http://127.0.0.1:81")
        for secret in ("secret-1", "secret-2")
        for model in ("m", "n")
    }
    assert len(names) == 8
    assert not any("secret" in name for name in names)


@pytest.mark.skipif(os.name != "posix", reason="file modes")
async def test_only_the_user_can_read_the_file(in_file, state_home):
    await in_file.start_log("q", 60.0).reserve(1)
    assert {path.stat().st_mode & 0o777 for path in state_home.iterdir()} == {0o600}


def test_an_environment_without_a_home_shares_nothing(tmp_path):
    assert state_folder(Settings({})) is None
    assert state_folder(Settings({"XDG_STATE_HOME": str(tmp_path)})) == tmp_path / "batchgen"


def test_a_state_folder_that_cannot_be_written_is_one_note(tmp_path):
    (tmp_path / "state").write_text("a file stands where the folder should be")
    notes: list[str] = []
    open_quota_store(tmp_path / "state" / "batchgen", notes.append).close()
    assert len(notes) == 1


async def test_a_run_goes_on_unshared_when_the_file_is_no_database(tmp_path, state_home):
    (state_home / "batchgen").mkdir(parents=True)
    (state_home / "batchgen" / FILE_NAME).write_text("no database at all, and long enough to be seen as such" * 20)
    async with await serve(FAST) as emulator:
        bench = Bench(emulator.base_url, tmp_path)
        job = batchgen.load(
            bench.manifest(items("a", "b")), output=tmp_path / "out", emulate=True,
            environ={"XDG_STATE_HOME": str(state_home)},
        )  # fmt: skip
        options = batchgen.RunOptions(emulator_url=emulator.base_url)
        outcome = await batchgen.run(job, observers=[bench.events.append], options=options)
    notes = [event.message for event in bench.events if isinstance(event, Notice) and "not shared" in event.message]
    assert (outcome.exit_code, len(notes)) == (0, 1)


async def test_a_fault_in_the_middle_of_a_run_is_told_once_and_gives_places_from_then_on(state_home):
    notes: list[str] = []
    file = QuotaStore(state_home, notes.append)
    log = file.start_log("q", 60.0)
    await log.reserve(1)
    connection = sqlite3.connect(state_home / FILE_NAME)
    connection.execute("DROP TABLE start")
    connection.close()
    assert [await log.reserve(1) for _ in range(3)] == [Reserved(None)] * 3
    file.close()
    assert len(notes) == 1


async def test_a_fault_in_what_nobody_waited_for_is_told_at_the_end(state_home):
    notes: list[str] = []
    file = QuotaStore(state_home, notes.append)
    connection = sqlite3.connect(state_home / FILE_NAME)
    connection.execute("DROP TABLE spending")
    connection.close()
    file.spend("job", 1.0, time.time())
    file.close()
    assert len(notes) == 1


async def test_another_process_that_never_ends_its_transaction_is_not_waited_for_for_ever(state_home, monkeypatch):
    monkeypatch.setattr(quota_module, "BUSY_S", 0.1)
    notes: list[str] = []
    file = QuotaStore(state_home, notes.append)
    other = sqlite3.connect(state_home / FILE_NAME, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    assert await asyncio.wait_for(file.start_log("q", 60.0).reserve(1), 20.0) == Reserved(None)
    other.close()
    file.close()
    assert len(notes) == 1
    assert "locked" in notes[0]


@pytest.mark.parametrize("mode", ["delete", "wal"])
def test_a_file_that_is_locked_for_good_is_not_waited_for_for_ever_when_it_is_opened(tmp_path, monkeypatch, mode):
    monkeypatch.setattr(quota_module, "BUSY_S", 0.1)
    other = sqlite3.connect(tmp_path / FILE_NAME, isolation_level=None)
    other.execute(f"PRAGMA journal_mode = {mode}")
    other.execute("BEGIN EXCLUSIVE")
    notes: list[str] = []
    began_s = time.monotonic()
    open_quota_store(tmp_path, notes.append).close()
    assert time.monotonic() - began_s < 5.0  # it was fifty times BUSY_S
    other.close()
    assert "locked" in notes[0]


async def test_a_full_disk_ends_the_sharing_and_not_the_run(in_file):
    log = in_file.start_log("q", 60.0)
    assert await log.reserve(1000) != Reserved(None)
    await in_file.transact(lambda connection: connection.execute("PRAGMA max_page_count = 1").fetchone(), None)
    answers = [await log.reserve(1000) for _ in range(900)]
    assert answers[0] != Reserved(None) == answers[-1]


@contextlib.asynccontextmanager
async def held_by_another(folder: Path) -> AsyncIterator[None]:
    other = sqlite3.connect(folder / FILE_NAME, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    yield
    other.close()


async def test_a_lane_that_nothing_binds_starts_at_once_and_sends_when_the_others_can_count_it(in_file, state_home):
    log = in_file.start_log("q", 60.0, StartLimits(account="acc"))
    async with held_by_another(state_home):
        start = await asyncio.wait_for(log.reserve(None, 0.4), 0.2)
        sending = asyncio.ensure_future(log.wait_until_visible(start.quota_slot))
        assert not (await asyncio.wait([sending], timeout=0.2))[0]
    await sending
    with contextlib.closing(QuotaStore(state_home, print)) as others:
        bound = others.start_log("q", 60.0, StartLimits(account="acc", rpd=2, budgets=(Budget("day", 0.5),)))
        assert await bound.reserve(60, 0.2) == BudgetReached("day")
        assert isinstance(await bound.reserve(60, 0.1), Reserved)
        assert await bound.reserve(60, 0.0) == DayUsedUp(2)


async def test_what_a_start_that_nothing_binds_cost_or_gave_back_is_what_stays(shared):
    log = shared.start_log("q", 60.0)
    places = [(await log.reserve(None, 0.4)).quota_slot for _ in range(3)]
    log.refund(places[0])  # before anybody has waited for its writing
    log.record_cost(places[1], 0.3)
    await log.wait_until_visible(places[2])
    log.sent(places[2])
    log.record_cost(places[2], 0.1)
    assert await shared.spent_since(0.0) == pytest.approx(0.4)
    assert await shared.requests_today("q") == 2


async def test_a_slow_start_that_nothing_binds_counts_from_when_its_headers_left(shared):
    log = shared.start_log("q", 0.5)
    start = await log.reserve(None)
    await asyncio.sleep(0.4)
    log.sent(start.quota_slot)
    assert (await log.reserve(1)).wait_s > 0.3


async def test_the_file_does_not_grow_with_starts_that_nothing_binds(shared):
    log = shared.start_log("q", 0.01)
    for _ in range(30):
        await log.wait_until_visible((await log.reserve(None)).quota_slot)
        await asyncio.sleep(0.005)
    sql = "SELECT count(*) FROM start"
    assert await shared.transact(lambda connection: connection.execute(sql).fetchone()[0], None) < 10


async def test_nothing_is_sent_while_another_process_keeps_the_reservation_from_being_written(tmp_path, state_home):
    (state_home / "batchgen").mkdir(parents=True)
    other = sqlite3.connect(state_home / "batchgen" / FILE_NAME, isolation_level=None)
    head = "defaults: {model: flash}\nmodels: {flash: {rpm: null}}\nitems:\n"
    async with await serve(FAST) as emulator:
        bench = Bench(emulator.base_url, tmp_path)
        urls = {"BATCHGEN_GEMINI_BASE_URL": emulator.base_url, "GEMINI_API_KEY": KEY}
        job = batchgen.load(bench.manifest(items("a"), head), environ={"XDG_STATE_HOME": str(state_home), **urls})

        def hold(event: object) -> None:
            if isinstance(event, RunStarted):
                other.execute("BEGIN IMMEDIATE")

        run = asyncio.ensure_future(batchgen.run(job, observers=[hold]))
        while not other.in_transaction:
            await asyncio.sleep(0.01)
        with Reader.open(tmp_path / "job") as ledger:
            while not ledger.open_attempts():
                await asyncio.sleep(0.01)
        await asyncio.sleep(0.2)
        assert await bench.requests() == 0
        other.close()
        assert (await run).made == 1


# --- dispatch


def test_a_lane_waits_as_long_as_the_other_processes_need_and_then_starts(run):
    log = OtherProcesses([NotBefore(30.0), Reserved(7)])
    ends: list[float] = []

    async def drive() -> None:
        dispatcher = dispatcher_with(log)

        async def execute(work):
            dispatcher.sent(work)
            ends.append(asyncio.get_running_loop().time())
            dispatcher.succeeded(work, 0.0)

        await OnlineEngine().drive(dispatcher, execute)

    run(drive())
    assert ends == [pytest.approx(1000.0 + 0.5 + 30.0 + 0.5)]
    assert log.told == [("sent", 7), ("settled", 7)]


def test_a_stop_while_the_log_was_asked_gives_the_place_back(run):
    log = OtherProcesses([Reserved(7)])

    async def drive() -> None:
        dispatcher = dispatcher_with(log)
        asyncio.get_running_loop().call_later(0.2, dispatcher.stop, "SIGINT")
        assert await dispatcher.take() is None
        assert (dispatcher.untried_count(), dispatcher.unfinished) == (1, 0)

    run(drive())
    assert log.told == [("refund", 7)]


# --- money


@pytest.mark.parametrize("span", ["day", "month"])
async def test_one_budget_counts_all_jobs_of_the_user(tmp_path, state_home, span):
    limits, environ = {f"budget_usd_per_{span}": 0.10}, {"XDG_STATE_HOME": str(state_home)}
    async with await serve(FAST) as emulator:
        first = await real_run(tmp_path, "one", emulator.base_url, limits, environ)
        second = await real_run(tmp_path, "two", emulator.base_url, limits, environ)
    assert (first.made, second.exit_code, second.made) == (2, 6, 0)


async def test_what_was_spent_before_there_was_a_shared_file_counts_once(tmp_path, state_home):
    limits, environ = {"budget_usd_per_day": 0.10}, {"XDG_STATE_HOME": str(state_home)}
    async with await serve(FAST) as emulator:
        alone = await real_run(tmp_path, "one", emulator.base_url, {"budget_usd": 0.10}, {})
        for _ in range(2):
            await real_run(tmp_path, "one", emulator.base_url, limits, environ)
    file = QuotaStore(state_home / "batchgen", print)
    assert await file.spent_since(0.0) == pytest.approx(alone.usd)
    file.close()


async def test_two_runs_at_the_same_moment_never_spend_more_than_the_days_budget_together(tmp_path, state_home):
    head = "defaults: {model: flash}\nlimits: {budget_usd_per_day: 1.00}\nitems:\n"
    slow = EmulatorOptions(latency_s=(0.1, 0.2), picture="tiny", rpm=0)
    async with await serve(slow) as emulator:
        children = []
        for name in ("one", "two"):
            (tmp_path / name).mkdir()
            manifest = Bench(emulator.base_url, tmp_path / name).manifest(
                items(*(f"{name} {n}" for n in range(29))), head
            )
            children.append(await child("real", manifest, emulator.base_url, state_home))
        for one in children:
            await one.stdout.readline()  # both are ready before either begins
        for one in children:
            one.stdin.write(b"go\n")
        codes = [await one.wait() for one in children]
        billed = (await Bench(emulator.base_url, tmp_path).get("/_emulator/stats"))["billed_images"]
    spent = [Reader.open(tmp_path / name / "job") for name in ("one", "two")]
    usd = [reader.spent_since(0.0) for reader in spent]
    for reader in spent:
        reader.close()
    each = sum(usd) / billed  # by usage, above the table
    print(f"{usd} USD, {billed} pictures at {each:.4f}")
    assert codes == [6, 6]
    assert 0.90 < sum(usd) <= 1.00
    assert all(usd)


async def test_what_a_killed_run_reserved_stays_spent_until_its_own_job_says_what_became_of_it(tmp_path, state_home):
    environ, limits = {"XDG_STATE_HOME": str(state_home)}, {"budget_usd_per_day": 0.10}
    dead = QuotaStore(state_home / "batchgen", print)
    terms = StartLimits(job=str(tmp_path / "one"))
    assert isinstance(await dead.start_log("q", 60.0, terms).reserve(None, 0.08), Reserved)
    dead.close()
    async with await serve(FAST) as emulator:
        other = await real_run(tmp_path, "two", emulator.base_url, limits, environ)
        own = await real_run(tmp_path, "one", emulator.base_url, limits, environ)
    assert (other.exit_code, other.made, own.exit_code, own.made) == (6, 0, 6, 2)


def test_a_lane_that_is_short_of_money_asks_again_when_something_has_cost_less_than_reserved(run):
    log = OtherProcesses([Reserved(1), NotBefore(600.0, "usd_per_10_min"), Reserved(2)])

    async def drive() -> float:
        dispatcher = dispatcher_with(log, count=2)

        async def execute(work):
            await asyncio.sleep(5.0)
            dispatcher.succeeded(work, 0.01)

        await OnlineEngine().drive(dispatcher, execute)
        return asyncio.get_running_loop().time()

    assert run(drive()) == pytest.approx(1000.0 + 0.5 + 5.0 + 0.5 + 5.0)


@pytest.mark.parametrize("answer", [BudgetReached("day"), NotBefore(600.0, "usd_per_10_min")])
def test_what_settles_while_the_purse_is_asked_may_have_made_room_so_it_is_asked_again(run, answer):
    log = OtherProcesses([Reserved(1), answer, Reserved(2)])

    async def drive() -> float:
        dispatcher = dispatcher_with(log, count=2)

        async def execute(work):
            await asyncio.sleep(0.2)
            dispatcher.succeeded(work, 0.01)

        await OnlineEngine().drive(dispatcher, execute)
        return asyncio.get_running_loop().time()

    assert run(drive()) == pytest.approx(1000.0 + 0.5 + 0.5 + 0.5 + 0.2)
    assert log.told == [("settled", 1), ("settled", 2)]


async def test_money_waits_until_the_oldest_spend_has_left_the_ten_minutes(shared):
    now = time.time()
    for usd, age_s in ((5.0, 590.0), (4.0, 100.0), (9.0, 601.0)):
        shared.spend("job", usd, now - age_s, "acc")
    log = shared.start_log("q", 60.0, StartLimits(account="acc", usd_per_10_min=10.0))
    first, waits = await log.reserve(None, 1.0), await log.reserve(None, 1.0)
    assert isinstance(first, Reserved)
    assert (waits.why, waits.wait_s) == ("usd_per_10_min", pytest.approx(10.0, abs=2.0))
    other = shared.start_log("q", 60.0, StartLimits(account="other", usd_per_10_min=10.0))
    assert isinstance(await other.reserve(None, 1.0), Reserved)


async def test_what_a_request_cost_in_the_end_takes_the_place_of_what_was_reserved(shared):
    log = shared.start_log("q", 60.0, StartLimits(account="acc", usd_per_10_min=1.0))
    places = [(await log.reserve(None, 0.5)).quota_slot for _ in range(2)]
    log.record_cost(places[0], 0.1)
    log.record_cost(places[1], 0.0)
    assert await shared.spent_since(0.0) == pytest.approx(0.1)
    assert isinstance(await log.reserve(None, 0.9), Reserved)
    assert isinstance(await log.reserve(None, 0.1), NotBefore)


async def test_old_spend_becomes_one_row_a_day_and_no_sum_changes(tmp_path):
    noted: list[str] = []
    now = time.time()
    days = [now - 2 * 86400.0, now - 86400.0, now]
    with contextlib.closing(QuotaStore(tmp_path, noted.append)) as file:
        log = file.start_log("q", 60.0, StartLimits(job="a", account="acc"))
        for _ in range(30):
            log.record_cost((await log.reserve(None, 1.0)).quota_slot, 0.5)
        await log.reserve(None, 7.0)  # of a process that died: stays as it is
        await file.spent_since(0.0)
    with contextlib.closing(sqlite3.connect(tmp_path / FILE_NAME)) as connection, connection:
        for number, day in enumerate(days):
            connection.execute(
                "UPDATE spending SET at = ?, ended = ? WHERE ended IS NOT NULL AND rowid % 3 = ?", (day, day, number)
            )
    with contextlib.closing(QuotaStore(tmp_path, noted.append)) as file:
        assert await file.spent_since(0.0) == pytest.approx(22.0)
        assert await file.spent_since(period_start("day", now)) == pytest.approx(12.0)
    with contextlib.closing(sqlite3.connect(tmp_path / FILE_NAME)) as connection:
        assert connection.execute("SELECT count(*) FROM spending").fetchone()[0] == 10 + 2 + 1
    assert noted == []


async def test_requests_of_a_day_are_counted_over_all_jobs_and_given_back_when_never_sent(shared):
    logs = [shared.start_log("q", 0.01, StartLimits(job=job, rpd=3)) for job in ("a", "b")]
    shared.sent_today("q", "a", 2)
    shared.sent_today("q", "a", 1)  # a ledger that knows of fewer takes nothing away
    quota_slot = (await logs[1].reserve(60)).quota_slot
    assert await logs[0].reserve(60) == DayUsedUp(3)
    logs[1].refund(quota_slot)
    assert isinstance(await logs[0].reserve(60), Reserved)


@pytest.mark.parametrize("counts_money", [False, True], ids=["requests", "money"])
@pytest.mark.parametrize("harm", ["a table is gone", "the file is gone", "another file stands there"])
async def test_when_the_file_fails_requests_go_on_unshared_and_money_does_not(state_home, harm, counts_money):
    notes: list[str] = []
    book = QuotaStore(state_home, notes.append, counts_money=counts_money)
    log = book.start_log("q", 60.0, StartLimits(budgets=(Budget("day", 1.0),) if counts_money else ()))
    await log.reserve(9, 0.4)
    if harm == "a table is gone":
        with contextlib.closing(sqlite3.connect(state_home / FILE_NAME)) as connection:
            connection.execute("DROP TABLE spending")
    else:
        (state_home / FILE_NAME).unlink()
        if harm.startswith("another"):
            QuotaStore(state_home, print).close()
    if counts_money:
        with pytest.raises(LedgerError, match=r"counts what all jobs spend. That is counted in .*quota\.sqlite"):
            await log.reserve(9, 0.4)
    else:
        assert await log.reserve(9, 0.4) == Reserved(None)
    book.close()
    assert len(notes) == 1


async def test_a_budget_of_one_account_does_not_count_the_spend_of_others(shared):
    shared.spend("job", 5.0, time.time(), "other")
    log = shared.start_log("q", 60.0, StartLimits(account="acc", budgets=(Budget("month", 1.0, "acc"),)))
    assert isinstance(await log.reserve(None, 1.0), Reserved)
    assert await log.reserve(None, 0.1) == BudgetReached("month")


def test_a_shared_budget_that_is_reached_waits_for_what_is_in_flight_and_then_ends_the_run(run):
    log = OtherProcesses([Reserved(1), BudgetReached("day"), Reserved(2), *[BudgetReached("day")] * 2])

    async def drive() -> Dispatcher:
        dispatcher = dispatcher_with(log, count=3)

        async def execute(work):
            dispatcher.sent(work)
            await asyncio.sleep(5.0)
            dispatcher.succeeded(work, 0.0)

        await OnlineEngine().drive(dispatcher, execute)
        return dispatcher

    dispatcher = run(drive())
    assert (dispatcher.stop_reason, dispatcher.untried_count()) == (StopReason(StopKind.BUDGET, "day"), 1)


def test_a_lane_that_waits_for_money_says_so_and_one_without_requests_for_today_is_parked(run):
    held: list[tuple[str, object]] = []
    log = OtherProcesses([NotBefore(300.0, "usd_per_10_min"), DayUsedUp(9)])
    dispatcher = dispatcher_with(log, on_quota_denied=lambda lane, why: held.append((lane, why)))
    assert run(dispatcher.take()) is None
    assert held == [("m", NotBefore(300.0, "usd_per_10_min")), ("m", DayUsedUp(9))]
    assert (dispatcher.lanes["m"].parked, dispatcher.untried_count()) == (True, 1)


async def test_the_declared_requests_of_a_day_park_their_lane_until_the_figure_is_raised(tmp_path, state_home):
    text = items(*(f"{n}" for n in range(5))) + '  - {id: p, prompt: "z", model: pro}\n'
    head = "defaults: {model: flash}\nmodels: {flash: {rpd: %d}}\nitems:\n"
    async with await serve(FAST) as emulator:
        bench = Bench(emulator.base_url, tmp_path)
        first = await bench.run(text, head % 3)
        parked = [event.until for event in bench.events if isinstance(event, LaneParked)]
        again = await bench.run(text, head % 3)
        raised = await bench.run(text, head % 9)
    assert (first.exit_code, first.made, again.exit_code, again.made) == (8, 4, 8, 0)
    assert (parked, raised.exit_code, raised.made) == ([daily_quota_reset(time.time(), None)], 0, 2)


async def test_a_run_that_shares_nothing_keeps_its_usd_of_ten_minutes_also_after_a_restart(tmp_path):
    head = "defaults: {model: flash}\nlimits: {usd_per_10_min: 0.14}\nitems:\n"
    async with await serve(FAST) as emulator:
        bench = Bench(emulator.base_url, tmp_path)
        first = await bench.run(items(*map(str, range(9))), head, limit=3)
        second = await bench.run(items(*map(str, range(9))), head, deadline=time.time() + 2.0)
        waits = [event.seconds for event in bench.events if isinstance(event, LaneCooled)]
        assert (first.made, second.exit_code, second.made, await bench.requests()) == (3, 7, 0, 3)
        assert 500 < waits[0] <= 600
    with Reader.open(tmp_path / "out") as ledger:
        assert max(ledger.cooling_lanes().values()) > time.time() + 400


async def test_a_picture_dearer_than_ten_minutes_may_cost_is_an_error_before_anything_is_sent(tmp_path):
    async with await serve(FAST) as emulator:
        bench = Bench(emulator.base_url, tmp_path)
        with pytest.raises(UsageError, match="could never start: raise limits: usd_per_10_min"):
            await bench.run(items("a"), "defaults: {model: flash}\nlimits: {usd_per_10_min: 0.01}\nitems:\n")
        assert await bench.requests() == 0


async def test_a_plan_knows_what_other_jobs_have_left_of_the_days_budget(tmp_path, state_home):
    limits, environ = {"budget_usd_per_day": 0.30}, {"XDG_STATE_HOME": str(state_home)}
    async with await serve(FAST) as emulator:
        first = await real_run(tmp_path, "one", emulator.base_url, {"budget_usd": 0.2}, environ)
    manifest = tmp_path / "two.yaml"
    entries = [{"id": f"i{n}", "prompt": f"{n}"} for n in range(9)]
    manifest.write_text(json.dumps({"defaults": {"model": "flash"}, "limits": limits, "items": entries}))
    limit = batchgen.plan(batchgen.load(manifest, environ=environ)).forecast.limit
    assert limit.binding == "budget"
    assert limit.advice.startswith(f"the {money.usd(0.30 - first.usd)} left of the day's budget")


async def test_emulated_runs_count_for_nothing(tmp_path, state_home):
    async with await serve(FAST) as emulator:
        bench = Bench(emulator.base_url, tmp_path)
        job = batchgen.load(
            bench.manifest(items("a")),
            output=tmp_path / "out",
            emulate=True,
            environ={"XDG_STATE_HOME": str(state_home)},
        )
        outcome = await batchgen.run(job, options=batchgen.RunOptions(emulator_url=emulator.base_url))
    file = QuotaStore(state_home / "batchgen", print)
    assert (outcome.usd > 0, await file.spent_since(0.0)) == (True, 0.0)
    file.close()
