"""Chunks: samples that were handed to a batch API together, and how far each chunk has come."""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Literal

from batchgen.ledger.ledger import Ledger, insert_attempt, set_state
from batchgen.ledger.reader import OpenAttempt, Reader
from batchgen.records import Sample

Step = Literal[
    "recorded", "written", "uploaded", "asked", "created", "ended", "fetched", "collected", "done", "dropped"
]
UNSENT = ("recorded", "written", "uploaded")  # nothing was asked for yet, so nothing can have been billed
CLOSED = ("collected", "done", "dropped")


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunk:
    """name: its display name at the vendor, unlike any other. step: the last one that is durable.

    recorded: its attempts are in the ledger. written: its lines are in a file of ours. uploaded: as `input_file`. asked: a
    batch is about to be created. created: as `batch`. ended: the vendor is through with it. fetched: its results are in a
    file of ours. collected: each of its attempts has ended. done: nothing of it is left at the vendor's. dropped: never sent.
    estimate_usd: None when a price is unknown. state, succeeded, failed: as last seen. `_at` values are UTC seconds.
    """

    id: int
    run_id: int
    lane: str
    name: str
    step: Step
    requests: int
    estimate_usd: float | None
    upload_url: str = ""
    input_file: str = ""
    batch: str = ""
    results_file: str = ""
    state: str = ""
    succeeded: int = 0
    failed: int = 0
    message: str = ""
    made_at: float = 0.0
    asked_at: float = 0.0
    created_at: float = 0.0
    ended_at: float = 0.0

    @property
    def open(self) -> bool:
        return self.step not in CLOSED


_COLUMNS = ", ".join(field.name for field in fields(Chunk))


@dataclass(frozen=True, slots=True)
class Submitted:
    """One request of a chunk. number: which attempt of its sample; facts: what settling its answer needs to know."""

    attempt: OpenAttempt
    chunk: int
    number: int
    ended: bool
    facts: Mapping[str, Any]


class Chunks:
    """The writing side. Every call is durable when it returns."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    async def recorded(
        self,
        lane: str,
        prefix: str,
        requests: Sequence[tuple[Sample, int, float | None, str, Mapping[str, Any]]],
    ) -> tuple[Chunk, list[int]]:
        """A new chunk and the numbers of its attempts. requests: sample, number, estimate, how it departs from its item,
        facts. prefix: of the chunk's name; run and chunk follow."""
        at, run_id = time.time(), self._ledger.run_id
        prices = [usd for _, _, usd, _, _ in requests]
        estimate = None if None in prices else sum(usd or 0.0 for usd in prices)

        def change(db: sqlite3.Connection) -> tuple[int, str, list[int]]:
            cursor = db.execute(
                "INSERT INTO chunk (run_id, lane, name, step, requests, estimate_usd, made_at) VALUES (?, ?, '', 'recorded', ?, ?, ?)",
                (run_id, lane, len(requests), estimate, at),
            )
            chunk = int(cursor.lastrowid or 0)
            name = f"{prefix} {run_id}/{chunk}"
            db.execute("UPDATE chunk SET name = ? WHERE id = ?", (name, chunk))
            numbers = [
                insert_attempt(
                    db, run_id, sample, lane, number, usd, sent_as, at, state="submitted",
                    chunk=(chunk, json.dumps(facts)),
                )
                for sample, number, usd, sent_as, facts in requests
            ]  # fmt: skip
            return chunk, name, numbers

        chunk, name, numbers = await self._ledger.writer.write(change)
        made = Chunk(
            id=chunk, run_id=run_id, lane=lane, name=name, step="recorded", requests=len(requests),
            estimate_usd=estimate, made_at=at,
        )  # fmt: skip
        return made, numbers

    async def stepped(self, chunk: Chunk, **values: Any) -> Chunk:
        """The chunk with these values, among them usually its step."""
        names = ", ".join(f"{name} = ?" for name in values)
        row = (*values.values(), chunk.id)
        await self._ledger.writer.write(lambda db: db.execute(f"UPDATE chunk SET {names} WHERE id = ?", row))
        return replace(chunk, **values)

    async def asked(self, chunk: Chunk) -> Chunk:
        """A batch is about to be created, and its requests count as sent from now on."""
        at = time.time()

        def change(db: sqlite3.Connection) -> None:
            db.execute("UPDATE chunk SET step = 'asked', asked_at = ? WHERE id = ?", (at, chunk.id))
            db.execute("UPDATE attempt SET sent_at = ? WHERE chunk = ? AND outcome IS NULL", (at, chunk.id))

        await self._ledger.writer.write(change)
        return replace(chunk, step="asked", asked_at=at)

    async def adopted(self, chunk: Chunk) -> None:
        """Its results are in: what it brings and costs counts for this run, whichever had submitted it."""
        row = (self._ledger.run_id, chunk.id)
        sql = "UPDATE attempt SET run_id = ? WHERE chunk = ? AND outcome IS NULL"
        await self._ledger.writer.write(lambda db: db.execute(sql, row))

    async def dropped(self, chunk: Chunk, message: str) -> None:
        """It was never created: its attempts end, unbilled, and its samples are wanted again."""
        await self._ledger.writer.write(lambda db: _drop(db, chunk.id, message))

    def drop_unsent(self, steps: Iterable[str] = UNSENT) -> int:
        """Chunks of earlier runs that have come no further than that. Answers how many samples are wanted again."""
        unsent = [chunk for chunk in open_chunks(self._ledger.reader) if chunk.step in steps]
        message = "the run ended before its batch was created"
        for chunk in unsent:
            self._ledger.writer.submit(lambda db, number=chunk.id: _drop(db, number, message)).result()  # type: ignore[misc]
        return sum(chunk.requests for chunk in unsent)


def open_chunks(reader: Reader) -> list[Chunk]:
    """In the order in which they were made."""
    marks = ", ".join("?" * len(CLOSED))
    return [Chunk(**row) for row in reader.chunk_rows(_COLUMNS, f"step NOT IN ({marks}) ORDER BY id", CLOSED)]


def uncleaned(reader: Reader) -> list[Chunk]:
    """Collected, and perhaps still at the vendor's."""
    return [Chunk(**row) for row in reader.chunk_rows(_COLUMNS, "step = 'collected' ORDER BY id", ())]


def submitted(reader: Reader, number: int) -> Submitted | None:
    """The request that an attempt's number names; None when there is none, or it went out by itself."""
    found, row = reader.attempt(number), reader.submission(number)
    if found is None or row is None or row[0] is None:
        return None
    chunk, attempt_number, outcome, facts = row
    return Submitted(found, int(chunk), int(attempt_number), outcome is not None, json.loads(facts or "{}"))


def _drop(db: sqlite3.Connection, chunk: int, message: str) -> None:
    at = time.time()
    db.execute("UPDATE chunk SET step = 'dropped', ended_at = ?, message = ? WHERE id = ?", (at, message, chunk))
    rows = db.execute(
        "UPDATE attempt SET outcome = 'failed', reason = 'not_sent', message = ?, maybe_billed = 0, sent_at = NULL,"
        " ended_at = ? WHERE chunk = ? AND outcome IS NULL RETURNING item_id, n",
        (message, at, chunk),
    ).fetchall()
    for item_id, n in rows:
        set_state(db, item_id, n, "wanted", "not_sent", message, at)
