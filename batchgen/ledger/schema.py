"""The ledger's tables, and how its SQLite file is opened: once for writing, any number of times for reading."""

from __future__ import annotations

import contextlib
import os
import shlex
import sqlite3
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from batchgen.errors import LedgerError, LedgerGone
from batchgen.ledger.database import Change, upsert_sql
from batchgen.store.spool import file_identity, sync_folder

VERSION = 8
FILE_NAME = "ledger.sqlite"
OUTAGES_META_PREFIX = "outages "  # in `meta`, before a worker's name or nothing: what was down in the last run, JSON
UPSERT_META = upsert_sql("meta", ("key", "value"), ("key",))
COOLING_META_PREFIX = "cooling "  # in `meta`, before a lane's key: UTC seconds until which it waits for its quota
STATE_FOLDER = ".batchgen"  # inside the job folder: ledger, lock, spool

# Samples handed to a batch API together; `ledger/chunks.py` says what its columns mean.
CHUNK_DDL = """
CREATE TABLE chunk (
  id INTEGER PRIMARY KEY, run_id INTEGER NOT NULL, lane TEXT NOT NULL, name TEXT NOT NULL, step TEXT NOT NULL,
  requests INTEGER NOT NULL, estimate_usd REAL, upload_url TEXT NOT NULL DEFAULT '', input_file TEXT NOT NULL DEFAULT '',
  batch TEXT NOT NULL DEFAULT '', results_file TEXT NOT NULL DEFAULT '', state TEXT NOT NULL DEFAULT '',
  succeeded INTEGER NOT NULL DEFAULT 0, failed INTEGER NOT NULL DEFAULT 0, message TEXT NOT NULL DEFAULT '',
  made_at REAL NOT NULL DEFAULT 0, asked_at REAL NOT NULL DEFAULT 0, created_at REAL NOT NULL DEFAULT 0,
  ended_at REAL NOT NULL DEFAULT 0);
CREATE INDEX attempt_of_chunk ON attempt (chunk) WHERE chunk IS NOT NULL;
"""
# What was made from an image, tried or left out. recipe and source_sha256: from what. width: 0 if it has none.
DERIVATIVE_DDL = """
CREATE TABLE derivative (
  path TEXT PRIMARY KEY, item_id TEXT NOT NULL, n INTEGER NOT NULL, name TEXT NOT NULL, state TEXT NOT NULL,
  recipe TEXT NOT NULL, source_sha256 TEXT NOT NULL, format TEXT NOT NULL, sha256 TEXT NOT NULL, bytes INTEGER NOT NULL,
  width INTEGER NOT NULL, height INTEGER NOT NULL, mtime_ns INTEGER NOT NULL, message TEXT NOT NULL DEFAULT '') WITHOUT ROWID;
CREATE INDEX derivative_of_sample ON derivative (item_id, n);
"""
DERIVATIVE_COLUMNS = (
    *("path", "item_id", "n", "name", "state", "recipe", "source_sha256", "format", "sha256", "bytes"),
    *("width", "height", "mtime_ns", "message"),
)

