"""What workers record many rows at a time is what one row at a time would be, and binds each by itself."""

from __future__ import annotations

import asyncio
import contextlib
import json
from dataclasses import replace

import pytest

from batchgen.engine.cluster import queue
from batchgen.ledger.ledger import Ledger
from batchgen.ledger.location import LedgerServer, register_job
from batchgen.ledger.pictures import Receipt, SpooledPicture
from batchgen.ledger.postgresql import PostgreSQL
from batchgen.ledger.requests import Fenced, IntendedRequest
from batchgen.ledger.work_queue import Submission, add_submission, insert_samples
from batchgen.ledger.worker_changes import Start, start_attempts
from batchgen.ledger.worker_ledger import FencedLedger
from batchgen.records import ImageFile, Usage
from tests.support.samples import make_sample

LANE = "gemini/m"
FACTS = Submission(name="j", folder="/", bucket="", hold_uncertain=False, emulator_url=None, version="0")


def job(url: str, name: str, number: int = 6, budget_usd: float | None = None) -> PostgreSQL:
    """With samples i0, i1, …, of which i1 waits for i0 and has derivatives."""
    queue.migrate(url)
    with contextlib.closing(queue.open_server(url, "test")) as server:
        schema = register_job(server, LedgerServer(url, name, name)).schema
    database = PostgreSQL(url, schema)
    rows = [(LANE, make_sample(f"i{n}"), ("i0",) if n == 1 else ()) for n in range(number)]
    database.transact(
        [
            queue.create_work_tables,
            lambda db: add_submission(db, 1, FACTS, budget_usd, None),
            lambda db: insert_samples(db, 1, rows),
        ]
    )
    return database


async def claimed(database: PostgreSQL, worker: str = "w") -> FencedLedger:
    ledger = FencedLedger(database.url, database.schema, 1, worker)
    await ledger.claim(LANE, 10, (), 30.0)
    return ledger


def request(name: str, usd: float | None = 0.03) -> IntendedRequest:
    return IntendedRequest(make_sample(name), LANE, 1, usd, sent_as="so", facts={"a": 1})


def receipt(attempt: int, name: str, **facts: object) -> Receipt:
    file = ImageFile(path=f"{name}.png", sha256="ab" * 32, bytes=3, width=4, height=5, format="png", flags=("ratio",))
    given = {
        "usd": 0.04, "usd_source": "usage", "usage": Usage(text_tokens=7), "text": "it\0s", "reply_id": "r",
        "model_version": "v", "sent_at": 5.0, "beside": {".txt": "x"},
    }  # fmt: skip
    picture = SpooledPicture(1, 0, f"{attempt}.0", file, 0.04)
    return Receipt(attempt=attempt, item=name, n=1, fingerprint=f"fp-{name}", pictures=(picture,), **{**given, **facts})


def tables(database: PostgreSQL) -> dict[str, list[tuple[object, ...]]]:
    """Rows without their times."""
    hidden = ("updated_at", "started_at", "ended_at", "made_at", "id")
    found = {}
    for table, key in (
        ("attempt", "id"),
        ("sample", "item_id"),
        ("image", "attempt_id"),
        ("work", "key"),
        ("need", "key"),
    ):
        cursor = database.execute(f"SELECT row_to_json(t)::text FROM {table} t ORDER BY {key}")
        rows = [json.loads(text) for (text,) in cursor.fetchall()]
        found[table] = [tuple((name, value) for name, value in row.items() if name not in hidden) for row in rows]
    return found


async def test_pictures_that_come_together_are_recorded_as_if_they_came_alone(database):
    alone, together = job(database, "alone"), job(database, "together")
    for at, grouped in ((alone, False), (together, True)):
        with contextlib.closing(await claimed(at)) as ledger:
            attempts = await asyncio.gather(*(ledger.attempt_started(request(f"i{n}")) for n in (0, 2, 3)))
            assert attempts == [1, 2, 3]
            receipts = [receipt(number, name) for number, name in zip(attempts, ("i0", "i2", "i3"), strict=True)]
            if grouped:
                answers = await asyncio.gather(
                    *(asyncio.to_thread(ledger.attempt_succeeded, each) for each in receipts)
                )
            else:
                answers = [Ledger.attempt_succeeded(ledger, each) for each in receipts]
            assert [tuple(answer) for answer in answers] == [each.pictures for each in receipts]
            for number, name in zip(attempts[:2], ("i0", "i2"), strict=True):
                place = ledger.record_placed if grouped else Ledger.record_placed.__get__(ledger)
                place(number, (), [(f"{name}.png", "stamp")])
            ledger.flush()
    assert tables(together) == tables(alone)
    assert together.execute("SELECT key, missing FROM work WHERE key IN ('i0', 'i1')").fetchall() == [("i1", 0)]
    assert together.execute("SELECT placed, stamp FROM image ORDER BY 1, attempt_id").fetchall() == [
        (0, None), (1, "stamp"), (1, "stamp"),
    ]  # fmt: skip
    alone.close()
    together.close()


