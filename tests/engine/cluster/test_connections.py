"""A worker's connections to its server: as many for ten jobs as for one."""

from __future__ import annotations

import asyncio

import psycopg

from batchgen.engine.cluster.queue import CONNECTIONS
from tests.support.bench import items
from tests.support.cluster import HEAD, Cluster

DERIVATIVES = "post: {derivatives: [{name: small, format: webp, width: 4}]}\nitems:"
OF_WORKER = (
    "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend' AND datname = current_database()"
    " AND (application_name LIKE %s OR application_name LIKE %s)"
)


async def test_a_worker_has_at_most_four_connections_however_many_jobs_it_is_at(fleet):
    names = ("a", "b", "c")
    jobs = []
    for name in names:
        (fleet.folder / name).mkdir()
        jobs.append(Cluster(fleet.url, fleet.folder / name, fleet.ledger))
        await jobs[-1].submit(items(*(f"{name} {n}" for n in range(6))), HEAD.replace("items:", DERIVATIVES))
    worker = fleet.impatient("--post-processes", "1")
    most = 0
    with psycopg.connect(fleet.ledger, autocommit=True) as watching:
        async with asyncio.timeout(60.0):
            while any(len(job.pictures()) < 6 for job in jobs):
                row = watching.execute(OF_WORKER, ("batchgen % w1", f"batchgen % {worker.pid} %")).fetchone()
                assert row is not None
                most = max(most, row[0])
                await asyncio.sleep(0.005)
    assert 3 <= most <= CONNECTIONS
