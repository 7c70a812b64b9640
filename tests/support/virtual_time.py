"""An event loop that moves its clock instead of sleeping."""

from __future__ import annotations

import asyncio
import selectors


class Deadlock(AssertionError):
    """Everything waits and nothing will ever happen."""


class _JumpingSelector(selectors.DefaultSelector):
    """Moves the clock instead of sleeping."""

    loop: VirtualLoop

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if ready:
            return ready
        if timeout is None:
            raise Deadlock("every task waits for something that nobody will do")
        self.loop.now_s += timeout
        return []


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop on which a minute passes in no time."""

    def __init__(self) -> None:
        self.now_s = 1000.0
        selector = _JumpingSelector()
        super().__init__(selector)
        selector.loop = self

    def time(self) -> float:
        return self.now_s
