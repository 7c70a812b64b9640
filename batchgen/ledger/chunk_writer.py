"""Records chunks in progress: each step of one is durable before the next begins."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from batchgen.ledger.changes import end_sample, insert_attempt
from batchgen.ledger.chunks import UNSENT_STEPS, Chunk
from batchgen.ledger.database import Connection
from batchgen.ledger.ledger import Ledger
from batchgen.ledger.requests import IntendedRequest


class ChunkWriter:
    """Writes chunks. Every call is durable when it returns."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    async def create(self, lane: str, prefix: str, requests: Sequence[IntendedRequest]) -> tuple[Chunk, list[int]]:
        """Create a chunk. Returns it and the numbers of its attempts. prefix: of its name; run and chunk follow."""
        at, run_id = time.time(), self._ledger.run_id
        prices = [request.estimate_usd for request in requests]
        estimate = None if None in prices else sum(usd or 0.0 for usd in prices)

        def change(db: Connection) -> tuple[int, str, list[int]]:
            cursor = db.execute(
                "INSERT INTO chunk (run_id, lane, name, step, requests, estimate_usd, made_at)"
                " VALUES (?, ?, '', 'recorded', ?, ?, ?) RETURNING id",
                (run_id, lane, len(requests), estimate, at),
            )
            chunk = int(cursor.fetchone()[0])
            name = f"{prefix} {run_id}/{chunk}"
            db.execute("UPDATE chunk SET name = ? WHERE id = ?", (name, chunk))
            return chunk, name, [insert_attempt(db, run_id, request, at, chunk=chunk) for request in requests]

        chunk, name, numbers = await self._ledger.writer.write(change)
        made = Chunk(
            id=chunk,
            run_id=run_id,
            lane=lane,
            name=name,
            step="recorded",
            requests=len(requests),
            estimate_usd=estimate,
            made_at=at,
        )
        return made, numbers

    async def update(self, chunk: Chunk, **values: Any) -> Chunk:
        """Update a chunk with these values, which usually include its step."""
        names = ", ".join(f"{name} = ?" for name in values)
        row = (*values.values(), chunk.id)
        await self._ledger.writer.write(lambda db: db.execute(f"UPDATE chunk SET {names} WHERE id = ?", row))
        return replace(chunk, **values)

    async def mark_asked(self, chunk: Chunk) -> Chunk:
        """Note that a batch is about to be created: its requests count as sent from now on."""
        at = time.time()

        def change(db: Connection) -> None:
            db.execute("UPDATE chunk SET step = 'asked', asked_at = ? WHERE id = ?", (at, chunk.id))
            db.execute("UPDATE attempt SET sent_at = ? WHERE chunk = ? AND outcome IS NULL", (at, chunk.id))

        await self._ledger.writer.write(change)
        return replace(chunk, step="asked", asked_at=at)

    async def adopt(self, chunk: Chunk) -> None:
        """Count what a chunk brings and costs for this run, whichever run submitted it."""
        row = (self._ledger.run_id, chunk.id)
        sql = "UPDATE attempt SET run_id = ? WHERE chunk = ? AND outcome IS NULL"
        await self._ledger.writer.write(lambda db: db.execute(sql, row))

    async def drop(self, chunk: Chunk, message: str) -> None:
        """Drop a chunk that was never created: its attempts end unbilled, and its samples are wanted again."""
        await self._ledger.writer.write(lambda db: _drop_chunk(db, chunk.id, message))

    def drop_unsent(self, steps: Iterable[str] = UNSENT_STEPS) -> int:
        """Drop chunks of earlier runs that got no further than these steps. Returns how many samples are wanted
        again."""
        unsent = [chunk for chunk in self._ledger.reader.open_chunks() if chunk.step in steps]
        message = "the run ended before its batch was created"
        for chunk in unsent:
            self._ledger.writer.submit(lambda db, number=chunk.id: _drop_chunk(db, number, message)).result()  # type: ignore[misc]
        return sum(chunk.requests for chunk in unsent)


def _drop_chunk(db: Connection, chunk: int, message: str) -> None:
    at = time.time()
    db.execute("UPDATE chunk SET step = 'dropped', ended_at = ?, message = ? WHERE id = ?", (at, message, chunk))
    rows = db.execute(
        "UPDATE attempt SET outcome = 'failed', reason = 'not_sent', message = ?, maybe_billed = 0, sent_at = NULL,"
        " ended_at = ? WHERE chunk = ? AND outcome IS NULL RETURNING id, item_id, n",
        (message, at, chunk),
    ).fetchall()
    for attempt, item_id, n in rows:
        end_sample(db, attempt, item_id, n, ("wanted", "not_sent", message), at)
