"""A time limit that only counts time in which this process ran."""

from __future__ import annotations

import asyncio
from types import TracebackType

TICK_S = 1.0
LATE_TICK_S = 0.25  # a tick later than this was held up: the process was stopped, or its loop blocked
GRACE_S = 5.0  # left at least after that, for what has arrived in the meantime


class TimeLimit:
    """Like `asyncio.timeout`, for what others have to do: servers, subprocesses. Raises TimeoutError.

    A process that was stopped (SIGSTOP, a snapshot of its machine) finds all clocks far ahead when it continues, and
    perhaps the whole answer in its socket. So time is counted tick by tick, a late tick counts little more than a
    punctual one, and what has arrived is read before anything is given up.
    """

    def __init__(self, limit_s: float) -> None:
        self._limit_s = self._left_s = limit_s
        self._timeout = asyncio.timeout(None)
        self._loop = asyncio.get_running_loop()
        self._held_up = False  # whether the last tick was late
        self._tick: asyncio.TimerHandle

    async def __aenter__(self) -> TimeLimit:
        await self._timeout.__aenter__()
        self._start_tick()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._tick.cancel()
        await self._timeout.__aexit__(kind, error, trace)

    def restart(self) -> None:
        """Restart the limit from now on."""
        self._tick.cancel()
        self._left_s = self._limit_s
        self._start_tick()

    def _start_tick(self) -> None:
        step_s, now_s = min(TICK_S, self._left_s), self._loop.time()
        self._tick = self._loop.call_at(now_s + step_s, self._on_tick, now_s, step_s)

    def _on_tick(self, since_s: float, step_s: float) -> None:
        passed_s = self._loop.time() - since_s
        late = passed_s > step_s + LATE_TICK_S
        self._left_s -= min(passed_s, step_s + LATE_TICK_S)
        if late and not self._held_up:  # never twice in a row, or a machine that is always late would wait for ever
            self._left_s = max(self._left_s, GRACE_S)
        self._held_up = late
        if self._left_s > 0.001:
            self._start_tick()
        else:
            self._timeout.reschedule(self._loop.time())
