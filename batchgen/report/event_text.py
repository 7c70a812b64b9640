"""What a run says in plain lines: rare, whole sentences, fit for a log of a timer or a pipe."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator

from batchgen.events import (
    BatchCollected,
    BatchSubmitted,
    Event,
    LaneCooled,
    LaneParked,
    LaneStopped,
    NightBegan,
    NightEnded,
    NightPlanned,
    NightSaid,
    NightSkipped,
    Noted,
    OutageBegan,
    OutageEnded,
    RunEnded,
    RunStarted,
    SampleEnded,
    SampleSucceeded,
    Stopping,
)
from batchgen.report import figures, outages
from batchgen.report.run_progress import Board
from batchgen.report.screen import Screen
from batchgen.sanitize import brief

EVERY_S = 30.0
ENDED_MOST = 10  # samples without an image that are named one by one; the summary counts the others
NOTES_MOST = 20
Line = tuple[str, str]  # text, style


class Telling:
    """Which events deserve a line of their own. At most one line for each time a model cools, parks or stops."""

    def __init__(self) -> None:
        self._ended = 0
        self._notes = 0
        self._cooling_until: dict[str, float] = {}

    def __call__(self, event: Event) -> Iterator[Line]:
        match event:
            case Noted():
                self._notes += 1
                if self._notes <= NOTES_MOST:
                    yield event.message, "dim"
                elif self._notes == NOTES_MOST + 1:
                    yield "further notes are not shown; --log-file has them all", "dim"
            case SampleEnded():
                yield from self._sample_ended(event)
            case BatchSubmitted():
                usd = ", price unknown" if event.usd is None else f", estimated {figures.usd(event.usd)}"
                yield f"{event.model}: {event.batch} submitted with {figures.count(event.requests, 'request')}{usd}", ""
            case BatchCollected():
                rest = f", {event.again:,} to ask for again" if event.again else ""
                rest += f", {event.ended:,} without an image" if event.ended else ""
                made = figures.count(event.made, "image")
                usd = figures.total(event.usd, event.unpriced)
                yield f"{event.model}: {event.batch} collected: {made}{rest}, {usd}", ""
            case LaneCooled():
                yield from self._cooled(event)
            case LaneParked():
                until = figures.local_time(event.until, event.at)
                yield (
                    f"{event.model}: parked until {until}, its daily quota is used up: {brief(event.message)}",
                    "yellow",
                )
            case LaneStopped():
                left = f"; {figures.count(event.left, 'sample')} not tried" if event.left else ""
                yield f"{event.model}: stopped ({event.reason}): {brief(event.message)}{left}", "red"
            case OutageBegan():
                yield outages.began_line(event), "yellow"
            case OutageEnded():
                yield outages.ended_line(event), ""
            case Stopping():
                yield f"stopping ({event.reason}): {brief(event.message)}", "yellow"

    def _sample_ended(self, event: SampleEnded) -> Iterator[Line]:
        self._ended += 1
        if self._ended <= ENDED_MOST:
            yield f"{event.key}: {event.state} ({event.reason}): {brief(event.message)}", "yellow"
        elif self._ended == ENDED_MOST + 1:
            yield "further samples without an image are counted, not named; the summary says why", "dim"

    def _cooled(self, event: LaneCooled) -> Iterator[Line]:
        if event.at < self._cooling_until.get(event.model, 0.0):
            self._cooling_until[event.model] = max(self._cooling_until[event.model], event.at + event.seconds)
            return
        self._cooling_until[event.model] = event.at + event.seconds
        slower = f", then at most {event.rpm:.0f} requests a minute" if event.rpm is not None else ""
        yield f"{event.model}: cooling for {figures.duration(event.seconds)} ({event.reason}){slower}", "dim"


class Faults(logging.Handler):
    """For a run without a log: a fault of ours or of a library is one line, never a traceback. Use as a context manager."""

    def __init__(self, say: Callable[[str], None]) -> None:
        super().__init__(logging.WARNING)
        self._say = say

    def __enter__(self) -> Faults:
        logging.getLogger().addHandler(self)
        return self

    def __exit__(self, *_: object) -> None:
        logging.getLogger().removeHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        self._say(brief(record.getMessage()))


class Lines:
    """The observer for pipes and timers: start, end, what deserves a line, and every 30 s how it stands.

    Time is that of the events, so nothing is said while nothing happens.
    """

    def __init__(self, screen: Screen) -> None:
        self._screen = screen
        self._telling = Telling()
        self._last_at: float | None = None
        self.board = Board()

    def __call__(self, event: Event) -> None:
        self.board(event)
        if isinstance(event, RunStarted):
            self._last_at = event.at
            self._screen.line(started(event))
        for text, style in self._telling(event):
            self._screen.line(text, style)
        due = self._last_at is not None and event.at - self._last_at >= EVERY_S
        if due and not isinstance(event, RunEnded):
            self._last_at = event.at
            self._screen.line(standing(self.board, event.at))


class Working:
    """The same for a worker, which has no end and makes pictures of many runs: what went wrong, and now and then a count."""

    def __init__(self, screen: Screen) -> None:
        self._screen = screen
        self._made = self._not_made = 0
        self._told_at = 0.0

    def __call__(self, event: Event, *, job: str = "", **_: object) -> None:
        of = f"{job}: " if job else ""
        match event:
            case Noted():
                self._screen.line(f"{of}{event.message}", "dim")
            case SampleSucceeded():
                self._made += 1
            case SampleEnded():
                self._not_made += 1
                self._screen.line(f"{of}{event.key}: {event.state} ({event.reason}): {brief(event.message)}", "yellow")
            case NightPlanned():
                self._screen.line(f"{event.job}: next night at {event.due}", "dim")
            case NightSkipped():
                self._screen.line(f"{event.job}: the night of {event.due} is too long ago to be made up for", "yellow")
            case NightBegan():
                self._screen.line(f"{event.job}: the night of {event.due} begins ({event.why})")
            case NightSaid():
                self._screen.line(f"{event.job} | {event.message}", "dim")
            case NightEnded():
                self._screen.line(f"{event.job}: exit code {event.exit_code}: {event.meaning}")
            case _:
                for text, style in Telling()(event):
                    self._screen.line(f"{of}{text}", style)
        if (self._made or self._not_made) and event.at - self._told_at >= EVERY_S:
            self._told_at = event.at
            self._screen.line(f"{figures.count(self._made, 'image')} made, {self._not_made:,} not made")


def started(event: RunStarted) -> str:
    """The first line of a run."""
    wanted = sum(event.samples.values())
    emulated = " EMULATED" if event.emulated else ""
    if not wanted:
        return f"{event.job}{emulated}: nothing to ask for, {figures.count(event.kept, 'image')} kept"
    if event.usd is None and not event.known_usd:
        estimate = ", price unknown"
    else:
        estimate = f", estimated {figures.total(event.usd or event.known_usd, event.unpriced)}"
    time_s = f", at best {figures.duration(event.eta_s)}" if event.eta_s is not None else ""
    return f"{event.job}{emulated}: run {event.run_id}, {figures.count(wanted, 'image')} to make, {event.kept:,} kept{estimate}{time_s}"


def standing(board: Board, now: float) -> str:
    """How a run stands, in one line."""
    left = board.left_s(now)
    spent = figures.total(board.usd, board.unpriced, "image")
    parts = [f"{board.done:,} of {board.wanted:,}", f"{board.in_flight} in flight", spent]
    parts += [f"{outage.name} {outages.note(outage, now)}" for outage in board.outages.values()]
    if board.batches:
        answered, asked = (sum(part) for part in zip(*board.batches.values(), strict=True))
        parts.append(
            f"{figures.count(len(board.batches), 'batch', 'batches')} out ({answered:,} of {asked:,} answered)"
        )
    not_made = board.done - board.made
    if not_made:
        parts.insert(1, f"{not_made:,} not made")
    if left is not None and not board.stopping:
        parts.append(f"about {figures.duration(left)} left")
    return f"{board.job}: " + ", ".join(parts)
