"""A dashboard's look at a job whose ledger is in PostgreSQL: what has changed is seen, and a server that has gone is told."""

from __future__ import annotations

import pytest

from batchgen.emulator import serve
from batchgen.profiles.catalogue import load_catalogue
from batchgen.report.dashboard.job_card import JobCard, JobLocation
from batchgen.report.dashboard.watched_job import WatchedJob
from batchgen.report.gallery_data import ManifestInfo
from batchgen.report.metrics import exposition
from tests.support.bench import FAST, Bench, items
from tests.support.postgres import PASSWORD


@pytest.fixture
async def bench(tmp_path, database, monkeypatch):
    monkeypatch.setenv("BATCHGEN_LEDGER", database)
    async with await serve(FAST) as emulator:
        yield Bench(emulator.base_url, tmp_path)


def watch_of(bench: Bench) -> WatchedJob:
    return WatchedJob(JobLocation(bench.folder / "out"), lambda *_: ManifestInfo(load_catalogue()), lambda _: None)


async def test_a_run_is_seen_and_nothing_new_is_no_news(bench):
    watch = watch_of(bench)
    watch.refresh(samples=True)
    assert watch.card.begun is False
    await bench.run(items("a"))
    assert watch.refresh(samples=True)
    assert isinstance(watch.card, JobCard), watch.card
    assert watch.card.samples == {"succeeded": 1}
    version = watch.version
    watch.refresh(samples=True)
    assert watch.version == version
    await bench.run(items("a", "b"))
    assert watch.refresh(samples=True)
    assert watch.card.samples == {"succeeded": 2}
    *_, samples = watch.changes_since(-1, "")
    assert {sample.id for sample in samples.samples} == {"i0", "i1"}


async def test_a_server_that_has_gone_is_told_without_the_password(bench, database, monkeypatch):
    await bench.run(items("a"))
    watch = watch_of(bench)
    watch.refresh(samples=False)
    monkeypatch.setenv("BATCHGEN_LEDGER", f"postgresql://u:{PASSWORD}@127.0.0.1:1/x")
    assert watch.refresh(samples=False)
    assert "postgresql://u@127.0.0.1:1/x cannot be used" in watch.card.problem
    assert PASSWORD not in str(watch.card)
    monkeypatch.setenv("BATCHGEN_LEDGER", database)
    assert watch.refresh(samples=False)
    assert isinstance(watch.card, JobCard)


async def test_metrics_of_such_a_job_are_those_of_any(bench):
    await bench.run(items("a"))
    assert b'batchgen_samples{job="job.emulated"' in exposition([bench.folder / "out"])[0]
