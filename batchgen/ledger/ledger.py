"""The durable record: what was asked, what was sent, how it ended. SQLite; every change is durable when its call returns."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, cast

from batchgen.errors import BEHIND_LINK, LedgerError, ProviderError
from batchgen.ledger.database import Connection, upsert
from batchgen.ledger.places import Server, open_for_writing
from batchgen.ledger.reader import Reader
from batchgen.ledger.requests import linked_answer
from batchgen.ledger.schema import COOLING, IMAGE_COLUMNS
from batchgen.ledger.writer import Writer
from batchgen.records import EMPTY, ImageFile, Reply, Sample, Usage

PUT_META = upsert("meta", ("key", "value"), ("key",))
PUT_LANE = upsert("lane", ("key", "parked_until", "message"), ("key",))
PUT_IMAGE = upsert("image", IMAGE_COLUMNS, ("attempt_id", "k"))
# Requests of the same sample after one: those that have brought its picture or are on their way, a link that gave none apart.
LATER = (
    "SELECT 1 FROM attempt WHERE item_id = ? AND n <= ? AND ? < n + images AND id > ? AND (outcome = 'succeeded'"
    f" OR (outcome IS NULL AND coalesce(reason, '') NOT IN ({', '.join(map(repr, sorted(BEHIND_LINK)))}))) LIMIT 1"
)


@dataclass(frozen=True, slots=True)
class Settled:
    """One checked picture of an attempt, in the spool and on its way. n: the sample it belongs to; k: its number in the answer."""

    n: int
    k: int
    spool: str
    file: ImageFile
    usd: float | None


@dataclass(frozen=True, slots=True)
class Missing:
    """A sample that an answer with pictures brought none for, and how it ends."""

    n: int
    reason: str
    message: str
    state: Literal["refused", "failed"] = "refused"


class Ledger:
    """The writing side. Open it only behind the job's lock: two writers can corrupt a WAL before SQLite 3.51.3.

    A ledger in PostgreSQL has several writers: a run, and workers on other machines.

    Calls named like verbs in the past tense record what has happened; each is one transaction or part of a group of them.
    """

    def __init__(self, job_folder: Path, server: Server | None = None) -> None:
        """server: where a job that has no ledger yet gets one, and by what it is known there; None: in its folder."""
        database = open_for_writing(job_folder, server)
        try:
            self.reader = Reader.open(job_folder, None if server is None else server.url)
        except LedgerError:
            database.close()
            raise
        self.database = database
        self.writer = Writer(database)
        self.run_id = 0
        self.worker = ""  # whose attempts these are, when they are not the run's own

    @classmethod
    def open(cls, folder: str | Path, url: str | None = None) -> Reader:
        """The ledger of a job folder for reading: `batchgen.Ledger.open("jobs/catalog")`. url: as of `Reader.open`.
        Raises LedgerError."""
        return Reader.open(Path(folder), url)

    def close(self) -> None:
        self.reader.close()
        self.writer.close()

    def _now(self, change: Any) -> Any:
        return self.writer.submit(change).result()

    def catch_up(self) -> None:
        """Returns when all that was submitted can be read."""
        self._now(lambda db: None)

    # --- runs and meta

    def set_meta(self, **values: str) -> None:
        self._now(lambda db: db.executemany(PUT_META, list(values.items())))

    def run_started(self, pid: int, host: str, version: str, wanted: int = 0, kept: int = 0) -> int:
        """wanted: samples that this run means to ask for; kept: those that were there already."""

        def change(db: Connection) -> int:
            cursor = db.execute(
                "INSERT INTO run (started_at, pid, host, version, wanted, kept) VALUES (?, ?, ?, ?, ?, ?) RETURNING id",
                (time.time(), pid, host, version, wanted, kept),
            )
            return int(cursor.fetchone()[0])

        self.run_id = self._now(change)
        return self.run_id

    def run_ended(self, exit_code: int, stopped_by: str, summary: dict[str, Any]) -> None:
        self._now(
            lambda db: db.execute(
                "UPDATE run SET ended_at = ?, exit_code = ?, stopped_by = ?, summary = ? WHERE id = ?",
                (time.time(), exit_code, stopped_by, json.dumps(summary), self.run_id),
            )
        )

    # --- an attempt: intended, sent, ended

    async def attempt_started(
        self, sample: Sample, lane: str, number: int, estimate_usd: float | None, sent_as: str = ""
    ) -> int:
        """Record that a request is about to be sent; durable before this returns. Answers the attempt's number.

        sent_as: how the request departs from its item, in words.
        """
        at = time.time()
        return await self.writer.write(
            lambda db: insert_attempt(db, self.run_id, sample, lane, number, estimate_usd, sent_as, at)
        )

    def links_received(self, attempt: int, reply: Reply, facts: Mapping[str, Any] = EMPTY) -> None:
        """The answer is a link: durable before the download starts, so that a crash never generates again.

        facts: of the request, as `replay.request_facts` gives them.
        """
        text = _linked_text(reply, facts)
        self._now(lambda db: db.execute("UPDATE attempt SET links = ? WHERE id = ?", (text, attempt)))

    def reopened(self, attempt: int, reply: Reply, facts: Mapping[str, Any] = EMPTY) -> None:
        """An answer that was read at last holds links: they are fetched like those of a run that died. Not so links that were
        known before: what became of them stands."""
        sql = (
            "UPDATE attempt SET outcome = NULL, reason = '', ended_at = NULL, links = ? WHERE id = ?"
            " AND (links IS NULL OR reason = 'unreadable')"
        )
        text = _linked_text(reply, facts)
        self._now(lambda db: db.execute(sql, (text, attempt)))

    def attempt_succeeded(
        self,
        attempt: int,
        sample: Sample,
        reply: Reply,
        pictures: Sequence[Settled],
        *,
        sent_at: float | None,
        usd: float | None,
        usd_source: str,
        missing: Sequence[Missing] = (),
        beside: Mapping[str, str] = EMPTY,
    ) -> Sequence[Settled]:
        """The pictures are whole and durable in the spool. usd: of the attempt; missing: withheld, not as asked for, or still
        behind a link: then the attempt stays open for the rest.

        beside: texts that belong beside the pictures, by file ending. Answers the pictures as they were recorded.
        """
        at = time.time()
        usage = _usage_text(reply.usage)
        made = any(picture.file.role == "image" for picture in pictures)
        left = next((one for one in missing if one.reason in BEHIND_LINK), None)
        reason = missing[0].reason if missing and not made else ""
        end: tuple[Any, ...] = ("succeeded", reason, "", 0, sent_at, at)
        if left is not None:
            end = (None, left.reason, left.message, 1, sent_at, None)
        item_id = sample.item.id
        texts = json.dumps(dict(beside)) if beside else None

        def change(db: Connection) -> Sequence[Settled]:
            recorded = self._standing(db, attempt, sample, pictures)
            if recorded is None:
                return ()
            db.execute(
                "UPDATE attempt SET outcome = ?, reason = ?, message = ?, maybe_billed = ?,"
                " sent_at = coalesce(?, sent_at), ended_at = ?, http_status = 200,"
                " usd = ?, usd_source = ?, usage = ?, reply_id = ?, model_version = ?, beside = ? WHERE id = ?",
                (*end, usd, usd_source, usage, reply.reply_id, reply.model_version, texts, attempt),
            )
            if left is not None:
                _note_fetched(db, attempt, [picture.k for picture in recorded])
            for picture in recorded:
                insert_image(db, attempt, item_id, sample.fingerprint, picture)
                if picture.file.role == "image":
                    db.execute(
                        "UPDATE sample SET state = 'succeeded', path = ?, bytes = ?, made_fingerprint = fingerprint, usd = ?,"
                        " usd_source = ?, reason = '', message = '', text = ?, updated_at = ? WHERE item_id = ? AND n = ?",
                        (
                            picture.file.path,
                            picture.file.bytes,
                            picture.usd,
                            usd_source,
                            reply.text,
                            at,
                            item_id,
                            picture.n,
                        ),
                    )
            for one in missing:
                without_picture(db, attempt, item_id, (one.n, 1), one.state, one.reason, one.message, at)
            self._ended(db, attempt, usd)
            return recorded

        return cast("Sequence[Settled]", self._now(change))

    def foreseen(self, attempt: int, sample: Sample, pictures: Sequence[Settled]) -> Sequence[Settled]:
        """The pictures as `attempt_succeeded` will record them, for a store that takes them before the ledger does."""

        def change(db: Connection) -> Sequence[Settled]:
            return [self._late(db, attempt, sample, each) for each in pictures]

        return cast("Sequence[Settled]", self._now(change))

    def _standing(
        self, db: Connection, attempt: int, sample: Sample, pictures: Sequence[Settled]
    ) -> Sequence[Settled] | None:
        """The pictures as they count now that they are here; None when the attempt has its pictures already."""
        return [self._late(db, attempt, sample, each) for each in pictures]

    def _late(self, db: Connection, attempt: int, sample: Sample, picture: Settled) -> Settled:
        """A draft when its sample was asked for again since, or is to be another picture. Paid for, so kept all the same."""
        if picture.file.role != "image":
            return picture
        key = (sample.item.id, picture.n)
        later = db.execute(LATER, (*key, picture.n, attempt)).fetchone()
        sql = "SELECT fingerprint FROM sample WHERE item_id = ? AND n = ?"
        wanted = db.execute(sql, key).fetchone()
        if later is None and (wanted is None or wanted[0] == sample.fingerprint):
            return picture
        _, _, name = picture.file.path.rpartition("/")
        stem, dot, ending = name.rpartition(".")
        path = f"drafts/{stem}.{attempt}-{picture.k}{dot}{ending}"
        return replace(picture, file=replace(picture.file, path=path, role="draft"), usd=None)

    def _ended(self, db: Connection, attempt: int, usd: float | None) -> None:
        """Goes along with the end of an attempt. usd: None when nothing says what it has cost."""

    def placed(self, attempt: int, moved: Sequence[tuple[str, str]] = ()) -> None:
        """The pictures stand under their final names; moved: (old, new) paths of those that made way.

        Not waited for: a crash before it is durable is repaired at the next start.
        """

        def change(db: Connection) -> None:
            for old, new in moved:
                db.execute("UPDATE image SET path = ? WHERE path = ? AND attempt_id <> ?", (new, old, attempt))
            db.execute("UPDATE image SET placed = 1 WHERE attempt_id = ?", (attempt,))

        self.writer.ride(change)

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
        """state: what becomes of the sample: wanted (it will be tried again), refused, failed, uncertain.

        cost: USD by the usage that the error reports, and where the figure comes from.
        """
        at, item_id = time.time(), sample.item.id
        usage = _usage_text(error.usage)

        def change(db: Connection) -> None:
            if self._standing(db, attempt, sample, ()) is None:
                return
            db.execute(
                "UPDATE attempt SET outcome = ?, reason = ?, message = ?, http_status = ?, maybe_billed = ?,"
                " sent_at = coalesce(?, sent_at), ended_at = ?, usd = ?, usd_source = ?, usage = ? WHERE id = ?",
                (
                    error.outcome,
                    error.reason,
                    error.message,
                    error.http_status,
                    error.maybe_billed,
                    sent_at,
                    at,
                    *cost,
                    usage,
                    attempt,
                ),
            )
            for n in range(sample.n, sample.n + sample.images):
                set_state(db, item_id, n, state, error.reason, error.message, at)
            self._ended(db, attempt, cost[0] if cost[0] is not None or error.maybe_billed else 0.0)

        await self.writer.write(change)

    def blocked(self, samples: Sequence[tuple[Sample, str]]) -> None:
        """Samples that cannot be asked for because what they need was not made; with the reason in words."""
        self._now(lambda db: insert_blocked(db, samples))

    async def download_failed(
        self, attempt: int, sample: Sample, error: ProviderError, cost: tuple[float | None, str] = (None, "")
    ) -> None:
        """The pictures were made and none could be fetched: the attempt stays open, and the next run fetches again.

        cost: as `attempt_failed` takes it.
        """
        at = time.time()

        def change(db: Connection) -> None:
            db.execute(
                "UPDATE attempt SET reason = ?, message = ?, maybe_billed = 1, usd = coalesce(?, usd),"
                " usd_source = coalesce(?, usd_source) WHERE id = ?",
                (error.reason, error.message, cost[0], cost[1] or None, attempt),
            )
            samples = (sample.n, sample.images)
            without_picture(db, attempt, sample.item.id, samples, "failed", error.reason, error.message, at)

        await self.writer.write(change)

    def given_up_for_good(self, attempt: int, sample: Sample, reason: str, message: str) -> None:
        """An answer that was paid for brings nothing more: its attempt ends, and so do those of its samples that have no
        picture."""
        at = time.time()

        def change(db: Connection) -> None:
            made = db.execute("SELECT 1 FROM image WHERE attempt_id = ? LIMIT 1", (attempt,)).fetchone() is not None
            db.execute(
                "UPDATE attempt SET outcome = ?, reason = ?, message = ?, maybe_billed = ?, ended_at = ? WHERE id = ?",
                ("succeeded" if made else "failed", reason, message, int(not made), at, attempt),
            )
            without_picture(db, attempt, sample.item.id, (sample.n, sample.images), "failed", reason, message, at)

        self._now(change)

    # --- repairs, moves, parking

    def apply(self, changes: Iterable[tuple[str, tuple[Any, ...]]]) -> None:
        """Run statements in one transaction; for repairs at the start of a run."""
        statements = list(changes)

        def change(db: Connection) -> None:
            for sql, values in statements:
                db.execute(sql, values)

        self._now(change)

    def parked(self, lane: str, until: float, message: str) -> None:
        self._now(lambda db: db.execute(PUT_LANE, (lane, until, message)))

    def cooled(self, lane: str, until: float) -> None:
        """For those who look on from outside; nobody waits for it."""
        self.writer.ride(lambda db: db.execute(PUT_META, (f"{COOLING}{lane}", str(until))))

    def unparked(self, lane: str) -> None:
        self._now(lambda db: db.execute("DELETE FROM lane WHERE key = ?", (lane,)))


_USAGE_FIELDS = (
    "prompt_tokens",
    "image_tokens",
    "text_tokens",
    "thought_tokens",
    "total_tokens",
    "credits",
    "usd",
    "tier",
)


def _linked_text(reply: Reply, facts: Mapping[str, Any]) -> str:
    """The links, and what the answer said besides: whoever fetches them has nothing else of it. inline: pictures that came
    before them, in the answer itself."""
    usage = dataclasses.asdict(reply.usage) if reply.usage else None
    said = {"links": list(reply.links), "inline": len(reply.images), "usage": usage, "text": reply.text}
    return json.dumps({**said, "facts": {name: value for name, value in facts.items() if name != "wire"}})


def _note_fetched(db: Connection, attempt: int, numbers: Sequence[int]) -> None:
    """These pictures of an answer with links are recorded; the others are fetched later."""
    (text,) = db.execute("SELECT links FROM attempt WHERE id = ?", (attempt,)).fetchone()
    found = json.loads(text)
    said = {"links": found} if isinstance(found, list) else found
    said["recorded"] = sorted({*numbers, *linked_answer(text).recorded})
    db.execute("UPDATE attempt SET links = ? WHERE id = ?", (json.dumps(said), attempt))


def _usage_text(usage: Usage | None) -> str | None:
    if usage is None:
        return None
    return json.dumps({name: value for name in _USAGE_FIELDS if (value := getattr(usage, name))})


def insert_attempt(
    db: Connection,
    run_id: int,
    sample: Sample,
    lane: str,
    number: int,
    estimate_usd: float | None,
    sent_as: str,
    at: float,
    *,
    state: str = "running",
    chunk: tuple[int | None, str | None] = (None, None),
    worker: str | None = None,
) -> int:
    """A request that is about to be sent, and its samples in `state`. chunk: the one it belongs to, and its facts;
    worker: who sends it, when that is not the run."""
    item = sample.item
    cursor = db.execute(
        "INSERT INTO attempt (run_id, item_id, n, images, number, lane, fingerprint, stem, started_at, estimate_usd,"
        " sent_as, chunk, facts, worker) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) RETURNING id",
        (
            run_id,
            item.id,
            sample.n,
            sample.images,
            number,
            lane,
            sample.fingerprint,
            item.filename,
            at,
            estimate_usd,
            sent_as or None,
            *chunk,
            worker,
        ),
    )
    for n in range(sample.n, sample.n + sample.images):
        db.execute(
            "INSERT INTO sample (item_id, n, model, tags, state, fingerprint, wire, attempts, updated_at)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, 1, ?) ON CONFLICT (item_id, n) DO UPDATE SET state = excluded.state,"
            " model = excluded.model, tags = excluded.tags, wire = excluded.wire, updated_at = excluded.updated_at,"
            " attempts = CASE WHEN sample.fingerprint = excluded.fingerprint THEN sample.attempts + 1 ELSE 1 END,"
            " fingerprint = excluded.fingerprint, reason = '', message = ''",
            (item.id, n, item.model, ",".join(item.tags), state, sample.fingerprint, sample.wire, at),
        )
    return int(cursor.fetchone()[0])


def insert_blocked(db: Connection, samples: Sequence[tuple[Sample, str]]) -> None:
    at = time.time()
    for sample, why in samples:
        item = sample.item
        db.execute(
            "INSERT INTO sample (item_id, n, model, tags, state, fingerprint, wire, reason, message, updated_at)"
            " VALUES (?, ?, ?, ?, 'blocked', '', ?, 'blocked', ?, ?) ON CONFLICT (item_id, n) DO UPDATE SET"
            " state = 'blocked', reason = 'blocked', message = excluded.message, updated_at = excluded.updated_at",
            (item.id, sample.n, item.model, ",".join(item.tags), sample.wire, why, at),
        )


def insert_image(db: Connection, attempt: int, item_id: str, fingerprint: str, picture: Settled) -> None:
    """One picture that is durable in the spool and not yet placed."""
    file = picture.file
    db.execute(
        PUT_IMAGE,
        (
            attempt,
            picture.k,
            item_id,
            picture.n,
            file.role,
            fingerprint,
            picture.spool,
            file.path,
            0,
            file.sha256,
            file.bytes,
            file.width,
            file.height,
            file.format,
            ",".join(file.flags),
        ),
    )


def set_state(db: Connection, item_id: str, n: int, state: str, reason: str, message: str, at: float) -> None:
    db.execute(
        "UPDATE sample SET state = ?, reason = ?, message = ?, updated_at = ? WHERE item_id = ? AND n = ?",
        (state, reason, message, at, item_id, n),
    )


def without_picture(
    db: Connection,
    attempt: int,
    item_id: str,
    samples: tuple[int, int],
    state: str,
    reason: str,
    message: str,
    at: float,
) -> None:
    """How samples end for which an attempt has no picture, but for those that were asked for again since, or are to be
    another picture by now. samples: the first one's number, and how many they are."""
    db.execute(
        "UPDATE sample SET state = ?, reason = ?, message = ?, updated_at = ? WHERE item_id = ? AND n >= ? AND n < ?"
        " AND fingerprint = (SELECT fingerprint FROM attempt WHERE id = ?) AND NOT EXISTS (SELECT 1 FROM image i"
        " WHERE i.attempt_id = ? AND i.item_id = sample.item_id AND i.n = sample.n AND i.role = 'image')"
        " AND NOT EXISTS (SELECT 1 FROM attempt l WHERE l.item_id = sample.item_id AND l.n <= sample.n"
        " AND sample.n < l.n + l.images AND l.id > ?)",
        (state, reason, message, at, item_id, samples[0], sum(samples), attempt, attempt, attempt),
    )
