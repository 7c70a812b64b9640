"""The loop of a worker process: it answers requests, each for a function that is imported when first requested."""

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
OOM_SCORE = "700"  # if memory runs out, kill this process and not the run


def serve() -> None:
    """Read requests as JSON lines `["package.module:function", request]` from stdin and write answers as JSON lines to
    stdout, until stdin ends. Never outlives its run, without which stdin ends. Ctrl-C is for the run."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # it reaches this process where there are no sessions (Windows)
    if hasattr(os, "nice"):
        os.nice(NICENESS)
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w", encoding="ascii") as file:
        file.write(OOM_SCORE)
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # output of a library must not be taken for an answer
    parent = os.getppid()  # changes if the run dies, except on Windows, where the task is finished
    for line in sys.stdin.buffer:
        name, request = json.loads(line)
        answer = json.dumps(function_named(name)(request, lambda: os.getppid() == parent))
        answers.write(answer.encode() + b"\n")
        answers.flush()


@cache
def function_named(name: str) -> Any:
    """The function `package.module:function`, imported when first requested."""
    module, _, attribute = name.partition(":")
    return getattr(import_module(module), attribute)
