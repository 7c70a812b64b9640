"""A night of the cluster: the daemon submits it, workers make it, and the daemon looks again until all is made."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from batchgen.daemon.scheduled_jobs import ScheduleState, ScheduleStateFile
from batchgen.schedule.due import BATCH_POLL_S, DAY_S
from tests.support.bench import items
from tests.support.cluster import HEAD
from tests.support.fork_server import PYTHON

FAILS = "[[fault:no_image]] c"


async def test_a_daemon_submits_a_night_once_and_its_next_look_ends_it_and_buys_nothing_again(cluster, monkeypatch):
    monkeypatch.setenv("BATCHGEN_GEMINI_BASE_URL", cluster.url)
    monkeypatch.setenv("GEMINI_API_KEY", "for-the-emulator")
    due = datetime.now(UTC) - timedelta(hours=2)
    times = {"at": f"{due:%H:%M}", "timezone": "UTC"}
    head = f"output: out\nschedule: {{at: '{times['at']}', timezone: UTC, engine: cluster}}\n"
    manifest = cluster.manifest(items("a", "b", FAILS), head + HEAD)
    state = ScheduleStateFile(cluster.folder / "daemon" / "batchgen" / "daemon", manifest)
    assert state.acquire()
    state.write(ScheduleState(schedule=json.dumps(times, separators=(",", ":")), since=time.time() - DAY_S / 2))
    state.release()

    async def daemon() -> tuple[int, int]:
        """Its exit code, and the requests so far."""
        environment = {**os.environ, "XDG_STATE_HOME": str(cluster.folder / "daemon")}
        command = [PYTHON, "-m", "batchgen", "daemon", str(manifest), "--once"]
        ended = await asyncio.to_thread(subprocess.run, command, env=environment, capture_output=True, check=False)
        return ended.returncode, await cluster.requests()

    assert await daemon() == (9, 0)
    assert await daemon() == (0, 0)  # nothing is due before it looks again
    cluster.worker("--until-empty")
    assert await asyncio.to_thread(cluster.workers[0].wait, 60.0) == 0
    made = await cluster.requests()
    before = state.read()
    state.write(replace(before, last=replace(before.last, ended=before.last.ended - BATCH_POLL_S)))  # a while later
    assert await daemon() == (3, made)
    assert [line["state"] for line in cluster.lines().values()] == ["succeeded", "succeeded", "failed"]
    assert await daemon() == (0, made)
