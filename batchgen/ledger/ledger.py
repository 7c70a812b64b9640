"""The durable record of what was requested, what was sent, and how it ended. SQLite; every change is durable when its
call returns."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from batchgen.errors import LINK_PENDING_REASONS, LedgerError, ProviderError
from batchgen.events import Outage
from batchgen.ledger.changes import (
    accept_picture,
    classify_unaccepted,
    current_placement,
    dump_links,
    dump_usage,
    end_attempt,
    end_sample,
    insert_attempt,
    insert_blocked,
    insert_image,
    record_fetched,
    unplaced_duplicates,
)
from batchgen.ledger.database import Connection, upsert_sql
from batchgen.ledger.location import LedgerServer, open_for_writing
from batchgen.ledger.pictures import Receipt, RecordedImage, SpooledPicture
from batchgen.ledger.reader import Reader
from batchgen.ledger.requests import LATE_REASON, IntendedRequest, OpenAttempt
from batchgen.ledger.runs import MANIFEST_FACTS, ManifestTotals
from batchgen.ledger.samples import AT_VENDOR
from batchgen.ledger.schema import COOLING_META_PREFIX, OUTAGES_META_PREFIX, UPSERT_META
from batchgen.ledger.writer import Writer
from batchgen.records import EMPTY_MAPPING, PendingJob, Reply, Sample

UPSERT_LANE = upsert_sql("lane", ("key", "parked_until", "message"), ("key",))


class Ledger:
    """Writes a ledger. Open it only behind the job's lock: two writers can corrupt a WAL before SQLite 3.51.3.

    A ledger in PostgreSQL has several writers: a run, and workers on other machines.

    Methods named like verbs in the past tense record what has happened; each is one transaction or part of a group of
    them.
    """

    def __init__(self, job_folder: Path, server: LedgerServer | None = None) -> None:
        """server: for the ledger of a job that has none yet, with the job's name there; None: in its folder."""
        database = open_for_writing(job_folder, server)
        try:
            self.reader = Reader.open(job_folder, None if server is None else server.url)
        except LedgerError:
            database.close()
            raise
        self.database = database
        self.writer = Writer(database)
        self.run_id = 0
        self.worker = ""  # whose attempts these are, if not the run's own

    @classmethod
    def open(cls, folder: str | Path, url: str | None = None) -> Reader:
        """Open the ledger of a job folder for reading: `batchgen.Ledger.open("jobs/catalog")`. url: see `Reader.open`.
        Raises LedgerError."""
        return Reader.open(Path(folder), url)

    def close(self) -> None:
        self.reader.close()
        self.writer.close()

    def _write_now(self, change: Any) -> Any:
        return self.writer.submit(change).result()

    def flush(self) -> None:
        """Wait until everything submitted can be read."""
        self._write_now(lambda db: None)

    # --- runs and meta

    def set_meta(self, **values: str) -> None:
        self._write_now(lambda db: db.executemany(UPSERT_META, list(values.items())))

    def run_started(self, pid: int, host: str, version: str, wanted: int = 0, kept: int = 0) -> int:
        """Record that a run started. wanted: samples that it means to request; kept: those that exist already."""

        def change(db: Connection) -> int:
            outages = (OUTAGES_META_PREFIX, f"{OUTAGES_META_PREFIX}\U0010ffff")  # those of earlier runs
            db.execute("DELETE FROM meta WHERE key >= ? AND key < ?", outages)
            cursor = db.execute(
                "INSERT INTO run (started_at, pid, host, version, wanted, kept) VALUES (?, ?, ?, ?, ?, ?) RETURNING id",
                (time.time(), pid, host, version, wanted, kept),
            )
            return int(cursor.fetchone()[0])

        self.run_id = self._write_now(change)
        return self.run_id

    def run_ended(self, exit_code: int, stopped_by: str, summary: dict[str, Any]) -> None:
        def change(db: Connection) -> None:
            self._add_to_summary(db, summary)
            db.execute(
                "UPDATE run SET ended_at = ?, exit_code = ?, stopped_by = ? WHERE id = ?",
                (time.time(), exit_code, stopped_by, self.run_id),
            )

        self._write_now(change)

    def manifest_read(self, totals: ManifestTotals) -> None:
        """Record what the manifest asks for, as this run has read it."""
        self._write_now(lambda db: self._add_to_summary(db, {MANIFEST_FACTS: dataclasses.asdict(totals)}))

    def _add_to_summary(self, db: Connection, facts: Mapping[str, Any]) -> None:
        (before,) = db.execute("SELECT coalesce(summary, '{}') FROM run WHERE id = ?", (self.run_id,)).fetchone()
        summary = json.dumps({**json.loads(before), **facts})
        db.execute("UPDATE run SET summary = ? WHERE id = ?", (summary, self.run_id))

    # --- an attempt: intended, sent, ended

    async def attempt_started(self, request: IntendedRequest) -> int:
        """Record that a request is about to be sent, durably, and return the attempt's number."""
        at = time.time()
        return await self.writer.write(lambda db: insert_attempt(db, self.run_id, request, at))

    def job_taken(self, attempt: int, sample: Sample, job: PendingJob, facts: Mapping[str, Any]) -> None:
        """Record a job that the API answers later, or that now has another question to ask: durable before it is waited
        for.

        facts: of the request, from `answer.request_facts`.
        """
        at, item_id = time.time(), sample.item.id
        rows = [(AT_VENDOR, at, item_id, n, sample.fingerprint) for n in range(sample.n, sample.n + sample.images)]
        sql = (
            "UPDATE sample SET state = 'submitted', reason = ?, updated_at = ? WHERE item_id = ? AND n = ?"
            " AND fingerprint = ? AND state = 'running'"
        )

        def change(db: Connection) -> None:
            values = (json.dumps(dataclasses.asdict(job)), json.dumps(facts), attempt)
            db.execute(
                "UPDATE attempt SET job = ?, facts = ?, sent_at = coalesce(sent_at, started_at) WHERE id = ?", values
            )
            db.executemany(sql, rows)

        self._write_now(change)

    async def adopt_job(self, attempt: int) -> None:
        """Count what a job brings and costs for this run, which waits for it, whoever sent it."""
        await self.writer.write(
            lambda db: db.execute(
                "UPDATE attempt SET run_id = ?, worker = ? WHERE id = ?", (self.run_id, self.worker or None, attempt)
            )
        )

    def links_received(self, attempt: int, reply: Reply, facts: Mapping[str, Any] = EMPTY_MAPPING) -> None:
        """Record links in an answer: durable before the download starts, so that a crash never causes another
        generation.

        facts: of the request, from `answer.request_facts`.
        """
        self._reopen_with_links(attempt, reply, facts, "outcome IS NULL OR outcome <> 'succeeded'")

    def links_recovered(self, attempt: int, reply: Reply, facts: Mapping[str, Any] = EMPTY_MAPPING) -> None:
        """Record links in an answer that could only be read later: they are downloaded like those of a run that died.
        Links that were already known keep their state."""
        self._reopen_with_links(attempt, reply, facts, "links IS NULL OR reason = 'unreadable'")

    def _reopen_with_links(self, attempt: int, reply: Reply, facts: Mapping[str, Any], condition: str) -> None:
        """Reopen an attempt with links, also one that was given up: what is behind its links is paid for."""
        text = dump_links(reply, facts)
        sql = (
            f"UPDATE attempt SET links = ?, outcome = NULL, reason = '', ended_at = NULL WHERE id = ? AND ({condition})"
        )
        self._write_now(lambda db: db.execute(sql, (text, attempt)))

    def attempt_succeeded(self, receipt: Receipt) -> Sequence[SpooledPicture]:
        """Record images that are whole and durable in the spool. An image that is still behind a link keeps the attempt
        open.

        Returns the images as recorded, which says where they go (`changes.classify_unaccepted`). For an attempt that
        has its images already, returns those that still have to be moved into place.
        """
        at, attempt, pictures, missing = time.time(), receipt.attempt, receipt.pictures, receipt.missing
        usage = dump_usage(receipt.usage)
        made = any(picture.file.role == "image" for picture in pictures)
        left = next((one for one in missing if one.reason in LINK_PENDING_REASONS), None)
        reason = missing[0].reason if missing and not made else ""
        end: tuple[Any, ...] = ("succeeded", reason, "", 0, receipt.sent_at, at)
        if left is not None:
            end = (None, left.reason, left.message, 1, receipt.sent_at, None)
        texts = json.dumps(dict(receipt.beside)) if receipt.beside else None
        charged = (receipt.usd, receipt.usd_source, usage, receipt.reply_id, receipt.model_version, texts)

        def change(db: Connection) -> Sequence[SpooledPicture]:
            first = db.execute(
                "UPDATE attempt SET outcome = ?, reason = ?, message = ?, maybe_billed = ?,"
                " sent_at = coalesce(?, sent_at), ended_at = ?, http_status = 200,"
                " usd = ?, usd_source = ?, usage = ?, reply_id = ?, model_version = ?, beside = ? WHERE id = ?"
                " AND (outcome IS NULL OR outcome <> 'succeeded') RETURNING id",
                (*end, *charged, attempt),
            ).fetchone()
            if first is None:
                return unplaced_duplicates(db, attempt, pictures)
            if left is not None:
                record_fetched(db, attempt, [picture.k for picture in pictures])
            recorded = []
            for picture in pictures:
                if picture.file.role == "image" and not accept_picture(db, receipt, picture, at):
                    picture = classify_unaccepted(db, receipt, picture)
                insert_image(db, attempt, receipt.item, receipt.fingerprint, picture)
                recorded.append(picture)
            if made and left is None and not any(picture.file.role == "image" for picture in recorded):
                db.execute("UPDATE attempt SET reason = ? WHERE id = ?", (LATE_REASON, attempt))
            for one in missing:
                end_sample(db, attempt, receipt.item, one.n, (one.state, one.reason, one.message), at)
            self._on_attempt_end(db, {attempt: receipt.usd})
            return recorded

        return cast("Sequence[SpooledPicture]", self._write_now(change))

    def current_placements(self, images: Sequence[RecordedImage]) -> list[RecordedImage]:
        """Where images that were recorded earlier belong now: if a sample has another image by now, or is no longer
        wanted, its image goes to `superseded/`, as if it had been in place when that happened."""

        def change(db: Connection) -> list[RecordedImage]:
            return [current_placement(db, image) if image.file.role == "image" else image for image in images]

        return cast("list[RecordedImage]", self._write_now(change))

    def _on_attempt_end(self, db: Connection, usd: Mapping[int, float | None]) -> None:
        """Called with the end of attempts. usd: of each; None if the cost is not stated."""

    def record_placed(
        self, attempt: int, moved: Sequence[tuple[str, str]] = (), stamps: Sequence[tuple[str, str]] = ()
    ) -> None:
        """Record that the images are in their places. moved: (old, new) paths of images that made way. stamps: (path,
        stamp) of files that this process put there.

        Not waited for: a crash before it is durable is repaired at the next start.
        """

        def change(db: Connection) -> None:
            for old, new in moved:
                db.execute("UPDATE image SET path = ? WHERE path = ? AND attempt_id <> ?", (new, old, attempt))
            db.execute("UPDATE image SET placed = 1 WHERE attempt_id = ?", (attempt,))
            for path, stamp in stamps:
                db.execute("UPDATE image SET stamp = ? WHERE attempt_id = ? AND path = ?", (stamp, attempt, path))

        self.writer.enqueue_lazy(change)

    def record_stamps(self, stamps: Sequence[tuple[str, int, int]]) -> None:
        """Record (stamp, attempt, k) of files that were read and found unchanged, whatever their stamps were before."""
        self._write_now(lambda db: db.executemany("UPDATE image SET stamp = ? WHERE attempt_id = ? AND k = ?", stamps))

    async def attempt_failed(
        self,
        attempt: int,
        sample: Sample,
        error: ProviderError,
        *,
        sent_at: float | None,
        state: str,
        cost: tuple[float | None, str] = (None, ""),
    ) -> None:
        """Record a failed request. state: of the sample: wanted (it will be retried), refused, failed, uncertain.

        cost: USD by the usage in the error, and the source of the figure.
        """
        at, item_id = time.time(), sample.item.id

        def change(db: Connection) -> None:
            first = db.execute(
                "UPDATE attempt SET outcome = ?, reason = ?, message = ?, http_status = ?, maybe_billed = ?,"
                " sent_at = coalesce(?, sent_at), ended_at = ?, usd = ?, usd_source = ?, usage = ? WHERE id = ?"
                " AND outcome IS NULL RETURNING id",
                (
                    *(error.outcome, error.reason, error.message, error.http_status, error.maybe_billed),
                    *(sent_at, at, *cost, dump_usage(error.usage), attempt),
                ),
            ).fetchone()
            if first is None:
                return
            for n in range(sample.n, sample.n + sample.images):
                end_sample(db, attempt, item_id, n, (state, error.reason, error.message), at)
            self._on_attempt_end(db, {attempt: cost[0] if cost[0] is not None or error.maybe_billed else 0.0})

        await self.writer.write(change)

    async def sample_failed(self, sample: Sample, error: ProviderError) -> None:
        """End the samples of a request for good: their last failure, recorded before, was their own after all."""
        at = time.time()

        def change(db: Connection) -> None:
            if self._holds_claim(db, sample.key):
                item_id = sample.item.id
                (last,) = db.execute(
                    "SELECT coalesce(max(id), 0) FROM attempt WHERE item_id = ? AND n = ?", (item_id, sample.n)
                ).fetchone()
                for n in range(sample.n, sample.n + sample.images):
                    end_sample(db, last, item_id, n, (error.outcome, error.reason, error.message), at)

        await self.writer.write(change)

    def _holds_claim(self, db: Connection, key: str) -> bool:
        """Whether nobody else has been given the sample since."""
        return True

    def record_blocked(self, samples: Sequence[tuple[Sample, str]]) -> None:
        """Record samples that cannot be requested because something they need was not made, with the reason in
        words."""
        self._write_now(lambda db: insert_blocked(db, samples))

    def record_not_tried(self, samples: Sequence[Sample], why: str) -> None:
        """Record samples that a run wanted and did not get to, so that each of its items has a line in the results.
        What the ledger knows about a sample stays."""
        at = time.time()
        rows = [
            (each.item.id, n, each.item.model, ",".join(each.item.tags), each.fingerprint, each.wire, why, at)
            for each in samples
            for n in range(each.n, each.n + each.images)
        ]
        sql = (
            "INSERT INTO sample (item_id, n, model, tags, state, fingerprint, wire, reason, message, updated_at)"
            " VALUES (?, ?, ?, ?, 'wanted', ?, ?, 'not_tried', ?, ?) ON CONFLICT (item_id, n) DO NOTHING"
        )
        self._write_now(lambda db: db.executemany(sql, rows))

    async def download_failed(
        self, attempt: int, sample: Sample, error: ProviderError, cost: tuple[float | None, str] = (None, "")
    ) -> None:
        """Record that the images were made and none could be downloaded: the attempt stays open, and the next run tries
        again.

        cost: see `attempt_failed`.
        """
        at = time.time()

        def change(db: Connection) -> None:
            db.execute(
                "UPDATE attempt SET reason = ?, message = ?, maybe_billed = 1, usd = coalesce(?, usd),"
                " usd_source = coalesce(?, usd_source) WHERE id = ?",
                (error.reason, error.message, cost[0], cost[1] or None, attempt),
            )
            for n in range(sample.n, sample.n + sample.images):
                end_sample(db, attempt, sample.item.id, n, ("failed", error.reason, error.message), at)

        await self.writer.write(change)

    def end_without_picture(self, attempt: OpenAttempt, outcome: str, reason: str, message: str) -> None:
        """End an open request without images, or without further ones: it may have been billed."""
        self._write_now(lambda db: end_attempt(db, attempt, outcome, reason, message))

    def record_drafts(self, attempt: OpenAttempt, pictures: Sequence[SpooledPicture]) -> None:
        """Record parts of an incomplete answer that are durable in the spool: they are kept, but are not a result."""

        def change(db: Connection) -> None:
            for picture in pictures:
                insert_image(db, attempt.id, attempt.item_id, attempt.fingerprint, picture)

        self._write_now(change)

    # --- repairs, moves, parking

    def run_statements(self, changes: Iterable[tuple[str, tuple[Any, ...]]]) -> None:
        """Run statements in one transaction; for repairs at the start of a run."""
        statements = list(changes)

        def change(db: Connection) -> None:
            for sql, values in statements:
                db.execute(sql, values)

        self._write_now(change)

    def park(self, lane: str, until: float, message: str) -> None:
        self._write_now(lambda db: db.execute(UPSERT_LANE, (lane, until, message)))

    def record_cooling(self, lane: str, until: float) -> None:
        """Record until when a lane waits for its quota, for observers in other processes; nobody waits for this."""
        self.writer.enqueue_lazy(lambda db: db.execute(UPSERT_META, (f"{COOLING_META_PREFIX}{lane}", str(until))))

    def record_outages(self, outages: Sequence[Outage]) -> None:
        """Record all outages of this run as they are now; nobody waits for it."""
        text = json.dumps([dataclasses.asdict(outage) for outage in outages])
        self.writer.enqueue_lazy(lambda db: db.execute(UPSERT_META, (f"{OUTAGES_META_PREFIX}{self.worker}", text)))

    def unpark(self, lane: str) -> None:
        self._write_now(lambda db: db.execute("DELETE FROM lane WHERE key = ?", (lane,)))
