"""Real signals to real processes: nohup is obeyed, and a third Ctrl-C leaves whatever hangs."""

from __future__ import annotations

import signal
import sys
import time

import pytest

from batchgen.ledger.reader import Reader
from tests.support.command_line import wait_for
from tests.support.marked_key import KEY
from tests.support.paths import ROOT

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="there are no such signals")


@pytest.mark.parametrize(("ignored", "code"), [(True, 0), (False, 129)])
def test_a_hangup_is_minded_unless_it_was_ignored_at_the_start_as_nohup_does(spawn, write, emulator, ignored, code):
    emulator("--latency", "0.5")
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN if ignored else signal.SIG_DFL)  # a child inherits it
    try:
        argv = ("run", str(write(dict.fromkeys("abc", "A mug"))), "--concurrency", "1", "--log-format", "json")
        process = spawn(*argv)
    finally:
        signal.signal(signal.SIGHUP, before)
    wait_for(process, '"attempt.started"')
    process.send_signal(signal.SIGHUP)
    process.communicate(timeout=20)
    assert process.returncode == code


def test_a_second_ctrl_c_ends_a_download_that_hangs_and_the_link_is_fetched_next_time(spawn, write, emulator, tmp_path):
    url = emulator("--latency", "0", "--drip", "60")
    environ = {"BATCHGEN_AIMLAPI_BASE_URL": url, "AIMLAPI_API_KEY": KEY}
    manifest = write({"a": "A mug [[fault:link_slow]]"}, head="defaults: {model: google/imagen-4.0-generate-001}\n")
    process = spawn("run", str(manifest), "--log-format", "json", **environ)
    wait_for(process, '"attempt.started"')
    while not linked(tmp_path / "job"):
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    time.sleep(0.3)
    assert process.poll() is None  # the first lets it finish
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=5)
    assert process.returncode == 130
    assert linked(tmp_path / "job")


HANGING_DISK = """
import os, sys, time
real = os.fsync
def fsync(fd):
    while os.path.exists("hang"):
        time.sleep(0.1)
    real(fd)
os.fsync = fsync
from batchgen.cli.main import run_command_line
sys.exit(run_command_line(sys.argv[1:]))
"""


def test_a_third_ctrl_c_leaves_at_once_though_the_disk_hangs(spawn, write, emulator, tmp_path):
    emulator("--latency", "1")
    (tmp_path / "child.py").write_text(HANGING_DISK)
    process = spawn(
        "run", str(write({"a": "A mug"})), "--log-format", "json", module="child", PYTHONPATH=f"{ROOT}:{tmp_path}"
    )
    wait_for(process, '"attempt.started"')
    (tmp_path / "hang").touch()
    time.sleep(1.5)  # the answer is in, and its picture hangs in a sync
    for _ in range(2):
        process.send_signal(signal.SIGINT)
        time.sleep(0.3)
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=5)
    assert (process.returncode, "leaving at once" in err) == (130, True)


SIGNALLED_CHILD = """
import os, signal, sys
from batchgen.ledger.ledger import Ledger
step, name = os.environ["STEP"], os.environ["SIGNAL"]
real = getattr(Ledger, step)
def signalled(*args):
    os.kill(os.getpid(), getattr(signal, name))
    return real(*args)
setattr(Ledger, step, signalled)
from batchgen.cli.main import run_command_line
sys.exit(run_command_line(sys.argv[1:]))
"""


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
@pytest.mark.parametrize("step", ["manifest_read", "run_ended"])
def test_a_signal_before_the_first_request_or_after_the_last_leaves_a_run_with_an_end(
    spawn, write, emulator, tmp_path, name, step
):
    emulator("--latency", "0")
    (tmp_path / "child.py").write_text(SIGNALLED_CHILD)
    environ = {"STEP": step, "SIGNAL": name, "PYTHONPATH": f"{ROOT}:{tmp_path}"}
    process = spawn("run", str(write({"a": "A mug"})), module="child", **environ)
    _, err = process.communicate(timeout=20)
    code = 128 + signal.Signals[name] if step == "manifest_read" else 0
    with Reader.open(tmp_path / "job") as reader:
        assert (process.returncode, reader.last_run().exit_code, reader.attempts()) == (
            code,
            code,
            {} if code else {"succeeded": 1},
        )
    assert ("1 not tried" if code else "all done") in err


def test_what_failed_earlier_and_was_not_reached_is_not_counted_as_not_tried_too(spawn, write, emulator):
    emulator("--latency", "0", "--fault", "no_image=1")
    manifest = str(write(dict.fromkeys("abcd", "A mug")))
    assert spawn("run", manifest, "-q").wait(20) == 4
    emulator("--latency", "0")
    process = spawn("run", manifest, "--max-cost", "0.05")
    _, err = process.communicate(timeout=20)
    assert (process.returncode, "1 made · 0 kept · 3 failed\n" in err) == (6, True), err


def linked(folder) -> bool:
    """Whether an answer's link is durable and its picture is still to be fetched."""
    with Reader.open(folder) as reader:
        return any(attempt.links for attempt in reader.open_attempts())


def test_a_run_that_was_stopped_longer_than_its_time_limit_reads_the_answers_that_came_meanwhile(
    spawn, write, emulator, tmp_path
):
    log = tmp_path / "log.jsonl"
    emulator("--latency", "0.7", "--rpm", "0")
    manifest = write(dict.fromkeys("abcde", "A mug"), head="models: {gemini-nano-banana-2.1: {time_limit_s: 1.5}}\n")
    process = spawn("run", str(manifest), "--log-file", str(log), "--log-format", "json")
    while not log.exists() or log.read_text().count('"attempt.started"') < 5:
        time.sleep(0.02)
    time.sleep(0.2)  # their headers have left
    process.send_signal(signal.SIGSTOP)
    time.sleep(2.5)
    process.send_signal(signal.SIGCONT)
    process.communicate(timeout=20)
    events = log.read_text()
    assert (process.returncode, events.count('"attempt.started"'), events.count('"attempt.failed"')) == (0, 5, 0)
