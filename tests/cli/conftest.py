"""The command line as people meet it: in this process for speed, as a process of its own where signals or imports count."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from batchgen.cli.main import run_command_line
from batchgen.emulator import EmulatorOptions

ROOT = Path(__file__).resolve().parents[2]
VARIABLES = ("GOOGLE_API_KEY", "NO_COLOR", "CI", "COLUMNS")


@dataclass(frozen=True)
class Answer:
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """Fails when anything but one JSON value stands on stdout."""
        return json.loads(self.out)


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
    import signal

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


class _Pipe(io.TextIOWrapper):
    def __init__(self) -> None:
        super().__init__(io.BytesIO(), encoding="utf-8", write_through=True, newline="")

    def text(self) -> str:
        self.flush()
        return self.buffer.getvalue().decode()  # type: ignore[attr-defined,no-any-return]


def environment(**more: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("COV_")}
    return {**kept, "PYTHONPATH": str(ROOT), **more}


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

    def start(*argv: str, module: str = "batchgen", **environ: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-m", module, *argv],
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
