"""`run --metrics-file` and `batchgen metrics`: read back by Prometheus' own parser."""

from __future__ import annotations

import json
import re
import sys
import time

import pytest

from batchgen.events import AttemptStarted, RunStarted
from batchgen.report import metrics
from batchgen.report.metrics import METRICS
from batchgen.store.lock import JobLock

pytest.importorskip("prometheus_client", reason="NOT TESTED: prometheus_client is not installed")
REFUSED = "x [[fault:safety]]"


def read(path):
    from prometheus_client.parser import text_string_to_metric_families

    families = list(text_string_to_metric_families(path.read_text()))
    samples = [sample for family in families for sample in family.samples]
    return {(s.name, *(v for k, v in sorted(s.labels.items()) if k not in ("job", "model"))): s for s in samples}


def test_a_run_tells_what_it_made_what_it_cost_and_how_it_ended(batchgen, write, tmp_path):
    manifest, path = str(write({"mug": "A mug", "bad": REFUSED})), tmp_path / "job.prom"
    assert batchgen("run", manifest, "--emulate", "--metrics-file", str(path)).code == 3
    found = read(path)
    assert found["batchgen_images_total", "image"].value == 1
    assert {found["batchgen_requests_total", outcome].value for outcome in ("succeeded", "refused")} == {1}
    assert found["batchgen_usd_total", "usage"].value > 0
    assert found["batchgen_samples", "refused"].value == 1
    assert (found[("batchgen_run_exit_code",)].value, found[("batchgen_in_flight",)].value) == (3, 0)
    assert ("batchgen_last_success_timestamp_seconds",) not in found
    assert found[("batchgen_in_flight",)].labels["job"] == "job.emulated"
    assert found[("batchgen_in_flight",)].labels["model"] == found["batchgen_samples", "refused"].labels["model"]
    assert {name.partition("{")[0] for name, *_ in found} <= set(METRICS)
    write({"mug": "A mug", "cup": "A cup"})
    assert batchgen("run", manifest, "--emulate", "--metrics-file", str(path)).code == 0
    found = read(path)
    assert found["batchgen_images_total", "image"].value == 2  # over all runs
    assert ("batchgen_last_success_timestamp_seconds",) in found
    assert [path.name for path in tmp_path.glob("*.prom*")] == ["job.prom"]


def test_a_run_that_could_not_begin_tells_its_exit_code(batchgen, write, tmp_path):
    path = tmp_path / "job.prom"
    assert batchgen("run", str(write({"a b": "A mug"})), "--emulate", "--metrics-file", str(path)).code == 2
    assert read(path)[("batchgen_run_exit_code",)].value == 2


@pytest.mark.parametrize("name", ["gone/job.prom", "job.txt"])
def test_a_file_that_nobody_would_read_is_refused_before_anything_is_sent(batchgen, write, name):
    assert batchgen("run", str(write({"mug": "A mug"})), "--emulate", "--metrics-file", name).code == 2


def test_without_the_library_the_extra_is_named(batchgen, write, monkeypatch):
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    answer = batchgen("run", str(write({"mug": "A mug"})), "--emulate", "--metrics-file", "job.prom")
    assert (answer.code, "batchgen[metrics]" in answer.err) == (2, True)


def test_the_file_is_written_while_the_run_goes_on(tmp_path, monkeypatch):
    monkeypatch.setattr(metrics, "WRITE_INTERVAL_S", 0.02)
    path = tmp_path / "job.prom"
    with metrics.MetricsFile(str(path), "job", tmp_path) as watching:
        watching(RunStarted(at=time.time(), run_id=1, job="job", samples={"m": 1}, kept=0, usd=None, eta_s=None))
        watching(AttemptStarted(at=time.time(), attempt=1, key="a", model="m", number=1))
        deadline = time.monotonic() + 10
        while not path.exists() or read(path)[("batchgen_in_flight",)].value != 1:
            assert time.monotonic() < deadline
            time.sleep(0.02)


def test_a_run_that_found_the_job_held_leaves_the_file_to_the_other(batchgen, write, tmp_path):
    manifest, path = str(write({"a": "A mug"})), tmp_path / "job.prom"
    batchgen("run", manifest, "--emulate")
    path.write_text("of the other run\n")
    lock = JobLock(tmp_path / "job.emulated")
    lock.acquire()
    try:
        assert batchgen("run", manifest, "--emulate", "--fresh", "--metrics-file", str(path)).code == 11
    finally:
        lock.release()
    assert path.read_text() == "of the other run\n"


def test_the_dashboard_and_the_list_name_only_what_is_written(batchgen):
    dashboard = json.loads(batchgen("metrics", "--grafana").out)
    used = set(re.findall(r"\bbatchgen_\w+", json.dumps(dashboard["panels"])))
    assert used and used <= set(METRICS)
    assert all(name in batchgen("metrics").out for name in METRICS)
