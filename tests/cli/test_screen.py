"""What a run leaves on a screen, as a terminal in memory (pyte) and as tmux shows it."""

from __future__ import annotations

import codecs
import io
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence

import pyte
import pytest
from rich.text import Text

from batchgen.report.console import Console
from batchgen.report.progress import PinnedLive
from batchgen.sanitize import display_width
from tests.support.fork_server import PYTHON
from tests.support.paths import ROOT

pty = pytest.importorskip("pty")
ITEMS = {
    "mug": "A mug",
    "模型一号陶瓷杯子模型一号陶瓷杯子": "x [[fault:safety]]",
    "كوب-قهوة": "x [[fault:prohibited]]",
    "slow": "x [[fault:429*1]]",
    "tea": "A cup",
}


class Seen:
    """frames: the screen after each piece that was written. said: every line that ever stood there, the history included."""

    def __init__(self, code: int, frames: list[list[str]], said: list[str]) -> None:
        self.code = code
        self.frames = frames
        self.said = said


def line_text(screen: pyte.HistoryScreen, line: object) -> str:
    return "".join(line[at].data for at in range(screen.columns)).rstrip()  # type: ignore[index]


def watch(columns: int, rows: int, *argv: str, **environ: str) -> Seen:
    import fcntl
    import struct
    import termios

    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
    env = {**os.environ, "PYTHONPATH": str(ROOT), "TERM": "xterm-256color", **environ}
    command = [PYTHON, "-m", "batchgen", *argv]
    process = subprocess.Popen(command, stdin=theirs, stdout=subprocess.DEVNULL, stderr=theirs, env=env)
    os.close(theirs)
    guard = threading.Timer(40, process.kill)
    guard.start()
    screen = pyte.HistoryScreen(columns, rows, history=1000)
    stream, decoder, frames = pyte.Stream(screen), codecs.getincrementaldecoder("utf-8")(), []
    while True:
        try:
            chunk = os.read(ours, 65536)
        except OSError:  # Linux answers EIO when the other side has closed
            break
        if not chunk:
            break
        stream.feed(decoder.decode(chunk))
        frames.append([line.rstrip() for line in screen.display])
    os.close(ours)
    guard.cancel()
    said = [line_text(screen, line) for line in screen.history.top] + frames[-1]
    return Seen(process.wait(20), frames, said)


def heads(lines: list[str]) -> int:
    return sum(" of 5 · job EMULATED" in line for line in lines)


def rubbish(lines: list[str]) -> list[str]:
    """What belongs to the view and not to the lines that stay."""
    return [line for line in lines if "━" in line or "───" in line or " so far" in line or heads([line])]


@pytest.mark.parametrize("columns", [40, 80, 200])
def test_the_view_stands_once_and_leaves_nothing_behind(write, columns):
    seen = watch(columns, 50, "run", str(write(ITEMS)), "--emulate")
    assert (seen.code, max(map(heads, seen.frames)), rubbish(seen.said)) == (3, 1, [])
    text = "".join(line.replace(" ", "") for line in seen.said)
    for key in ("模型一号陶瓷杯子模型一号陶瓷杯子", "كوب-قهوة"):
        assert f"{key}:refused(" in text


def test_a_line_with_wide_characters_is_broken_at_a_space_before_the_terminal_has_to(write):
    seen = watch(40, 50, "run", str(write({"模型一号陶瓷杯子模型一号陶瓷杯子": "x [[fault:safety]]"})), "--emulate")
    assert "模型一号陶瓷杯子模型一号陶瓷杯子:" in seen.said


def test_a_log_file_goes_on_beside_the_view(write, tmp_path):
    log = tmp_path / "run.log"
    seen = watch(80, 50, "run", str(write(ITEMS)), "--emulate", "--log-file", str(log), "--log-format", "json")
    assert (max(map(heads, seen.frames)), rubbish(seen.said)) == (1, [])
    assert json.loads(log.read_text().splitlines()[-1])["event"] == "run.ended"


