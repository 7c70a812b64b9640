"""The live view of a run on a terminal: one bar for each AI model, drawn from the board, at any width."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from batchgen.events import Event
from batchgen.report import figures
from batchgen.report.board import Board, ModelBoard
from batchgen.report.clean import ascii_only, cells, shortened
from batchgen.report.lines import Telling
from batchgen.report.screen import Screen

if TYPE_CHECKING:
    from rich.console import Console
    from rich.live import Live
    from rich.text import Text

Segment = tuple[str, str]  # text, style
NARROW = 72  # below this the notes of a model stand on a line of their own
MODELS_MOST = 12


def draw(
    board: Board, columns: int, now: float, fit: Callable[[str], str], unicode: bool = True
) -> list[list[Segment]]:
    """The lines of the view, none wider than `columns`. Pure; `fit` makes foreign text safe to show."""
    width = max(16, columns - 1)  # the last column stays free: some terminals wrap when it is written
    lines = [_head(board, fit)]
    names = {name: fit(name) for name in list(board.models)[:MODELS_MOST]}
    name_width = min(max(map(cells, names.values()), default=0), 14 if width < NARROW else 32)
    digits = max((len(f"{model.wanted:,}") for model in board.models.values()), default=1)
    for name, shown in names.items():
        lines += _model(board.models[name], shown, name_width, digits, width, now, unicode)
    if len(board.models) > MODELS_MOST:
        lines.append([(f"… and {len(board.models) - MODELS_MOST} more models", "dim")])
    lines.append(_foot(board, now))
    if unicode:
        return [_cut(line, width) for line in lines]
    plain = [[(ascii_only(text), style) for text, style in line] for line in lines]
    return [[(text.replace("…", "~"), style) for text, style in _cut(line, width)] for line in plain]


def _head(board: Board, fit: Callable[[str], str]) -> list[Segment]:
    head: list[Segment] = [(f"{board.done:,} of {board.wanted:,}", "bold"), (" · ", "dim"), (fit(board.job), "bold")]
    if board.emulated:
        head.append((" EMULATED", "bold yellow"))
    if board.kept:
        head.append((f" · {board.kept:,} kept", "dim"))
    return head


def _model(
    model: ModelBoard, name: str, name_width: int, digits: int, width: int, now: float, unicode: bool
) -> list[list[Segment]]:
    name = shortened(name, name_width)
    name += " " * (name_width - cells(name))
    figure = f"{model.done:>{digits},}/{model.wanted:,}"
    notes = _notes(model, now)
    narrow = width < NARROW
    room = width - name_width - len(figure) - 4
    bar_width = max(4, room if narrow else min(40, room - 24))
    line: list[Segment] = [(name + "  ", ""), *_bar(model, bar_width, unicode), ("  " + figure, "")]
    if not narrow:
        return [[*line, ("  ", ""), *notes]]
    return [line, [("  ", ""), *notes]] if notes else [line]


def _bar(model: ModelBoard, width: int, unicode: bool) -> list[Segment]:
    """Made in green, ended without an image in yellow, the rest dim."""
    full, rest = ("━", "─") if unicode else ("=", "-")
    most = max(1, model.wanted)
    made = min(width, model.made * width // most)
    ended = min(width - made, -(-model.ended * width // most) if model.ended else 0)
    return [(full * made, "green"), (full * ended, "yellow"), (rest * (width - made - ended), "dim")]


def _notes(model: ModelBoard, now: float) -> list[Segment]:
    """What keeps the model busy or back, the most telling first."""
    notes: list[Segment] = []
    if model.stopped:
        notes.append((f"stopped: {model.stopped}", "red"))
    if model.parked_until > now:
        notes.append((f"parked until {figures.local_time(model.parked_until, now)}", "red"))
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
    return [part for note in notes for part in ((" · ", "dim"), note)][1:]


def _foot(board: Board, now: float) -> list[Segment]:
    if board.stopping:
        again = "; once more gives them up" if board.in_flight and board.stopping.startswith("SIG") else ""
        return [(f"stopping ({board.stopping}): finishing {board.in_flight} in flight{again}", "yellow")]
    left = board.left_s(now)
    parts = ["time left not known yet" if left is None else f"about {figures.duration(left)} left"]
    of = f" of about {figures.usd(board.estimate_usd)}" if board.estimate_usd is not None else ""
    unpriced = f" + {board.unpriced:,} of unknown price" if board.unpriced else ""
    parts.append(f"{figures.usd(board.usd)}{unpriced}{of}")
    parts.append(f"{figures.duration(now - board.started_at)} so far")
    return [(" · ".join(parts), "dim")]


def _cut(line: Iterable[Segment], width: int) -> list[Segment]:
    kept: list[Segment] = []
    for text, style in line:
        room = width - sum(cells(text) for text, _ in kept)
        if cells(text) > room:
            return [*kept, (shortened(text, room), style)]
        kept.append((text, style))
    return kept


class Progress:
    """An observer that keeps the view on the screen while a run goes on. Use as a context manager."""

    def __init__(self, screen: Screen, clock: Callable[[], float] = time.time) -> None:
        from rich.console import Console

        self._screen = screen
        self._clock = clock
        self._telling = Telling()
        self.board = Board()
        self._live: Live | None = None
        self._console: Console = Console(
            file=screen.stream, force_terminal=True, no_color=not screen.colour, highlight=False, soft_wrap=True
        )

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()

    def __call__(self, event: Event) -> None:
        self.board(event)
        for text, style in self._telling(event):
            self.say(text, style)
        if self.board.started_at and self.board.wanted and self._live is None and not self.board.ended:
            self._start()
        if self.board.ended:
            self._stop()

    def _start(self) -> None:
        from rich.live import Live

        self._live = Live(get_renderable=self._view, console=self._console, refresh_per_second=5, transient=True,
                          redirect_stdout=False, redirect_stderr=False)  # fmt: skip
        self._live.start()

    def _stop(self) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None

    def say(self, text: str, style: str = "") -> None:
        """A line above the view."""
        from rich.text import Text

        if self._live is None:
            self._screen.line(text, style)
        else:
            for line in self._screen.wrapped(self._screen.fit(text)):
                self._console.print(Text(line, style=style))

    def _view(self) -> Text:
        from rich.text import Text

        board = self.board
        lines = draw(board, self._screen.columns, self._clock(), self._screen.fit, self._screen.unicode)
        text = Text(no_wrap=True, overflow="crop")
        for number, line in enumerate(lines):
            text.append("\n" if number else "")
            for part, style in line:
                text.append(part, style=style)
        return text
