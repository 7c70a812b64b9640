"""The live view of a run on a terminal: one bar for each AI model, at any width, kept in place by rich."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence

from rich.console import Console as Terminal
from rich.console import ConsoleDimensions, ConsoleOptions, ConsoleRenderable, RenderableType, RenderResult
from rich.control import Control
from rich.live import Live
from rich.live_render import LiveRender
from rich.segment import ControlType, Segment
from rich.text import Text

from batchgen.events import Event
from batchgen.report import formatting
from batchgen.report.console import Console
from batchgen.report.event_text import EventLines, in_flight_text, left_out_text, outage_status, wait_text
from batchgen.report.run_progress import ModelProgress, RunProgress
from batchgen.scheduling.stop_reason import StopKind

Part = tuple[str, str]  # text, style
NARROW = 72  # below this, a model's notes are on a line of their own
NOTES_ROOM = 38  # columns left to the notes beside a bar, if possible
MAX_MODELS = 12
FRAMES_PER_S = 5
_PLAIN_SIGNS = str.maketrans("━─·…", "=--~")


def draw(
    run_progress: RunProgress, columns: int, now: float, fit: Callable[[str], str], unicode: bool = True
) -> list[Text]:
    """The lines of the view, none wider than `columns`. Pure; `fit` sanitizes text from others."""
    width = max(16, columns - 1)  # the last column stays free: some terminals wrap when it is written
    lines = [_head(run_progress, fit)]
    names = {name: Text(fit(name)) for name in list(run_progress.models)[:MAX_MODELS]}
    name_width = min(
        max((name.cell_len for name in names.values()), default=0), max(14, width // 3) if width < NARROW else 32
    )
    digits = max((len(f"{model.wanted:,}") for model in run_progress.models.values()), default=1)
    for name, shown in names.items():
        model = run_progress.models[name]
        shown.truncate(name_width, overflow="ellipsis", pad=True)
        lines += _model(model, _notes(run_progress, name, now), shown, digits, width)
    if len(run_progress.models) > MAX_MODELS:
        lines.append(Text(f"… and {len(run_progress.models) - MAX_MODELS} more models", "dim"))
    lines.append(_foot(run_progress, now, width))
    for line in lines:
        line.truncate(width, overflow="ellipsis")
        if not unicode:  # character by character, so that every style stays in place
            line.plain = line.plain.translate(_PLAIN_SIGNS).encode("ascii", "replace").decode()
    return lines


def _head(run_progress: RunProgress, fit: Callable[[str], str]) -> Text:
    head = [
        (f"{run_progress.done:,} of {run_progress.wanted:,}", "bold"),
        (" · ", "dim"),
        (fit(run_progress.job), "bold"),
    ]
    if run_progress.emulated:
        head.append((" EMULATED", "bold yellow"))
    if run_progress.kept:
        head.append((f" · {run_progress.kept:,} kept", "dim"))
    if run_progress.left_out:
        head.append((f" · {left_out_text(run_progress.left_out).removeprefix(', ')}", "dim"))
    return Text.assemble(*head)


def _model(model: ModelProgress, notes: Sequence[Part], name: Text, digits: int, width: int) -> list[Text]:
    figure = f"{model.done:>{digits},}/{model.wanted:,}"
    room = width - name.cell_len - len(figure) - 4
    if width < NARROW:
        line = Text.assemble(name, "  ", _bar(model, max(4, room)), f"  {figure}")
        return [line, Text.assemble("  ", _fitting(notes, width - 2))] if notes else [line]
    line = Text.assemble(name, "  ", _bar(model, min(40, max(8, room - NOTES_ROOM))), f"  {figure}  ")
    return [Text.assemble(line, _fitting(notes, width - line.cell_len))]


def _fitting(parts: Sequence[Part], room: int) -> Text:
    """The first part, cut if necessary, and as many more as fit whole."""
    kept = Text.assemble(*parts[:1])
    for part in parts[1:]:
        longer = Text.assemble(kept, (" · ", "dim"), part)
        if longer.cell_len > room:
            break
        kept = longer
    return kept


def _bar(model: ModelProgress, width: int) -> Text:
    """A bar: made in green, ended without an image in yellow, the rest dim."""
    most = max(1, model.wanted)
    made = min(width, model.made * width // most)
    ended = min(width - made, -(-model.ended * width // most) if model.ended else 0)
    return Text.assemble(("━" * made, "green"), ("━" * ended, "yellow"), ("─" * (width - made - ended), "dim"))


def _notes(run_progress: RunProgress, name: str, now: float) -> list[Part]:
    """What the model does or waits for, the most important first."""
    model, outage = run_progress.models[name], run_progress.outage_for(name)
    notes: list[Part] = []
    if model.stopped:
        notes.append((f"stopped: {model.stopped}", "red"))
    if model.parked_until > now:
        notes.append((f"parked until {formatting.local_time(model.parked_until, now)}", "red"))
    elif outage is not None:
        notes.append((outage_status(outage, now), "yellow"))
    elif model.cooling_until > now:
        notes.append((f"cooling until {formatting.local_time(model.cooling_until, now)}", "yellow"))
    elif model.waiting_until > now and model.done < model.wanted:
        notes.append((wait_text(model.waiting_for, model.waiting_until, now), "yellow"))
    if model.open:
        notes.append((in_flight_text(model, now), ""))
    elif not notes and model.done < model.wanted:
        notes.append((_idle_text(run_progress), "dim"))
    if model.ended:
        notes.append((f"{model.ended:,} not made", "yellow"))
    if model.retries:
        notes.append((formatting.count(model.retries, "retry", "retries"), "dim"))
    return notes


def _idle_text(run_progress: RunProgress) -> str:
    """Why a model has nothing in flight although nothing of its own prevents it."""
    if run_progress.batches:
        return f"{formatting.count(len(run_progress.batches), 'batch', 'batches')} out, not answered yet"
    if run_progress.in_flight:
        return f"waiting for {formatting.count(run_progress.in_flight, 'request')} in flight"
    return "preparing the next request"


def _foot(run_progress: RunProgress, now: float, width: int) -> Text:
    if (stop := run_progress.stopping) is not None:
        again = "; once more gives them up" if run_progress.in_flight and stop.kind is StopKind.SIGNAL else ""
        return Text(f"stopping ({stop.slug}): finishing {run_progress.in_flight} in flight{again}", "yellow")
    left = run_progress.remaining_s(now)
    time_left = "time left not known yet" if left is None else f"about {formatting.duration(left)} left"
    if run_progress.done >= run_progress.wanted:
        time_left = "all answered; placing and checking the files"
    elif run_progress.emulated and left is not None:
        time_left += " for the emulator"
    spent = formatting.total_usd(run_progress.usd, run_progress.unpriced, "image")
    if run_progress.estimate_usd is not None:
        of_estimate = f"{spent} of about {formatting.usd(run_progress.estimate_usd)}"
        spent = of_estimate if len(time_left) + 3 + len(of_estimate) <= width else spent
    elapsed = f"{formatting.duration(now - run_progress.started_at)} so far"
    return _fitting([(part, "dim") for part in (time_left, spent, elapsed)], width)


class ProgressView:
    """An observer that keeps the view on the screen while a run is going on. Use it as a context manager."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._event_lines = EventLines()
        self._lock = threading.Lock()  # rich draws from a thread of its own
        self.run_progress = RunProgress()
        self._live = PinnedLive(console, self)

    def __enter__(self) -> ProgressView:
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def __call__(self, event: Event) -> None:
        with self._lock:
            self.run_progress(event)
        for text, style in self._event_lines(event):
            self.print_line(text, style)
        if self.run_progress.ended:
            self._live.stop()
        elif self.run_progress.started_at and self.run_progress.wanted:
            self._live.start(refresh=True)

    def print_line(self, text: str, style: str = "") -> None:
        """Print a line above the view."""
        lines = self._console.wrapped(self._console.fit(text))
        self._live.console.print(Text("\n".join(lines), style), soft_wrap=True)

    def __rich_console__(self, console: Terminal, options: ConsoleOptions) -> RenderResult:
        with self._lock:
            fit, unicode = self._console.fit, self._console.unicode
            lines = draw(self.run_progress, options.max_width, time.time(), fit, unicode)
        most = max(2, options.size.height - 1)
        yield from lines if len(lines) <= most else [*lines[: most - 1], lines[-1]]  # a low window keeps head and foot


