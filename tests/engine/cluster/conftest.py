"""A queue of its own for each test: a real PostgreSQL, an emulator, and workers as the processes that they are."""

from __future__ import annotations

import pytest

from batchgen.emulator import EmulatorOptions
from tests.support.cluster import FAST, cluster_on


@pytest.fixture
async def cluster(tmp_path, database, monkeypatch):
    monkeypatch.setenv("BATCHGEN_LEDGER", database)
    async for each in cluster_on(FAST, tmp_path, database):
        yield each


@pytest.fixture
async def slow_cluster(tmp_path, database, monkeypatch):
    """Answers take two seconds: long enough to be killed in."""
    monkeypatch.setenv("BATCHGEN_LEDGER", database)
    options = EmulatorOptions(latency_s=(2.0, 2.0), picture="tiny", rpm=0)
    async for each in cluster_on(options, tmp_path, database):
        yield each


@pytest.fixture
async def fleet(tmp_path, database, monkeypatch):
    """Workers that notice within seconds when another has died; answers take long enough to be killed in."""
    monkeypatch.setenv("BATCHGEN_LEDGER", database)
    options = EmulatorOptions(latency_s=(0.3, 0.3), picture="tiny", rpm=0)
    async for each in cluster_on(options, tmp_path, database):
        yield each


@pytest.fixture
async def slow_fleet(tmp_path, database, monkeypatch):
    """The same, where a worker is taken for dead before an answer has come."""
    monkeypatch.setenv("BATCHGEN_LEDGER", database)
    options = EmulatorOptions(latency_s=(2.5, 2.5), picture="tiny", rpm=0)
    async for each in cluster_on(options, tmp_path, database):
        yield each
