"""What the shell that runs the tests ignores or blocks does not reach the processes that tests start."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

from tests.support.paths import ROOT

PROGRAM = """
import signal, subprocess, sys
from tests.conftest import pytest_configure
pytest_configure()
ask = "import signal as s; print([s.getsignal(n).name for n in (s.SIGHUP, s.SIGTERM)], s.pthread_sigmask(s.SIG_BLOCK, ()))"
print(subprocess.run([sys.executable, "-c", ask], capture_output=True, text=True).stdout, end="")
import os
os.kill(os.getpid(), signal.SIGHUP)
print("and this one lives")
"""


@pytest.mark.skipif(sys.platform == "win32", reason="there are no such signals")
def test_a_child_of_a_test_has_every_signal_at_its_default_and_the_tests_still_outlive_their_terminal():
    def inherit() -> None:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})

    command = [sys.executable, "-c", PROGRAM]
    done = subprocess.run(command, preexec_fn=inherit, capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.stdout == "['SIG_DFL', 'SIG_DFL'] set()\nand this one lives\n", done.stderr
