"""stdin, stdout and stderr that are closed, full or abandoned lose lines, never a run and never its exit code."""

from __future__ import annotations

import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from urllib.request import urlopen

import pytest

from batchgen.errors import LedgerError
from batchgen.ledger.reader import Reader
from tests.support.command_line import environment
from tests.support.fork_server import PYTHON
from tests.support.postgres import free_port

pytestmark = pytest.mark.skipif(not os.path.exists("/dev/full"), reason="NOT TESTED: there is no /dev/full")
ALL_CLOSED = "<&- >&- 2>&-"
LOSSES = ["<&-", ">&-", "2>&-", ALL_CLOSED, ">/dev/full", "2>/dev/full", ">/dev/full 2>/dev/full"]
Start = Callable[..., "subprocess.Popen[str]"]
FULL = {">/dev/full": "stdout", "2>/dev/full": "stderr"}  # a process needs no shell to be given these


@pytest.fixture
def redirected(processes: list[subprocess.Popen[str]]) -> Start:
    """`batchgen …` behind a shell's redirections; what these leave alone is a pipe."""

    def start(redirections: str, *argv: str, **more: object) -> subprocess.Popen[str]:
        command, full = [PYTHON, "-m", "batchgen", *argv], [FULL.get(each, "") for each in redirections.split()]
        if not all(full):
            command, full = ["sh", "-c", f'exec "$@" {redirections}', "sh", sys.executable, *command[1:]], []
        pipe = subprocess.PIPE
        with open("/dev/full", "w") as device:
            streams = {
                "stdin": subprocess.DEVNULL,
                "stdout": pipe,
                "stderr": pipe,
                **dict.fromkeys(full, device),
                **more,
            }
            process = subprocess.Popen(command, text=True, env=environment(), **streams)  # type: ignore[call-overload]
        processes.append(process)
        return process

    return start


@pytest.fixture
def unread() -> Iterator[int]:
    """The end for writing of a pipe that nobody reads."""
    reading, writing = os.pipe()
    os.close(reading)
    yield writing
    os.close(writing)


@pytest.fixture
def job(write, emulator) -> str:
    """A run of it ends with 3."""
    emulator("--latency", "0")
    return str(write({"mug": "A mug", "bad": "x [[fault:safety]]"}))


@pytest.fixture
def made(batchgen, write) -> str:
    manifest = str(write({f"mug-{number}": f"A mug, {number}" for number in range(3)}))
    assert batchgen("run", manifest, "--emulate").code == 0
    return manifest


def states(folder) -> dict[str, int]:
    with Reader.open(folder) as reader:
        return reader.counts()


@pytest.mark.parametrize("redirections", LOSSES)
def test_a_run_goes_to_its_end_and_has_the_exit_code_it_would_have_had(redirected, job, tmp_path, redirections):
    process = redirected(redirections, "run", job, "--json")
    process.communicate(timeout=20)
    assert (process.returncode, states(tmp_path / "job")) == (3, {"succeeded": 1, "refused": 1})


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_a_run_whose_reader_goes_away_goes_to_its_end(redirected, job, tmp_path, unread, stream):
    process = redirected("", "run", job, "--json", "--log-format", "json", **{stream: unread})
    process.communicate(timeout=20)
    assert (process.returncode, states(tmp_path / "job")) == (3, {"succeeded": 1, "refused": 1})


def test_no_file_gets_the_number_of_a_stream_that_is_closed(redirected, write, emulator):
    emulator("--latency", "60")
    process = redirected(ALL_CLOSED, "run", str(write({"mug": "A mug"})))
    folder = f"/proc/{process.pid}/fd"
    until(lambda: any("ledger" in os.readlink(f"{folder}/{number}") for number in listed(folder)))
    assert {os.readlink(f"{folder}/{number}") for number in range(3)} == {os.devnull}


def listed(folder: str) -> list[str]:
    with suppress(OSError):
        return [name for name in os.listdir(folder) if os.path.lexists(f"{folder}/{name}")]
    return []


def until(true: Callable[[], bool]) -> None:
    for _ in range(1000):
        with suppress(OSError, LedgerError):
            if true():
                return
        time.sleep(0.02)
    raise AssertionError("it never came true")


def test_what_stdout_did_not_take_of_a_runs_answer_is_said(redirected, job):
    _, err = redirected(">/dev/full", "run", job, "--json").communicate(timeout=20)
    assert err.splitlines()[-1] == "part of the output could not be written to stdout: No space left on device"


@pytest.mark.parametrize(("redirection", "why"), [(">/dev/full", "No space left on device"), (">&-", "it is closed")])
@pytest.mark.parametrize("argv", [("export",), ("plan", "--emulate"), ("status", "--json")])
def test_a_command_that_is_run_for_its_output_fails_in_words(redirected, made, redirection, why, argv):
    process = redirected(redirection, argv[0], made, *argv[1:])
    _, err = process.communicate(timeout=20)
    assert (process.returncode, err) == (5, f"the output could not be written to stdout completely: {why}\n")


