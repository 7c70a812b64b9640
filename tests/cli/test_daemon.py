"""The daemon with real runs against the emulator: killed, stopped, restarted, edited under its feet, never twice."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from batchgen.daemon.child import reap_orphans
from batchgen.daemon.daemon import Daemon, DaemonOptions
from batchgen.daemon.scheduled_jobs import ScheduledJobs, ScheduleStateFile, find_manifests
from batchgen.events import ScheduledRunEnded, ScheduledRunPlanned, ScheduledRunStarted
from batchgen.ledger.reader import Reader
from batchgen.schedule.due import ScheduledRun
from batchgen.store.lock import JobLock
from tests.support.command_line import environment, until
from tests.support.fork_server import EXECUTABLE, PARENT, PYTHON
from tests.support.paths import ROOT

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="there are no such signals")


@pytest.fixture(autouse=True)
def _runs(monkeypatch):
    """They, too, are of this tree; those of a daemon in this process are forked."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setattr(sys, "executable", PYTHON)


def last_of(state: Path, path: Path) -> ScheduledRun | None:
    entry = ScheduleStateFile(state, path).read()
    assert entry is not None
    return entry.last


def stats(url: str) -> dict[str, int]:
    with urllib.request.urlopen(f"{url}/_emulator/stats") as answer:  # noqa: S310 - our own emulator
        found: dict[str, int] = json.load(answer)
    return found


def billed(url: str) -> int:
    return stats(url)["billed"]


def made(folder: Path) -> int:
    return len(list(folder.glob("*.jpg")) + list(folder.glob("*.png")))


def log_of(process) -> str:
    _, err = process.communicate(timeout=30)
    return err


# --- once


def test_what_is_due_is_run_once_and_not_again(batchgen, overdue, emulator, state):
    url, path = emulator("--latency", "0"), overdue({"a": "A mug", "b": "A jug"})
    first, second = batchgen("daemon", "--once"), batchgen("daemon", "--once")
    assert (first.code, second.code, first.out) == (0, 0, ""), first.err
    assert (
        "scheduled_run.started job=job" in first.err
        and "reason=missed" in first.err
        and "job | job: all done: " in first.err
    )
    assert ("scheduled_run.started" in second.err, billed(url)) == (False, 2)
    assert last_of(state, path).exit_code == 0


def test_a_manifest_that_is_new_does_not_run_before_its_first_night(batchgen, write, emulator):
    url = emulator()
    write({"a": "A mug"}, head=f"schedule: {{at: '{datetime.now(UTC) - timedelta(hours=1):%H:%M}', timezone: UTC}}\n")
    assert batchgen("daemon", "--once").code == 0
    assert batchgen("daemon", "--once").code == 0
    assert billed(url) == 0


def test_a_night_older_than_catch_up_is_left_out_and_that_is_said_once(batchgen, overdue, emulator):
    url = emulator()
    overdue({"a": "A mug"}, more=", catch_up: 1h")
    first, second = batchgen("daemon", "--once"), batchgen("daemon", "--once")
    assert ("scheduled_run.skipped" in first.err, "scheduled_run.skipped" in second.err, billed(url)) == (
        True,
        False,
        0,
    )


def test_an_emulated_night_leaves_the_real_one_due(batchgen, overdue, emulator, state):
    url, path = emulator("--latency", "0"), overdue({"a": "A mug"})
    for state_file in state.glob("*.json"):
        (state.parent / "daemon.emulated").mkdir()
        (state.parent / "daemon.emulated" / state_file.name).write_text(state_file.read_text())
    assert "job EMULATED" in batchgen("daemon", "--once", "--emulate").err
    assert (billed(url), last_of(state, path)) == (0, None)
    assert batchgen("daemon", "--once").code == 0
    assert billed(url) == 1


def test_nothing_to_do_is_said(batchgen, write):
    write({"a": "A mug"})
    answer = batchgen("daemon", "--once")
    assert (answer.code, "no manifest has `schedule:`" in answer.err) == (0, True)


def test_one_job_that_needs_a_person_is_told_loudly_and_harms_no_other(batchgen, overdue, emulator, state):
    emulator("--latency", "0")
    bad = overdue({"a": "[[fault:429spend]]"}, name="bad.yaml")
    good = overdue({"a": "A mug"}, name="good.yaml")
    answer = batchgen("daemon", "--once")
    assert (answer.code, last_of(state, bad).exit_code, last_of(state, good).exit_code) == (5, 5, 0), answer.err
    assert " error " in answer.err and "A PERSON IS NEEDED" in answer.err


