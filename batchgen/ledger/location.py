"""Where the ledger of a job is: in its folder, or on a PostgreSQL server that a small file in the folder names."""

from __future__ import annotations

import contextlib
import json
import os
import re
import socket
import time
import uuid
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from batchgen.errors import LedgerError, SettingsError
from batchgen.ledger.database import Connection, Database
from batchgen.ledger.missing_state import lost_in
from batchgen.ledger.schema import (
    CHUNK,
    MIGRATIONS,
    STATE_FOLDER,
    TABLES,
    VERSION,
    ledger_path,
    open_file_for_reading,
    open_file_for_writing,
    stand_ins,
)
from batchgen.safe_open import private
from batchgen.settings import LEDGER as VARIABLE
from batchgen.settings import Settings

if TYPE_CHECKING:
    from batchgen.ledger.postgresql import PostgreSQL

POINTER = "ledger.json"
SHARED = "batchgen"  # the schema of what all jobs of a server share
_MIGRATING = 7_161_988_002  # of `pg_advisory_xact_lock`: any number that nobody else uses
JOBS = f"""
CREATE SCHEMA IF NOT EXISTS {SHARED};
CREATE TABLE IF NOT EXISTS {SHARED}.job (
  id TEXT PRIMARY KEY, schema TEXT NOT NULL UNIQUE, name TEXT NOT NULL, output TEXT NOT NULL UNIQUE,
  version INTEGER NOT NULL, made_at REAL NOT NULL, made_on TEXT NOT NULL);
"""
_ANY_JOBS = f"SELECT to_regclass('{SHARED}.job')"
_JOB_OF_OUTPUT = f"SELECT id, schema FROM {SHARED}.job WHERE output = ?"
# What SQLite has and PostgreSQL calls otherwise.
INSTR = "CREATE FUNCTION instr(text, text) RETURNS integer LANGUAGE sql IMMUTABLE AS 'SELECT strpos($1, $2)';"


@dataclass(frozen=True, slots=True)
class Server:
    """Where a new ledger goes. name: of the job; output: by which the server knows it, see `known_as`."""

    url: str
    name: str
    output: str


@dataclass(frozen=True, slots=True)
class Pointer:
    """What the job folder knows of its ledger on a server; never a password."""

    server: str
    schema: str
    job: str


def known_as(output: str) -> str:
    """How a server tells jobs apart: by where their pictures go. A folder is one of this host."""
    return output if "://" in output else f"{socket.gethostname()}:{os.path.abspath(output)}"


def has_ledger(job_folder: Path) -> bool:
    return ledger_path(job_folder).is_file() or _pointer_path(job_folder).is_file()


def pointer(job_folder: Path) -> Pointer | None:
    """Raises LedgerError when the file is there and cannot be understood."""
    path = _pointer_path(job_folder)
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
        return Pointer(**{name: str(facts[name]) for name in ("server", "schema", "job")})
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise LedgerError(f"{path} does not say where the job's ledger is: {error}") from None


def url_of(job_folder: Path) -> str | None:
    """What BATCHGEN_LEDGER says, in the environment or in `.env` beside the job folder. Raises as `ledger_url`."""
    return ledger_url(Settings.load(job_folder.absolute().parent))


def ledger_url(settings: Settings) -> str | None:
    """The address of the server that has the ledgers, as BATCHGEN_LEDGER says; None when it says nothing.

    One in `.env`, which may be a stranger's, gets nothing of the user's own. Raises SettingsError.
    """
    if (found := settings.find(VARIABLE)) is None:
        return None
    url = server_url(found.text, found.source)
    if found.env_file is None:
        return url
    from batchgen.ledger.postgresql import self_contained

    return self_contained(url, found.source)


def server_url(text: str, name: str = VARIABLE) -> str:
    """The address of a PostgreSQL server. Raises SettingsError, which never holds the password."""
    from batchgen.ledger.postgresql import is_address

    if not is_address(text):
        raise SettingsError(
            f"{name}: no address of a ledger; write postgresql://user@host:5432/database, and %40 %2F %3F %23 for @ / ? #"
            " in a password"
        )
    return text


