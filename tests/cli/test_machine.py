"""What the machine refuses is said with its remedy and exit code 5, before anything is paid for, and never as a bug of ours."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from urllib.request import urlopen

import pytest

from batchgen.ledger.reader import Reader
from tests.support.command_line import Answer, environment, wait_for
from tests.support.fork_server import PYTHON

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="NOT TESTED: limits and locales of Linux")
PROGRAM = "from batchgen.__main__ import main; main()"
NO_MORE_THREADS = """
import threading
start, left = threading._start_new_thread, {left}
def refuse(*rest, **more):
    global left
    if left <= 0:
        raise RuntimeError("can't start new thread")
    left -= 1
    return start(*rest, **more)
threading._start_new_thread = refuse
"""
NOBODY = "import pwd\ndef nobody(number): raise KeyError(number)\npwd.getpwuid = nobody\n"
NO_TEMPORARY_FOLDER = "import tempfile\ntempfile._candidate_tempdir_list = lambda: ['/nowhere']\n"


def started(*argv: str, before: str = "", after: str = "", cwd: object = None, **environ: str) -> Answer:
    """`batchgen …` from a shell that says `before`, in an interpreter that runs `after` first."""
    command = [PYTHON, "-c", after + PROGRAM, *argv]
    if before:
        command = ["sh", "-c", f'{before}\nexec "$@"', "sh", sys.executable, *command[1:]]
    env = {name: value for name, value in environment(**environ).items() if value}
    done = subprocess.run(command, env=env, cwd=cwd, capture_output=True, text=True, errors="replace", timeout=40)  # type: ignore[call-overload]
    return Answer(done.returncode, done.stdout, done.stderr)


@pytest.fixture
def job(write) -> str:
    return str(write({f"mug-{number}": "A mug" for number in range(10)}))


@pytest.fixture
def asked(emulator) -> Callable[[], int]:
    """How many requests for pictures an emulator has seen by now."""
    url = emulator("--latency", "0.1")

    def requests() -> int:
        with urlopen(f"{url}/_emulator/stats") as answer:  # noqa: S310 - our own emulator
            return int(json.load(answer)["requests"])

    return requests


@pytest.mark.parametrize("left", [0, 1, 3, 4])
def test_without_threads_for_the_answers_nothing_is_asked_for(asked, job, left):
    answer = started("run", job, after=NO_MORE_THREADS.format(left=left))
    assert (answer.code, answer.err.splitlines()[-1], asked()) == (
        5, "no more threads or processes may be started: raise `ulimit -u`, or the pids limit of the container or unit", 0)  # fmt: skip


def test_64_open_files_are_enough_for_5_requests_in_flight(asked, job):
    assert (started("run", job, before="ulimit -n 64").code, asked()) == (0, 10)


def test_too_few_open_files_are_said_before_anything_is_asked_for(asked, job):
    answer = started("run", job, before="ulimit -n 40")
    assert (answer.code, asked()) == (5, 0)
    assert "5 requests in flight need 63 open files, and this process may have 40: raise `ulimit -n`" in answer.err


def test_a_limit_that_a_process_may_raise_itself_is_raised(asked, job):
    answer = started("run", job, "--concurrency", "10", before="ulimit -S -n 20")
    assert (answer.code, asked()) == (0, 10)


@pytest.mark.parametrize(
    "argv", [("run", "job.yaml"), ("doctor",), ("schedule", "{job}", "--at", "1:30", "--as", "cron")]
)
def test_a_working_folder_that_has_gone_is_named(job, tmp_path, argv):
    (tmp_path / "gone").mkdir()
    argv = tuple(word.format(job=job) for word in argv)
    answer = started(*argv, before=f"rmdir {tmp_path}/gone", cwd=tmp_path / "gone")
    assert (answer.code, answer.err) == (
        5, "the working folder has gone: change to one that exists, then run the same command again\n")  # fmt: skip


def test_a_run_that_needs_no_working_folder_goes_to_its_end_without_one(asked, write, tmp_path):
    (tmp_path / "gone").mkdir()
    manifest = str(write({"mug": "A mug", "bad": "x [[fault:safety]]"}))
    answer = started("run", manifest, before=f"rmdir {tmp_path}/gone", cwd=tmp_path / "gone")
    assert (answer.code, f"batchgen retry {manifest} --refused" in answer.err) == (3, True)


def test_without_a_home_folder_a_command_that_needs_one_says_so(job):
    argv = ("schedule", job, "--at", "1:30", "--as", "systemd", "--install")
    answer = started(*argv, after=NOBODY, HOME="", XDG_CONFIG_HOME="")
    assert (answer.code, answer.err) == (5, "there is no home folder: set HOME to an absolute path\n")


def test_without_a_temporary_folder_a_run_goes_on_where_another_was_killed(spawn, write, emulator, tmp_path):
    emulator("--latency", "1")
    manifest = str(write({"mug": "A mug"}))
    process = spawn("run", manifest, "--log-format", "json")
    wait_for(process, '"attempt.started"')
    process.send_signal(signal.SIGKILL)
    process.wait()
    answer = started("run", manifest, after=NO_TEMPORARY_FOLDER)
    with Reader.open(tmp_path / "job") as reader:
        assert (answer.code, reader.counts()) == (0, {"succeeded": 1}), answer.err


ASCII = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}


def test_a_file_name_that_the_locale_cannot_write_is_found_before_anything_is_asked_for(asked, write):
    answer = started("run", str(write({"grün": "A mug"})), **ASCII)
    assert (answer.code, asked()) == (2, 0)
    assert "which a file name cannot hold in this locale: set LC_ALL=C.UTF-8" in answer.err


def test_a_path_that_is_not_utf_8_is_no_bug_of_ours(asked, job, tmp_path):
    folder = os.fsencode(tmp_path) + b"/caf\xe9"
    os.mkdir(folder)
    Path(job).rename(Path(os.fsdecode(folder)) / "job.yaml")
    answer = started("run", "job.yaml", cwd=folder)
    assert (answer.code, answer.err, asked()) == (5, "a path is not UTF-8: rename it, and have LC_ALL=C.UTF-8 set\n", 0)