def test_a_low_window_keeps_the_view_in_its_rows(write):
    models = ["flash", "pro", "gemini-2.5-flash-image", "gemini-3-pro-image-preview", "google/nano-banana-pro"]
    rows = "".join(f"  - {{id: i{number}, prompt: x, model: {model}}}\n" for number, model in enumerate(models))
    manifest = write({})
    manifest.write_text(f"items:\n{rows}")
    seen = watch(60, 5, "run", str(manifest), "--emulate")
    assert (seen.code, max(map(heads, seen.frames)), rubbish(seen.said)) == (0, 1, [])


@pytest.mark.parametrize(("name", "value"), [("LC_ALL", "C"), ("LANG", "C"), ("PYTHONIOENCODING", "ascii")])
def test_without_unicode_all_is_plain_and_fits(write, monkeypatch, name, value):
    for other in ("LC_ALL", "LC_CTYPE", "LANG", "PYTHONIOENCODING", "PYTHONUTF8"):
        monkeypatch.delenv(other, raising=False)
    seen = watch(40, 50, "run", str(write(ITEMS)), "--emulate", **{name: value})
    bars = [line for frame in seen.frames for line in frame if "===" in line or "---" in line]
    assert "".join(seen.said).isascii()
    assert any(line.endswith("/5") for line in bars)
    assert all("/5" in line for line in bars)


@pytest.mark.parametrize("environ", [{"TERM": "dumb"}, {"TERM": "unknown"}, {"CI": "1"}])
def test_lines_only_where_nothing_may_be_drawn_anew(write, environ):
    seen = watch(80, 50, "run", str(write(ITEMS)), "--emulate", **environ)
    assert (seen.code, rubbish(seen.said)) == (3, [])
    assert sum("5 images to make" in line for line in seen.said) == 1


def test_a_run_loads_rich_for_its_live_view_alone():
    loaded = "import sys, batchgen.cli.run, batchgen.report.event_text, batchgen.report.summary; print('rich' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", loaded], capture_output=True, text=True).stdout == "False\n"


def test_a_timers_journal_gets_whole_lines_without_escapes(batchgen, write, monkeypatch):
    monkeypatch.setenv("JOURNAL_STREAM", "8:12345")
    answer = batchgen("run", str(write(ITEMS)), "--emulate")
    assert "\x1b" not in answer.err
    assert "模型一号陶瓷杯子模型一号陶瓷杯子: refused (safety): no image, finish reason SAFETY\n" in answer.err


@pytest.mark.parametrize("sign", ["❤️" * 60, "👩‍🚀" * 60, "模" * 90, "a\u0301" * 90, "ไม่มี" * 40])
def test_what_an_id_or_a_message_holds_never_makes_a_line_too_wide(sign):
    from batchgen.sanitize import truncate, wrapped

    for columns in (20, 39, 79):
        assert max(map(display_width, wrapped(f"{sign} and {sign}", columns, "    "))) <= columns
        assert display_width(truncate(sign, columns)) <= columns
    assert "".join(wrapped(sign, 20)) == sign


# --- what keeps the view in its place


class Window(io.StringIO):
    """A stream to a terminal."""

    def isatty(self) -> bool:
        return True


class View:
    """Draws one frame after the other, and the last for ever."""

    def __init__(self, *frames: list[str]) -> None:
        self.frames = list(frames)

    def __rich_console__(self, console: object, options: object) -> Iterator[Text]:
        lines = self.frames.pop(0) if len(self.frames) > 1 else self.frames[0]
        yield from (Text(line, no_wrap=True) for line in lines)


def shown(written: str) -> pyte.Screen:
    screen = pyte.Screen(40, 12)
    screen.set_mode(pyte.modes.LNM)  # a terminal's driver makes \r\n of \n
    pyte.Stream(screen).feed(written)
    return screen


def lines_on(screen: pyte.Screen) -> list[str]:
    return [line.rstrip() for line in screen.display if line.strip()]