def open_for_reading(job_folder: Path, url: str | None = None) -> Connection:
    """url: of the server, for who knows it better than the folder. Raises LedgerError when there is no ledger, or it
    cannot be read."""
    if (there := pointer(job_folder)) is None:
        if not ledger_path(job_folder).is_file():
            raise lost_in(job_folder) or LedgerError(f"no ledger in {job_folder}: nothing has run here yet")
        return open_file_for_reading(ledger_path(job_folder))
    return _opened(url or _url_for(job_folder, there), there)


def kept_by(server: Server) -> Connection | None:
    """For reading, the ledger that a server has for a job whose folder does not know of it. Raises LedgerError."""
    from batchgen.ledger.postgresql import PostgreSQL, application, shown

    with contextlib.closing(PostgreSQL(server.url, SHARED, application("reads"))) as database:
        if database.execute(_ANY_JOBS).fetchone()[0] is None:
            return None
        found = database.execute(_JOB_OF_OUTPUT, (server.output,)).fetchone()
    return None if found is None else _opened(server.url, Pointer(shown(server.url), found[1], found[0]))


def seen_of(job_folder: Path) -> str | None:
    """Of a ledger on a server: changes with every commit, those of other jobs too. None for one in the folder.

    Source: PostgreSQL, `pg_current_snapshot`: two that are the same see the same. Raises LedgerError.
    """
    if (there := pointer(job_folder)) is None:
        return None
    from batchgen.ledger.postgresql import PostgreSQL, application

    with contextlib.closing(PostgreSQL(_url_for(job_folder, there), there.schema, application("watches"))) as server:
        return f"{there.schema} {server.execute('SELECT pg_current_snapshot()::text').fetchone()[0]}"


def identity(job_folder: Path) -> object:
    """Of the ledger that a folder has: another one when it was built anew; None when there is none. Raises LedgerError."""
    if (there := pointer(job_folder)) is not None:
        return there.schema
    path = ledger_path(job_folder)
    return path.stat().st_ino if path.is_file() else None


def _opened(url: str, there: Pointer) -> Connection:
    from batchgen.ledger.postgresql import PostgreSQL, application, tables

    database = PostgreSQL(url, there.schema, application("reads"))
    try:
        for statement in stand_ins(_check(database, there)):
            database.execute(tables(statement.replace("main.", f"{there.schema}.")))
    except LedgerError:
        database.close()
        raise
    return database


def open_for_writing(job_folder: Path, server: Server | None = None) -> Database:
    """The database of the job's ledger, made or brought up to date. Raises LedgerError."""
    there = pointer(job_folder)
    if there is None and server is None:
        return open_file_for_writing(ledger_path(job_folder))
    if ledger_path(job_folder).is_file():
        raise LedgerError(
            f"the ledger of {job_folder} is {ledger_path(job_folder)}, and a server is named for it: leave {VARIABLE} and"
            " --ledger away, or choose another --output"
        )
    from batchgen.ledger.postgresql import PostgreSQL, application

    url = server.url if server is not None else _url_for(job_folder, there) if there is not None else ""
    with_jobs = PostgreSQL(url, SHARED, application("opens"))
    try:
        if there is None and server is not None:
            there = register(with_jobs, server)
            _write_pointer(job_folder, there)
        if there is not None:
            migrate(with_jobs, there)
    finally:
        with_jobs.close()
    return open_schema(url, there.schema if there is not None else "")


def open_schema(url: str, schema: str) -> PostgreSQL:
    """The ledger of one job of a server, for writing. Raises LedgerError."""
    from batchgen.ledger.postgresql import PostgreSQL, application

    return PostgreSQL(url, schema, application("writes"))


def register(database: PostgreSQL, server: Server) -> Pointer:
    """The job that the server knows by its output, made when there is none."""
    from batchgen.ledger.postgresql import shown, tables

    job, made_at = str(uuid.uuid4()), time.time()
    schema = f"batchgen_job_{re.sub(r'[^a-z0-9]+', '_', server.name.lower())[:24].strip('_')}_{job[:8]}"

    def change(db: Connection) -> tuple[str, str]:
        one_at_a_time(db)
        for statement in _statements(tables(JOBS)):
            db.execute(statement)
        if (row := db.execute(_JOB_OF_OUTPUT, (server.output,)).fetchone()) is not None:
            return str(row[0]), str(row[1])
        db.execute(f"CREATE SCHEMA {schema}")
        db.execute(f"SET LOCAL search_path = {schema}")
        for statement in (*_statements(tables(TABLES)), *_statements(tables(CHUNK)), INSTR):
            db.execute(statement)
        row = (job, schema, server.name, server.output, VERSION, made_at, socket.gethostname())
        db.execute(f"INSERT INTO {SHARED}.job VALUES (?, ?, ?, ?, ?, ?, ?)", row)
        return job, schema

    found, named = database.transact([change])[0]
    return Pointer(shown(server.url), named, found)


