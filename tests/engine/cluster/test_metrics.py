"""`worker --metrics`: whether a worker is well, what it has done, and how deep the queue is, for whoever operates it."""

from __future__ import annotations

import asyncio
import contextlib
import re
import time
import urllib.error
import urllib.request

import pytest

from batchgen.engine.cluster import queue
from batchgen.engine.cluster.heartbeat import Pulse
from batchgen.engine.cluster.worker import Worker, WorkerOptions
from batchgen.events import AttemptFailed, AttemptStarted, SampleSucceeded
from batchgen.ledger.postgresql import PostgreSQL
from batchgen.records import ImageFile
from batchgen.report import worker_server
from batchgen.report.metrics import METRICS, WORKER_METRICS
from batchgen.report.worker_server import WorkerCounters, WorkerServer
from batchgen.settings import Settings
from tests.support.bench import items
from tests.support.postgres import free_port

parser = pytest.importorskip("prometheus_client.parser", reason="NOT TESTED: prometheus_client is not installed")


def get(port: int, path: str, **headers: str) -> tuple[int, str]:
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:  # noqa: S310 - a worker of ours on loopback
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()
    except OSError:  # nobody listens there yet
        return 0, ""


def figures(text: str) -> dict[tuple[str, ...], float]:
    """By name and labels, those of job and model apart."""
    samples = [sample for family in parser.text_string_to_metric_families(text) for sample in family.samples]
    return {(s.name, *(v for k, v in sorted(s.labels.items()) if k not in ("job", "model"))): s.value for s in samples}


async def test_a_worker_is_well_while_its_server_hears_of_it_and_says_why_when_it_does_not(cluster):
    port = free_port()
    cluster.worker("--metrics", str(port))
    await cluster.until(lambda: get(port, "/healthz") == (200, "ok\n"))
    address, _, name = cluster.ledger.rpartition("/")
    with contextlib.closing(PostgreSQL(f"{address}/postgres", "public")) as server:
        server.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS false')
        try:
            sql = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = ? AND pid <> pg_backend_pid()"
            server.execute(sql, (name,))
            await cluster.until(lambda: get(port, "/healthz")[0] == 503)
            said = get(port, "/healthz")[1]
            assert "the ledger's server cannot be asked: " in said and said.count("\n") == 1
            assert ("batchgen_queue_depth", "ready") not in figures(get(port, "/metrics")[1])
        finally:
            server.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS true')
    await cluster.until(lambda: get(port, "/healthz") == (200, "ok\n"))


async def test_its_figures_are_what_it_has_done_and_what_there_is_to_do(slow_cluster):
    cluster, port = slow_cluster, free_port()
    cluster.worker("--metrics", f"127.0.0.1:{port}", "--concurrency", "2")
    await cluster.submit(items("[[fault:safety]] x", *"abcdefghijkl"))
    await cluster.until_sent("w1", 2)
    status, text = await asyncio.to_thread(get, port, "/metrics")
    found = figures(text)
    assert (status, found["batchgen_in_flight",], found["batchgen_workers",]) == (200, 2, 1)
    assert found["batchgen_queue_depth", "ready"] + found["batchgen_queue_depth", "taken"] == 13
    assert found["batchgen_queue_depth", "taken"] >= 2
    assert abs(found["batchgen_last_heartbeat_timestamp_seconds",] - time.time()) < 30
    await cluster.until(lambda: figures(get(port, "/metrics")[1]).get(("batchgen_images_total", "image"), 0) >= 2)
    found = figures(get(port, "/metrics")[1])
    assert found["batchgen_requests_total", "refused"] == 1
    assert found["batchgen_requests_total", "succeeded"] == found["batchgen_images_total", "image"]
    assert {name for name, *_ in found} <= set(METRICS)


async def test_a_page_of_another_name_reads_nothing_of_a_worker_on_loopback(cluster):
    port = free_port()
    cluster.worker("--metrics", str(port))
    await cluster.until(lambda: get(port, "/healthz")[0] == 200)
    assert get(port, "/metrics", Host=f"evil.example:{port}")[0] == 421
    assert get(port, "/metrics", Host=f"localhost:{port}")[0] == 200
    assert f"metrics at http://127.0.0.1:{port}/metrics" in cluster.said("w1")


def test_a_heartbeat_that_is_late_is_said_without_an_error(monkeypatch):
    pulse = Pulse()
    assert "has not joined the queue yet" in pulse.state()
    pulse.beat()
    assert pulse.state() == ""
    monkeypatch.setattr(queue, "STALE_S", -1.0)
    assert re.fullmatch("no heartbeat for 0 s", pulse.state())


def test_an_answer_for_several_samples_is_one_request():
    counters = WorkerCounters()
    file = ImageFile(path="a.png", sha256="0" * 64, bytes=1, width=1, height=1, format="png")
    for attempt in (1, 2):
        counters(AttemptStarted(at=1.0, attempt=attempt, key="a", model="m", number=1), job="j", run=1)
    for key in ("a", "a#2"):
        counters(SampleSucceeded(at=1.0, attempt=1, key=key, model="m", files=(file,), usd=0.1, seconds=1.0), job="j")
    how = {"reason": "safety", "message": "", "retry_in_s": None}
    counters(AttemptFailed(at=1.0, attempt=2, key="b", model="m", outcome="refused", **how), job="j")
    values = {(job, name, *labels): value for job, (name, labels, value) in counters.values(2.0)}
    assert values["j", "batchgen_requests_total", "m", "succeeded"] == 1
    assert values["j", "batchgen_requests_total", "m", "refused"] == 1
    assert values["j", "batchgen_images_total", "m", "image"] == 2
    assert values["j", "batchgen_in_flight", "m"] == 0


async def test_the_queue_is_walked_for_one_scrape_in_fifteen_seconds(database, monkeypatch):
    worker = Worker(database, Settings.load(), WorkerOptions(), lambda *_, **__: None)
    asked = []

    async def depths():
        asked.append(1)
        return 1, []

    monkeypatch.setattr(worker, "queue_depths", depths)
    server = WorkerServer(worker, WorkerCounters(), str, loopback=True)
    await server.metrics(None)
    await server.metrics(None)
    assert len(asked) == 1
    monkeypatch.setattr(worker_server, "DEPTH_MAX_AGE_S", 0.0)
    server._depths_until_s = 0.0
    await server.metrics(None)
    assert len(asked) == 2


def test_the_help_of_a_worker_does_not_call_its_own_counts_those_of_all_runs():
    counters = [
        name for name, made in WORKER_METRICS.items() if name in ("batchgen_images_total", "batchgen_requests_total")
    ]
    assert counters and all("all runs" not in WORKER_METRICS[name].help_text for name in counters)
