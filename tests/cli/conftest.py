"""The command line as people meet it: in this process for speed, as a process of its own where signals or imports count."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import pytest

from batchgen.cli.main import run_command_line
from batchgen.daemon.scheduled_jobs import ScheduleState, ScheduleStateFile
from batchgen.emulator import EmulatorOptions
from batchgen.schedule.due import DAY_S, ScheduledRun
from tests.support.command_line import ITEMS, VARIABLES, Answer, _Pipe, environment
from tests.support.fork_server import PYTHON
from tests.support.marked_key import KEY


@pytest.fixture(autouse=True)
def _bare(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No key but the suite's, no addresses, an own state folder, and the temporary folder as place."""
    for name in list(os.environ):
        if name in VARIABLES or name.endswith("_BASE_URL"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    # `--emulate` in this process: pictures of a thumb's size, at once.
    monkeypatch.setattr(
        "batchgen.emulator.EmulatorOptions", partial(EmulatorOptions, latency_s=(0.0, 0.01), picture="tiny")
    )


@pytest.fixture
def batchgen(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Answer]:
    """Run a command line in this process, with pipes in place of a terminal."""

    def run(*argv: str) -> Answer:
        out, err = _Pipe(), _Pipe()
        before = signal.getsignal(signal.SIGTERM)
        with monkeypatch.context() as patch:
            patch.setattr(sys, "stdout", out)
            patch.setattr(sys, "stderr", err)
            patch.setattr(sys, "stdin", io.StringIO(""))
            code = run_command_line(argv)
        signal.signal(signal.SIGTERM, before)
        return Answer(code, out.text(), err.text())

    return run


@pytest.fixture
def processes() -> Iterator[list[subprocess.Popen[str]]]:
    """Those that a test starts, ended with it."""
    started: list[subprocess.Popen[str]] = []
    yield started
    for process in started:
        process.kill()
        process.communicate(timeout=10)


@pytest.fixture
def spawn(processes: list[subprocess.Popen[str]]) -> Callable[..., subprocess.Popen[str]]:
    """`python -m batchgen` as a process of its own."""

    def start(*argv: str, module: str = "batchgen", python: str = PYTHON, **environ: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [python, "-m", module, *argv],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            stdin=subprocess.DEVNULL,
            text=True,
            env=environment(**environ),
        )
        processes.append(process)
        return process

    return start


@pytest.fixture
def python() -> Callable[[str], Answer]:
    """Run a line of Python in a fresh interpreter that finds batchgen."""

    def run(source: str) -> Answer:
        done = subprocess.run(
            [sys.executable, "-c", source], env=environment(), capture_output=True, text=True, check=False, timeout=30
        )
        return Answer(done.returncode, done.stdout, done.stderr)

    return run


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """A manifest of items, each `id: prompt`."""

    def make(items: Mapping[str, str], head: str = "", name: str = "job.yaml") -> Path:
        lines = [f"  - {{id: {json.dumps(key)}, prompt: {json.dumps(prompt)}}}" for key, prompt in items.items()]
        path = tmp_path / name
        path.write_text(f"version: 1\n{head}items:\n" + "\n".join(lines) + "\n", encoding="utf-8")
        return path

    return make


@pytest.fixture
def emulator(monkeypatch: pytest.MonkeyPatch, spawn: Callable[..., subprocess.Popen[str]]) -> Callable[..., str]:
    """Start an emulator as a process and point the settings at it; answers its address."""

    def start(*argv: str) -> str:
        process = spawn("--picture", "tiny", *argv, module="batchgen.emulator")
        assert process.stdout is not None
        url = process.stdout.readline().removeprefix("listening on ").strip()
        monkeypatch.setenv("BATCHGEN_GEMINI_BASE_URL", url)
        monkeypatch.setenv("BATCHGEN_AIMLAPI_BASE_URL", url)
        return url

    return start


@pytest.fixture
def place(emulator, monkeypatch):
    monkeypatch.setenv("GEMINI_API_KEY", KEY)
    return emulator()


@pytest.fixture
def job(batchgen, write, place):
    manifest = write(ITEMS, head="defaults: {model: flash}\n")
    assert batchgen("run", str(manifest)).code == 0
    return manifest


@pytest.fixture
def ledger(job):
    return job.with_name("job") / ".batchgen" / "ledger.sqlite"


@pytest.fixture
def state(tmp_path) -> Path:
    return tmp_path / "state" / "batchgen" / "daemon"


@pytest.fixture
def overdue(write, state):
    """A manifest whose only night of today was two hours ago, and a diary that has known it since yesterday."""

    def make(prompts: dict[str, str], name: str = "job.yaml", last: ScheduledRun | None = None, more: str = "") -> Path:
        due = datetime.now(UTC) - timedelta(hours=2)
        times = {"at": f"{due:%H:%M}", "timezone": "UTC"}
        path = write(prompts, head=f"schedule: {{at: '{times['at']}', timezone: UTC{more}}}\n", name=name)
        diary = ScheduleStateFile(state, path)
        assert diary.acquire()
        entry = ScheduleState(
            schedule=json.dumps(times, separators=(",", ":")), since=time.time() - DAY_S / 2, last=last
        )
        diary.write(entry)
        diary.release()
        return path

    return make