def test_the_schedule_limits_the_night_and_a_budget_means_later(batchgen, overdue, emulator):
    emulator("--latency", "0")
    overdue(dict.fromkeys("abc", "A mug"), more=", max_cost: 0.04")
    answer = batchgen("daemon", "--once")
    assert (answer.code, "goes on later" in answer.err, "next=20" in answer.err) == (6, True, True), answer.err


def test_a_job_that_another_run_holds_is_tried_again_soon(batchgen, overdue, emulator, tmp_path, state):
    emulator()
    path, lock = overdue({"a": "A mug"}), JobLock(tmp_path / "job")
    (tmp_path / "job" / ".batchgen").mkdir(parents=True)
    lock.acquire()
    answer = batchgen("daemon", "--once")
    lock.release()
    assert (answer.code, last_of(state, path).exit_code) == (11, 11), answer.err
    assert "another run holds the job, tried again soon" in answer.err


def test_in_json_every_line_is_an_object_and_names_its_job(batchgen, overdue, emulator):
    emulator("--latency", "0")
    overdue({"a": "A mug"})
    lines = [json.loads(line) for line in batchgen("daemon", "--once", "--log-format", "json").err.splitlines()]
    assert {line["job"] for line in lines} == {"job"}
    assert {"scheduled_run.started", "run.started", "sample.ended", "scheduled_run.ended"} <= {
        line["event"] for line in lines
    }


def test_the_list_shows_when_a_job_ran_and_will_run_and_takes_no_lock(batchgen, overdue, emulator, state):
    emulator("--latency", "0")
    path = overdue({"a": "A mug"})
    batchgen("daemon", "--once")
    state_file = ScheduleStateFile(state, path)
    assert state_file.acquire()
    (row,) = batchgen("daemon", "--list", "--json").json
    state_file.release()
    assert (row["job"], row["manifest"], row["last"]["exit_code"]) == ("job", str(path), 0)
    assert datetime.fromisoformat(row["next"]) - datetime.fromisoformat(row["last"]["due"]) == timedelta(days=1)
    assert "exit 0" in batchgen("daemon", "--list").out


def test_two_daemons_do_not_share_a_manifest(batchgen, overdue, emulator, state):
    emulator()
    state_file = ScheduleStateFile(state, overdue({"a": "A mug"}))
    assert state_file.acquire()
    answer = batchgen("daemon", "--once")
    state_file.release()
    assert ("another daemon" in answer.err, "scheduled_run.started" in answer.err) == (True, False)


def test_without_its_library_the_extra_is_named(spawn, write, tmp_path):
    write({"a": "A mug"}, head="schedule: '01:30'\n")
    (tmp_path / "bare" / "apscheduler").mkdir(parents=True)
    (tmp_path / "bare" / "apscheduler" / "__init__.py").write_text("raise ImportError('not installed')")
    process = spawn("daemon", PYTHONPATH=f"{tmp_path / 'bare'}:{environment()['PYTHONPATH']}")
    assert "pip install 'batchgen[daemon]'" in log_of(process)
    assert process.returncode == 2


def test_a_diary_that_cannot_be_written_is_an_error_with_its_place(batchgen, write, tmp_path):
    write({"a": "A mug"}, head="schedule: '01:30'\n")
    (tmp_path / "state").write_text("a file where a folder should be")
    answer = batchgen("daemon", "--once")
    assert (answer.code, "XDG_STATE_HOME" in answer.err, "Traceback" in answer.err) == (5, True, False)


# --- killed, stopped, restarted


def test_a_daemon_killed_half_way_leaves_its_run_to_finish_and_buys_nothing_twice(
    spawn, batchgen, overdue, emulator, state
):
    url = emulator("--latency", "0.3")
    refused = {f"r{number}": "[[fault:safety]]" for number in range(8)}  # each is told, to a log that is gone
    path = overdue({"a": "A mug", "b": "A mug", **refused, "c": "A mug", "d": "A mug"}, more=", max_duration: 1h")
    daemon = spawn("daemon", python=PARENT)
    until(lambda: billed(url) >= 1)
    daemon.kill()
    daemon.communicate()
    assert last_of(state, path).exit_code is None
    answer = batchgen("daemon", "--once")
    # The run of the killed daemon lives on and may still hold the job: then it is tried again in a while.
    assert answer.code in (3, 11) and "reason=interrupted" in answer.err, answer.err
    until(lambda: made(path.with_suffix("")) == 4)
    with Reader.open(path.with_suffix("")) as reader:
        assert reader.counts() == {"succeeded": 4, "refused": 8}
    assert (billed(url), stats(url)["requests"]) == (4, 12)  # a refusal is not billed


