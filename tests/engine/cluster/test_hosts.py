"""Two hosts with a worker each, the servers on a third: one worker is killed, the other is cut off and comes back late."""

from __future__ import annotations

import json
import os
import signal
import sys
import urllib.request

import pytest

from batchgen.planning.plan import RetrySelection
from tests.support.bench import items
from tests.support.cluster import Cluster
from tests.support.hosts import PORT, SERVER, hosts

SAMPLES = 24
# A worker that takes others for dead after a few seconds, so that a test need not wait for half a minute.
IMPATIENT = (
    sys.executable, "-c",
    "import sys; from batchgen.engine.cluster import queue; queue.HEARTBEAT_S, queue.STALE_S = 0.7, 4.0;"
    "from batchgen.__main__ import main; sys.argv = ['batchgen', 'worker', *sys.argv[1:]]; main()",
)  # fmt: skip
HOLD = RetrySelection(states=frozenset({"failed"}))  # as --on-uncertain hold


pytestmark = pytest.mark.own_hosts


@pytest.fixture
async def network(tmp_path, monkeypatch):
    with hosts() as made:
        monkeypatch.setenv("BATCHGEN_LEDGER", made.url)
        cluster = Cluster(made.emulator, tmp_path, made.url)
        try:
            yield made, cluster
        finally:
            cluster.finish()


def billed() -> int:
    with urllib.request.urlopen(f"http://{SERVER}:{PORT}/_emulator/stats") as answer:
        return int(json.load(answer)["requests"])


async def test_nothing_is_lost_and_nothing_billed_twice_in_silence(network):
    made, cluster = network
    outcome = await cluster.submit(items(*(f"mug {n}" for n in range(SAMPLES))), hold_uncertain=True)
    assert outcome.submitted == SAMPLES
    inside = {host: ["nsenter", f"--net=/run/netns/{made.prefix}{host}"] for host in "ab"}
    killed = cluster.worker(start=IMPATIENT, name="killed", inside=inside["a"])
    cluster.worker(start=IMPATIENT, name="late", inside=inside["b"])
    await cluster.until(lambda: cluster.open_of("killed") >= 5 and cluster.open_of("late") >= 5)
    await cluster.until(lambda: billed() >= 10)
    os.killpg(killed.pid, signal.SIGKILL)
    made.cut("b")
    lost = {name: cluster.open_of(name) for name in ("killed", "late")}
    cluster.worker(start=IMPATIENT, name="third", inside=inside["a"])
    await cluster.until(lambda: given_up(cluster) == sum(lost.values()) and not cluster.open_of("third"), 90.0)
    made.mend("b")
    await cluster.until(lambda: given_up(cluster) == lost["killed"], 90.0)
    found = await cluster.watch(items(*(f"mug {n}" for n in range(SAMPLES))), retry_selection=HOLD, hold_uncertain=True)
    with cluster.reader() as reader:
        counts, requests, pictures = reader.counts(), reader.attempts(), reader.picture_request_count()
    # Of the one that was killed every request is named; what the late one had asked for came home.
    assert counts == {"succeeded": SAMPLES - lost["killed"], "uncertain": lost["killed"]}
    assert requests == {"succeeded": SAMPLES - lost["killed"], "uncertain": lost["killed"]}
    assert (billed(), pictures) == (SAMPLES, SAMPLES - lost["killed"])
    assert (len(cluster.pictures()), found.exit_code) == (SAMPLES - lost["killed"], 3)
    assert sorted(path.name for path in (cluster.folder / "out").iterdir() if path.is_dir()) == [".batchgen"]


def given_up(cluster: Cluster) -> int:
    with cluster.reader() as reader:
        return reader.attempts().get("uncertain", 0)