# What checks, the judge and people said about images: the latest of each about each image. The columns are those of
# `records.Verdict`.
VERDICT_DDL = """
CREATE TABLE verdict (
  item_id TEXT NOT NULL, n INTEGER NOT NULL, sha256 TEXT NOT NULL, by TEXT NOT NULL, name TEXT NOT NULL, basis TEXT NOT NULL,
  ruling TEXT NOT NULL, reason TEXT NOT NULL, message TEXT NOT NULL, score REAL, details TEXT NOT NULL, usd REAL,
  attempt INTEGER, at REAL NOT NULL, PRIMARY KEY (item_id, n, sha256, by, name)) WITHOUT ROWID;
"""
VERDICT_COLUMNS = (
    *("item_id", "n", "sha256", "by", "name", "basis", "ruling", "reason", "message", "score", "details", "usd"),
    *("attempt", "at"),
)
VERDICT_KEY = ("item_id", "n", "sha256", "by", "name")
SAMPLE_COLUMNS = (
    *("id", "item_id", "n", "model", "tags", "state", "fingerprint", "wire", "path", "bytes", "made_fingerprint"),
    *("attempts", "usd", "usd_source", "reason", "message", "text", "updated_at"),
)
DOUBTFUL_INDEX_DDL = "CREATE INDEX attempt_doubtful ON attempt (item_id, n) WHERE maybe_billed <> 0;"
IMAGE_COLUMNS = (
    *("attempt_id", "k", "item_id", "n", "role", "fingerprint", "spool", "path", "placed"),
    *("sha256", "bytes", "width", "height", "format", "flags"),
)
TABLES_DDL = f"""{DERIVATIVE_DDL}{VERDICT_DDL}
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE run (
  id INTEGER PRIMARY KEY, started_at REAL NOT NULL, ended_at REAL, pid INTEGER, host TEXT, version TEXT,
  wanted INTEGER, kept INTEGER, exit_code INTEGER, stopped_by TEXT, summary TEXT);
CREATE TABLE sample (
  id INTEGER PRIMARY KEY, item_id TEXT NOT NULL, n INTEGER NOT NULL,
  model TEXT NOT NULL, tags TEXT NOT NULL DEFAULT '', state TEXT NOT NULL,
  fingerprint TEXT NOT NULL, wire TEXT NOT NULL,
  path TEXT, bytes INTEGER, made_fingerprint TEXT,
  attempts INTEGER NOT NULL DEFAULT 0, usd REAL, usd_source TEXT NOT NULL DEFAULT '',
  reason TEXT NOT NULL DEFAULT '', message TEXT NOT NULL DEFAULT '', text TEXT NOT NULL DEFAULT '',
  updated_at REAL NOT NULL);
CREATE UNIQUE INDEX sample_key ON sample (item_id, n);
CREATE INDEX sample_not_done ON sample (state) WHERE state <> 'succeeded';
CREATE TABLE attempt (
  id INTEGER PRIMARY KEY, run_id INTEGER NOT NULL, item_id TEXT NOT NULL, n INTEGER NOT NULL,
  images INTEGER NOT NULL, number INTEGER NOT NULL, lane TEXT NOT NULL, fingerprint TEXT NOT NULL, stem TEXT NOT NULL,
  started_at REAL NOT NULL, sent_at REAL, ended_at REAL,
  outcome TEXT, reason TEXT, message TEXT, http_status INTEGER, maybe_billed INTEGER,
  estimate_usd REAL, usd REAL, usd_source TEXT, usage TEXT, reply_id TEXT, model_version TEXT, links TEXT,
  sent_as TEXT, beside TEXT, chunk INTEGER, facts TEXT, worker TEXT,
  job TEXT);
CREATE INDEX attempt_open ON attempt (id) WHERE outcome IS NULL;
CREATE INDEX attempt_recent ON attempt (lane, started_at);
CREATE INDEX attempt_of_run ON attempt (run_id);
{DOUBTFUL_INDEX_DDL}
CREATE TABLE image (
  attempt_id INTEGER NOT NULL, k INTEGER NOT NULL, item_id TEXT NOT NULL, n INTEGER NOT NULL, role TEXT NOT NULL,
  fingerprint TEXT NOT NULL, spool TEXT NOT NULL, path TEXT NOT NULL, placed INTEGER NOT NULL,
  sha256 TEXT NOT NULL, bytes INTEGER NOT NULL, width INTEGER NOT NULL, height INTEGER NOT NULL,
  format TEXT NOT NULL, flags TEXT NOT NULL DEFAULT '', stamp TEXT,
  PRIMARY KEY (attempt_id, k)) WITHOUT ROWID;
CREATE INDEX image_of_sample ON image (item_id, n);
CREATE INDEX image_unplaced ON image (attempt_id) WHERE placed = 0;
CREATE TABLE lane (key TEXT PRIMARY KEY, parked_until REAL NOT NULL, message TEXT NOT NULL) WITHOUT ROWID;
"""