def test_killed_together_with_its_run_it_goes_on_where_it_was(spawn, batchgen, overdue, emulator, state):
    url = emulator("--latency", "0.2")
    path = overdue({f"i{number}": "A mug" for number in range(12)})
    daemon = spawn("daemon", python=EXECUTABLE)  # which has no children but its runs
    until(lambda: made(path.with_suffix("")) >= 3)
    runs = children(daemon.pid)
    assert [os.getpgid(run) for run in runs] == runs  # a Ctrl-C on a terminal reaches them through the daemon alone
    for process in (daemon.pid, *runs):
        os.kill(process, signal.SIGKILL)
    daemon.communicate()
    answer = batchgen("daemon", "--once")
    assert (answer.code, "reason=interrupted" in answer.err, made(path.with_suffix(""))) == (0, True, 12), answer.err
    with Reader.open(path.with_suffix("")) as reader:
        assert reader.counts() == {"succeeded": 12}
    # What was in flight when all were killed may have been billed, and nothing else was asked for again.
    assert billed(url) <= 12 + 5
    assert "scheduled_run.started" not in batchgen("daemon", "--once").err


def children(pid: int) -> list[int]:
    found = subprocess.run(["ps", "-o", "pid=", "--ppid", str(pid)], capture_output=True, text=True, check=False)
    return [int(line) for line in found.stdout.split()]


def test_told_to_stop_it_lets_the_run_finish_what_is_in_flight_and_goes_on_when_started_again(
    spawn, batchgen, overdue, emulator, state
):
    url = emulator("--latency", "0.5")
    path = overdue({f"i{number}": "A mug" for number in range(15)})
    daemon = spawn("daemon", python=PARENT)
    until(lambda: made(path.with_suffix("")) >= 1)
    daemon.send_signal(signal.SIGTERM)
    err = log_of(daemon)
    last = last_of(state, path)
    assert (daemon.returncode, last.exit_code, last.stopped) == (0, 143, True), err
    assert billed(url) == made(path.with_suffix("")) < 15
    answer = batchgen("daemon", "--once")
    assert (answer.code, "reason=interrupted" in answer.err, billed(url)) == (0, True, 15)


@pytest.mark.parametrize(("grace", "signals"), [("1s", 1), ("300s", 2)])
def test_after_the_grace_or_a_second_signal_a_run_gives_up_what_is_in_flight(
    spawn, overdue, emulator, state, grace, signals
):
    url = emulator("--latency", "60")
    path = overdue({"a": "A mug"})
    daemon = spawn("daemon", "--grace", grace, python=PARENT)
    until(lambda: stats(url)["requests"] == 1)
    daemon.send_signal(signal.SIGTERM)
    if signals == 2:
        assert any("finishing 1 in flight" in line for line in daemon.stderr)  # two at once would be one
        daemon.send_signal(signal.SIGTERM)
    err = log_of(daemon)
    assert (daemon.returncode, last_of(state, path).stopped) == (0, True), err
    with Reader.open(path.with_suffix("")) as reader:
        assert reader.counts() == {"uncertain": 1}


ADOPT = """
import ctypes, os, sys
from batchgen.daemon.child import reap_orphans
ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)  # PR_SET_CHILD_SUBREAPER: orphans come here, as they come to process 1
if (child := os.fork()) == 0:
    if os.fork() == 0:
        os.read(0, 1)
        os._exit(0)
    os._exit(0)
os.waitpid(child, 0)
print("ready", flush=True)
os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOWAIT)
reap_orphans({1})
try:
    os.waitpid(-1, os.WNOHANG)
except ChildProcessError:
    print("none left")
"""


@pytest.mark.skipif(sys.platform != "linux", reason="NOT TESTED: only Linux can make a process adopt orphans")
def test_orphans_that_end_up_with_it_are_reaped(python):
    with subprocess.Popen(
        [EXECUTABLE, "-c", ADOPT], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment()
    ) as process:
        assert process.stdout.readline() == "ready\n"
        out, _ = process.communicate("x", timeout=20)
    assert out == "none left\n"


def test_what_somebody_else_waits_for_is_not_reaped():
    with subprocess.Popen([sys.executable, "-c", "raise SystemExit(3)"]) as process:
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        reap_orphans({process.pid})
        assert process.wait() == 3


# --- the loop itself, on a clock of its own


