"""What people say about images: first a line in the job folder's `.batchgen/reviews.jsonl`, which can be added while a
run has the ledger, then a verdict in the ledger, once whoever holds the job's lock reads the lines."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypeVar, cast

from batchgen.ledger.database import Change, Connection, column_list, placeholders
from batchgen.ledger.postgresql import PostgreSQL, to_postgresql_ddl
from batchgen.ledger.reader import HistoryReader
from batchgen.ledger.reader import Reader as Reader
from batchgen.ledger.schema import (
    SAMPLE_COLUMNS,
    STATE_FOLDER,
    UPSERT_META,
    VERDICT_COLUMNS,
    VERDICT_DDL,
    VERDICT_KEY,
    SQLiteReadingConnection,
)
from batchgen.ledger.verdicts import (
    PERSON,
    ReviewState,
    VerdictReader,
    last_ruling,
    review_state,
    set_review_state,
    upsert_verdicts,
    verdict_row,
)
from batchgen.records import Verdict
from batchgen.safe_open import PRIVATE_MODE
from batchgen.sanitize import sanitize
from batchgen.store.spool import BINARY, NO_FOLLOW, disk_error, sync_folder

if TYPE_CHECKING:
    from batchgen.ledger.ledger import Ledger

JOURNAL = "reviews.jsonl"
NAME_MAX_CHARS, COMMENT_MAX_CHARS, MAX_STARS = 60, 1000, 5
ABSORBED_META_KEY = "reviews"  # how much of the journal was read
LOCK_TIMEOUT_S = 30.0
LINE_MAX_BYTES = 20_000
TICK_S = 1e-6  # between two lines, so that of two people one is later
IDS_PER_QUERY = 5000
R = TypeVar("R", bound=Reader)
SampleKey = tuple[str, int]


class JournalPart(NamedTuple):
    """A part of the journal. verdicts: in the order of their lines. mark: how far it was read. unreadable: lines cut
    off by a crash."""

    verdicts: Sequence[Verdict]
    mark: str
    unreadable: int


class StateChange(NamedTuple):
    """The new state of a sample whose image has this hash. at: UTC seconds of the verdict that causes it."""

    sha256: str
    before: ReviewState
    after: ReviewState
    at: float


@dataclass(frozen=True, slots=True)
class Pending:
    """What the journal has and the ledger does not. verdicts: each person's latest on each image. changes: by sample,
    if its state changes. mark, unreadable: see `JournalPart`."""

    verdicts: Sequence[Verdict] = ()
    changes: Mapping[SampleKey, StateChange] = field(default_factory=dict)
    mark: str = ""
    unreadable: int = 0


def make_review(name: str, item_id: str, n: int, sha256: str, ruling: str, stars: int, comment: str) -> Verdict:
    """A person's verdict, sanitized. stars: 0 for none. Raises ValueError in words."""
    comment = "\n".join(map(sanitize, comment.strip().splitlines()))
    if len(comment) > COMMENT_MAX_CHARS:
        raise ValueError(f"comment: {len(comment):,} characters, and {COMMENT_MAX_CHARS:,} are the most")
    if ruling not in ("accept", "reject", "none"):
        raise ValueError(f"ruling: {ruling!r} is not one of accept, reject, none")
    if not 0 <= stars <= MAX_STARS:
        raise ValueError(f"stars: expected 0 to {MAX_STARS}, got {stars}")
    return Verdict(
        item_id=item_id,
        n=n,
        sha256=sha256,
        by="person",
        name=clean_name(name),
        ruling=ruling,  # type: ignore[arg-type] # looked at above
        reason=PERSON if ruling == "reject" else "",
        message=comment,
        score=float(stars) if stars else None,
    )


def clean_name(name: str) -> str:
    """A person's name, sanitized. Raises ValueError in words."""
    name = sanitize(" ".join(name.split()))
    if not name or len(name) > NAME_MAX_CHARS:
        raise ValueError(f"name: expected 1 to {NAME_MAX_CHARS} characters")
    return name


# --- the journal


def append_reviews(folder: Path, reviews: Sequence[Verdict]) -> list[Verdict]:
    """Append these lines to the journal of a job folder, all in one write, and return them with their times. Durable on
    return. Raises StoreError, and then none of them count."""
    path = folder / STATE_FOLDER / JOURNAL
    with _journal_locked(folder):
        is_new = not path.exists()
        fd = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | NO_FOLLOW | BINARY, PRIVATE_MODE)
        try:
            written = _append(fd, reviews)
        finally:
            os.close(fd)
        if is_new:
            sync_folder(str(path.parent))
    return written


@contextlib.contextmanager
def _journal_locked(folder: Path) -> Iterator[None]:
    """Keep everybody else from writing to the journal. Raises StoreError, also for what the disk refuses in the
    meantime."""
    from filelock import FileLock  # it brings asyncio, which readers do not need

    path = folder / STATE_FOLDER / JOURNAL
    try:
        with FileLock(f"{path}.lock", mode=PRIVATE_MODE, timeout=LOCK_TIMEOUT_S):
            yield
    except OSError as error:  # also a Timeout of the lock
        raise disk_error(error, str(path)) from error


