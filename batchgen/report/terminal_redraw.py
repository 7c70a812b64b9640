"""Lines at the foot of a terminal that are drawn anew in place, five times a second, with others written above them."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import TextIO

FRAME_INTERVAL_S = 0.2
# A terminal that knows it shows a frame as a whole; others ignore it. Source: Contour's synchronized output, mode 2026.
_BEGIN, _END = "\x1b[?2026h", "\x1b[?2026l"
# A frame may be of a moment ago, when the window was wider: then its lines are cut, not wrapped. Source: DEC's autowrap mode.
_NO_WRAP, _WRAP = "\x1b[?7l", "\x1b[?7h"


class TerminalRedraw:
    """Between frames the cursor rests at the first line of the view: whatever a resized terminal makes of long lines, all
    that is to be painted over lies below it. view: called from a thread of its own, under the lock of `above` and `stop`.
    """

    def __init__(self, stream: TextIO, view: Callable[[], Sequence[str]]) -> None:
        self._stream = stream
        self._view = view
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._redraw_loop, name="progress", daemon=True)

    def start(self) -> None:
        if os.name == "nt":  # click brings it along there
            import_module("colorama").just_fix_windows_console()
        self.print_above(())
        self._thread.start()

    def stop(self) -> None:
        """Leaves nothing of the view behind."""
        self._stopped.set()
        self._thread.join()
        self._write("\r\x1b[J")

    def print_above(self, lines: Sequence[str]) -> None:
        """These stay, and the view goes on below them."""
        with self._lock:
            view = self._view()
            text = "".join(f"{line}\x1b[K\n" for line in lines) + _NO_WRAP + "\x1b[K\n".join(view) + _WRAP
            back = f"\x1b[{len(view) - 1}A" if len(view) > 1 else ""
            self._write(f"{_BEGIN}\r{text}\x1b[J{back}\r{_END}")

    def _redraw_loop(self) -> None:
        while not self._stopped.wait(FRAME_INTERVAL_S):
            self.print_above(())

    def _write(self, text: str) -> None:
        self._stream.write(text)
        self._stream.flush()