# What each version added. sent_as: how the request differed from its item, in words. beside: texts kept beside its
# images, JSON by file ending. chunk: the one it was sent with. facts: needed to settle its answer, JSON. worker: the
# sender, if not the run itself. stamp: of the file in its place, NULL if it was never read. job: accepted by its API,
# which answers later, JSON.
MIGRATIONS = {
    1: "ALTER TABLE attempt ADD COLUMN sent_as TEXT; ALTER TABLE attempt ADD COLUMN beside TEXT;",
    2: DERIVATIVE_DDL,
    3: f"ALTER TABLE attempt ADD COLUMN chunk INTEGER; ALTER TABLE attempt ADD COLUMN facts TEXT; {CHUNK_DDL}",
    4: f"ALTER TABLE attempt ADD COLUMN worker TEXT; DROP INDEX attempt_doubtful; {DOUBTFUL_INDEX_DDL}",
    5: "ALTER TABLE image ADD COLUMN stamp TEXT;",
    6: "ALTER TABLE attempt ADD COLUMN job TEXT;",
    7: VERDICT_DDL,
}
_ADDED_COLUMNS: Mapping[str, Mapping[int, tuple[str, ...]]] = {
    "attempt": {1: ("sent_as", "beside"), 3: ("chunk", "facts"), 4: ("worker",), 6: ("job",)},
    "image": {5: ("stamp",)},
}  # columns by table and by the version before

NETWORK_FILE_SYSTEMS = frozenset(
    {"nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "afs", "fuse.sshfs", "fuse.rclone", "lustre"}
)
_CORRUPTION_CODES = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


def unreadable_error(error: sqlite3.Error, path: str | Path = "") -> LedgerError:
    """The error for what SQLite found wrong, with the remedy if the file itself is damaged."""
    where = f" {path}" if path else ""
    if (getattr(error, "sqlite_errorcode", None) or 0) & 0xFF in _CORRUPTION_CODES:
        return LedgerError(
            f"the ledger{where} is damaged ({error}) and is left as it is: {_repair_command(path)} rebuilds it from"
            " results.jsonl and the images"
        )
    return LedgerError(f"the ledger{where} cannot be read: {error}")


def _repair_command(path: str | Path) -> str:
    """The command that rebuilds a ledger. path: the ledger's, empty if unknown."""
    job = shlex.quote(str(Path(path).absolute().parent.parent)) if path else "JOB"
    return f"`batchgen verify {job} --repair`"


@contextlib.contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Turn SQLite's errors into LedgerError."""
    try:
        yield
    except sqlite3.Error as error:
        raise unreadable_error(error, path) from None


def check_after_crash(path: Path) -> None:
    """Check every page, but only if the last run did not end properly. Changes nothing. Raises LedgerError."""
    if not path.is_file() or not path.stat().st_size:
        return
    with _readable(path):
        connection = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=10.0)
        with contextlib.closing(connection):
            if not connection.execute("PRAGMA user_version").fetchone()[0]:
                return
            last = connection.execute("SELECT ended_at FROM run ORDER BY id DESC LIMIT 1").fetchone()
            if last is None or last[0] is not None:
                return
            found = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
        if found != "ok":
            damage = sqlite3.DatabaseError(found)
            damage.sqlite_errorcode = sqlite3.SQLITE_CORRUPT
            raise damage


_NEW = f"BEGIN; {TABLES_DDL} {CHUNK_DDL} PRAGMA user_version={VERSION}; COMMIT;"


def ledger_path(job_folder: Path) -> Path:
    return job_folder / STATE_FOLDER / FILE_NAME


def check_is_same_file(path: Path, identity: tuple[int, int] | None) -> None:
    """Check that the file at `path` is still the one that was opened. identity: of that one. Raises LedgerGone."""
    if file_identity(path) != identity:
        raise LedgerGone(f"{path} has gone: it was deleted, moved or replaced while it was in use")


