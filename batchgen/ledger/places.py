"""Where the ledger of a job is: in its folder, or on a PostgreSQL server that a small file in the folder names."""

from __future__ import annotations

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
from urllib.parse import urlsplit

from batchgen.errors import LedgerError, SettingsError
from batchgen.ledger.database import Connection, Database
from batchgen.ledger.schema import (
    CHUNK,
    MIGRATIONS,
    STATE_FOLDER,
    TABLES,
    VERSION,
    ledger_path,
    open_file_for_reading,
    open_file_for_writing,
)
from batchgen.settings import Settings

if TYPE_CHECKING:
    from batchgen.ledger.postgresql import PostgreSQL

POINTER = "ledger.json"
SHARED = "batchgen"  # the schema of what all jobs of a server share
VARIABLE = "BATCHGEN_LEDGER"
_MIGRATING = 7_161_988_002  # of `pg_advisory_xact_lock`: any number that nobody else uses
JOBS = f"""
CREATE SCHEMA IF NOT EXISTS {SHARED};
CREATE TABLE IF NOT EXISTS {SHARED}.job (
  id TEXT PRIMARY KEY, schema TEXT NOT NULL UNIQUE, name TEXT NOT NULL, output TEXT NOT NULL UNIQUE,
  version INTEGER NOT NULL, made_at REAL NOT NULL, made_on TEXT NOT NULL);
"""
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
    """What BATCHGEN_LEDGER says, in the environment or in `.env` beside the job folder. Raises SettingsError."""
    return Settings.load(job_folder.absolute().parent).text(VARIABLE)


def server_url(text: str, name: str = VARIABLE) -> str:
    """The address of a PostgreSQL server. Raises SettingsError, which never holds the password."""
    from batchgen.ledger.postgresql import is_server

    try:
        right = is_server(text) and urlsplit(text).port != 0
    except ValueError:
        right = False
    if not right:
        raise SettingsError(f"{name}: no address of a ledger; write postgresql://user@host:5432/database")
    return text


def open_for_reading(job_folder: Path) -> Connection:
    """Raises LedgerError when there is no ledger, or it cannot be read."""
    if (there := pointer(job_folder)) is None:
        return open_file_for_reading(ledger_path(job_folder))
    from batchgen.ledger.postgresql import PostgreSQL

    database = PostgreSQL(_url_for(job_folder, there), there.schema, _application("reads"))
    try:
        _check(database, there)
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
    from batchgen.ledger.postgresql import PostgreSQL

    url = server.url if server is not None else _url_for(job_folder, there) if there is not None else ""
    with_jobs = PostgreSQL(url, SHARED, _application("opens"))
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
    from batchgen.ledger.postgresql import PostgreSQL

    return PostgreSQL(url, schema, _application("writes"))


def register(database: PostgreSQL, server: Server) -> Pointer:
    """The job that the server knows by its output, made when there is none."""
    from batchgen.ledger.postgresql import shown, tables

    job, made_at = str(uuid.uuid4()), time.time()
    schema = f"batchgen_job_{re.sub(r'[^a-z0-9]+', '_', server.name.lower())[:24].strip('_')}_{job[:8]}"

    def change(db: Connection) -> tuple[str, str]:
        one_at_a_time(db)
        for statement in _statements(tables(JOBS)):
            db.execute(statement)
        sql = f"SELECT id, schema FROM {SHARED}.job WHERE output = ?"
        if (row := db.execute(sql, (server.output,)).fetchone()) is not None:
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

    _check(database, there)

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


def _check(database: Connection, there: Pointer) -> None:
    row = None
    if database.execute(f"SELECT to_regclass('{SHARED}.job')").fetchone()[0] is not None:
        sql = f"SELECT version FROM {SHARED}.job WHERE id = ? AND schema = ?"
        row = database.execute(sql, (there.job, there.schema)).fetchone()
    if row is None:
        raise LedgerError(f"{there.server} knows nothing of this job ({there.schema}): is it the right server?")
    if not 1 <= row[0] <= VERSION:
        raise LedgerError(
            f"{there.server} was written by another version of batchgen (ledger {row[0]}, this one knows 1 to {VERSION})"
        )


def one_at_a_time(db: Connection) -> None:
    """Until the end of the transaction nobody else makes or changes tables of this server."""
    db.execute("SELECT pg_advisory_xact_lock(?)", (_MIGRATING,))


def _statements(ddl: str) -> list[str]:
    return [statement.strip() for statement in ddl.split(";") if statement.strip()]


def _application(does: str) -> str:
    return f"batchgen {does} {socket.gethostname()} {os.getpid()}"


def _pointer_path(job_folder: Path) -> Path:
    return job_folder / STATE_FOLDER / POINTER


def _write_pointer(job_folder: Path, there: Pointer) -> None:
    """Durable, and whole from the first moment."""
    path = _pointer_path(job_folder)
    if path.is_file():
        return
    beside = path.with_name(f"{POINTER}.new")
    try:
        with open(beside, "w", encoding="utf-8") as file:
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
    """The server's address with what it takes to be let in; without one, libpq finds the password as it does."""
    given = url_of(job_folder)
    if given is not None:
        return server_url(given)
    return there.server
