"""The live view of a run on a terminal: one bar for each AI model, drawn from the board, at any width."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Sequence

from batchgen.events import Event, Outage
from batchgen.report import figures, outages
from batchgen.report.event_text import Telling
from batchgen.report.run_progress import Board, ModelBoard
from batchgen.report.screen import Screen
from batchgen.report.terminal_redraw import Painter
from batchgen.sanitize import ascii_only, cells, shortened

Segment = tuple[str, str]  # text, style
NARROW = 72  # below this the notes of a model stand on a line of their own
NOTES_ROOM = 38  # columns that the bar leaves to the notes beside it, where there are that many
MODELS_MOST = 12


def draw(
    board: Board, columns: int, now: float, fit: Callable[[str], str], unicode: bool = True
) -> list[list[Segment]]:
    """The lines of the view, none wider than `columns`. Pure; `fit` makes foreign text safe to show."""
    width = max(16, columns - 1)  # the last column stays free: some terminals wrap when it is written
    lines = [_head(board, fit)]
    names = {name: fit(name) for name in list(board.models)[:MODELS_MOST]}
    name_width = min(max(map(cells, names.values()), default=0), max(14, width // 3) if width < NARROW else 32)
    digits = max((len(f"{model.wanted:,}") for model in board.models.values()), default=1)
    for name, shown in names.items():
        model = board.models[name]
        notes = _notes(model, board.outage_of(name), now)
        lines += _model(model, notes, shown, name_width, digits, width, unicode)
    if len(board.models) > MODELS_MOST:
        lines.append([(f"… and {len(board.models) - MODELS_MOST} more models", "dim")])
    lines.append(_foot(board, now, width))
    if not unicode:
        lines = [[(ascii_only(text), style) for text, style in line] for line in lines]
    return [_cut(line, width, _mark(unicode)) for line in lines]


def _mark(unicode: bool) -> str:
    return "…" if unicode else "~"


def _head(board: Board, fit: Callable[[str], str]) -> list[Segment]:
    head: list[Segment] = [(f"{board.done:,} of {board.wanted:,}", "bold"), (" · ", "dim"), (fit(board.job), "bold")]
    if board.emulated:
        head.append((" EMULATED", "bold yellow"))
    if board.kept:
        head.append((f" · {board.kept:,} kept", "dim"))
    return head


def _model(
    model: ModelBoard, notes: list[Segment], name: str, name_width: int, digits: int, width: int, unicode: bool
) -> list[list[Segment]]:
    name = shortened(name, name_width, _mark(unicode))
    name += " " * (name_width - cells(name))
    figure = f"{model.done:>{digits},}/{model.wanted:,}"
    narrow = width < NARROW
    room = width - name_width - len(figure) - 4
    bar_width = max(4, room if narrow else min(40, max(8, room - NOTES_ROOM)))
    line: list[Segment] = [(name + "  ", ""), *_bar(model, bar_width, unicode), ("  " + figure, "")]
    notes = _as_many_as_fit(notes, width - 2 - (0 if narrow else name_width + bar_width + len(figure) + 4))
    if not narrow:
        return [[*line, ("  ", ""), *notes]]
    return [line, [("  ", ""), *notes]] if notes else [line]


def _as_many_as_fit(parts: Sequence[Segment], room: int) -> list[Segment]:
    """The first, cut if need be, and as many more as fit whole."""
    kept: list[Segment] = list(parts[:1])
    for part in parts[1:]:
        if sum(cells(text) for text, _ in kept) + 3 + cells(part[0]) > room:
            break
        kept += [(" · ", "dim"), part]
    return kept


def _bar(model: ModelBoard, width: int, unicode: bool) -> list[Segment]:
    """Made in green, ended without an image in yellow, the rest dim."""
    full, rest = ("━", "─") if unicode else ("=", "-")
    most = max(1, model.wanted)
    made = min(width, model.made * width // most)
    ended = min(width - made, -(-model.ended * width // most) if model.ended else 0)
    return [(full * made, "green"), (full * ended, "yellow"), (rest * (width - made - ended), "dim")]


def _notes(model: ModelBoard, outage: Outage | None, now: float) -> list[Segment]:
    """What keeps the model busy or back, the most telling first."""
    notes: list[Segment] = []
    if model.stopped:
        notes.append((f"stopped: {model.stopped}", "red"))
    if model.parked_until > now:
        notes.append((f"parked until {figures.local_time(model.parked_until, now)}", "red"))
    elif outage is not None:
        notes.append((outages.note(outage, now), "yellow"))
    elif model.cooling_until > now:
        notes.append((f"cooling until {figures.local_time(model.cooling_until, now)}", "yellow"))
    if model.open:
        notes.append((f"{len(model.open)} in flight", ""))
    elif not notes and model.done < model.wanted:
        notes.append(("waiting for quota or backoff", "dim"))
    if model.ended:
        notes.append((f"{model.ended:,} not made", "yellow"))
    if model.retries:
        notes.append((figures.count(model.retries, "retry", "retries"), "dim"))
    return notes


def _foot(board: Board, now: float, width: int) -> list[Segment]:
    if board.stopping:
        again = "; once more gives them up" if board.in_flight and board.stopping.startswith("SIG") else ""
        return [(f"stopping ({board.stopping}): finishing {board.in_flight} in flight{again}", "yellow")]
    left = board.left_s(now)
    parts = ["time left not known yet" if left is None else f"about {figures.duration(left)} left"]
    so_far = figures.total(board.usd, board.unpriced, "image")
    of = f" of about {figures.usd(board.estimate_usd)}" if board.estimate_usd is not None else ""
    for spent in (f"{so_far}{of}", so_far):
        if cells(parts[0]) + 3 + cells(spent) <= width:
            parts.append(spent)
            break
    parts.append(f"{figures.duration(now - board.started_at)} so far")
    return _as_many_as_fit([(part, "dim") for part in parts], width)


def _cut(line: Iterable[Segment], width: int, mark: str) -> list[Segment]:
    kept: list[Segment] = []
    for text, style in line:
        room = width - sum(cells(text) for text, _ in kept)
        if cells(text) > room:
            return [*kept, (shortened(text, room, mark), style)]
        kept.append((text, style))
    return kept


class Progress:
    """An observer that keeps the view on the screen while a run goes on. Use as a context manager."""

    def __init__(self, screen: Screen, clock: Callable[[], float] = time.time) -> None:
        self._screen = screen
        self._clock = clock
        self._telling = Telling()
        self._folding = threading.Lock()  # the view is drawn from a thread of its own
        self.board = Board()
        self._painter: Painter | None = None

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()

    def __call__(self, event: Event) -> None:
        with self._folding:
            self.board(event)
        for text, style in self._telling(event):
            self.say(text, style)
        if self.board.started_at and self.board.wanted and self._painter is None and not self.board.ended:
            self._painter = Painter(self._screen.stream, self._view)
            self._painter.start()
        if self.board.ended:
            self._stop()

    def _stop(self) -> None:
        if self._painter is not None:
            self._painter.stop()
            self._painter = None

    def say(self, text: str, style: str = "") -> None:
        """A line above the view."""
        screen = self._screen
        if self._painter is None:
            screen.line(text, style)
        else:
            self._painter.above([screen.styled(line, style) for line in screen.wrapped(screen.fit(text))])

    def _view(self) -> list[str]:
        screen = self._screen
        with self._folding:
            lines = draw(self.board, screen.columns, self._clock(), screen.fit, screen.unicode)
        most = max(1, screen.rows - 1)
        if len(lines) > most:  # a low window keeps the head and, if it can, the foot
            lines = [*lines[: most - 1], lines[-1]] if most > 1 else lines[:1]
        return ["".join(screen.styled(text, style) for text, style in line) for line in lines]
