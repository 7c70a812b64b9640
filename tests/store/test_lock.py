"""The lock of a job: waited for only while it is known that nobody holds it on purpose."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from batchgen.errors import JobLocked
from batchgen.store.lock import JobLock

HOLD = """
import sys, time
from filelock import FileLock
lock = FileLock(sys.argv[1])
lock.acquire()
print("held", flush=True)
time.sleep(float(sys.argv[2]))
"""


@pytest.fixture
def hold(tmp_path):
    """Another process that holds the lock for so long; and what stands beside it of the holder."""
    started = []
    state = tmp_path / ".batchgen"
    state.mkdir()

    def start(seconds: float, pid: int) -> Path:
        child = subprocess.Popen(
            [sys.executable, "-c", HOLD, str(state / "lock"), str(seconds)], stdout=subprocess.PIPE
        )
        started.append(child)
        assert child.stdout is not None and child.stdout.readline() == b"held\n"
        (state / "holder.json").write_text(json.dumps({"pid": pid, "host": socket.gethostname()}))
        return tmp_path

    yield start
    for child in started:
        child.kill()
        child.communicate()


def dead_pid() -> int:
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    return child.pid


def test_a_child_of_a_holder_that_has_ended_may_have_the_lock_for_a_moment_longer(hold):
    lock = JobLock(hold(0.3, dead_pid()))
    lock.acquire()
    assert json.loads((lock._folder / "holder.json").read_text())["pid"] == os.getpid()
    lock.release()


def test_a_holder_that_lives_is_not_waited_for(hold):
    lock = JobLock(hold(60, os.getppid()))
    with pytest.raises(JobLocked, match=f"process {os.getppid()} on "):
        lock.acquire()
