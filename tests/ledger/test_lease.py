"""Who holds a piece of work: one worker at a time, in turn, until it gives it back, ends it or falls silent."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from batchgen.engine.cluster import queue
from batchgen.errors import LedgerError
from batchgen.ledger import lease, work_queue
from batchgen.ledger.changes import insert_attempt
from batchgen.ledger.lease import SERVER_NOW, Holder
from batchgen.ledger.ledger import Ledger
from batchgen.ledger.location import SHARED_SCHEMA, LedgerServer, job_identity, read_pointer
from batchgen.ledger.pictures import SpooledPicture
from batchgen.ledger.postgresql import PostgreSQL
from batchgen.ledger.requests import IntendedRequest
from batchgen.ledger.worker_ledger import FencedLedger
from batchgen.records import ImageFile, Reply
from batchgen.store.store import Store
from tests.support.samples import make_sample, receipt_of
from tests.support.work import INSERT, LANE, job, rows_of

STALE_S = 30.0


@pytest.fixture
def server(database):
    queue.migrate(database)
    found = PostgreSQL(database, SHARED_SCHEMA)
    yield found
    found.close()


def claim(database: PostgreSQL, worker: str, count: int = 1, keys: Any = (), run: int = 1) -> list[str]:
    return database.transact(
        [lambda db: [row.item_id for row in lease.claim(db, Holder(worker, keys, STALE_S), run, LANE, count)]]
    )[0]


def alive(server: PostgreSQL, *names: str, ago_s: float = 0.0) -> None:
    for name in names:
        values = f"(?, 'h', 1, 5, 0, {SERVER_NOW} - ?) ON CONFLICT (name) DO UPDATE SET at = excluded.at"
        server.execute(f"INSERT INTO {SHARED_SCHEMA}.worker VALUES {values}", (name, ago_s))


def test_work_is_claimed_by_priority_and_in_the_order_of_the_run_by_one_worker_at_a_time(server):
    alive(server, "w1", "w2")
    db = job(server.url, "a", ("x", 0, 1), ("y", 0, 1), ("urgent", 5, 1), ("z", 0, 1), ("other", 0, 2))
    assert claim(db, "w1", 2) == ["urgent", "x"]
    assert claim(db, "w2", 9) == ["y", "z"]
    assert claim(db, "w1", 9, ("urgent", "x")) == []
    assert claim(db, "w2", 9, run=2) == ["other"]
    db.close()


def test_the_most_urgent_work_is_claimed_first_however_the_server_would_find_it(server):
    """Not only sorted when it has been claimed: which pieces are taken is a matter of turn."""
    alive(server, "w1")
    db = job(server.url, "a", *((f"k{n:03}", n % 7, 1) for n in range(200)), ("last", 9, 1))
    db.execute("UPDATE work SET body = body WHERE id % 3 = 0")  # so that they lie in another order than they came in
    turns = [row[0] for row in db.execute("SELECT item_id FROM work ORDER BY priority DESC, id").fetchall()]
    for scans in ("off", "on"):
        db.execute(f"SET enable_indexscan = {scans}")
        db.execute(f"SET enable_bitmapscan = {scans}")
        assert claim(db, "w1", 1) == turns[:1] == ["last"]
        db.execute("UPDATE work SET worker = ''")
    assert [key for _ in range(25) for key in claim(db, "w1", 4, turns)] == turns[:100]
    db.close()


def test_two_workers_that_claim_at_the_same_moment_wait_for_nobody_and_share_nothing(server):
    alive(server, "w1", "w2")
    db, other = job(server.url, "a", *((f"k{n}", 0, 1) for n in range(4))), PostgreSQL(server.url, "batchgen_job_a")
    with db._connection.transaction():
        first = lease.claim(db, Holder("w1", (), STALE_S), 1, LANE, 2)
        other.execute("SET lock_timeout = '2s'")
        assert claim(other, "w2", 9) == ["k2", "k3"]
    assert [row.item_id for row in first] == ["k0", "k1"]
    db.close(), other.close()


def test_work_of_a_worker_that_is_silent_or_has_left_is_free_and_that_of_a_living_one_is_not(server, monkeypatch):
    # Else whoever was silent before the server was started counts as alive for a while.
    monkeypatch.setattr(lease, "_FREE", lease._FREE.replace("extract(epoch FROM pg_postmaster_start_time())", "0"))
    alive(server, "w1", "left")
    db = job(server.url, "a", ("x", 0, 1), ("y", 0, 1), ("z", 0, 1))
    assert (claim(db, "w1"), claim(db, "left"), claim(db, "gone")) == (["x"], ["y"], ["z"])
    alive(server, "w1", ago_s=STALE_S - 5.0)
    server.execute(f"DELETE FROM {SHARED_SCHEMA}.worker WHERE name = 'left'")
    assert claim(db, "w2", 9) == ["y", "z"]
    alive(server, "w1", "w2", ago_s=STALE_S + 1.0)
    assert claim(db, "w3", 9) == ["x", "y", "z"]
    db.close()


def test_what_a_worker_gave_back_waits_for_its_time_and_then_for_anybody(server):
    alive(server, "w1", "w2")
    db = job(server.url, "a", ("x", 0, 1))
    assert claim(db, "w1") == ["x"]
    db.transact([lambda db: lease.release(db, "w2", "x", 0.0)])  # which does not have it
    assert claim(db, "w2") == []
    db.transact([lambda db: lease.release(db, "w1", "x", 3600.0)])
    assert (claim(db, "w2"), lease.has_work(server, ())) == ([], False)
    db.execute("UPDATE work SET ready_at = ready_at - 3595")
    assert (claim(db, "w2"), lease.has_work(server, ())) == ([], True)
    db.execute("UPDATE work SET ready_at = ready_at - 5")
    assert (claim(db, "w2"), lease.has_work(server, ()), lease.has_work(server, (LANE,))) == (["x"], True, False)
    db.close()


def test_a_claim_that_its_worker_knows_nothing_of_is_claimed_by_it_again(server):
    """Giving it back did not reach the server."""
    alive(server, "w1")
    db = job(server.url, "a", ("x", 0, 1), ("y", 0, 1))
    assert claim(db, "w1", 2) == ["x", "y"]
    assert claim(db, "w1", 2, ("y",)) == ["x"]
    db.close()


def test_workers_look_where_the_most_urgent_work_is_and_in_the_older_job_first(server):
    a, b = job(server.url, "a", ("x", 0, 7)), job(server.url, "b", ("y", 0, 1))

    def places(full: Any = (), closed: Any = ()) -> list[tuple[str, int]]:
        found = lease.next_work(server, Holder("w1", (), STALE_S), {}, full, closed)
        return [(work.schema[-1], work.run_id) for work in found]

    assert (places(), places((LANE,))) == ([("a", 7), ("b", 1)], [])
    b.execute(INSERT, rows_of(("later", 0, 2))[0])
    assert places(closed=[("batchgen_job_b", 1, False), ("batchgen_job_a", 7, True)]) == [("a", 7), ("b", 2)]
    b.execute("UPDATE work SET priority = 1 WHERE key = 'y'")
    assert places() == [("b", 1), ("a", 7)]
    server.execute("DROP SCHEMA batchgen_job_a CASCADE")  # by hand
    assert places() == [("b", 1)]
    a.close(), b.close()


def test_an_empty_lane_leaves_the_list_unless_somebody_submits_to_it_at_this_moment(server):
    db, other = job(server.url, "a", ("x", 0, 1)), PostgreSQL(server.url, SHARED_SCHEMA)

    def listed() -> int:
        return server.execute(f"SELECT count(*) FROM {SHARED_SCHEMA}.queue").fetchone()[0]

    server.transact([lease.forget_empty_lanes])
    assert listed() == 1
    db.execute("DELETE FROM work")
    with db._connection.transaction():
        db.execute(INSERT, rows_of(("y", 0, 1))[0])
        lease.announce(db, "batchgen_job_a")
        forgetting = threading.Thread(target=other.transact, args=([lease.forget_empty_lanes],))
        forgetting.start()
        forgetting.join(5.0)
        assert not forgetting.is_alive()  # it waits for nobody
    assert listed() == 1
    db.execute("DELETE FROM work")
    server.transact([lease.forget_empty_lanes])
    assert listed() == 0
    db.close(), other.close()


def test_who_listens_hears_of_work_that_is_submitted_or_given_back(server):
    listening = PostgreSQL(server.url, SHARED_SCHEMA)
    listening.execute(f"LISTEN {lease.CHANNEL}")
    assert not listening.wait_for_notification(0.1)
    db = job(server.url, "a", ("x", 0, 1))
    assert listening.wait_for_notification(10.0)
    alive(server, "w1")
    claim(db, "w1")
    db.transact([lambda db: lease.release(db, "w1", "x", 60.0)])
    assert not listening.wait_for_notification(0.1)
    claim(db, "w1")
    db.execute("UPDATE work SET worker = 'w1'")
    db.transact([lambda db: lease.release(db, "w1", "x", 0.0)])
    assert listening.wait_for_notification(10.0)
    db.close(), listening.close()


def test_who_listens_hears_of_work_that_waited_for_a_picture(server, tmp_path, monkeypatch):
    """An idle worker: the one that made the picture looks by itself."""
    monkeypatch.setenv("BATCHGEN_LEDGER", server.url)
    store, listening = Store(tmp_path / "out"), PostgreSQL(server.url, SHARED_SCHEMA)
    store.prepare()
    Ledger(store.folder, LedgerServer(server.url, "job", job_identity(store.root))).close()
    ledger = FencedLedger(server.url, read_pointer(store.folder).schema, 1, "w1")
    first, then = make_sample("a"), make_sample("b")

    def begin(db: Any) -> int:
        queue.create_work_tables(db)
        work_queue.insert_samples(db, 1, [(LANE, first, ()), (LANE, then, ["a"])])
        return insert_attempt(db, 1, IntendedRequest(first, LANE, 1, None), 1.0, worker="w1")

    listening.execute(f"LISTEN {lease.CHANNEL}")
    attempt = ledger.writer.submit(begin).result()
    assert not listening.wait_for_notification(0.1)
    file = ImageFile(path="a.png", sha256="0", bytes=4, width=1, height=1, format="png")
    settled = [SpooledPicture(1, 0, f"{attempt}.0", file, None)]
    ledger.attempt_succeeded(receipt_of(attempt, first, Reply(), settled, sent_at=1.0, usd=None, usd_source=""))
    assert listening.wait_for_notification(10.0)
    ledger.close(), listening.close()


def test_the_depth_of_the_queue_is_what_a_worker_could_take_or_has_and_needs_no_right_to_any_table(server):
    alive(server, "w1")
    first, second = (
        job(server.url, "a", ("x", 0, 1), ("y", 0, 1), ("z", 0, 1)),
        job(server.url, "b", ("x", 0, 1), ("gone", 0, 1)),
    )
    claim(first, "w1")
    first.execute(f"UPDATE work SET ready_at = {SERVER_NOW} + 3600 WHERE key = 'y'")
    second.execute("UPDATE work SET missing = 1 WHERE key = 'gone'")
    server.execute("DROP ROLE IF EXISTS autoscaler")
    server.execute("CREATE ROLE autoscaler")
    try:
        server.execute(f"GRANT USAGE ON SCHEMA {SHARED_SCHEMA} TO autoscaler")
        server.execute("SET ROLE autoscaler")
        assert server.execute(f"SELECT {SHARED_SCHEMA}.queue_depth()").fetchone() == (3,)
        with pytest.raises(LedgerError, match="permission denied"):
            server.execute(f"SELECT count(*) FROM {first.schema}.work")
    finally:
        server.execute("RESET ROLE")
        server.execute("DROP OWNED BY autoscaler")
        server.execute("DROP ROLE autoscaler")
    first.close()
    second.close()