def _append(fd: int, reviews: Sequence[Verdict]) -> list[Verdict]:
    size = os.fstat(fd).st_size
    os.lseek(fd, max(0, size - LINE_MAX_BYTES), os.SEEK_SET)
    tail = os.read(fd, LINE_MAX_BYTES)
    last = max((each.at for each in map(_parse_line, tail.splitlines()) if each), default=0.0)
    at = max(time.time(), last + TICK_S)
    written = [replace(review, at=round(at + number * TICK_S, 6)) for number, review in enumerate(reviews)]
    data = b"".join(map(_line, written))
    if tail and not tail.endswith(b"\n"):
        data = b"\n" + data  # a crash cut off the last line: it stays alone
    try:
        if os.write(fd, data) < len(data):
            raise OSError(errno.ENOSPC, "half a line")
        os.fsync(fd)
    except OSError:
        with contextlib.suppress(OSError):
            os.ftruncate(fd, size)
        raise
    return written


def _line(review: Verdict) -> bytes:
    line = {
        "at": review.at,
        "name": review.name,
        "item": review.item_id,
        "n": review.n,
        "sha256": review.sha256,
        "ruling": review.ruling,
        "stars": int(review.score or 0),
        "comment": review.message,
    }
    return json.dumps(line, ensure_ascii=False).encode("utf-8", "replace") + b"\n"


def _parse_line(line: bytes) -> Verdict | None:
    try:
        found = json.loads(line)
        review = make_review(
            *(str(found["name"]), str(found["item"]), int(found["n"]), str(found["sha256"])),
            *(found["ruling"], int(found["stars"]), str(found["comment"])),
        )
        return replace(review, at=float(found["at"]))
    except (ValueError, KeyError, TypeError, RecursionError, OverflowError):
        return None


def read_reviews(folder: Path, mark: str = "", *, to_end: bool = False) -> JournalPart:
    """Read the journal from a mark on. to_end: nobody is writing, so a last line without an end was cut off; otherwise
    it is left for later."""
    path = folder / STATE_FOLDER / JOURNAL
    try:
        with open(path, "rb") as file:
            identity, _, offset = mark.partition(":")
            inode, size = str(os.fstat(file.fileno()).st_ino), os.fstat(file.fileno()).st_size
            start = int(offset) if identity == inode and offset.isdecimal() and int(offset) <= size else 0
            file.seek(start)
            data = file.read()
    except FileNotFoundError:
        return JournalPart((), mark, 0)
    except OSError as error:
        raise disk_error(error, str(path)) from None
    if not to_end:
        data = data[: data.rfind(b"\n") + 1]
    lines = [line for line in data.split(b"\n") if line]
    found = tuple(review for line in lines if (review := _parse_line(line)) is not None)
    return JournalPart(found, f"{inode}:{start + len(data)}", len(lines) - len(found))


def journal_size(folder: Path) -> int:
    """The size in bytes, which grows with every line."""
    with contextlib.suppress(OSError):
        return (folder / STATE_FOLDER / JOURNAL).stat().st_size
    return 0


def latest_reviews(reviews: Iterable[Verdict]) -> tuple[Verdict, ...]:
    """Each person's last verdict on each image. A withdrawal is kept: it matters to a ledger that has an earlier
    verdict."""
    return tuple({(each.item_id, each.n, each.sha256, each.name): each for each in reviews}.values())


# --- into the ledger, and into what is read from it


def pending_reviews(folder: Path, reader: Reader, *, to_end: bool = False) -> Pending:
    """What the ledger lacks. to_end: see `read_reviews`. Raises StoreError, LedgerError."""
    part = read_reviews(folder, reader.meta(ABSORBED_META_KEY) or "", to_end=to_end)
    new, known = latest_reviews(part.verdicts), VerdictReader.from_reader(reader)
    fresh: dict[SampleKey, list[Verdict]] = {}
    for each in new:
        fresh.setdefault((each.item_id, each.n), []).append(each)
    ids, changes = iter(sorted({item_id for item_id, _ in fresh})), dict[SampleKey, StateChange]()
    while page := list(islice(ids, IDS_PER_QUERY)):
        said, standing = known.verdicts(page), known.reviewable(page)
        for key in standing.keys() & fresh.keys():
            if (change := _state_change(*standing[key], said.get(key, ()), fresh[key])) is not None:
                changes[key] = change
    return Pending(new, changes, part.mark, part.unreadable)


def _state_change(
    sha256: str, before: ReviewState, known: Iterable[Verdict], fresh: Iterable[Verdict]
) -> StateChange | None:
    """The change of a sample's state, None if nothing new was said about the image that it has now, or if it changes
    nothing. Stars and comments alone change nothing: the state stays as checks and judge have left it."""
    old = {(each.by, each.name): each for each in known if each.sha256 == sha256}
    new = {(each.by, each.name): each for each in fresh if each.sha256 == sha256}
    together = list({**old, **new}.values())
    if not new or (last_ruling(old.values()) is None and last_ruling(together) is None):
        return None
    after = review_state(together)
    return None if after == before else StateChange(sha256, before, after, max(each.at for each in new.values()))


