"""What runs in a worker process: a loop over requests, each for a function that is named with it and imported when it is first asked."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
from functools import cache
from importlib import import_module
from typing import Any

NICENESS = 10
OOM_SCORE = "700"  # when memory runs out, this process is to go, not the run


def serve() -> None:
    """Requests as JSON lines `["package.module:function", request]` on stdin, answers as JSON lines on stdout, until stdin ends.
    Never outlives its run: without it stdin is at its end. Ctrl-C is the run's to mind."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # it reaches this process where there are no sessions (Windows)
    if hasattr(os, "nice"):
        os.nice(NICENESS)
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w", encoding="ascii") as file:
        file.write(OOM_SCORE)
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints must not be taken for an answer
    parent = os.getppid()  # another one once the run is dead, but on Windows, where the task is finished
    for line in sys.stdin.buffer:
        name, request = json.loads(line)
        answer = json.dumps(function_named(name)(request, lambda: os.getppid() == parent))
        answers.write(answer.encode() + b"\n")
        answers.flush()


@cache
def function_named(name: str) -> Any:
    """`package.module:function`, imported when it is first asked for."""
    module, _, attribute = name.partition(":")
    return getattr(import_module(module), attribute)
