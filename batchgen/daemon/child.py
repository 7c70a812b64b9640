"""One night as a process of its own: started, heard line by line, told to stop; and orphans that end up here, reaped."""

from __future__ import annotations

import asyncio
import os
import sys
from asyncio.subprocess import DEVNULL, PIPE, STDOUT
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress

MAX_LINE_BYTES = 256_000  # what is longer is cut into lines of this length
DRAIN_TIMEOUT_S = 2.0  # for what was said last, once the process has ended


class ChildProcess:
    """A process in a session of its own: a Ctrl-C before the daemon reaches it through the daemon alone."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self.pid = process.pid

    @classmethod
    async def start(cls, argv: Sequence[str], environ: Mapping[str, str]) -> ChildProcess:
        """Raises OSError."""
        return cls(
            await asyncio.create_subprocess_exec(
                *argv, env=environ, start_new_session=True, stdin=DEVNULL, stdout=PIPE, stderr=STDOUT
            )
        )

    async def wait(self, on_line: Callable[[str], None]) -> int:
        """The exit code, 128 and the signal's number when one ended it. on_line: told of what it says."""
        reading = asyncio.create_task(self._read(on_line))
        code = await self._process.wait()
        # Somebody whom the run has started may hold the pipe for ever.
        done, _ = await asyncio.wait([reading], timeout=DRAIN_TIMEOUT_S)
        if not done:
            reading.cancel()
        return code if code >= 0 else 128 - code

    def send_signal(self, number: int) -> None:
        with suppress(ProcessLookupError):
            self._process.send_signal(number)

    async def _read(self, on_line: Callable[[str], None]) -> None:
        """To its end, even when nobody can be told any more: a run whose pipe is full would stand still."""
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
    """Whatever lost its parent in a container becomes the first process's child and is gone only once it is waited for.

    awaited_pids: processes that somebody else waits for.
    """
    if sys.platform == "win32" or not hasattr(os, "waitid"):
        return
    with suppress(ChildProcessError):
        while found := os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT):
            if found.si_pid in awaited_pids:
                return  # first in the row, and soon waited for: the rest comes next time
            os.waitpid(found.si_pid, 0)