class SQLiteConnection(sqlite3.Connection):
    """A connection that writes. SQLite itself silently goes on writing into a file that was deleted or moved."""

    is_remote = False
    _guarded_path: Path | None = None
    _guarded_identity: tuple[int, int] | None = None

    def guard_file(self, path: Path) -> None:
        """Refuse to write once another file, or none, is at `path`, which this connection has open."""
        self._guarded_path, self._guarded_identity = path, file_identity(path)

    def transact(self, changes: Sequence[Change]) -> list[Any]:
        """Make the changes, all of them durable on return, or none. Raises what a change raises, LedgerGone and
        sqlite3.Error."""
        if self._guarded_path is not None:
            check_is_same_file(self._guarded_path, self._guarded_identity)
        self.execute("BEGIN IMMEDIATE")
        try:
            results = [change(self) for change in changes]
            self.execute("COMMIT")
        except BaseException:
            with contextlib.suppress(sqlite3.Error):
                self.execute("ROLLBACK")
            raise
        return results


class FetchedRows:
    """An answer that was fetched as a whole."""

    rowcount = -1

    def __init__(self, rows: list[Any]) -> None:
        self._rows = iter(rows)

    def fetchone(self) -> Any:
        return next(self._rows, None)

    def fetchall(self) -> list[Any]:
        return list(self._rows)

    def __iter__(self) -> Iterator[Any]:
        return self._rows


class SQLiteReadingConnection(sqlite3.Connection):
    """A connection that only reads, for several threads.

    While one statement of a connection has not finished, all others see the file as it was when that one began. So an
    answer is fetched as a whole, one after another, and whatever has just been committed is seen. A long one gets a
    connection of its own. has_views: views were made for this connection alone, and long answers are wanted through
    them too. Raises LedgerError.
    """

    has_views = False

    def __init__(self, path: Path) -> None:
        # No cache: a statement that is still running must not be given to another thread.
        uri = f"{path.absolute().as_uri()}?mode=ro"
        super().__init__(
            uri, uri=True, isolation_level=None, timeout=10.0, check_same_thread=False, cached_statements=0
        )
        self._path, self._identity = path, file_identity(path)
        self._lock = threading.Lock()

    def execute(self, sql: str, values: Sequence[Any] = (), /) -> FetchedRows:  # type: ignore[override]
        with self._lock, _readable(self._path):
            return FetchedRows(super().execute(sql, values).fetchall())

    def stream(self, sql: str, values: Sequence[Any] = (), /) -> Iterator[Any]:
        """The rows, as they are needed. Within a transaction, which is a snapshot anyway, no other connection is
        used."""
        with _readable(self._path):
            if self.in_transaction or self.has_views:
                yield from super().execute(sql, values)
                return
            check_is_same_file(self._path, self._identity)
            with contextlib.closing(open_file_for_reading(self._path)) as connection:
                yield from sqlite3.Connection.execute(connection, sql, values)


def open_file_for_writing(path: Path) -> SQLiteConnection:
    """The one read-write connection. Creates the file with mode 0600, because it contains prompts.

    Raises LedgerError if it is damaged, of another version, or on a network file system, where SQLite's WAL is unsafe.
    """
    if (kind := network_file_system(path.parent)) is not None:
        raise LedgerError(
            f"{path.parent} is on a network file system ({kind}), where a ledger is not safe; use a local --output"
        )
    check_after_crash(path)
    try:
        if not path.exists():
            _create(path)
        connection = sqlite3.connect(
            path,
            isolation_level=None,
            check_same_thread=False,
            timeout=10.0,
            cached_statements=64,
            factory=SQLiteConnection,
        )
    except (sqlite3.Error, OSError) as error:
        raise LedgerError(f"the ledger {path} cannot be opened: {error}. It is left as it is") from None
    with _closing_on_failure(connection, path):
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute("PRAGMA wal_autocheckpoint=4000")
        if not connection.execute("PRAGMA user_version").fetchone()[0]:
            connection.executescript(_NEW)
        _check_version(connection, path)
        _migrate(connection)
    connection.guard_file(path)
    return connection


