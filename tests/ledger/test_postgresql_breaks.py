"""A server that dies, a wire that is cut, an address that is wrong: what was recorded is there once, and words say the rest."""

from __future__ import annotations

import asyncio
import signal
import time
import uuid
from pathlib import Path
from typing import get_args

import psycopg
import pytest

from batchgen.emulator import EmulatorOptions, serve
from batchgen.errors import JobLocked, LedgerError
from batchgen.ledger import postgresql
from batchgen.ledger.ledger import Ledger
from batchgen.ledger.location import LedgerServer, job_identity
from batchgen.ledger.postgresql import PostgreSQL
from batchgen.ledger.reader import Reader
from batchgen.ledger.requests import IntendedRequest
from batchgen.ledger.server_access import ServerLock
from tests.support.bench import Bench, items
from tests.support.postgres import PASSWORD, USER, PostgresServer, running
from tests.support.postgres_proxy import Cut, Proxy
from tests.support.samples import make_sample


@pytest.fixture
def proxy(postgres):
    proxy = Proxy(postgres.port)
    yield proxy
    proxy.close()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / ".batchgen").mkdir()
    return tmp_path


def opened(folder: Path, url: str) -> Ledger:
    ledger = Ledger(folder, LedgerServer(url, "job", job_identity(str(folder))))
    ledger.run_started(1, "host", "0")
    return ledger


@pytest.mark.parametrize("cut", get_args(Cut))
async def test_a_change_is_recorded_once_whether_the_answer_to_its_commit_was_lost_or_the_commit(
    folder, database, proxy, cut
):
    ledger = opened(folder, proxy.url(database))
    proxy.cut = cut
    number = await ledger.attempt_started(IntendedRequest(make_sample("a"), "lane", 1, 0.05))
    assert proxy.cut is None
    assert [attempt.id for attempt in ledger.reader.open_attempts()] == [number]
    ledger.close()


async def test_a_reader_and_a_writer_go_on_after_their_connections_were_cut(folder, database, proxy):
    ledger = opened(folder, proxy.url(database))
    proxy.hang_up()
    assert ledger.reader.counts() == {}
    await ledger.attempt_started(IntendedRequest(make_sample("a"), "lane", 1, 0.05))
    proxy.hang_up()
    assert ledger.reader.counts() == {"running": 1}
    ledger.close()


async def test_what_an_administrator_ends_comes_back(folder, database):
    ledger = opened(folder, database)
    with psycopg.connect(database, autocommit=True) as other:
        other.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE application_name LIKE 'batchgen %' AND datname = current_database()"
        )
    await ledger.attempt_started(IntendedRequest(make_sample("a"), "lane", 1, 0.05))
    assert ledger.reader.counts() == {"running": 1}
    ledger.close()


def test_one_moment_is_not_gone_on_with_after_a_loss(folder, database, proxy):
    opened(folder, database).close()
    reader = Reader.open(folder, proxy.url(database))
    reader._connection.execute("BEGIN")
    reader.counts()
    proxy.hang_up()
    with pytest.raises(LedgerError):
        reader.counts()
    reader.close()


# --- the lock


def test_a_second_host_is_told_who_holds_the_job(folder, database):
    first, second = opened(folder, database), opened(folder, database)
    ServerLock(first).acquire()
    with pytest.raises(JobLocked, match=r"another run holds this job \(process \d+ on .+\)"):
        ServerLock(second).acquire()
    ServerLock(first).release()
    ServerLock(second).acquire()
    first.close()
    second.close()


def test_a_lock_is_taken_again_with_the_connection_before_anything_is_written(folder, database, proxy):
    first, second = opened(folder, proxy.url(database)), opened(folder, database)
    ServerLock(first).acquire()
    proxy.hang_up()
    first.set_meta(a="b")
    with pytest.raises(JobLocked):
        ServerLock(second).acquire()
    first.close()
    second.close()


def test_a_lock_that_the_server_still_holds_for_our_lost_connection_is_ours_again(folder, database, proxy):
    first = opened(folder, proxy.url(database))
    ServerLock(first).acquire()
    proxy.forget_client()
    first.set_meta(a="b")
    first.flush()
    assert first.reader.meta("a") == "b"
    first.close()


def test_a_run_whose_lock_another_took_meanwhile_writes_nothing_more(folder, database, proxy, monkeypatch):
    first, second = opened(folder, proxy.url(database)), opened(folder, database)
    ServerLock(first).acquire()
    proxy.refusing = True
    proxy.hang_up()
    monkeypatch.setattr(second.database, "_application", "batchgen writes 7 elsewhere")
    _reconnect_as(second, "batchgen writes 7 elsewhere")
    until = time.monotonic() + 20.0
    while True:
        try:
            ServerLock(second).acquire()
            break
        except JobLocked:  # the server has not noticed the loss yet
            assert time.monotonic() < until
            time.sleep(0.02)
    proxy.refusing = False
    with pytest.raises(LedgerError, match=r"another run has taken this job over \(process 7 on elsewhere\)"):
        first.set_meta(a="b")
    assert second.reader.meta("a") is None
    first.close()
    second.close()


def _reconnect_as(ledger: Ledger, name: str) -> None:
    ledger.database.execute("SELECT set_config('application_name', ?, false)", (name,))


# --- what cannot be reached or used


def refusal(url: str) -> str:
    with pytest.raises(LedgerError) as caught:
        PostgreSQL(url, "public")
    text = str(caught.value)
    assert "\n" not in text
    assert PASSWORD not in text
    return text


