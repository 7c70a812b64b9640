"""A worker that takes over within seconds, and that may die the hard way at one step.

`worker_child DIE [OPTIONS]`: DIE is JSON, null or [place, k] as `tests.support.crash_child` takes them; OPTIONS are those of `worker`.
TEST_CODEC: of one from outside, as `crash_child` takes it.
"""

from __future__ import annotations

import json
import os
import sys

from batchgen.cli.main import run_command_line
from batchgen.engine import http_attempt
from batchgen.engine.cluster import derivative_session, queue, sample_session, session, worker
from tests.support.crash_child import add_codec, die_at

HEARTBEAT_S, STALE_S = 0.25, 1.5


def main(die: str, *options: str) -> int:
    queue.HEARTBEAT_S, queue.STALE_S = HEARTBEAT_S, STALE_S
    http_attempt.FIRST_RETRY_DELAY_S = 0.001
    worker.POLL_S = 0.3
    for module in (worker, session, sample_session, derivative_session):
        module.RETRY_DELAY_S = 1.0
    if codec := os.environ.get("TEST_CODEC"):
        add_codec(codec)
    if step := json.loads(die):
        die_at(*step)
    return run_command_line(["worker", *options])


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
