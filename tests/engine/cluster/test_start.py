"""Workers and runs that are started before their PostgreSQL: they wait, say so, and give up only for what a person must mend."""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator

import psycopg
import pytest

from batchgen.errors import LedgerUnreachable
from batchgen.ledger import postgresql
from batchgen.ledger.postgresql import PostgreSQL
from tests.support.fork_server import PYTHON
from tests.support.paths import ROOT
from tests.support.postgres import PASSWORD, USER, PostgresServer, free_port, running

HASTY = "from batchgen.ledger import postgresql; postgresql.RECONNECT_TIMEOUT_S = 3.0; "
MAIN = "from batchgen.__main__ import main; main()"


class Started:
    """A command as a process; `says` waits for a line on its stderr."""

    def __init__(self, *argv: str, ledger: str, folder: object, before: str = "") -> None:
        environ = {**os.environ, "PYTHONPATH": str(ROOT), "BATCHGEN_LEDGER": ledger, "XDG_STATE_HOME": str(folder)}
        self.process = subprocess.Popen(
            [PYTHON, "-c", before + MAIN, *argv], stderr=subprocess.PIPE, text=True, env=environ
        )
        self._lines: queue.Queue[str] = queue.Queue()
        self._reading = threading.Thread(target=self._read)
        self._reading.start()

    def _read(self) -> None:
        assert self.process.stderr is not None
        with self.process.stderr as lines:
            for line in lines:
                self._lines.put(line)
        self._lines.put("")

    def end(self) -> None:
        self.process.kill()
        self.process.wait(10)
        self._reading.join()

    def says(self, words: str, timeout_s: float = 20.0) -> str:
        while line := self._lines.get(timeout=timeout_s):
            if words in line:
                return line
        raise AssertionError(f"it ended before it said {words!r}")

    def rest(self) -> list[str]:
        """What else it says before its end."""
        return list(iter(lambda: self._lines.get(timeout=20.0), ""))


@pytest.fixture
def start(tmp_path) -> Iterator[Callable[..., Started]]:
    begun: list[Started] = []

    def make(*argv: str, **more: str) -> Started:
        begun.append(Started(*argv, folder=tmp_path, **more))  # type: ignore[arg-type]
        return begun[-1]

    yield make
    for each in begun:
        each.end()


@pytest.fixture
def stopped() -> Iterator[PostgresServer]:
    """A server of its own that is down."""
    with running("fsync=off") as server:
        server.stop()
        yield server


def test_a_worker_that_is_started_first_waits_for_its_server_and_says_so(start, stopped, tmp_path):
    health = tmp_path / "health"
    worker = start("worker", "--health-file", str(health), ledger=stopped.url())
    assert "cannot be used: connection failed" in worker.says("Waiting for it")
    assert not health.exists()
    stopped.start()
    until(health.exists)
    worker.process.send_signal(signal.SIGTERM)
    assert worker.process.wait(20) == 143


def until(true: Callable[[], bool]) -> None:
    for _ in range(1000):
        if true():
            return
        time.sleep(0.02)
    raise AssertionError("it never came true")


def test_a_worker_waits_while_the_server_has_no_place_for_its_connection(start, postgres, database, tmp_path):
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute(f"DROP ROLE IF EXISTS later; CREATE ROLE later SUPERUSER LOGIN PASSWORD '{PASSWORD}'")
        connection.execute("ALTER ROLE later NOSUPERUSER CONNECTION LIMIT 0")
        connection.execute("GRANT ALL ON DATABASE " + database.rpartition("/")[2] + " TO later")
        health = tmp_path / "health"
        worker = start("worker", "--health-file", str(health), ledger=database.replace(f"//{USER}:", "//later:"))
        worker.says("too many connections")
        connection.execute("ALTER ROLE later CONNECTION LIMIT 20")
        until(health.exists)


def test_a_worker_waits_while_the_server_is_starting_up(start, tmp_path):
    with refusing(b"SFATAL\0VFATAL\0C57P03\0Mthe database system is starting up\0\0") as port:
        worker = start("worker", ledger=f"postgresql://guest:sesame@127.0.0.1:{port}/x?sslmode=disable")
        worker.says("the database system is starting up. Waiting for it")
        assert worker.process.poll() is None


@contextlib.contextmanager
def refusing(fields: bytes) -> Iterator[int]:
    """A port where each connection gets this answer. Source: PostgreSQL, "Message Formats", ErrorResponse."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer() -> None:
            with contextlib.suppress(OSError):
                while True:
                    connection, _ = listener.accept()
                    with connection:
                        connection.recv(4096)
                        connection.sendall(b"E" + (len(fields) + 4).to_bytes(4, "big") + fields)

        threading.Thread(target=answer, daemon=True).start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)


def test_a_worker_that_is_told_to_stop_while_it_waits_leaves_at_once(start):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        worker = start("worker", ledger=f"postgresql://guest:sesame@127.0.0.1:{silent.getsockname()[1]}/x")
        silent.settimeout(20)
        with silent.accept()[0]:
            told_s = time.monotonic()
            worker.process.send_signal(signal.SIGTERM)
            assert (worker.process.wait(20), time.monotonic() - told_s < 3.0) == (143, True)


@pytest.mark.parametrize("wrong", [
    lambda url: url.replace(PASSWORD, "wrong"),
    lambda url: url.replace(f":{PASSWORD}", ""),
    lambda url: f"{url}_not_there",
    lambda url: f"{url}?no_such_option=1",
    lambda url: url.replace(f"{USER}:", "guest:"),
])  # fmt: skip
def test_what_only_a_person_can_mend_ends_a_worker_with_5(start, database, wrong):
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute(f"DROP ROLE IF EXISTS guest; CREATE ROLE guest LOGIN PASSWORD '{PASSWORD}'")
    worker = start("worker", ledger=wrong(database))
    assert (worker.process.wait(20), [line for line in worker.rest() if "Waiting" in line]) == (5, [])


def test_a_run_that_is_started_first_waits_for_its_server(start, stopped, tmp_path):
    (tmp_path / "job.yaml").write_text("items:\n  - {id: a, prompt: A mug}\n")
    run = start("run", str(tmp_path / "job.yaml"), "--emulate", ledger=stopped.url())
    run.says("Waiting for it")
    stopped.start()
    assert run.process.wait(20) == 0


def test_a_run_whose_server_does_not_come_up_ends_with_5_and_nothing_was_sent(start, tmp_path):
    (tmp_path / "job.yaml").write_text("items:\n  - {id: a, prompt: A mug}\n")
    ledger = f"postgresql://guest:sesame@127.0.0.1:{free_port()}/x"
    run = start("run", str(tmp_path / "job.yaml"), "--emulate", ledger=ledger, before=HASTY)
    run.says("Waiting for it")
    assert (run.process.wait(20), (tmp_path / "job.emulated").exists()) == (5, False)
    (last,) = run.rest()  # once a minute is enough for the words
    assert "cannot be used: connection failed" in last


@pytest.mark.parametrize("said", [
    "failed to resolve host 'db': [Errno -2] Name or service not known",
    "connection failed: FATAL:  sorry, too many clients already",
    "connection failed: FATAL:  the database system is shutting down",
    "connection failed: server closed the connection unexpectedly",
    "connection timeout expired",
])  # fmt: skip
def test_what_time_may_mend_is_told_apart(monkeypatch, said):
    def connect(*_: object, **__: object) -> None:
        raise psycopg.OperationalError(said)

    monkeypatch.setattr(postgresql.load_psycopg(), "connect", connect)
    with pytest.raises(LedgerUnreachable):
        PostgreSQL("postgresql://a@db/x", "public")
