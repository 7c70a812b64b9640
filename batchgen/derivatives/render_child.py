"""What runs in a worker process: tasks as JSON lines on stdin, their rows on stdout, until stdin ends."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys

from batchgen.derivatives.render import render

NICENESS = 10
OOM_SCORE = "700"  # when memory runs out, this process is to go, not the run


def serve() -> None:
    """Never outlives its run: without it stdin is at its end. Ctrl-C is the run's to mind."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # it reaches this process where there are no sessions (Windows)
    if hasattr(os, "nice"):
        os.nice(NICENESS)
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w", encoding="ascii") as file:
        file.write(OOM_SCORE)
    parent = os.getppid()  # another one once the run is dead, but on Windows, where the task is finished
    for line in sys.stdin.buffer:
        answer = json.dumps(render(json.loads(line), lambda: os.getppid() == parent)).encode()
        sys.stdout.buffer.write(answer + b"\n")
        sys.stdout.buffer.flush()
