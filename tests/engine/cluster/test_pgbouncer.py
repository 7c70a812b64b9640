"""Behind a pooler in transaction mode: no session is anybody's for longer than one transaction."""

from __future__ import annotations

import pytest

from batchgen.errors import JobLocked, LedgerError
from batchgen.ledger import run_lease
from batchgen.ledger.ledger import Ledger
from batchgen.ledger.location import LedgerServer, job_identity
from batchgen.ledger.server_access import ServerLock
from tests.support.bench import Bench, items
from tests.support.cluster import FAST, HEAD, cluster_on
from tests.support.pgbouncer import pooling

PROMPTS = "abcdefgh"


@pytest.fixture
def pooled(postgres, database):
    """The URL of a database behind a pooler that has fewer processes of the server than one worker has connections."""
    with pooling(postgres, server_connections=2) as port:
        yield database.replace(f":{postgres.port}/", f":{port}/")


@pytest.fixture
async def cluster(tmp_path, pooled, monkeypatch):
    monkeypatch.setenv("BATCHGEN_LEDGER", pooled)
    async for each in cluster_on(FAST, tmp_path, pooled):
        yield each


def opened(folder, url):
    return Ledger(folder, LedgerServer(url, "job", job_identity(str(folder))))


async def test_two_workers_make_a_job_with_derivatives_and_what_needs_a_picture_first(cluster):
    head = HEAD.replace("items:", "post: {derivatives: [{name: small, format: webp, width: 4}]}\nitems:")
    chain = items(*PROMPTS) + "  - {id: last, prompt: again, references: ['@i0']}\n"
    cluster.worker()
    cluster.worker()
    outcome = await cluster.watch(chain, head)
    assert (outcome.exit_code, len(cluster.pictures()), await cluster.requests()) == (0, 9, 9)
    with cluster.reader() as reader:
        assert reader.attempts() == {"succeeded": 9}
        assert next(iter(reader._query("SELECT count(*) FROM derivative WHERE state = 'made'")))[0] == 9
        assert len(list(reader.surplus_requests())) == 0  # read a page at a time
    again = await cluster.watch(chain, head)
    assert (again.exit_code, await cluster.requests()) == (0, 9)


async def test_a_run_of_its_own_makes_everything_once(tmp_path, pooled, cluster):
    bench = Bench(cluster.url, tmp_path, pooled)
    outcome = await bench.run(items(*PROMPTS))
    assert (outcome.exit_code, outcome.made) == (0, 8)
    assert ((await bench.run(items(*PROMPTS))).exit_code, await bench.requests()) == (0, 8)


async def test_names_go_with_the_transaction_and_stay_with_no_session(tmp_path, pooled):
    ledgers = []
    for name in ("a", "b"):
        (tmp_path / name / ".batchgen").mkdir(parents=True)
        ledgers.append(opened(tmp_path / name, pooled))
    for _ in range(5):
        for number, ledger in enumerate(ledgers):
            ledger.set_meta(own=str(number))
            assert ledger.reader.meta("own") == str(number)
    path = ledgers[0].database.execute("SELECT reset_val FROM pg_settings WHERE name = 'search_path'").fetchone()
    assert ledgers[0].database.pooled
    assert path == ('"$user", public',)
    for ledger in ledgers:
        ledger.close()


@pytest.mark.parametrize("ways", ["pp", "pd", "dp"])
def test_a_job_has_one_run_whether_it_comes_by_the_pooler_or_past_it(tmp_path, database, pooled, ways):
    (tmp_path / ".batchgen").mkdir()
    first, second = (opened(tmp_path, {"p": pooled, "d": database}[way]) for way in ways)
    ServerLock(first).acquire()
    with pytest.raises(JobLocked, match=r"another run holds this job \(process \d+ on .+\)"):
        ServerLock(second).acquire()
    ServerLock(first).release()
    ServerLock(second).acquire()
    first.close()
    second.close()


def test_a_run_that_died_holds_its_job_for_a_minute_and_writes_nothing_once_another_has_it(
    tmp_path, pooled, monkeypatch
):
    (tmp_path / ".batchgen").mkdir()
    first, second = opened(tmp_path, pooled), opened(tmp_path, pooled)
    monkeypatch.setattr(run_lease.RunLease, "keep", lambda lease, renew: None)  # as if it were suspended
    ServerLock(first).acquire()
    first.database.execute("UPDATE batchgen.run_lease SET until = until - ?", (run_lease.LEASE_S,))
    ServerLock(second).acquire()
    with pytest.raises(LedgerError, match=r"another run has taken this job over \(process \d+ on .+\)"):
        first.set_meta(a="b")
    assert second.reader.meta("a") is None
    first.close()
    second.close()