class Clockwork:
    """A daemon whose clock is ahead of ours, so that a night is due within a second; its runs are short programs."""

    def __init__(self, path: Path, state: Path, program: str, start: str, python: str = sys.executable) -> None:
        self.ahead_s = datetime.fromisoformat(start).timestamp() - time.time()
        self.events: list[object] = []
        self.scheduled_jobs = ScheduledJobs([str(path.parent)], state)
        argv = [python, "-c", program]
        self.watch = Daemon(self.scheduled_jobs, DaemonOptions(
            command=lambda job, due: (argv, dict(os.environ)), emit=self.events.append, on_line=lambda job, line: None,
            max_runs=1, grace_s=5, health_file=path.with_name("alive"), now=lambda: time.time() + self.ahead_s,
        ))  # fmt: skip

    def of(self, kind: type) -> list:
        return [event for event in self.events if isinstance(event, kind)]

    async def until(self, true) -> None:
        async with asyncio.timeout(20):
            while not true():
                await asyncio.sleep(0.01)

    @contextlib.asynccontextmanager
    async def running(self):
        task = asyncio.create_task(self.watch.run())
        try:
            yield
        finally:
            os.kill(os.getpid(), signal.SIGTERM)
            assert await task == 0
            self.scheduled_jobs.close()


async def test_a_night_begins_at_its_time_and_the_next_is_planned(write, state):
    path = write({"a": "A mug"}, head="schedule: {at: '01:30', timezone: UTC}\n")
    clock = Clockwork(path, state, "", "2026-11-21T01:29:59+00:00")
    async with clock.running():
        await clock.until(lambda: len(clock.of(ScheduledRunPlanned)) == 2)
    assert [event.due for event in clock.of(ScheduledRunPlanned)] == ["2026-11-21T01:30:00Z", "2026-11-22T01:30:00Z"]
    assert [event.why for event in clock.of(ScheduledRunStarted)] == ["on time"]
    assert [(event.exit_code, event.again) for event in clock.of(ScheduledRunEnded)] == [(0, "2026-11-22T01:30:00Z")]
    assert path.with_name("alive").exists()


async def test_nights_that_come_while_one_lasts_become_one_afterwards(write, state, tmp_path):
    path = write({"a": "A mug"}, head="schedule: {cron: '* * * * *', timezone: UTC}\n")
    waits = f"import pathlib, time\nwhile not pathlib.Path({str(tmp_path / 'go')!r}).exists(): time.sleep(0.01)"
    clock = Clockwork(path, state, waits, "2026-11-21T01:29:59+00:00")
    async with clock.running():
        await clock.until(lambda: clock.of(ScheduledRunStarted))
        clock.ahead_s += 600
        os.kill(os.getpid(), signal.SIGHUP)
        await asyncio.sleep(0.3)
        assert len(clock.of(ScheduledRunStarted)) == 1
        (tmp_path / "go").touch()
        await clock.until(lambda: clock.of(ScheduledRunEnded))
        os.kill(os.getpid(), signal.SIGHUP)
        await clock.until(lambda: len(clock.of(ScheduledRunStarted)) == 2)
    assert clock.of(ScheduledRunStarted)[1].due == "2026-11-21T01:40:00Z"


async def test_no_more_nights_at_once_than_there_are_places(write, state):
    for name in ("a.yaml", "b.yaml", "c.yaml"):
        path = write({"a": "A mug"}, head="schedule: {at: '01:30', timezone: UTC}\n", name=name)
    clock = Clockwork(path, state, "", "2026-11-21T01:29:59+00:00")
    async with clock.running():
        await clock.until(lambda: len(clock.of(ScheduledRunEnded)) == 3)
    kinds = [type(event) for event in clock.events if not isinstance(event, ScheduledRunPlanned)]
    assert kinds == [ScheduledRunStarted, ScheduledRunEnded] * 3


async def test_an_edited_schedule_holds_without_a_restart(write, state):
    path = write({"a": "A mug"}, head="schedule: {at: '01:30', timezone: UTC}\n")
    clock = Clockwork(path, state, "", "2026-11-21T00:00:00+00:00")
    async with clock.running():
        await clock.until(lambda: clock.of(ScheduledRunPlanned))
        write({"a": "A mug"}, head="schedule: {at: '02:45', timezone: UTC}\n")
        os.kill(os.getpid(), signal.SIGHUP)
        await clock.until(lambda: len(clock.of(ScheduledRunPlanned)) == 2)
    assert clock.of(ScheduledRunPlanned)[1].due == "2026-11-21T02:45:00Z"


