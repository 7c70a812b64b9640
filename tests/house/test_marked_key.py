"""The search for the suite's key finds it where it must not be."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.paths import ROOT

LEAKS = {
    "a file": "def test_leaks(tmp_path, marked_key): (tmp_path / 'log').write_text(marked_key)",
    "a file in base64": "import base64\n"
    "def test_leaks(tmp_path, marked_key): (tmp_path / 'x').write_bytes(base64.b64encode(marked_key.encode()))",
    "a file with the password": "from tests.support.postgres import PASSWORD\n"
    "def test_leaks(tmp_path): (tmp_path / 'log').write_text('x' + PASSWORD)",
    "output": "def test_leaks(marked_key): print(marked_key)",
    "log": "import logging\ndef test_leaks(marked_key): logging.warning(marked_key)",
    "a child's output": "import subprocess, sys\n"
    "def test_leaks(): subprocess.run([sys.executable, '-c', 'import os; print(os.environ)'], check=True)",
}


WORKERS = ("-p", "xdist", "-n", "2", "--dist", "each")  # every test in both


def outcome(tmp_path: Path, text: str, *options: str) -> tuple[int, str]:
    (tmp_path / "test_it.py").write_text(text)
    (tmp_path / "empty.ini").write_text("[pytest]\n")
    command = [sys.executable, "-m", "pytest", "-q", "-c", "empty.ini", "-p", "tests.support.marked_key", "--basetemp", "base",
               "-p", "no:cacheprovider", *options, "test_it.py"]  # fmt: skip
    environ = {**os.environ, "PYTHONPATH": str(ROOT), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    done = subprocess.run(command, cwd=tmp_path, env=environ, capture_output=True, text=True, check=False)
    for path in (tmp_path / "base").rglob("*"):
        if path.is_file():
            path.unlink()  # or this suite would find it too
    return done.returncode, done.stdout


@pytest.mark.parametrize("where", LEAKS)
def test_a_key_that_leaks_makes_the_suite_fail(tmp_path, where):
    code, text = outcome(tmp_path, LEAKS[where])
    assert (code, "API KEY LEAKED" in text) == (1, True)


def test_a_key_that_leaks_in_any_of_several_workers_makes_the_suite_fail(tmp_path):
    code, text = outcome(tmp_path, "\n\n".join((LEAKS["a file"], LEAKS["output"].replace("leaks", "prints"))), *WORKERS)
    leaks = "\n".join(line for line in text.splitlines() if "API KEY LEAKED" in line)
    assert (code, [place for place in ("popen-gw0", "popen-gw1", "::test_prints") if place not in leaks]) == (1, [])


def test_a_suite_of_several_workers_that_keeps_the_key_to_itself_passes_and_all_their_files_were_searched(tmp_path):
    code, text = outcome(tmp_path, "def test_keeps(tmp_path): (tmp_path / 'log').write_text('nothing')", *WORKERS)
    assert (code, "the marked API key is in none of 2 files" in text) == (0, True)


def test_a_suite_that_keeps_the_key_to_itself_passes(tmp_path):
    code, text = outcome(tmp_path, "def test_keeps(tmp_path, marked_key): (tmp_path / 'log').write_text('nothing')")
    assert (code, "API KEY LEAKED" in text) == (0, False)
