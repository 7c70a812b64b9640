"""One worker process that makes derivatives, as its run sees it: started when first needed, replaced when it dies.

A process of our own and no pool of the standard library: that one imports a caller's script again in each worker, cannot say which
task killed it, and leaves workers behind when the run is killed. This one reads tasks from a pipe that ends with the run.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
from pathlib import Path

from batchgen.derivatives.specification import RenderedFile, RenderRequest
from batchgen.http.time_limit import TimeLimit
from batchgen.settings import environment_without_keys

ROOT = str(Path(__file__).resolve().parents[2])  # whatever put this package on the path of the run
CHILD_CODE = "import sys; sys.path.insert(0, sys.argv[1]); from batchgen.derivatives.render import serve; serve()"
MAX_ANSWER_BYTES = 4_000_000
TASK_TIMEOUT_S = 900.0  # an AVIF of the largest picture on a busy machine takes a small part of it


class RenderProcessDied(Exception):
    """The process ended, or was ended for taking too long, without an answer."""


class RenderProcess:
    def __init__(self) -> None:
        self._process: asyncio.subprocess.Process | None = None

    async def render(self, request: RenderRequest) -> list[RenderedFile]:
        """Raises RenderProcessDied; the next request gets a new process."""
        process = self._process or await self._start()
        stdin, stdout = process.stdin, process.stdout
        assert stdin is not None and stdout is not None  # noqa: S101 - both are pipes
        try:
            stdin.write(request.to_json().encode() + b"\n")
            await stdin.drain()
            async with TimeLimit(TASK_TIMEOUT_S):
                answer = await stdout.readline()
                if not answer.endswith(b"\n"):
                    await process.wait()
            return [RenderedFile(*file) for file in json.loads(answer)]
        except (OSError, TypeError, ValueError, TimeoutError) as error:
            why = _exit_reason(process.returncode)
            await self.close()
            raise RenderProcessDied(why) from error

    async def _start(self) -> asyncio.subprocess.Process:
        self._process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", CHILD_CODE, ROOT),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
            env=environment_without_keys(),
            limit=MAX_ANSWER_BYTES,
            start_new_session=True,  # the terminal's Ctrl-C is for the run
        )
        return self._process

    async def close(self) -> None:
        """End it at once: what it writes has no name before it is whole."""
        process, self._process = self._process, None
        if process is None:
            return
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                # Popen's own kill may reap the process first, and then asyncio warns that it knows no such child.
                os.kill(process.pid, signal.SIGKILL) if os.name == "posix" else process.kill()
        if process.stdin is not None:
            process.stdin.close()
        await process.wait()


def _exit_reason(code: int | None) -> str:
    if code is None:
        return f"was stopped because it took more than {TASK_TIMEOUT_S:.0f} s"
    return "was killed (out of memory?)" if code == -9 else f"ended with code {code}"