@pytest.mark.parametrize("redirections", ["<&- >&- 2>&-", "2>/dev/full"])
def test_a_night_is_made_though_what_it_says_reaches_nobody(overdue, emulator, redirections):
    url, _ = emulator("--latency", "0"), overdue({"a": "A mug"})
    command = ["sh", "-c", f'exec "$@" {redirections}', "sh", EXECUTABLE, "-m", "batchgen", "daemon", "--once"]
    assert (subprocess.run(command, env=environment(), timeout=30).returncode, billed(url)) == (0, 1)


async def test_a_run_that_cannot_be_started_is_an_error_and_the_daemon_lives(write, state, caplog):
    path = write({"a": "A mug"}, head="schedule: {at: '01:30', timezone: UTC}\n")
    clock = Clockwork(path, state, "", "2026-11-21T01:29:59+00:00", python="/there/is/no/python")
    async with clock.running():
        await clock.until(lambda: any("/there/is/no/python" in record.message for record in caplog.records))
    assert (len(clock.of(ScheduledRunStarted)), clock.scheduled_jobs.jobs[path].schedule_state.last.exit_code) == (
        1,
        None,
    )


# --- which manifests


def test_a_manifest_that_becomes_wrong_keeps_its_last_schedule_until_it_is_mended_or_loses_it(write, state, caplog):
    path = write({"a": "A mug"}, head="schedule: '01:30'\n")
    scheduled_jobs = ScheduledJobs([str(path)], state)
    scheduled_jobs.reload(1000.0)
    before = scheduled_jobs.jobs[path].schedule
    write({"a": "A mug"}, head="schedule: {att: '02:45'}\n")
    scheduled_jobs.reload(1060.0)
    scheduled_jobs.reload(1120.0)
    assert scheduled_jobs.jobs[path].schedule == before
    assert [record.message for record in caplog.records if "did you mean 'at'" in record.message] == [
        f"{path}:2:12: schedule.att: unknown field (did you mean 'at'?); its last schedule stays"
    ]
    write({"a": "A mug"}, head="schedule: '04:15'\n")
    scheduled_jobs.reload(1180.0)
    assert (scheduled_jobs.jobs[path].schedule.at, scheduled_jobs.jobs[path].schedule_state.since) == ("04:15", 1180.0)
    write({"a": "A mug"})
    scheduled_jobs.reload(1240.0)
    assert scheduled_jobs.jobs == {}
    scheduled_jobs.close()


def test_a_new_manifest_is_found_and_one_that_goes_is_let_go(write, state, tmp_path):
    scheduled_jobs = ScheduledJobs([str(tmp_path / "*.yaml")], state)
    scheduled_jobs.reload(0.0)
    path = write({"a": "A mug"}, head="schedule: '01:30'\n")
    scheduled_jobs.reload(60.0)
    assert list(scheduled_jobs.jobs) == [path]
    path.unlink()
    scheduled_jobs.reload(120.0)
    assert scheduled_jobs.jobs == {}
    assert ScheduleStateFile(state, path).acquire()


def test_what_lies_there_and_is_no_manifest_is_left_alone_but_what_is_named_is_complained_of(
    write, state, tmp_path, caplog
):
    (tmp_path / "compose.yaml").write_text("services:\n  schedule: none\n")
    (tmp_path / "rows.jsonl").write_text('{"sku": 1, "schedule": "x"}\n')
    (tmp_path / "night.jsonl").write_text('{"version": 1, "schedule": "01:30"}\n{"id": "a", "prompt": "A mug"}\n')
    write({"a": "A mug"}, name="plain.yaml")
    scheduled_jobs = ScheduledJobs((), state)
    scheduled_jobs.reload(0.0)
    assert ([job.name for job in scheduled_jobs.jobs.values()], caplog.records) == (["night"], [])
    named = ScheduledJobs(["plain.yaml", "compose.yaml", "gone.yaml"], state)
    named.reload(0.0)
    scheduled_jobs.close()
    assert len({record.message for record in caplog.records if record.levelname in ("WARNING", "ERROR")}) == 3


def test_a_folder_stands_for_its_manifests_and_a_path_for_itself(write, tmp_path):
    write({"a": "A mug"}, name="a.yaml")
    write({"a": "A mug"}, name="b.yml")
    (tmp_path / "c.txt").touch()
    assert [path.name for path, _ in find_manifests([str(tmp_path)])] == ["a.yaml", "b.yml"]
    assert list(find_manifests(["x.yaml"])) == [(Path("x.yaml"), True)]
