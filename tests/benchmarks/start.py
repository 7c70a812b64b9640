"""Case 6: how long a command takes until it does something, beside the import of the libraries that every client has."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from socket import create_server, socket
from statistics import median

from tests.benchmarks.case import Case, Target
from tests.benchmarks.measure import ROOT, environment, fresh_folder
from tests.benchmarks.noise import gemini_answer, noise_png
from tests.benchmarks.server import http

LIBRARIES = ("-c", "import aiohttp, pydantic")
# What a run has of others, and a model of pydantic's, for that alone loads most of it: what our own modules are added to.
EVERYTHING_OF_OTHERS = (
    "-c",
    "import gc; gc.disable(); import aiohttp, aiofiles, asyncio_throttle, click, cronsim, filelock, hashlib, pybase64, sqlite3, yaml\n"
    "import pydantic; pydantic.create_model('Any', x=(int, 0))",
)
HELP = (("--help",), ("--version",), ("run", "--help"))
MANIFEST = """\
version: 1
defaults: {model: flash}
items:
  - id: mug
    prompt: A blue mug on oiled oak
  - id: cup
    prompt: A red cup on oiled oak
"""


@dataclass(frozen=True, slots=True)
class Taken:
    """Of one process, from its start on: milliseconds on the wall, and of the processor."""

    wall: float
    cpu: float


class FirstByte:
    """A server that answers every request with an image, and says when the first byte of a process has come."""

    def __init__(self) -> None:
        self._listening = create_server(("127.0.0.1", 0))
        self._answer = http(200, gemini_answer(noise_png(2048, random.Random(0))))
        self._watched: tuple[int, float] | None = None
        self.taken: Taken | None = None
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._listening.getsockname()[1]}"

    def watch(self, pid: int, started_s: float) -> None:
        self.taken, self._watched = None, (pid, started_s)

    def _accept(self) -> None:
        while True:
            connection, _ = self._listening.accept()
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket) -> None:
        held = b""
        while data := connection.recv(65_536):
            if self._watched is not None:
                (pid, started_s), self._watched = self._watched, None
                self.taken = Taken((time.perf_counter() - started_s) * 1000, cpu_ms(pid))
            held += data
            head, end, body = held.partition(b"\r\n\r\n")
            lengths = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
            if end and lengths and len(body) >= int(lengths[0].split(b":")[1]):
                held = b""
                connection.sendall(self._answer)


def cpu_ms(pid: int) -> float:
    """What a process that still runs has had so far, with those of its threads that have ended.

    By the clock that Linux has for each process: clock_getcpuclockid(3), whose number glibc makes so.
    """
    return time.clock_gettime(~pid << 3 | 2) * 1000


def start(quick: bool) -> Case:
    case = Case("start", "6. Starting the command line: medians, and ratios to the import of aiohttp and pydantic")
    rounds, server, folder = 5 if quick else 25, FirstByte(), fresh_folder("start")
    # As installed: with the compiled modules that this machine may be asked not to write.
    environ = environment(folder, server.url) | {"GEMINI_API_KEY": "of-nobody", "PYTHONDONTWRITEBYTECODE": ""}
    found: dict[str, list[Taken]] = {}
    for number in range(rounds + 1):
        manifest = folder / f"job-{number}.yaml"
        manifest.write_text(MANIFEST, encoding="utf-8")
        one = {"libraries": of_process(LIBRARIES, environ), "run": until_first_byte(manifest, server, environ)}
        one["everything of others"] = of_process(EVERYTHING_OF_OTHERS, environ)
        one["status"] = of_process(("-m", "batchgen", "status", str(manifest)), environ)
        for words in HELP:
            one[" ".join(words)] = of_process(("-m", "batchgen", *words), environ)
        if number:  # the first one compiles
            for name, taken in one.items():
                found.setdefault(name, []).append(taken)
    case.targets += targets(found)
    for name, taken in found.items():
        wall, cpu = median(each.wall for each in taken), median(each.cpu for each in taken)
        ratio = median(one.cpu / other.cpu for one, other in zip(taken, found["libraries"], strict=True))
        case.notes.append(f"{name}: {wall:.0f} ms, of which {cpu:.0f} ms of processor ({ratio:.2f})")
    return case


def targets(found: Mapping[str, Sequence[Taken]]) -> list[Target]:
    libraries = found["libraries"]

    def ratio(name: str) -> tuple[float, float]:
        pairs = list(zip(found[name], libraries, strict=True))
        return median(one.wall / other.wall for one, other in pairs), median(
            one.cpu / other.cpu for one, other in pairs
        )

    (run_wall, run_cpu), (status_wall, status_cpu) = ratio("run"), ratio("status")
    helps = {" ".join(words): ratio(" ".join(words))[1] for words in HELP}
    return [
        Target("batchgen run to its first byte, to the libraries", "at most", 1.4, run_wall),
        Target("the same, of processor", "at most", 1.4, run_cpu),
        Target("batchgen status, to the libraries", "at most", 0.8, status_wall),
        Target("the same, of processor", "at most", 0.8, status_cpu),
        *(Target(f"batchgen {words}, of processor", "at most", 0.5, cpu) for words, cpu in helps.items()),
    ]


def until_first_byte(manifest: Path, server: FirstByte, environ: Mapping[str, str]) -> Taken:
    """The run goes on to its end, for `status` to have something to say."""
    started_s = time.perf_counter()
    command = [sys.executable, "-m", "batchgen", "run", str(manifest)]
    with subprocess.Popen(command, cwd=ROOT, env=environ, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as run:
        server.watch(run.pid, started_s)
    if run.returncode or server.taken is None:
        raise RuntimeError(f"the run ended with {run.returncode}")
    return server.taken


def of_process(arguments: Sequence[str], environ: Mapping[str, str]) -> Taken:
    started_s = time.perf_counter()
    run = subprocess.Popen([sys.executable, *arguments], cwd=ROOT, env=environ, stdout=subprocess.DEVNULL)
    _, status, used = os.wait4(run.pid, 0)
    run.returncode = os.waitstatus_to_exitcode(status)
    if run.returncode:
        raise RuntimeError(f"{arguments} ended with {run.returncode}")
    return Taken((time.perf_counter() - started_s) * 1000, (used.ru_utime + used.ru_stime) * 1000)