@pytest.mark.parametrize("redirections", ["2>&-", ">&- 2>&-", ">/dev/full 2>/dev/full"])
@pytest.mark.parametrize(("argv", "code"), [(("plan", "absent.yaml", "--json"), 2), (("--no-such-option",), 2)])
def test_an_error_keeps_its_exit_code_though_it_cannot_be_said(redirected, redirections, argv, code):
    process = redirected(redirections, *argv)
    process.communicate(timeout=20)
    assert process.returncode == code


def test_what_was_not_flushed_before_an_end_does_not_change_its_exit_code():
    code = (
        "import batchgen.__main__ as m, batchgen.cli.main as c\n"
        "def stop(argv): print('half an answer', end=''); raise KeyboardInterrupt\n"
        "c.run_command_line = stop\n"
        "m.main()\n"
    )
    with open("/dev/full", "w") as full:
        done = subprocess.run([sys.executable, "-c", code], stdout=full, stderr=subprocess.PIPE, env=environment())
    assert (done.returncode, done.stderr) == (130, b"")


def test_verify_says_with_its_exit_code_what_it_cannot_say_in_words(redirected, made, tmp_path):
    (tmp_path / "job.emulated" / "mug-1.jpg").unlink()
    process = redirected(">&-", "verify", f"{made.removesuffix('.yaml')}.emulated")
    process.communicate(timeout=20)
    assert process.returncode == 3


def test_a_watch_of_the_status_ends_when_its_reader_goes_away(redirected, write, emulator):
    emulator("--latency", "60")
    manifest = write({"mug": "A mug"})
    run = redirected("", "run", str(manifest))
    until(lambda: states(manifest.with_suffix("")) == {"running": 1})
    watch = redirected("", "status", str(manifest), "--watch")
    assert "1 sent and not answered yet" in watch.stdout.readline()
    watch.stdout.close()
    run.kill()  # which is news
    assert (watch.wait(20), watch.stderr.read()) == (141, "")


def test_a_slow_reader_of_a_non_blocking_stdout_gets_every_line(redirected, write, batchgen):
    manifest = str(write({f"item-{number}": f"A mug, {number}" for number in range(2000)}))
    whole = batchgen("plan", manifest, "--all").out
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    process = redirected("", "plan", manifest, "--all", stdout=writing)
    until(lambda: not select.select((), (writing,), (), 0)[1])  # the pipe is full
    os.close(writing)
    with open(reading, encoding="utf-8") as file:
        assert (file.read(), process.wait(20)) == (whole, 0)


# --- commands that stay


def answers(url: str) -> bool:
    with urlopen(url, timeout=5) as response:  # noqa: S310 - our own server on loopback
        return int(response.status) == 200


def test_the_dashboard_serves_with_all_streams_closed(redirected, made):
    port = free_port()
    process = redirected(ALL_CLOSED, "serve", made, "--port", str(port))
    until(lambda: answers(f"http://127.0.0.1:{port}/"))
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) == 0


def test_the_emulator_serves_with_all_streams_closed(redirected):
    port = free_port()
    process = redirected(ALL_CLOSED, "emulate", "--port", str(port))
    until(lambda: socket.create_connection(("127.0.0.1", port), 5).close() is None)
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) == 0


def test_a_worker_works_with_all_streams_closed(redirected, write, emulator, database, tmp_path, monkeypatch):
    monkeypatch.setenv("BATCHGEN_LEDGER", database)
    emulator("--latency", "0")
    manifest = str(write({"mug": "A mug"}))
    redirected(ALL_CLOSED, "run", manifest, "--engine", "cluster", "--no-wait").wait(20)
    process = redirected(ALL_CLOSED, "worker", "--until-empty", "--post-processes", "0")
    assert (process.wait(30), states(tmp_path / "job")) == (0, {"succeeded": 1})


def test_a_run_outlives_its_terminal_when_it_was_told_to(redirected, write, emulator, tmp_path):
    pty = pytest.importorskip("pty")
    emulator("--latency", "0.5")
    ours, theirs = pty.openpty()
    argv = ("run", str(write({"mug": "A mug", "bad": "x [[fault:safety]]"})), "--concurrency", "1")
    streams = {"stdin": theirs, "stdout": theirs, "stderr": theirs, "preexec_fn": ignore_hangups}
    process = redirected("", *argv, **streams)
    os.close(theirs)
    seen = b""
    while b"in flight" not in seen:
        seen += os.read(ours, 65536)
    os.close(ours)
    assert (process.wait(20), states(tmp_path / "job")) == (3, {"succeeded": 1, "refused": 1})


def ignore_hangups() -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
