"""The live view of a run on a terminal: one bar for each AI model, drawn from the board, at any width."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Sequence

from batchgen.events import Event, Outage
from batchgen.report import formatting
from batchgen.report.console import Console
from batchgen.report.event_text import EventLines, outage_status
from batchgen.report.run_progress import ModelProgress, RunProgress
from batchgen.report.terminal_redraw import TerminalRedraw
from batchgen.sanitize import ascii_only, display_width, truncate
from batchgen.scheduling.stop_reason import StopKind

Segment = tuple[str, str]  # text, style
NARROW = 72  # below this the notes of a model stand on a line of their own
NOTES_ROOM = 38  # columns that the bar leaves to the notes beside it, where there are that many
MAX_MODELS = 12


def draw(
    run_progress: RunProgress, columns: int, now: float, fit: Callable[[str], str], unicode: bool = True
) -> list[list[Segment]]:
    """The lines of the view, none wider than `columns`. Pure; `fit` makes foreign text safe to show."""
    width = max(16, columns - 1)  # the last column stays free: some terminals wrap when it is written
    lines = [_head(run_progress, fit)]
    names = {name: fit(name) for name in list(run_progress.models)[:MAX_MODELS]}
    name_width = min(max(map(display_width, names.values()), default=0), max(14, width // 3) if width < NARROW else 32)
    digits = max((len(f"{model.wanted:,}") for model in run_progress.models.values()), default=1)
    for name, shown in names.items():
        model = run_progress.models[name]
        notes = _notes(model, run_progress.outage_for(name), now)
        lines += _model(model, notes, shown, name_width, digits, width, unicode)
    if len(run_progress.models) > MAX_MODELS:
        lines.append([(f"… and {len(run_progress.models) - MAX_MODELS} more models", "dim")])
    lines.append(_foot(run_progress, now, width))
    if not unicode:
        lines = [[(ascii_only(text), style) for text, style in line] for line in lines]
    return [_truncate_line(line, width, _ellipsis(unicode)) for line in lines]


def _ellipsis(unicode: bool) -> str:
    return "…" if unicode else "~"


def _head(run_progress: RunProgress, fit: Callable[[str], str]) -> list[Segment]:
    head: list[Segment] = [
        (f"{run_progress.done:,} of {run_progress.wanted:,}", "bold"),
        (" · ", "dim"),
        (fit(run_progress.job), "bold"),
    ]
    if run_progress.emulated:
        head.append((" EMULATED", "bold yellow"))
    if run_progress.kept:
        head.append((f" · {run_progress.kept:,} kept", "dim"))
    return head


def _model(
    model: ModelProgress, notes: list[Segment], name: str, name_width: int, digits: int, width: int, unicode: bool
) -> list[list[Segment]]:
    name = truncate(name, name_width, _ellipsis(unicode))
    name += " " * (name_width - display_width(name))
    figure = f"{model.done:>{digits},}/{model.wanted:,}"
    narrow = width < NARROW
    room = width - name_width - len(figure) - 4
    bar_width = max(4, room if narrow else min(40, max(8, room - NOTES_ROOM)))
    line: list[Segment] = [(name + "  ", ""), *_bar(model, bar_width, unicode), ("  " + figure, "")]
    notes = _fitting(notes, width - 2 - (0 if narrow else name_width + bar_width + len(figure) + 4))
    if not narrow:
        return [[*line, ("  ", ""), *notes]]
    return [line, [("  ", ""), *notes]] if notes else [line]


def _fitting(parts: Sequence[Segment], room: int) -> list[Segment]:
    """The first, cut if need be, and as many more as fit whole."""
    kept: list[Segment] = list(parts[:1])
    for part in parts[1:]:
        if sum(display_width(text) for text, _ in kept) + 3 + display_width(part[0]) > room:
            break
        kept += [(" · ", "dim"), part]
    return kept


def _bar(model: ModelProgress, width: int, unicode: bool) -> list[Segment]:
    """Made in green, ended without an image in yellow, the rest dim."""
    full, rest = ("━", "─") if unicode else ("=", "-")
    most = max(1, model.wanted)
    made = min(width, model.made * width // most)
    ended = min(width - made, -(-model.ended * width // most) if model.ended else 0)
    return [(full * made, "green"), (full * ended, "yellow"), (rest * (width - made - ended), "dim")]


def _notes(model: ModelProgress, outage: Outage | None, now: float) -> list[Segment]:
    """What keeps the model busy or back, the most telling first."""
    notes: list[Segment] = []
    if model.stopped:
        notes.append((f"stopped: {model.stopped}", "red"))
    if model.parked_until > now:
        notes.append((f"parked until {formatting.local_time(model.parked_until, now)}", "red"))
    elif outage is not None:
        notes.append((outage_status(outage, now), "yellow"))
    elif model.cooling_until > now:
        notes.append((f"cooling until {formatting.local_time(model.cooling_until, now)}", "yellow"))
    if model.open:
        notes.append((f"{len(model.open)} in flight", ""))
    elif not notes and model.done < model.wanted:
        notes.append(("waiting for quota or backoff", "dim"))
    if model.ended:
        notes.append((f"{model.ended:,} not made", "yellow"))
    if model.retries:
        notes.append((formatting.count(model.retries, "retry", "retries"), "dim"))
    return notes


def _foot(run_progress: RunProgress, now: float, width: int) -> list[Segment]:
    if (stop := run_progress.stopping) is not None:
        again = "; once more gives them up" if run_progress.in_flight and stop.kind is StopKind.SIGNAL else ""
        return [(f"stopping ({stop.slug}): finishing {run_progress.in_flight} in flight{again}", "yellow")]
    left = run_progress.remaining_s(now)
    parts = ["time left not known yet" if left is None else f"about {formatting.duration(left)} left"]
    so_far = formatting.total_usd(run_progress.usd, run_progress.unpriced, "image")
    of = f" of about {formatting.usd(run_progress.estimate_usd)}" if run_progress.estimate_usd is not None else ""
    for spent in (f"{so_far}{of}", so_far):
        if display_width(parts[0]) + 3 + display_width(spent) <= width:
            parts.append(spent)
            break
    parts.append(f"{formatting.duration(now - run_progress.started_at)} so far")
    return _fitting([(part, "dim") for part in parts], width)


def _truncate_line(line: Iterable[Segment], width: int, mark: str) -> list[Segment]:
    kept: list[Segment] = []
    for text, style in line:
        room = width - sum(display_width(text) for text, _ in kept)
        if display_width(text) > room:
            return [*kept, (truncate(text, room, mark), style)]
        kept.append((text, style))
    return kept


class ProgressView:
    """An observer that keeps the view on the screen while a run goes on. Use as a context manager."""

    def __init__(self, console: Console, clock: Callable[[], float] = time.time) -> None:
        self._console = console
        self._clock = clock
        self._event_lines = EventLines()
        self._lock = threading.Lock()  # the view is drawn from a thread of its own
        self.run_progress = RunProgress()
        self._redraw: TerminalRedraw | None = None

    def __enter__(self) -> ProgressView:
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()

    def __call__(self, event: Event) -> None:
        with self._lock:
            self.run_progress(event)
        for text, style in self._event_lines(event):
            self.print_line(text, style)
        if (
            self.run_progress.started_at
            and self.run_progress.wanted
            and self._redraw is None
            and not self.run_progress.ended
        ):
            self._redraw = TerminalRedraw(self._console.stream, self._view)
            self._redraw.start()
        if self.run_progress.ended:
            self._stop()

    def _stop(self) -> None:
        if self._redraw is not None:
            self._redraw.stop()
            self._redraw = None

    def print_line(self, text: str, style: str = "") -> None:
        """A line above the view."""
        console = self._console
        if self._redraw is None:
            console.line(text, style)
        else:
            self._redraw.print_above([console.styled(line, style) for line in console.wrapped(console.fit(text))])

    def _view(self) -> list[str]:
        console = self._console
        with self._lock:
            lines = draw(self.run_progress, console.columns, self._clock(), console.fit, console.unicode)
        most = max(1, console.rows - 1)
        if len(lines) > most:  # a low window keeps the head and, if it can, the foot
            lines = [*lines[: most - 1], lines[-1]] if most > 1 else lines[:1]
        return ["".join(console.styled(text, style) for text, style in line) for line in lines]