def _create(path: Path) -> None:
    """Create the file as a whole: at any time, and after a power cut, there is none or all of it. Raises OSError,
    StoreError and sqlite3.Error."""
    new = path.with_name(f"{path.name}.new")
    new.unlink(missing_ok=True)
    os.close(os.open(new, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
    with contextlib.closing(sqlite3.connect(new, isolation_level=None)) as connection:
        connection.executescript(_NEW)
    new.rename(path)
    sync_folder(str(path.parent))


def open_file_for_reading(path: Path) -> SQLiteReadingConnection:
    """A read-only connection, safe beside a running writer. Raises LedgerError if there is no ledger or it is
    damaged."""
    with _readable(path):
        connection = SQLiteReadingConnection(path)
    with _closing_on_failure(connection, path):
        for statement in compatibility_views(_check_version(connection, path)):
            connection.execute(statement)
    return connection


def compatibility_views(version: int) -> Iterator[str]:
    """Views for reading an older file, in which what later versions added is empty."""
    for table, additions in _ADDED_COLUMNS.items():
        if added := [name for since, names in additions.items() if version <= since for name in names]:
            columns = ", ".join(f"NULL AS {name}" for name in added)
            yield f"CREATE TEMP VIEW {table} AS SELECT *, {columns} FROM main.{table}"
    if version <= 2:
        columns = ", ".join(f"NULL AS {name}" for name in DERIVATIVE_COLUMNS)
        yield f"CREATE TEMP VIEW derivative AS SELECT {columns} WHERE 0"
    if version <= 3:
        yield CHUNK_DDL.partition("CREATE INDEX")[0].replace("CREATE TABLE", "CREATE TEMP TABLE")
    if version <= 7:
        columns = ", ".join(f"NULL AS {name}" for name in VERDICT_COLUMNS)
        yield f"CREATE TEMP VIEW verdict AS SELECT {columns} WHERE 1 = 0"


@contextlib.contextmanager
def _closing_on_failure(connection: sqlite3.Connection, path: Path) -> Iterator[None]:
    try:
        with _readable(path):
            yield
    except LedgerError:
        connection.close()
        raise


def _check_version(connection: sqlite3.Connection, path: Path) -> int:
    version = int(connection.execute("PRAGMA user_version").fetchone()[0])
    if not version:
        raise LedgerError(
            f"the ledger {path} is empty: it was cut off, or not copied as a whole. {_repair_command(path)} builds a new one"
            " from results.jsonl and the images"
        )
    if not 1 <= version <= VERSION:
        raise LedgerError(
            f"{path} was written by another version of batchgen (ledger {version}, this one knows 1 to {VERSION})"
        )
    return version


def _migrate(connection: sqlite3.Connection) -> None:
    """Bring an older file up to date, one version at a time, each in one transaction."""
    for version in range(int(connection.execute("PRAGMA user_version").fetchone()[0]), VERSION):
        connection.executescript(f"BEGIN IMMEDIATE; {MIGRATIONS[version]} PRAGMA user_version={version + 1}; COMMIT;")


def network_file_system(folder: Path) -> str | None:
    """The type of the network file system that `folder` is on, None if it is local or unknown.

    Source: proc(5), /proc/self/mounts; the longest mount point that contains the folder counts.
    """
    try:
        with open("/proc/self/mounts", encoding="utf-8", errors="replace") as mounts:
            lines = [line.split() for line in mounts]
    except OSError:
        return None
    real_path = os.path.realpath(folder)
    best = ("", "")
    for fields in lines:
        point = fields[1].replace("\\040", " ")
        inside = real_path == point or real_path.startswith(point.rstrip("/") + "/")
        if inside and len(point) >= len(best[0]):
            best = (point, fields[2])
    return best[1] if best[1] in NETWORK_FILE_SYSTEMS else None