async def test_what_waits_to_be_written_is_written_when_the_ledger_closes(database):
    server = job(database, "j")
    ledger = await claimed(server)
    ledger.writer.lazy_delay_s = 60.0
    attempt = await ledger.attempt_started(request("i0"))
    await asyncio.to_thread(ledger.attempt_succeeded, receipt(attempt, "i0"))
    ledger.record_placed(attempt, (), [("i0.png", "stamp")])
    ledger.close()
    assert server.execute("SELECT placed, stamp FROM image").fetchone() == (1, "stamp")
    server.close()


async def test_of_two_pictures_of_one_sample_that_come_together_one_is_its_and_one_a_draft(database):
    server = job(database, "j")
    with contextlib.closing(await claimed(server)) as ledger:
        first = await ledger.attempt_started(request("i0"))
        second = await ledger.attempt_started(request("i0"))
        answers = await asyncio.gather(
            *(asyncio.to_thread(ledger.attempt_succeeded, receipt(number, "i0")) for number in (first, second))
        )
        paths = sorted(pictures[0].file.path.partition(".")[0] for pictures in answers)
        assert paths == ["drafts/i0", "i0"]
        roles = server.execute("SELECT role FROM image ORDER BY 1").fetchall()
        assert roles == [("draft",), ("image",)]
        again = ledger.attempt_succeeded(receipt(first, "i0"))  # as a crash repeats it
        assert [each.spool for each in again] == [f"{first}.0"]
        assert len(server.execute("SELECT 1 FROM image").fetchall()) == 2
    server.close()


async def test_each_start_of_a_group_is_bound_by_itself(database):
    server = job(database, "j", budget_usd=0.10)
    with contextlib.closing(await claimed(server)) as ledger:
        server.execute("UPDATE work SET worker = 'other' WHERE key = 'i3'")
        starts = [Start(request(f"i{n}", 0.04), 1.0) for n in (0, 2, 3, 4, 5)]
        answers = server.transact([lambda db: start_attempts(db, 1, "w", starts)])[0]
        assert answers == [1, 2, "taken", "budget", "budget"]
        spent = "SELECT spent_usd FROM submission"
        assert server.execute(spent).fetchone()[0] == pytest.approx(0.08)
        ledger.attempt_succeeded(receipt(1, "i0", usd=0.01))
        assert server.execute(spent).fetchone()[0] == pytest.approx(0.05)
        assert await ledger.attempt_started(request("i4", 0.05)) > 2
        server.execute("UPDATE submission SET stopped_by = 'deadline'")
        with pytest.raises(Fenced, match="stopped"):
            await ledger.attempt_started(request("i5", 0.0))
        with pytest.raises(Fenced, match="taken"):
            await ledger.attempt_started(request("i3", 0.0))
        assert server.execute("SELECT count(*) FROM attempt").fetchone() == (3,)
    server.close()


async def test_a_worker_that_was_taken_for_dead_starts_nothing_that_another_takes_at_the_same_moment(database):
    """The start waits for whoever is claiming the sample, and sees who has it then."""
    server, other = job(database, "j"), PostgreSQL(database, "public")
    with contextlib.closing(await claimed(server)) as ledger, other._connection.transaction():
        other.execute(f"UPDATE {server.schema}.work SET worker = 'other' WHERE key = 'i0'")
        starting = asyncio.ensure_future(ledger.attempt_started(request("i0")))
        assert not (await asyncio.wait([starting], timeout=0.2))[0]
        other._connection.execute("COMMIT")
        with pytest.raises(Fenced, match="taken"):
            await starting
    assert server.execute("SELECT count(*) FROM attempt").fetchone() == (0,)
    server.close()
    other.close()


async def test_an_answer_with_more_than_its_picture_goes_the_long_way(database):
    server = job(database, "j")
    with contextlib.closing(await claimed(server)) as ledger:
        attempt = await ledger.attempt_started(request("i0"))
        whole = receipt(attempt, "i0")
        thought = replace(
            whole.pictures[0], k=1, spool="t", file=replace(whole.pictures[0].file, role="thought", path="t")
        )
        ledger.attempt_succeeded(replace(whole, pictures=(*whole.pictures, thought)))
        assert server.execute("SELECT k, role FROM image ORDER BY k").fetchall() == [(0, "image"), (1, "thought")]
        assert server.execute("SELECT key FROM work WHERE key = 'i0'").fetchall() == []
    server.close()