def migrate(database: PostgreSQL, there: Pointer) -> None:
    """Bring an older ledger up to date, one version at a time, while nobody else does. Raises LedgerError."""
    from batchgen.ledger.postgresql import tables

    if _check(database, there) == VERSION:
        return

    def change(db: Connection) -> None:
        one_at_a_time(db)
        version = int(db.execute(f"SELECT version FROM {SHARED}.job WHERE id = ?", (there.job,)).fetchone()[0])
        db.execute(f"SET LOCAL search_path = {there.schema}")
        for before in range(version, VERSION):
            for statement in _statements(tables(MIGRATIONS[before])):
                db.execute(statement)
        db.execute(f"UPDATE {SHARED}.job SET version = ? WHERE id = ?", (VERSION, there.job))

    database.transact([change])


def make_shared_tables(database: PostgreSQL, statements: Sequence[str], last: str) -> None:
    """In the schema of what all jobs of the server share, unless `last` of them is there. Raises LedgerError."""
    from batchgen.ledger.postgresql import tables

    def change(db: Connection) -> None:
        one_at_a_time(db)
        # Even CREATE INDEX IF NOT EXISTS waits for all who write to its table, and they for it.
        if db.execute(f"SELECT to_regclass('{SHARED}.{last}')").fetchone()[0] is not None:
            return
        for statement in (f"CREATE SCHEMA IF NOT EXISTS {SHARED}", *statements):
            db.execute(tables(statement))

    database.transact([change])


def address(job_folder: Path, server: Server | None) -> str | None:
    """Of the server that holds the job's ledger, with what it takes to be let in; None when the ledger is a file."""
    there = pointer(job_folder)
    if server is not None or there is None:
        return server.url if server is not None else None
    return _url_for(job_folder, there)


def _check(database: Connection, there: Pointer) -> int:
    """The version of the ledger."""
    row = None
    if database.execute(_ANY_JOBS).fetchone()[0] is not None:
        sql = f"SELECT version FROM {SHARED}.job WHERE id = ? AND schema = ?"
        row = database.execute(sql, (there.job, there.schema)).fetchone()
    if row is None:
        raise LedgerError(f"{there.server} knows nothing of this job ({there.schema}): is it the right server?")
    if not 1 <= row[0] <= VERSION:
        raise LedgerError(
            f"{there.server} was written by another version of batchgen (ledger {row[0]}, this one knows 1 to {VERSION})"
        )
    return int(row[0])


def one_at_a_time(db: Connection) -> None:
    """Until the end of the transaction nobody else makes or changes tables of this server."""
    db.execute("SELECT pg_advisory_xact_lock(?)", (_MIGRATING,))


def _statements(ddl: str) -> list[str]:
    return [statement.strip() for statement in ddl.split(";") if statement.strip()]


def _pointer_path(job_folder: Path) -> Path:
    return job_folder / STATE_FOLDER / POINTER


def _write_pointer(job_folder: Path, there: Pointer) -> None:
    """Durable, and whole from the first moment."""
    path = _pointer_path(job_folder)
    if path.is_file():
        return
    beside = path.with_name(f"{POINTER}.new")
    try:
        with open(beside, "w", encoding="utf-8", opener=private) as file:
            file.write(json.dumps(asdict(there), indent=1) + "\n")
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as error:
        raise LedgerError(f"{path} cannot be written: {error.strerror}") from None


def _url_for(job_folder: Path, there: Pointer) -> str:
    """Address of the server that the settings name: the job folder may be a stranger's, and libpq would send a password of the
    user's to the server that it names. Raises LedgerError."""
    if (given := url_of(job_folder)) is None:
        raise LedgerError(
            f"the ledger of {job_folder} is on a server that is named only in this folder: if you trust it, set {VARIABLE} to"
            f" {there.server}, or pass --ledger"
        )
    return given
