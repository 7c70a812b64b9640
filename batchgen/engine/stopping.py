"""Ends a run early: a disk or ledger that refuses, an error that every other sample would get too, or Ctrl-C, SIGTERM
or SIGHUP."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from types import FrameType
from typing import Any

from batchgen.engine.context import Emit, RunContext
from batchgen.engine.recovery.open_attempts import complete_images
from batchgen.errors import LedgerError, LedgerGone, StoreError
from batchgen.events import Stopping
from batchgen.records import Sample
from batchgen.scheduling.dispatcher import Dispatcher
from batchgen.scheduling.stop_reason import StopKind, StopReason
from batchgen.store.spool import disk_error


class RunStopper:
    """Stops a run. storage_error: the first error of the disk or the ledger, None if there was none."""

    def __init__(self, context: RunContext, dispatcher: Dispatcher) -> None:
        self._store = context.store
        self._emit = context.emit
        self._dispatcher = dispatcher
        self.storage_error: StoreError | LedgerError | None = None
        self._picture_locations: list[str] = []
        loop = asyncio.get_running_loop()

        def trouble(error: StoreError) -> None:
            with contextlib.suppress(RuntimeError):  # the run has ended
                loop.call_soon_threadsafe(self.storage_failed, error)

        context.store.emergency_spool.first_trouble.add_done_callback(lambda first: trouble(first.result()))

    @property
    def storage_message(self) -> str:
        """What the disk or the ledger refused, and where each image concerned is; empty if nothing was refused."""
        return "; ".join([str(self.storage_error), *self._picture_locations]) if self.storage_error else ""

    def storage_failed(self, error: StoreError | LedgerError | OSError) -> None:
        if isinstance(error, OSError):
            error = disk_error(error, self._store.root)
        if self.storage_error is None or (
            isinstance(error, LedgerGone) and not isinstance(self.storage_error, LedgerGone)
        ):
            self.storage_error = error  # a missing folder says more than a failed write in it
        self.stop(StopReason(StopKind.DISK, message=str(error)))

    def stop(self, reason: StopReason) -> None:
        if self._dispatcher.stop_reason is None:
            in_flight = self._dispatcher.in_flight
            self._emit(Stopping(at=time.time(), reason=reason.slug, message=reason.message, in_flight=in_flight))
        self._dispatcher.stop(reason)

    def note_picture_locations(self, sample: Sample, attempt: int) -> None:
        """Note where a sample's image is after a failed write, or that it is lost. The next run takes whatever is
        whole."""
        emergency_spool = self._store.emergency_spool
        try:
            paths = [path for _, path in emergency_spool.stranded_files(attempt, 0.0)]
            paths += [self._store.spooled(name) for name, _ in complete_images(self._store, attempt)]
        except OSError:
            paths = []
        if paths:
            words = f"lies in {', '.join(paths)}: the next run picks it up"
        elif emergency_spool.is_same_folder():
            words = "is lost and was probably billed"
        else:
            words = "was in the job folder, which is gone"
        self._picture_locations.append(f"the image of {sample.key} {words}")


@contextlib.contextmanager
def hold_stop_signals(*, watching: bool) -> Iterator[list[int]]:
    """Keep signals from ending the process while a run begins and while its end is recorded.

    Yields those that came, for `stop_on_signals` to handle; those that come after it change nothing. The third held here
    exits at once.
    """
    held = list[int]()

    def hold(number: int, frame: FrameType | None) -> None:
        held.append(number)
        if len(held) > 2:
            _exit_at_once(number, frame)

    before = _stop_signals() if watching else {}
    for number in before:
        signal.signal(number, hold)
    try:
        yield held
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def stop_on_signals(
    dispatcher: Dispatcher,
    emit: Emit,
    held: Sequence[int],
    *,
    give_up_preparing: Callable[[], None],
    cancel_in_flight: Callable[[], None],
) -> Iterator[None]:
    """Stop a run on signals. The first: start nothing more. The second: give up what is in flight. The third: exit at
    once. held: signals that came earlier."""
    loop = asyncio.get_running_loop()
    interrupts = 0

    def interrupted(number: int) -> None:
        nonlocal interrupts
        interrupts += 1
        name = signal.Signals(number).name
        if interrupts == 1:
            dispatcher.stop(StopReason(StopKind.SIGNAL, name))
            give_up_preparing()
            emit(
                Stopping(
                    at=time.time(), reason=name, in_flight=dispatcher.in_flight, message=_stopping_message(dispatcher)
                )
            )
        else:
            cancel_in_flight()
            for other in numbers:  # as plain handlers: these run even if the loop is stuck
                if sys.platform != "win32":
                    loop.remove_signal_handler(other)
                signal.signal(other, _exit_at_once)

    with handling_stop_signals(interrupted) as numbers:
        for number in held:
            interrupted(number)
        yield


@contextlib.contextmanager
def handling_stop_signals(on_signal: Callable[[int], None]) -> Iterator[list[int]]:
    """Call `on_signal` in the event loop with the number of each signal that asks this process to end. Yields the
    signals that are handled. The previous handlers are restored afterwards."""
    loop, before = asyncio.get_running_loop(), _stop_signals()
    for number in before:
        if sys.platform == "win32":
            signal.signal(number, lambda got, _: loop.call_soon_threadsafe(on_signal, got))
        else:
            loop.add_signal_handler(number, on_signal, number)
    try:
        yield list(before)
    finally:
        for number, handler in before.items():
            if sys.platform != "win32":
                loop.remove_signal_handler(number)
            signal.signal(number, handler)


def _stop_signals() -> dict[int, Any]:
    """The signals that ask this process to end, each with its handler now. An ignored SIGHUP (nohup) is left out."""
    found = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
    handlers = {number: signal.getsignal(number) for number in found}
    return {n: each for n, each in handlers.items() if signal.Signals(n).name != "SIGHUP" or each != signal.SIG_IGN}


def _stopping_message(dispatcher: Dispatcher) -> str:
    out = "in batches" if dispatcher.external_samples else "with the vendor as jobs" if dispatcher.jobs else ""
    if out and not dispatcher.in_flight:
        return f"what is {out} goes on there, and a later run collects it"
    if not dispatcher.in_flight:
        return "nothing is in flight"
    words = f"finishing {dispatcher.in_flight} in flight; once more to give them up"
    return f"{words}; what is {out} stays there" if out else words


def _exit_at_once(number: int, frame: FrameType | None) -> None:
    """Exit at once. The ledger is made for this: the next run finds what was in flight to be uncertain."""
    with contextlib.suppress(OSError):
        begin = b"\r\x1b[J" if os.isatty(2) else b"\n"  # over the rest of the progress display
        os.write(2, begin + b"leaving at once; the next run settles what was in flight\n")
    os._exit(128 + number)
