"""A run at a real terminal of several widths: a pseudo-terminal of the operating system."""

from __future__ import annotations

import os
import re
import subprocess
import threading

import pytest

from batchgen.sanitize import display_width
from tests.support.fork_server import PYTHON
from tests.support.paths import ROOT

pty = pytest.importorskip("pty")
SEQUENCE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


@pytest.fixture
def at_terminal(monkeypatch):
    """Run a command with a terminal of that width on stdin and stderr, stdout too if wanted; answers what it wrote there.

    seen: is told all that was written so far, again and again."""
    import fcntl
    import struct
    import termios

    def run(
        columns: int, *argv: str, keys: bytes = b"", out: bool = False, seen=None, **environ: str
    ) -> tuple[int, str]:
        ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 50, columns, 0, 0))
        env = {**os.environ, "PYTHONPATH": str(ROOT), "TERM": "xterm-256color", **environ}
        command = [PYTHON, "-m", "batchgen", *argv]
        stdout = theirs if out else subprocess.DEVNULL
        process = subprocess.Popen(command, stdin=theirs, stdout=stdout, stderr=theirs, env=env)
        os.close(theirs)
        guard = threading.Timer(30, process.kill)  # a question nobody answers must not hang the tests
        guard.start()
        if keys:
            os.write(ours, keys)
        chunks = []
        while True:
            try:
                chunk = os.read(ours, 65536)
            except OSError:  # Linux answers EIO when the other side has closed
                break
            if not chunk:
                break
            chunks.append(chunk)
            if seen is not None:
                seen(b"".join(chunks).decode(errors="replace"))
        os.close(ours)
        guard.cancel()
        return process.wait(20), b"".join(chunks).decode()

    return run


def lines_of(text: str) -> list[str]:
    return re.split(r"[\r\n]+", SEQUENCE.sub("", text))


@pytest.mark.parametrize("columns", [40, 80, 200])
def test_no_line_is_wider_than_the_terminal(at_terminal, write, columns):
    items = {"mug": "A mug", "bad": "x [[fault:safety]]", "day": "x [[fault:429*1]]", "slow": "x [[fault:503*1]]"}
    code, text = at_terminal(columns, "run", str(write(items)), "--emulate")
    assert (code, max(map(display_width, lines_of(text))) <= columns) == (3, True)


def test_the_live_view_has_a_bar_for_the_model(at_terminal, write):
    _, text = at_terminal(80, "run", str(write({"mug": "A mug"})), "--emulate")
    assert re.search(r"gemini-nano-banana-2\.1  ─+  0/1  1 in flight", "\n".join(lines_of(text)))


@pytest.mark.parametrize(("argv", "environ"), [
    (["--no-progress"], {}), ([], {"CI": "1"}), ([], {"TERM": "dumb"}), (["--quiet"], {}),
])  # fmt: skip
def test_there_is_no_live_view_where_it_is_not_wanted(at_terminal, write, argv, environ):
    _, text = at_terminal(80, "run", str(write({"mug": "A mug"})), "--emulate", *argv, **environ)
    assert ("─" in text, "\x1b[2K" in text) == (False, False)


def test_no_color_is_obeyed(at_terminal, write):
    _, text = at_terminal(80, "run", str(write({"mug": "A mug"})), "--emulate", NO_COLOR="1")
    assert re.findall(r"\x1b\[[0-9;]*3[0-7]m", text) == []


def test_a_dear_run_asks_once_and_no_sends_nothing(at_terminal, write, emulator):
    emulator()
    manifest = write({f"mug-{number}": "A mug" for number in range(200)})
    code, text = at_terminal(80, "run", str(manifest), keys=b"n\n")
    assert (code, text.count("Go ahead?"), "nothing was sent" in text) == (2, 1, True)


STRANGE = "google/gemini-nano-banana-2.1"  # nobody knows its prices


@pytest.mark.parametrize(
    ("facts", "question"),
    [
        ("defaults: {model: aiml-nano-banana-2.1}", f"1 image, no price is known for {STRANGE}. Go ahead?"),
        (
            f"defaults: {{fallback: [{STRANGE}]}}",
            f"1 image, estimated $0.039; no price is known for {STRANGE}. Go ahead?",
        ),
    ],
    ids=["model", "fallback"],
)
def test_a_run_is_asked_about_when_any_price_is_unknown(at_terminal, write, emulator, facts, question):
    emulator()
    code, text = at_terminal(200, "run", str(write({"mug": "A mug"}, head=f"{facts}\n")), keys=b"n\n")
    assert (code, question in text, "nothing was sent" in text) == (2, True, True), text


def test_a_picture_of_unknown_price_that_exists_is_not_asked_about(at_terminal, write, emulator):
    emulator("--latency", "0")
    manifest = str(write({"mug": "A mug"}, head="defaults: {model: aiml-nano-banana-2.1}\n"))
    assert [("Go ahead?" in text, code) for code, text in (
        at_terminal(80, "run", manifest, "--yes"), at_terminal(80, "run", manifest)
    )] == [(False, 0), (False, 0)]  # fmt: skip


def test_yes_is_not_asked(at_terminal, write, emulator):
    emulator("--latency", "0")
    manifest = write({f"mug-{number}": "A mug" for number in range(200)})
    code, text = at_terminal(80, "run", str(manifest), "--yes", "--max-duration", "0.01s")
    assert ("Go ahead?" in text, code) == (False, 7)


def test_a_watch_draws_the_status_anew_until_the_run_has_ended(at_terminal, batchgen, write, spawn, emulator):
    emulator("--latency", "60-60")
    manifest = str(write({"mug": "A mug"}))
    run = spawn("run", manifest)
    while "is running since" not in batchgen("status", manifest).out:
        assert run.poll() is None

    def seen(text: str) -> None:
        if text.count("is running since") == 2:
            run.kill()

    code, text = at_terminal(80, "status", manifest, "--watch", out=True, seen=seen)
    assert (code, "died without an end" in text.split("\x1b[H\x1b[J")[-1]) == (0, True)


@pytest.mark.parametrize("columns", [40, 80, 200])
@pytest.mark.parametrize("argv", [("history",), ("models", "--all"), ("metrics",)])
def test_what_is_listed_fits_the_terminal_and_loses_nothing(at_terminal, batchgen, write, columns, argv):
    batchgen("run", str(write({"mug": "A mug", "bad": "x [[fault:safety]]"})), "--emulate")
    code, text = at_terminal(columns, *argv, out=True)
    assert (code, max(map(display_width, lines_of(text))) <= columns) == (0, True)
    if argv[0] in ("history", "models"):
        assert "…" not in text


def test_the_runs_are_one_line_each_at_eighty_columns_and_blocks_at_forty(at_terminal, batchgen, write):
    batchgen("run", str(write({"mug": "A mug", "bad": "x [[fault:safety]]"})), "--emulate")
    wide, narrow = (lines_of(at_terminal(columns, "history", out=True)[1]) for columns in (80, 40))
    assert [line.split()[0] for line in wide if line] == ["began", wide[1][:10]]
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d", narrow[0])
    assert "  job: job (emulated) · " in narrow[1]
    assert "not made: 1 refused" in " ".join(narrow)
