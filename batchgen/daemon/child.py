"""Runs one scheduled run as a process of its own: starts it, reads it line by line, tells it to stop. Also reaps
orphans."""

from __future__ import annotations

import asyncio
import os
import sys
from asyncio.subprocess import DEVNULL, PIPE, STDOUT
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress

MAX_LINE_BYTES = 256_000  # longer lines are cut into lines of this length
DRAIN_TIMEOUT_S = 2.0  # for the last output, once the process has ended


class ChildProcess:
    """A process in a session of its own, so that a Ctrl-C in the daemon's terminal only reaches the daemon."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self.pid = process.pid

    @classmethod
    async def start(cls, argv: Sequence[str], environ: Mapping[str, str]) -> ChildProcess:
        """Start a process. Raises OSError."""
        return cls(
            await asyncio.create_subprocess_exec(
                *argv, env=environ, start_new_session=True, stdin=DEVNULL, stdout=PIPE, stderr=STDOUT
            )
        )

    async def wait(self, on_line: Callable[[str], None]) -> int:
        """Wait for the exit code, or 128 plus the number of the signal that ended it. on_line: called with each line of
        output."""
        reading = asyncio.create_task(self._read(on_line))
        code = await self._process.wait()
        # A process that the run started may hold the pipe for ever.
        done, _ = await asyncio.wait([reading], timeout=DRAIN_TIMEOUT_S)
        if not done:
            reading.cancel()
        return code if code >= 0 else 128 - code

    def send_signal(self, number: int) -> None:
        with suppress(ProcessLookupError):
            self._process.send_signal(number)

    async def _read(self, on_line: Callable[[str], None]) -> None:
        """Read to the end, even if nobody can be told any more: a run whose pipe is full would stall."""
        stream, rest = self._process.stdout, b""
        while stream is not None and (data := await stream.read(65536)):
            *lines, rest = (rest + data).split(b"\n")
            if len(rest) > MAX_LINE_BYTES:
                lines, rest = [*lines, rest], b""
            for line in lines:
                on_line(_decode(line))
        if rest:
            on_line(_decode(rest))


def _decode(line: bytes) -> str:
    return line.decode(errors="replace").rstrip("\r")


def reap_orphans(awaited_pids: Collection[int]) -> None:
    """Reap processes whose parent has died: in a container they become children of the first process and stay until it
    waits for them.

    awaited_pids: processes that somebody else waits for.
    """
    if sys.platform == "win32" or not hasattr(os, "waitid"):
        return
    with suppress(ChildProcessError):
        while found := os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT):
            if found.si_pid in awaited_pids:
                return  # first in line, and soon waited for: the rest comes next time
            os.waitpid(found.si_pid, 0)
