"""What every step of a sample needs from its run, whichever engine takes the step. Built once and passed down."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Mapping
from concurrent.futures import Executor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from batchgen.engine.routes import Route
from batchgen.events import Event, Observer
from batchgen.http.transport import Transport
from batchgen.http.uploads import Uploader
from batchgen.ledger.ledger import Ledger
from batchgen.os_errors import raise_open_file_limit, start_threads
from batchgen.store.store import Store

Emit = Callable[[Event], None]
Note = Callable[[str], None]
T = TypeVar("T")
log = logging.getLogger("batchgen")
# Threads that check, hash, write and record what has come. A local disk needs no more than two; more only compete for
# the interpreter: with eight, images of a megabyte took a quarter longer.
STORE_THREADS, NETWORK_STORE_THREADS = 2, 8


class Broadcast:
    """Passes each event to every observer. An observer that raises is logged and dropped; the run goes on."""

    def __init__(self, observers: Iterable[Observer]) -> None:
        self._observers = list(observers)

    def __call__(self, event: Event) -> None:
        for observer in list(self._observers):
            try:
                observer(event)
            except Exception:
                log.exception("an observer failed and is dropped")
                self._observers.remove(observer)


@asynccontextmanager
async def in_background(work: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """Do some work while the context is open, and cancel it at the end. Its errors are not raised."""
    task = asyncio.ensure_future(work)
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])


@dataclass(frozen=True, slots=True, kw_only=True)
class RunContext:
    """What a run works with. executor: threads for everything that waits for a disk or the ledger. uploads: reference
    images uploaded to vendors."""

    ledger: Ledger
    store: Store
    routes: Mapping[str, Route]
    transport: Transport
    uploads: Uploader
    executor: Executor
    emit: Emit
    note: Note

    async def in_thread(self, call: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self.executor, call)


@asynccontextmanager
async def open_context(
    *,
    ledger: Ledger,
    store: Store,
    routes: Mapping[str, Route],
    concurrency: int,
    state_folder: Path | None,
    emit: Emit,
    note: Note,
) -> AsyncIterator[RunContext]:
    """Open what a run works with. concurrency: the most requests in flight. state_folder: where uploads are remembered,
    None for nowhere."""
    raise_open_file_limit(concurrency)
    waits_for_network = store.properties.remote or ledger.writer.is_remote
    with start_threads(NETWORK_STORE_THREADS if waits_for_network else STORE_THREADS, "store") as executor:
        # Start the first thread of the loop's own pool, which looks up names: it must not be missing later.
        await asyncio.to_thread(int)
        async with Transport(concurrency, executor) as transport:
            yield RunContext(
                ledger=ledger,
                store=store,
                routes=routes,
                transport=transport,
                uploads=Uploader(state_folder, transport, note),
                executor=executor,
                emit=emit,
                note=note,
            )