def test_a_server_that_is_not_there_is_named_without_the_password(postgres):
    text = refusal(f"postgresql://{USER}:{PASSWORD}@127.0.0.1:1/x")
    assert f"postgresql://{USER}@127.0.0.1:1/x cannot be used" in text


def test_a_wrong_password_is_told_with_where_one_comes_from(postgres):
    text = refusal(postgres.url().replace(PASSWORD, "wrong-one-of-the-tests"))
    assert "wrong-one" not in text
    assert "~/.pgpass" in text


def test_a_password_that_the_library_quotes_is_taken_out(postgres):
    assert "***" in refusal(postgres.url().replace(PASSWORD, f"{PASSWORD}%zz"))


def test_a_database_that_is_missing_is_told_with_the_remedy(postgres):
    assert "createdb" in refusal(postgres.url("nowhere"))


def test_a_server_that_is_too_old_is_told(postgres, proxy):
    with psycopg.connect(postgres.url()) as server:
        now = server.info.parameter_status("server_version") or ""
    proxy.replace = (f"server_version\0{now}".encode(), f"server_version\0{'12.9':<{len(now)}}".encode())
    assert "is PostgreSQL 12, and a ledger needs 13 or later" in refusal(proxy.url(postgres.url()))


def test_a_user_who_may_not_make_schemas_is_told_what_to_grant(folder, postgres, database):
    user = f"guest_{uuid.uuid4().hex[:8]}"
    with psycopg.connect(postgres.url(), autocommit=True) as server:
        server.execute(f"CREATE ROLE {user} LOGIN PASSWORD 'guest-of-the-tests'")
    name = database.rpartition("/")[2]
    with pytest.raises(LedgerError, match=f"GRANT CREATE ON DATABASE {name} TO {user}"):
        opened(folder, database.replace(f"{USER}:{PASSWORD}", f"{user}:guest-of-the-tests"))


async def test_a_run_whose_server_is_not_there_sends_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(postgresql, "RECONNECT_TIMEOUT_S", 0.0)
    async with await serve(EmulatorOptions(latency_s=(0.0, 0.0), picture="tiny", rpm=0)) as emulator:
        bench = Bench(emulator.base_url, tmp_path, f"postgresql://{USER}:{PASSWORD}@127.0.0.1:1/x")
        with pytest.raises(LedgerError) as caught:
            await bench.run(items("a"))
        assert PASSWORD not in str(caught.value)
        assert await bench.requests() == 0


# --- a server that dies in the middle of a run


@pytest.fixture
def mortal():
    """A server whose commits reach the disk."""
    with running() as server:
        yield server


PROMPTS = [f"thing {n}" for n in range(60)]


def revive(server: PostgresServer) -> None:
    """What a killed server leaves behind lives on for a moment, and no other may start beside it."""
    for _ in range(50):
        try:
            server.start()
            return
        except AssertionError:
            time.sleep(0.1)
    server.start()


async def killed_after(bench: Bench, server: PostgresServer, requests: int, how: signal.Signals) -> None:
    while await bench.requests() < requests:
        await asyncio.sleep(0.01)
    await asyncio.to_thread(server.stop, how)


@pytest.mark.parametrize("how", [signal.SIGQUIT, signal.SIGKILL])
async def test_a_run_outlives_its_server_and_loses_nothing(tmp_path, mortal, monkeypatch, how):
    monkeypatch.setenv("BATCHGEN_LEDGER", mortal.url())
    async with await serve(EmulatorOptions(latency_s=(0.05, 0.2), picture="tiny", rpm=0)) as emulator:
        bench = Bench(emulator.base_url, tmp_path, mortal.url())

        async def crash() -> None:
            await killed_after(bench, mortal, 15, how)
            await asyncio.sleep(0.3)
            await asyncio.to_thread(revive, mortal)

        outcome, _ = await asyncio.gather(bench.run(items(*PROMPTS)), crash())
        assert (outcome.exit_code, outcome.made, await bench.requests()) == (0, 60, 60)
        served = await bench.served()
        assert all(digest in served[PROMPTS[int(name[1:-4])]] for name, digest in bench.pictures().items())
        with Reader.open(tmp_path / "out") as ledger:
            assert (ledger.counts(), ledger.attempts()) == ({"succeeded": 60}, {"succeeded": 60})
            assert ledger.last_run().exit_code == 0
        assert len(bench.lines()) == 60


async def test_a_server_away_for_too_long_stops_the_run_in_order_and_the_next_takes_up_what_was_in_flight(
    tmp_path, mortal, monkeypatch
):
    monkeypatch.setenv("BATCHGEN_LEDGER", mortal.url())
    monkeypatch.setattr(postgresql, "RECONNECT_TIMEOUT_S", 1.0)
    async with await serve(EmulatorOptions(latency_s=(0.05, 0.2), picture="tiny", rpm=0)) as emulator:
        bench = Bench(emulator.base_url, tmp_path, mortal.url())
        dies = asyncio.create_task(killed_after(bench, mortal, 15, signal.SIGQUIT))
        with pytest.raises(LedgerError, match="could not be written") as caught:
            await bench.run(items(*PROMPTS))
        await dies
        assert PASSWORD not in str(caught.value)
        sent = await bench.requests()
        assert sent < 40
        await asyncio.to_thread(revive, mortal)
        with Reader.open(tmp_path / "out") as ledger:
            in_the_air = len(ledger.open_attempts())
        outcome = await bench.run(items(*PROMPTS))
        assert (outcome.exit_code, len(bench.pictures()), len(bench.lines())) == (0, 60, 60)
        assert await bench.requests() <= 60 + in_the_air
        with Reader.open(tmp_path / "out") as ledger:
            assert await bench.requests() == 60 + ledger.attempts().get("uncertain", 0)