@pytest.fixture
def live(monkeypatch):
    """Draws frames for a window that was 200 columns wide a moment ago and is 40 now, with these lines printed above;
    answers what stands there and the live display, which goes on."""
    monkeypatch.setenv("COLUMNS", "200")
    going_on = []

    def start(*frames: list[str], above: Sequence[str] = ()) -> tuple[pyte.Screen, PinnedLive]:
        going_on.append(live := PinnedLive(Console(Window(), {}), View(*frames)))
        live.refresh_per_second = 0.01  # no frame but those that are asked for
        live.start(refresh=True)
        for line in above:
            live.console.print(line)
        return shown(live.console.file.getvalue()), live

    yield start
    for live in going_on:
        live.stop()


def after(live: PinnedLive) -> list[str]:
    live.stop()
    return lines_on(shown(live.console.file.getvalue()))


def test_lines_stay_above_and_the_view_goes(live):
    screen, going_on = live(["head", "foot"], above=["one", "two\nthree"])
    assert lines_on(screen) == ["one", "two", "three", "head", "foot"]
    assert after(going_on) == ["one", "two", "three"]


def test_a_frame_that_is_wider_than_the_window_by_now_is_cut(live):
    screen, going_on = live(["a" * 100, "b" * 100, "foot"], above=["one", "two"])
    lines = lines_on(screen)
    assert (lines[:2], len(lines), lines[-1], after(going_on)) == (["one", "two"], 5, "foot", ["one", "two"])


def test_a_view_that_shrinks_leaves_no_old_lines(live):
    screen, _ = live(["a" * 30, "b", "c"], ["short"], above=["one"])
    assert lines_on(screen) == ["one", "short"]


def test_between_frames_the_cursor_rests_at_the_first_line_where_all_can_see_it(live):
    screen, _ = live(["head", "bar", "foot"], above=["one"])
    assert (screen.cursor.y, screen.cursor.x, screen.cursor.hidden) == (1, 0, False)


# --- tmux


@pytest.fixture
def tmux(tmp_path):
    """A server of its own; answers a function that runs one of its commands."""
    if shutil.which("tmux") is None:
        pytest.skip("NOT TESTED under tmux: it is not installed")
    socket = str(tmp_path / "tmux.socket")

    def command(*argv: str) -> str:
        env = {**os.environ, "LC_ALL": "C.UTF-8"}
        done = subprocess.run(["tmux", "-S", socket, "-f", os.devnull, *argv], capture_output=True, text=True, env=env)
        assert done.returncode == 0, done.stderr
        return done.stdout

    yield command
    subprocess.run(["tmux", "-S", socket, "kill-server"], capture_output=True)


@pytest.mark.parametrize(("before", "after"), [(100, 45), (45, 120)])
def test_a_window_that_is_resized_in_the_middle_shows_no_rubbish(tmux, write, before, after):
    def until(words: str) -> list[str]:
        for _ in range(1500):
            lines = tmux("capture-pane", "-p", "-S", "-").splitlines()
            if any(words in line for line in lines):
                return lines
            time.sleep(0.02)
        raise AssertionError(f"never came: {words}\n" + "\n".join(lines))

    manifest = write(ITEMS)
    # A full window, as people have: tmux moves the first rows of an empty one out of sight, the cursor's own included.
    run = f"{sys.executable} -m batchgen run {manifest} --emulate --concurrency 1; echo THE-END; sleep 60"
    size = ("-x", str(before), "-y", "40")
    tmux("new-session", "-d", *size, f"seq 60; PYTHONPATH={ROOT} XDG_STATE_HOME={manifest.parent} {run}")
    until("1 of 5 · job EMULATED")
    tmux("resize-window", "-x", str(after), "-y", "40")
    middle = until("3 of 5 · job EMULATED")
    assert (heads(middle), max(map(display_width, middle)) <= after) == (1, True), "\n".join(middle)
    assert rubbish(until("THE-END")) == []
