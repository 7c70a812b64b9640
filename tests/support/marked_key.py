"""One key and one password for the whole suite, and a search for them in everything that the suite has produced: files, output and log."""

from __future__ import annotations

import base64
import os
from pathlib import Path
from urllib.parse import quote

import pytest

from tests.support.postgres import PASSWORD

KEY = "MARKED/KEY+5f1d0c7e4b=never-to-be-written"


def _forms(secret: str, what: str = "") -> dict[str, bytes]:
    return {
        f"{what}as it is": secret.encode(),
        f"{what}in base64": base64.b64encode(secret.encode()).rstrip(b"="),
        f"{what}in hex": secret.encode().hex().encode(),
        f"{what}percent-encoded": quote(secret, safe="").encode(),
    }


FORMS = {**_forms(KEY), **_forms(PASSWORD, "of the ledger's server ")}
PIECE_BYTES = 1 << 20
VARIABLES = ("GEMINI_API_KEY", "AIMLAPI_API_KEY")

_found: list[str] = []
_searched = {"files": 0, "outputs": 0}


def found_in(data: bytes) -> str | None:
    """In which form the key is in there."""
    return next((name for name, form in FORMS.items() if form in data), None)


@pytest.fixture(autouse=True)
def marked_key(monkeypatch: pytest.MonkeyPatch) -> str:
    """Every test, and every process that it starts, has this key in its environment."""
    for name in VARIABLES:
        monkeypatch.setenv(name, KEY)
    return KEY


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    for title, text in report.sections:
        _searched["outputs"] += 1
        if form := found_in(text.encode(errors="replace")):
            _found.append(f"{report.nodeid}: {title}: the key {form}")


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    factory = getattr(session.config, "_tmp_path_factory", None)
    if factory is None or session.config.option.collectonly or hasattr(session.config, "workerinput"):
        return  # a worker of pytest-xdist: its folder lies in that of the controller, which searches when all have ended
    # A folder may go meanwhile: another session of pytest tidies up what this one's predecessors left.
    paths = (Path(folder, name) for folder, _, names in os.walk(factory.getbasetemp()) for name in names)
    for path in paths:
        if path.is_file() and not path.is_symlink():
            _searched["files"] += 1
            if form := _found_in_file(path):
                _found.append(f"{path}: the key {form}")
    if _found:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def _found_in_file(path: Path) -> str | None:
    longest = max(map(len, FORMS.values()))
    try:
        with path.open("rb") as file:
            before = b""
            while piece := file.read(PIECE_BYTES):
                if form := found_in(before + piece):
                    return form
                before = piece[-longest:]
    except OSError:
        return None  # a test took the right to read it away
    return None


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    for line in _found:
        terminalreporter.write_line(f"API KEY LEAKED: {line}", red=True)
    if not _found:
        terminalreporter.write_line(
            f"the marked API key is in none of {_searched['files']:,} files and {_searched['outputs']:,} outputs"
        )