class PinnedLive(Live):
    """rich's live display on a terminal that may be resized at any moment, and used by a process that may die."""

    def __init__(self, console: Console, view: RenderableType) -> None:
        self._stream = console
        terminal = Terminal(
            file=console.stream, force_terminal=True, color_system="standard" if console.colour else None
        )
        super().__init__(
            view,
            console=terminal,
            refresh_per_second=FRAMES_PER_S,
            transient=True,
            redirect_stdout=False,
            redirect_stderr=False,
        )
        self._live_render = _PinnedRender(view)

    def process_renderables(self, renderables: list[ConsoleRenderable]) -> list[ConsoleRenderable]:
        self.console.size = ConsoleDimensions(self._stream.columns, self._stream.rows)  # the same for a whole frame
        return super().process_renderables(renderables)


class _PinnedRender(LiveRender):
    """Renders frames. Between frames the cursor rests on the first line of the view, where rich leaves it on the last,
    and it is visible: whatever a resized terminal makes of long lines, everything to be painted over is below it.

    A frame may be from a moment ago, when the window was wider: then its lines are cut, not wrapped (DEC autowrap, mode
    7). A terminal that supports it shows each frame as a whole (synchronized output, mode 2026).
    """

    def position_cursor(self) -> Control:
        return _Escape("\x1b[?2026h\r\x1b[J")

    def restore_cursor(self) -> Control:
        return _Escape("\x1b[A\r\x1b[J")  # rich has gone one line down

    def __rich_console__(self, console: Terminal, options: ConsoleOptions) -> RenderResult:
        yield _Escape("\x1b[?7l")
        yield from super().__rich_console__(console, options)
        up = f"\x1b[{self.last_render_height - 1}A" if self.last_render_height > 1 else ""
        yield _Escape(f"\x1b[?7h{up}\r\x1b[?25h\x1b[?2026l")


class _Escape(Control):
    """Escape sequences that rich has no name for."""

    def __init__(self, codes: str) -> None:
        self.segment = Segment(codes, None, [(ControlType.CARRIAGE_RETURN,)])
