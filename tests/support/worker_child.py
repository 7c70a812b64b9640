"""Workers that take over within seconds, forked from one warm process, each of which may die the hard way at one step.

One line of JSON starts a worker and is answered with its process number: name, options of WorkerOptions, environment, log,
die: [place, k] as tests.support.crash_child takes them. `{"wait": pid}` is answered with the exit code.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from importlib import import_module
from typing import Any

from tests.support.crash_child import die_at

HEARTBEAT_S, STALE_S = 0.25, 1.5


def work(said: dict[str, Any]) -> int:
    from batchgen.cli.main import run_command_line
    from batchgen.engine import http_attempt
    from batchgen.engine.cluster import queue, worker

    queue.HEARTBEAT_S, queue.STALE_S = HEARTBEAT_S, STALE_S
    http_attempt.FIRST_RETRY_DELAY_S = 0.001
    worker.POLL_S = 0.3
    os.setsid()
    os.environ.update(said["environment"])
    log = os.open(said["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(log, 1)
    os.dup2(log, 2)
    if said.get("die"):
        die_at(*said["die"])
    return run_command_line(["worker", "--name", said["name"], *said["options"]])


def ended(pid: int) -> int:
    """Its exit code; 99 when it did not end within half a minute and was killed."""
    give_up_s = time.monotonic() + 30.0
    while time.monotonic() < give_up_s:
        found, status = os.waitpid(pid, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.02)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return 99


def serve() -> None:
    for module in (
        "engine.cluster.worker",
        "engine.cluster.sample_session",
        "cli.worker",
        "report.event_text",
        "providers.gemini",
    ):
        import_module(f"batchgen.{module}")
    import_module("procrastinate")
    import_module("psycopg")
    for line in sys.stdin:
        said = json.loads(line)
        if "wait" in said:
            print(ended(said["wait"]), flush=True)
            continue
        child = os.fork()
        if not child:
            sys.stdin.close()
            code = 1
            try:
                code = work(said)
            except SystemExit as left:
                code = int(left.code or 0)
            finally:
                os._exit(code)
        print(child, flush=True)


if __name__ == "__main__":
    serve()
