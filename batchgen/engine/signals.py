"""What Ctrl-C, SIGTERM and SIGHUP do to a run."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType

from batchgen.engine.execute import Execution
from batchgen.events import Event, Stopping
from batchgen.scheduling.dispatcher import Dispatcher
from batchgen.scheduling.stop_reason import StopKind, StopReason


@contextmanager
def stop_on_signals(dispatcher: Dispatcher, execution: Execution, emit: Callable[[Event], None]) -> Iterator[None]:
    """First signal: start nothing more. Second: give up what is in flight. Third: leave at once."""
    loop = asyncio.get_running_loop()
    interrupts = 0

    def interrupted(number: int) -> None:
        nonlocal interrupts
        interrupts += 1
        name = signal.Signals(number).name
        if interrupts == 1:
            dispatcher.stop(StopReason(StopKind.SIGNAL, name))
            execution.give_up_preparing()
            emit(
                Stopping(
                    at=time.time(),
                    reason=name,
                    in_flight=dispatcher.in_flight,
                    message=_stopping_message(dispatcher),
                )
            )
        else:
            execution.cancel_in_flight()
            for other in numbers:  # as plain handlers: they run even if the loop is stuck
                if sys.platform != "win32":
                    loop.remove_signal_handler(other)
                signal.signal(other, _exit_at_once)

    with handling_stop_signals(interrupted) as numbers:
        yield


@contextmanager
def handling_stop_signals(on_signal: Callable[[int], None]) -> Iterator[list[int]]:
    """Calls `on_signal` in the event loop with the number of each signal that asks this process to end. Answers which it minds:
    a SIGHUP that is ignored (nohup) stays ignored. Restores what was there before."""
    loop = asyncio.get_running_loop()
    found = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
    before = {number: signal.getsignal(number) for number in found}
    numbers = [
        number for number in found if signal.Signals(number).name != "SIGHUP" or before[number] != signal.SIG_IGN
    ]
    for number in numbers:
        if sys.platform == "win32":
            signal.signal(number, lambda got, _: loop.call_soon_threadsafe(on_signal, got))
        else:
            loop.add_signal_handler(number, on_signal, number)
    try:
        yield numbers
    finally:
        for number in numbers:
            if sys.platform != "win32":
                loop.remove_signal_handler(number)
            signal.signal(number, before[number])


def _stopping_message(dispatcher: Dispatcher) -> str:
    if dispatcher.external_samples and not dispatcher.in_flight:
        return "what is in batches goes on at the vendor's, and a later run collects it"
    words = f"finishing {dispatcher.in_flight} in flight; once more to give them up"
    return f"{words}; what is in batches stays there" if dispatcher.external_samples else words


def _exit_at_once(number: int, frame: FrameType | None) -> None:
    """The ledger is made for this: what was in flight is uncertain to the next run."""
    with suppress(OSError):
        begin = b"\r\x1b[J" if os.isatty(2) else b"\n"  # over what is left of the progress display
        os.write(2, begin + b"leaving at once; the next run settles what was in flight\n")
    os._exit(128 + number)
