"""A worker process that makes derivatives and checks images, as its run sees it: started when first needed, and
replaced if it dies. What it makes is stored where the image is.

It is not a pool of the standard library: that imports the caller's script again in each worker, cannot say which task
killed one, and leaves workers behind if the run is killed. This process reads tasks from a pipe that ends with the run.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

from batchgen.derivatives.diff import RenderTask
from batchgen.derivatives.specification import RenderedFile, RenderRequest
from batchgen.errors import StoreError
from batchgen.http.time_limit import TimeLimit
from batchgen.ledger.derivatives import DerivativeRow, SourcePicture
from batchgen.settings import environment_without_keys
from batchgen.store.blobs import BucketUnavailable
from batchgen.store.store import Store

T = TypeVar("T")
RENDER = "batchgen.derivatives.render:answer"
RENDER_TRIES = 3  # of a task whose process dies
ROOT = str(Path(__file__).resolve().parents[2])  # what put this package on the path of the run
CHILD_CODE = "import sys; sys.path.insert(0, sys.argv[1]); from batchgen.derivatives.worker import serve; serve()"
MAX_ANSWER_BYTES = 4_000_000
END_TIMEOUT_S = 5.0
TASK_TIMEOUT_S = 900.0  # an AVIF of the largest image on a busy machine takes far less


class RenderProcessDied(Exception):
    """The process ended, or was killed for taking too long, without an answer."""


class RenderProcess:
    def __init__(self) -> None:
        self._process: asyncio.subprocess.Process | None = None

    async def render(self, request: RenderRequest) -> list[RenderedFile]:
        """Make the files of one image. Raises RenderProcessDied; the next request gets a new process."""
        return [RenderedFile(*file) for file in await self.ask(RENDER, asdict(request))]

    async def ask(self, function: str, request: Mapping[str, Any]) -> list[Any]:
        """The answer of a function, `package.module:function`, to a request; one request at a time. Raises
        RenderProcessDied; the next request gets a new process."""
        process = self._process or await self._start()
        stdin, stdout = process.stdin, process.stdout
        assert stdin is not None and stdout is not None  # noqa: S101 - both are pipes
        try:
            stdin.write(json.dumps([function, request]).encode() + b"\n")
            await stdin.drain()
            async with TimeLimit(TASK_TIMEOUT_S):
                answer = await stdout.readline()
                if not answer.endswith(b"\n"):
                    await process.wait()
            return list(json.loads(answer))
        except asyncio.CancelledError:
            await self.close()  # or its answer would be taken for the next request's
            raise
        except TimeoutError as error:
            await self.close()
            raise RenderProcessDied(f"was stopped because it took more than {TASK_TIMEOUT_S:.0f} s") from error
        except (OSError, TypeError, ValueError) as error:
            with contextlib.suppress(TimeoutError):  # its pipe breaks a moment before its end is known
                await asyncio.wait_for(process.wait(), END_TIMEOUT_S)
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
        """End the process at once: what it writes has no name before it is whole."""
        process, self._process = self._process, None
        if process is None:
            return
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                # Popen's own kill may reap the process first, and then asyncio warns about an unknown child.
                os.kill(process.pid, signal.SIGKILL) if os.name == "posix" else process.kill()
        if process.stdin is not None:
            process.stdin.close()
        await process.wait()


def _exit_reason(code: int | None) -> str:
    if code is None:
        return "gave an answer that cannot be read"
    return "was killed (out of memory?)" if code == -9 else f"ended with code {code}"


async def render_derivatives(process: RenderProcess, due: RenderTask, store: Store) -> list[DerivativeRow]:
    """Make the files of one image in a process, store them where the image is, and return what became of each. Raises
    BucketUnavailable."""
    with contextlib.ExitStack() as copies:

        def copy(picture: SourcePicture | None) -> str:
            return copies.enter_context(store.local_copy(picture.path)) if picture is not None else ""

        try:
            source, white = await in_thread(lambda: (copy(due.picture), copy(due.white)))
        except FileNotFoundError:
            return list(due.failed("the original cannot be read: it has gone from the bucket"))
        try:
            made = await _render(process, due.request(source, white, store.spool))
        except RenderProcessDied as died:
            return list(due.failed(f"its worker process {died}, {RENDER_TRIES} times"))
        return list(due.rows(await in_thread(lambda: put_derivatives(made, due.made_before, store))))


async def _render(process: RenderProcess, request: RenderRequest) -> list[RenderedFile]:
    """Make files, with retries. Raises RenderProcessDied after the last."""
    for _ in range(RENDER_TRIES - 1):
        with contextlib.suppress(RenderProcessDied):
            return await process.render(request)
    return await process.render(request)


def put_derivatives(made: Sequence[RenderedFile], made_before: Mapping[str, str], store: Store) -> list[RenderedFile]:
    """Give the files from a worker process their names, durably. Returns what became of each. Raises
    BucketUnavailable."""
    files = [_put(file, made_before, store) if file.state == "made" else file for file in made]
    store.sync(*(file.path for file in files if file.state == "made"))
    return files


def _put(made: RenderedFile, made_before: Mapping[str, str], store: Store) -> RenderedFile:
    try:
        there = store.put_derivative(made.path, Path(made.file), made.sha256, made_before.get(made.path, ""))
    except BucketUnavailable:
        raise
    except (StoreError, OSError) as error:
        return RenderedFile(made.path, "failed", made.format, message=made.message or str(error)[:500])
    finally:
        Path(made.file).unlink(missing_ok=True)
    return made._replace(mtime_ns=0 if there is None else there.mtime_ns)


async def in_thread(call: Callable[[], T]) -> T:
    """Run a call in a thread. If cancelled, wait for its end, so that nobody closes what the thread is reading."""
    future = asyncio.get_running_loop().run_in_executor(None, call)
    try:
        return await asyncio.shield(future)
    except asyncio.CancelledError:
        await asyncio.wait({future})
        raise