def absorb_reviews(folder: Path, ledger: Ledger) -> Pending:
    """Record the new lines of the journal in the ledger, in one transaction: each is a verdict, and an image no longer
    counts if a person rejects it, and counts if a person accepts it. Only for whoever holds the job's lock. Returns
    what was new.

    Lines that were recorded already may come again, as after a repair, with the same result. Blocks for some
    milliseconds. Raises LedgerError, StoreError.
    """
    if not (folder / STATE_FOLDER / JOURNAL).exists():
        return Pending()
    with _journal_locked(folder):
        pending = pending_reviews(folder, ledger.reader, to_end=True)
    if pending.mark == ledger.reader.meta(ABSORBED_META_KEY):
        return pending
    changes: list[Change] = [upsert_verdicts(pending.verdicts)]
    changes += [
        set_review_state(item_id, n, change.sha256, *change.after) for (item_id, n), change in pending.changes.items()
    ]

    def absorb(db: Connection) -> None:
        for change in changes:
            change(db)
        db.execute(UPSERT_META, (ABSORBED_META_KEY, pending.mark))

    ledger.writer.submit(absorb).result()
    return pending


def reviewed(reader: R, folder: Path) -> R:
    """The reader, whose answers now include what the journal has and the ledger does not: verdicts, and samples
    rejected or accepted by them. For read-only use. Raises StoreError, LedgerError."""
    pending = pending_reviews(folder, reader)
    if not pending.verdicts:
        return reader
    connection = reader._connection
    if isinstance(connection, PostgreSQL):
        (known,) = connection.execute("SELECT to_regclass(?)", (f"{connection.schema}.verdict",)).fetchone()
        for statement in _overlay_ddl(connection.schema, "pg_temp", has_verdicts=known is not None):
            connection.execute(to_postgresql_ddl(statement))
        _fill_overlay(connection, pending)
    else:
        known = connection.execute("SELECT name FROM main.sqlite_master WHERE name = 'verdict'").fetchone()
        for statement in ("BEGIN", *_overlay_ddl("main", "temp", has_verdicts=known is not None)):
            connection.execute(statement)
        _fill_overlay(connection, pending)
        connection.execute("COMMIT")
        cast(SQLiteReadingConnection, connection).has_views = True
    return reader


def open_history(folder: Path) -> HistoryReader:
    """The history of a job, including the journal. Raises StoreError, LedgerError."""
    return reviewed(HistoryReader.open(folder), folder)


def _fill_overlay(connection: Connection, pending: Pending) -> None:
    connection.executemany(
        f"INSERT INTO review ({column_list(VERDICT_COLUMNS)}) VALUES ({placeholders(VERDICT_COLUMNS)})",
        [verdict_row(each) for each in pending.verdicts],
    )
    connection.executemany(
        "INSERT INTO review_state VALUES (?, ?, ?, ?, ?, ?, ?)",
        [(*key, each.before.state, *each.after, each.at) for key, each in pending.changes.items()],
    )


def _overlay_ddl(main: str, temp: str, *, has_verdicts: bool) -> Iterator[str]:
    """Views of one connection that hide the tables, like those for older ledgers. A sample that has changed its state
    since keeps that."""
    yield VERDICT_DDL.replace("CREATE TABLE verdict", "CREATE TEMP TABLE review").strip().rstrip(";")
    yield (
        "CREATE TEMP TABLE review_state (item_id TEXT NOT NULL, n INTEGER NOT NULL, was TEXT NOT NULL, state TEXT NOT NULL,"
        " reason TEXT NOT NULL, message TEXT NOT NULL, updated_at REAL NOT NULL, PRIMARY KEY (item_id, n)) WITHOUT ROWID"
    )
    columns = ", ".join(
        f"coalesce((SELECT r.{name} FROM review_state r WHERE r.item_id = s.item_id AND r.n = s.n AND r.was = s.state),"
        f" s.{name}) AS {name}"
        if name in ("state", "reason", "message", "updated_at")
        else f"s.{name}"
        for name in SAMPLE_COLUMNS
    )
    yield f"CREATE TEMP VIEW sample AS SELECT {columns} FROM {main}.sample s"
    new = f"SELECT {column_list(VERDICT_COLUMNS)} FROM review"
    same = " AND ".join(f"r.{name} = v.{name}" for name in VERDICT_KEY)
    old = f"SELECT * FROM {main}.verdict v WHERE NOT EXISTS (SELECT 1 FROM review r WHERE {same}) UNION ALL "
    yield f"DROP VIEW IF EXISTS {temp}.verdict"
    yield f"CREATE TEMP VIEW verdict AS {old if has_verdicts else ''}{new}"
