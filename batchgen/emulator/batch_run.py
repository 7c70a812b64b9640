"""What becomes of a batch: it waits, its lines are answered little by little, it ends."""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field, replace

from batchgen.emulator.batch_faults import ENDS, BatchFaults, End
from batchgen.emulator.batch_lines import LineWork
from batchgen.emulator.batch_results import Writer
from batchgen.emulator.batches import Batch
from batchgen.emulator.statistics import Visit

_SLICE_S = 0.1  # a thread comes back at least so often, to be counted and asked to stop
_ORDINARY = End(1, "SUCCEEDED")
_ERRORS = {
    "FAILED": {"code": 13, "message": "An internal error has occurred."},
    "EXPIRED": {"code": 4, "message": "The batch expired before it was completed."},
    "CANCELLED": {"code": 1, "message": "The operation was cancelled."},
}


@dataclass(slots=True)
class _Progress:
    """order: of the lines; done: how many of them are answered. limit: how many will be."""

    writer: Writer
    order: list[int]
    limit: int
    done: int = 0
    visits: list[Visit] = field(default_factory=list)


class BatchRuns:
    """One task for each batch, and one thread that answers lines for all, so that requests online go on."""

    def __init__(self, work: LineWork, faults: BatchFaults) -> None:
        self._work = work
        self._faults = faults
        self._options = work.reception.options.batch
        self._threads = ThreadPoolExecutor(max_workers=1, thread_name_prefix="batches")
        self._tasks: dict[str, tuple[Batch, asyncio.Task[None]]] = {}
        self._loop = asyncio.get_running_loop()

    def start(self, batch: Batch) -> None:
        name = self._faults.take(frozenset(ENDS), display_name=batch.display_name)
        task = asyncio.create_task(self._run(batch, ENDS[name] if name else _ORDINARY))
        task.add_done_callback(lambda _: self._tasks.pop(batch.id, None))
        self._tasks[batch.id] = batch, task

    async def stop(self, batch: Batch) -> None:
        """Returns when the batch has ended: tobert/kaibo#8 saw cancelled batches end at once."""
        batch.leave.set()
        if batch.id in self._tasks:
            await asyncio.wait([self._tasks[batch.id][1]])

    async def stop_all(self) -> None:
        """Those that were deleted run on, and are stopped too."""
        for batch, _ in self._tasks.values():
            batch.leave.set()
        await asyncio.gather(*(task for _, task in self._tasks.values()))

    def close(self) -> None:
        self._threads.shutdown()

    async def _run(self, batch: Batch, end: End) -> None:
        options, count = self._options, len(batch.index.starts)
        dies_s = batch.created_s + options.life_s
        writer = Writer(self._work.files.place(f"results-{batch.id}"), inline=self._is_inline(batch))
        seed = f"{self._work.reception.options.seed}|{batch.display_name}|{count}"
        order = batch.index.order(seed) if batch.source else list(range(count))
        progress = _Progress(writer, order, 0 if batch.index.bad else int(count * end.share))
        never_starts = not end.state and not end.share
        over = await self._wait(batch, options.life_s if never_starts else options.pending_s, dies_s)
        if not over:
            batch.move("RUNNING")
            over = await self._answer(batch, progress, dies_s)
        if not over and not end.state:
            over = await self._wait(batch, options.life_s, dies_s)
        await self._loop.run_in_executor(self._threads, writer.close)
        keeps_finished = over == "CANCELLED" and options.keeps_cancelled and progress.done > 0
        keeps = keeps_finished if over else end.share > 0
        self._end(batch, progress, over or end.state, keeps=keeps)

    async def _answer(self, batch: Batch, progress: _Progress, dies_s: float) -> str:
        """Line i of n is answered i/n of `running_s` after the start, or as soon after as can be."""
        running_s, count = self._options.running_s, max(1, len(progress.order))
        started_s = time.time()
        while progress.done < progress.limit:
            passed_s = time.time() - started_s
            due = progress.limit if passed_s >= running_s else min(progress.limit, int(count * passed_s / running_s))
            wait_s = 0.0 if due > progress.done else min(0.2, max(0.005, running_s / count))
            if over := await self._wait(batch, wait_s, dies_s):
                return over
            if due > progress.done:
                await self._loop.run_in_executor(self._threads, self._slice, batch, progress, due)
                batch.updated_s = time.time()
        return await self._wait(batch, started_s + running_s - time.time(), dies_s)

    def _slice(self, batch: Batch, progress: _Progress, due: int) -> None:
        """In the thread, which alone touches the writer and the counts of the batch."""
        until_s = time.monotonic() + _SLICE_S
        while progress.done < due and time.monotonic() < until_s:
            raw = batch.index.line(progress.order[progress.done])
            line = self._work.answer(raw, batch.model, batch.key, inline=not batch.source)
            named = {"key": line.key} if batch.source and self._is_inline(batch) else line.key
            progress.writer.put(replace(line, key=named))
            progress.done += 1
            batch.succeeded += line.succeeded
            batch.failed += not line.succeeded
            visit = Visit(line.n, 0.0, batch.model.id, line.prompt, 200, False, line.billed_images, line.sha256)
            progress.visits.append(visit)
            key = line.key.get("key") if isinstance(line.key, dict) else line.key
            self._loop.call_soon_threadsafe(self._work.reception.statistics.line, str(key), visit)

    def _end(self, batch: Batch, progress: _Progress, state: str, *, keeps: bool) -> None:
        """Code 1 is that of cancelled operations; the other codes and all wordings are ours."""
        batch.index.path.unlink(missing_ok=True)
        if batch.index.bad and state == "SUCCEEDED":
            batch.end("FAILED", {"code": 3, "message": f"Failed to parse the input file: {batch.index.bad}"})
            return
        if keeps:
            self._keep(batch, progress.writer)
            for visit in progress.visits:
                visit.delivered = True
        else:
            progress.writer.path.unlink()
        batch.end(state, _ERRORS.get(state))

    def _is_inline(self, batch: Batch) -> bool:
        return not batch.source or len(batch.index.starts) <= self._options.inline_most

    def _keep(self, batch: Batch, writer: Writer) -> None:
        if not self._is_inline(batch):
            facts = writer.path, writer.size_bytes, writer.digest.hexdigest()
            batch.results = self._work.files.add_generated(batch.key, f"batch-{batch.id}", *facts)
        else:
            batch.inline_results = writer.path

    async def _wait(self, batch: Batch, wait_s: float, dies_s: float) -> str:
        """The state in which the batch ends now, empty if it goes on."""
        left_s = min(wait_s, dies_s - time.time())
        if left_s > 0:
            with suppress(TimeoutError):
                async with asyncio.timeout(left_s):
                    await batch.leave.wait()
        if batch.leave.is_set():
            return "CANCELLED"
        return "EXPIRED" if time.time() >= dies_s else ""
