"""A process that `tests.support.fork_server` forks is as clean as one that was started, and this process's own child."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.support.command_line import environment, until
from tests.support.fork_server import EXECUTABLE, PARENT, PYTHON, WORKER

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="elsewhere processes are started, not forked")

FACTS = """
import json, os, signal, sys, threading
print(json.dumps({
    "argv": sys.argv, "path": sys.path[0], "cwd": os.getcwd(), "environ": dict(os.environ), "main": __name__,
    "fds": sorted(os.listdir("/proc/self/fd"))[:3], "more": len(os.listdir("/proc/self/fd")), "threads": threading.active_count(),
    "umask": os.umask(0), "group": os.getpgrp(), "leads": os.getsid(0) == os.getpid(), "parent": os.getppid(),
    "signals": [str(signal.getsignal(n)).split(" at ")[0] for n in sorted(signal.valid_signals())],
    "blocked": sorted(signal.pthread_sigmask(signal.SIG_BLOCK, ())),
    "streams": [[s.encoding, s.errors, s.line_buffering, s.isatty()] for s in (sys.stdin, sys.stdout, sys.stderr)],
}))
"""


def facts(python: str, **more: Any) -> dict[str, Any]:
    command = [python, "-c", FACTS, "one", "two"]
    more.setdefault("env", dict(os.environ))  # beneath it a library of pytest's has set LINES
    done = subprocess.run(command, capture_output=True, stdin=subprocess.DEVNULL, text=True, check=True, **more)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@contextmanager
def umask(mask: int) -> Iterator[None]:
    before = os.umask(mask)
    try:
        yield
    finally:
        os.umask(before)


@pytest.mark.parametrize("more", [{}, {"start_new_session": True}, {"env": {"A": "ü"}}])
def test_it_has_what_a_started_one_has_and_nothing_besides(tmp_path, more):
    facts(PYTHON)  # from here on the server has what this test had, and not what is set below
    with umask(0o027):
        forked, started = facts(PYTHON, cwd=tmp_path, **more), facts(sys.executable, cwd=tmp_path, **more)
    assert (forked["parent"], forked["umask"], forked["threads"]) == (os.getpid(), 0o027, 1)
    for name in ("group", "environ"):  # a leader's group has its own number; a start may add a locale
        if more:
            del forked[name], started[name]
    assert forked == started


@pytest.mark.parametrize(
    ("code", "expected"),
    [("pass", 0), ("raise SystemExit(3)", 3), ("1 / 0", 1), ("import os; os.kill(os.getpid(), 9)", -9),
     ("import os, signal, time; os.kill(os.getpid(), signal.SIGTERM); time.sleep(9)", -15),
     ("raise KeyboardInterrupt", -2)],
)  # fmt: skip
def test_it_ends_as_a_started_one_does(code, expected):
    code = f"import atexit; atexit.register(print, 'the end'); print('begun')\n{code}"
    forked, started = (
        subprocess.run([python, "-c", code], capture_output=True, text=True, check=False)
        for python in (PYTHON, sys.executable)
    )
    assert (forked.returncode, forked.stdout) == (started.returncode, started.stdout)
    assert forked.returncode == expected
    assert forked.stderr.splitlines()[-1:] == started.stderr.splitlines()[-1:]


def test_several_at_once_talk_by_their_own_pipes_and_a_module_runs_as_main(tmp_path):
    (tmp_path / "mine.py").write_text("import sys\nif __name__ == '__main__':\n    print(sys.argv[1:], input())\n")

    async def one(number: int) -> str:
        pipe = asyncio.subprocess.PIPE
        process = await asyncio.create_subprocess_exec(
            PYTHON, "-m", "mine", str(number), cwd=tmp_path, stdin=pipe, stdout=pipe
        )
        out, _ = await process.communicate(f"line {number}\n".encode())
        return out.decode().strip()

    async def all_of_them() -> list[str]:
        return await asyncio.gather(*map(one, range(8)))

    assert asyncio.run(all_of_them()) == [f"['{number}'] line {number}" for number in range(8)]


def test_a_kill_is_real_and_seen_at_once():
    process = subprocess.Popen(
        [PYTHON, "-c", "import time; print('up', flush=True); time.sleep(60)"], stdout=subprocess.PIPE
    )
    assert process.stdout is not None and process.stdout.readline() == b"up\n"
    begun_s = time.monotonic()
    process.kill()
    assert (process.wait(20), time.monotonic() - begun_s < 10) == (-signal.SIGKILL, True)
    assert not Path(f"/proc/{process.pid}").exists()
    process.stdout.close()


def test_what_only_a_start_can_pass_on_makes_it_one():
    out = "import sys; print(sys.stdout.encoding)"
    told = [PYTHON, "-c", out], {"env": environment(PYTHONIOENCODING="ascii"), "capture_output": True, "text": True}
    assert subprocess.run(told[0], check=True, **told[1]).stdout == "ascii\n"
    usual, before = facts(PYTHON)["signals"], signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        assert facts(PYTHON)["signals"] == facts(sys.executable)["signals"] != usual
    finally:
        signal.signal(signal.SIGHUP, before)


STARTS_ANOTHER = """
import os, subprocess, sys
options = {"capture_output": True, "stdin": subprocess.DEVNULL, "text": True, "check": True}
done = subprocess.run([sys.executable, *sys.argv[1:]], start_new_session=True, **options)
print(os.getpid(), done.stdout)
"""


def test_what_a_parent_starts_is_its_own_child_and_as_clean_as_a_started_one():
    found = []
    for python in (PARENT, EXECUTABLE):
        command = [python, "-c", STARTS_ANOTHER, "-P", "-c", FACTS, "one"]
        done = subprocess.run(
            command, capture_output=True, stdin=subprocess.DEVNULL, text=True, check=True, env=dict(os.environ)
        )
        parent, child = done.stdout.split(" ", 1)
        found.append(json.loads(child))
        assert (found[-1].pop("parent"), found[-1].pop("leads")) == (int(parent), True)
        del found[-1]["group"], found[-1]["path"]  # with -P that is wherever this Python has its library
    assert found[0] == found[1]


STARTS_FOREVER = """
import subprocess, sys
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], stdout=subprocess.DEVNULL)
print(child.pid, flush=True)
child.wait()
"""


def test_what_a_parent_started_lives_on_when_it_is_killed_and_its_server_does_not():
    process = subprocess.Popen([PARENT, "-c", STARTS_FOREVER], stdout=subprocess.PIPE, start_new_session=True)
    assert process.stdout is not None
    child = int(process.stdout.readline())
    assert set(of_session(process.pid)) > {process.pid, child}  # and the server
    process.kill()
    process.wait()
    until(lambda: of_session(process.pid) == [child])
    os.kill(child, signal.SIGKILL)
    process.stdout.close()


def of_session(leader: int) -> list[int]:
    found = subprocess.run(["ps", "-o", "pid=", "-s", str(leader)], capture_output=True, text=True, check=False)
    return [int(line) for line in found.stdout.split()]


def test_a_worker_has_a_server_from_the_start():
    code = "import subprocess; from tests.support import fork_server as f; import sys\n"
    code += "subprocess.run([f.PYTHON, '-c', 'import os; print(os.getppid())']); print(f._server()[0].fileno() > 2)"
    with subprocess.Popen([WORKER, "-u", "-c", code], stdout=subprocess.PIPE, text=True, env=environment()) as worker:
        assert worker.communicate()[0] == f"{worker.pid}\nTrue\n"
