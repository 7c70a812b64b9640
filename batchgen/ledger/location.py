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
from batchgen.ledger.missing_state import lost_ledger_in
from batchgen.ledger.schema import (
    CHUNK_DDL,
    MIGRATIONS,
    STATE_FOLDER,
    TABLES_DDL,
    VERSION,
    compatibility_views,
    ledger_path,
    open_file_for_reading,
    open_file_for_writing,
)
from batchgen.safe_open import private_opener
from batchgen.settings import LEDGER_VARIABLE as VARIABLE
from batchgen.settings import Settings

if TYPE_CHECKING:
    from batchgen.ledger.postgresql import PostgreSQL

POINTER_FILE = "ledger.json"
SHARED_SCHEMA = "batchgen"  # the schema of what all jobs of a server share
_MIGRATION_LOCK_ID = 7_161_988_002  # of `pg_advisory_xact_lock`: any number that nobody else uses
JOB_TABLE_DDL = f"""
CREATE SCHEMA IF NOT EXISTS {SHARED_SCHEMA};
CREATE TABLE IF NOT EXISTS {SHARED_SCHEMA}.job (
  id TEXT PRIMARY KEY, schema TEXT NOT NULL UNIQUE, name TEXT NOT NULL, output TEXT NOT NULL UNIQUE,
  version INTEGER NOT NULL, made_at REAL NOT NULL, made_on TEXT NOT NULL);
"""
_JOB_TABLE_EXISTS = f"SELECT to_regclass('{SHARED_SCHEMA}.job')"
_SELECT_JOB = f"SELECT id, schema FROM {SHARED_SCHEMA}.job WHERE output = ?"
# What SQLite has and PostgreSQL calls otherwise.
INSTR_DDL = "CREATE FUNCTION instr(text, text) RETURNS integer LANGUAGE sql IMMUTABLE AS 'SELECT strpos($1, $2)';"


@dataclass(frozen=True, slots=True)
class LedgerServer:
    """Where a new ledger goes. name: of the job; output: by which the server knows it, see `job_identity`."""

    url: str
    name: str
    output: str


@dataclass(frozen=True, slots=True)
class LedgerPointer:
    """What the job folder knows of its ledger on a server; never a password."""

    server: str
    schema: str
    job: str


def job_identity(output: str) -> str:
    """How a server tells jobs apart: by where their pictures go. A folder is one of this host."""
    return output if "://" in output else f"{socket.gethostname()}:{os.path.abspath(output)}"


def has_ledger(job_folder: Path) -> bool:
    return ledger_path(job_folder).is_file() or _pointer_path(job_folder).is_file()


def read_pointer(job_folder: Path) -> LedgerPointer | None:
    """Raises LedgerError when the file is there and cannot be understood."""
    path = _pointer_path(job_folder)
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
        return LedgerPointer(**{name: str(facts[name]) for name in ("server", "schema", "job")})
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise LedgerError(f"{path} does not say where the job's ledger is: {error}") from None


def configured_url(job_folder: Path) -> str | None:
    """What BATCHGEN_LEDGER says, in the environment or in `.env` beside the job folder. Raises as `ledger_url`."""
    return ledger_url(Settings.load(job_folder.absolute().parent))


def ledger_url(settings: Settings) -> str | None:
    """The address of the server that has the ledgers, as BATCHGEN_LEDGER says; None when it says nothing.

    One in `.env`, which may be a stranger's, gets nothing of the user's own. Raises SettingsError.
    """
    if (found := settings.find(VARIABLE)) is None:
        return None
    url = validated_url(found.text, found.source)
    if found.env_file is None:
        return url
    from batchgen.ledger.postgresql import without_user_defaults

    return without_user_defaults(url, found.source)


def validated_url(text: str, name: str = VARIABLE) -> str:
    """The address of a PostgreSQL server. Raises SettingsError, which never holds the password."""
    from batchgen.ledger.postgresql import is_unambiguous_url

    if not is_unambiguous_url(text):
        raise SettingsError(
            f"{name}: no address of a ledger; write postgresql://user@host:5432/database, and %40 %2F %3F %23 for @ / ? #"
            " in a password"
        )
    return text


def open_for_reading(job_folder: Path, url: str | None = None) -> Connection:
    """url: of the server, for who knows it better than the folder. Raises LedgerError when there is no ledger, or it
    cannot be read."""
    if (ledger_pointer := read_pointer(job_folder)) is None:
        if not ledger_path(job_folder).is_file():
            raise lost_ledger_in(job_folder) or LedgerError(f"no ledger in {job_folder}: nothing has run here yet")
        return open_file_for_reading(ledger_path(job_folder))
    return _open_pointed(url or _trusted_url(job_folder, ledger_pointer), ledger_pointer)


def open_registered(server: LedgerServer) -> Connection | None:
    """For reading, the ledger that a server has for a job whose folder does not know of it. Raises LedgerError."""
    from batchgen.ledger.postgresql import PostgreSQL, application_name_for, redacted

    with contextlib.closing(PostgreSQL(server.url, SHARED_SCHEMA, application_name_for("reads"))) as database:
        if database.execute(_JOB_TABLE_EXISTS).fetchone()[0] is None:
            return None
        found = database.execute(_SELECT_JOB, (server.output,)).fetchone()
    return None if found is None else _open_pointed(server.url, LedgerPointer(redacted(server.url), found[1], found[0]))


def server_snapshot_id(job_folder: Path) -> str | None:
    """Of a ledger on a server: changes with every commit, those of other jobs too. None for one in the folder.

    Source: PostgreSQL, `pg_current_snapshot`: two that are the same see the same. Raises LedgerError.
    """
    if (ledger_pointer := read_pointer(job_folder)) is None:
        return None
    from batchgen.ledger.postgresql import PostgreSQL, application_name_for

    with contextlib.closing(
        PostgreSQL(_trusted_url(job_folder, ledger_pointer), ledger_pointer.schema, application_name_for("watches"))
    ) as server:
        return f"{ledger_pointer.schema} {server.execute('SELECT pg_current_snapshot()::text').fetchone()[0]}"


def ledger_identity(job_folder: Path) -> object:
    """Of the ledger that a folder has: another one when it was built anew; None when there is none. Raises LedgerError."""
    if (ledger_pointer := read_pointer(job_folder)) is not None:
        return ledger_pointer.schema
    path = ledger_path(job_folder)
    return path.stat().st_ino if path.is_file() else None


def _open_pointed(url: str, ledger_pointer: LedgerPointer) -> Connection:
    from batchgen.ledger.postgresql import PostgreSQL, application_name_for, to_postgresql_ddl

    database = PostgreSQL(url, ledger_pointer.schema, application_name_for("reads"))
    try:
        for statement in compatibility_views(_checked_version(database, ledger_pointer)):
            database.execute(to_postgresql_ddl(statement.replace("main.", f"{ledger_pointer.schema}.")))
    except LedgerError:
        database.close()
        raise
    return database


def open_for_writing(job_folder: Path, server: LedgerServer | None = None) -> Database:
    """The database of the job's ledger, made or brought up to date. Raises LedgerError."""
    ledger_pointer = read_pointer(job_folder)
    if ledger_pointer is None and server is None:
        return open_file_for_writing(ledger_path(job_folder))
    if ledger_path(job_folder).is_file():
        raise LedgerError(
            f"the ledger of {job_folder} is {ledger_path(job_folder)}, and a server is named for it: leave {VARIABLE} and"
            " --ledger away, or choose another --output"
        )
    from batchgen.ledger.postgresql import PostgreSQL, application_name_for

    url = (
        server.url
        if server is not None
        else _trusted_url(job_folder, ledger_pointer)
        if ledger_pointer is not None
        else ""
    )
    registry = PostgreSQL(url, SHARED_SCHEMA, application_name_for("opens"))
    try:
        if ledger_pointer is None and server is not None:
            ledger_pointer = register_job(registry, server)
            _write_pointer(job_folder, ledger_pointer)
        if ledger_pointer is not None:
            migrate(registry, ledger_pointer)
    finally:
        registry.close()
    return open_schema(url, ledger_pointer.schema if ledger_pointer is not None else "")


def open_schema(url: str, schema: str) -> PostgreSQL:
    """The ledger of one job of a server, for writing. Raises LedgerError."""
    from batchgen.ledger.postgresql import PostgreSQL, application_name_for

    return PostgreSQL(url, schema, application_name_for("writes"))


def register_job(database: PostgreSQL, server: LedgerServer) -> LedgerPointer:
    """The job that the server knows by its output, made when there is none."""
    from batchgen.ledger.postgresql import redacted, to_postgresql_ddl

    job, made_at = str(uuid.uuid4()), time.time()
    schema = f"batchgen_job_{re.sub(r'[^a-z0-9]+', '_', server.name.lower())[:24].strip('_')}_{job[:8]}"

    def change(db: Connection) -> tuple[str, str]:
        lock_schema_changes(db)
        for statement in _split_statements(to_postgresql_ddl(JOB_TABLE_DDL)):
            db.execute(statement)
        if (row := db.execute(_SELECT_JOB, (server.output,)).fetchone()) is not None:
            return str(row[0]), str(row[1])
        db.execute(f"CREATE SCHEMA {schema}")
        db.execute(f"SET LOCAL search_path = {schema}")
        for statement in (
            *_split_statements(to_postgresql_ddl(TABLES_DDL)),
            *_split_statements(to_postgresql_ddl(CHUNK_DDL)),
            INSTR_DDL,
        ):
            db.execute(statement)
        row = (job, schema, server.name, server.output, VERSION, made_at, socket.gethostname())
        db.execute(f"INSERT INTO {SHARED_SCHEMA}.job VALUES (?, ?, ?, ?, ?, ?, ?)", row)
        return job, schema

    found, named = database.transact([change])[0]
    return LedgerPointer(redacted(server.url), named, found)


def migrate(database: PostgreSQL, ledger_pointer: LedgerPointer) -> None:
    """Bring an older ledger up to date, one version at a time, while nobody else does. Raises LedgerError."""
    from batchgen.ledger.postgresql import to_postgresql_ddl

    if _checked_version(database, ledger_pointer) == VERSION:
        return

    def change(db: Connection) -> None:
        lock_schema_changes(db)
        version = int(
            db.execute(f"SELECT version FROM {SHARED_SCHEMA}.job WHERE id = ?", (ledger_pointer.job,)).fetchone()[0]
        )
        db.execute(f"SET LOCAL search_path = {ledger_pointer.schema}")
        for before in range(version, VERSION):
            for statement in _split_statements(to_postgresql_ddl(MIGRATIONS[before])):
                db.execute(statement)
        db.execute(f"UPDATE {SHARED_SCHEMA}.job SET version = ? WHERE id = ?", (VERSION, ledger_pointer.job))

    database.transact([change])


def create_shared_tables(database: PostgreSQL, statements: Sequence[str], last_table: str) -> None:
    """In the schema of what all jobs of the server share, unless `last_table` of them is there. Raises LedgerError."""
    from batchgen.ledger.postgresql import to_postgresql_ddl

    def change(db: Connection) -> None:
        lock_schema_changes(db)
        # Even CREATE INDEX IF NOT EXISTS waits for all who write to its table, and they for it.
        if db.execute(f"SELECT to_regclass('{SHARED_SCHEMA}.{last_table}')").fetchone()[0] is not None:
            return
        for statement in (f"CREATE SCHEMA IF NOT EXISTS {SHARED_SCHEMA}", *statements):
            db.execute(to_postgresql_ddl(statement))

    database.transact([change])


def server_address(job_folder: Path, server: LedgerServer | None) -> str | None:
    """Of the server that holds the job's ledger, with what it takes to be let in; None when the ledger is a file."""
    ledger_pointer = read_pointer(job_folder)
    if server is not None or ledger_pointer is None:
        return server.url if server is not None else None
    return _trusted_url(job_folder, ledger_pointer)


def _checked_version(database: Connection, ledger_pointer: LedgerPointer) -> int:
    """The version of the ledger."""
    row = None
    if database.execute(_JOB_TABLE_EXISTS).fetchone()[0] is not None:
        sql = f"SELECT version FROM {SHARED_SCHEMA}.job WHERE id = ? AND schema = ?"
        row = database.execute(sql, (ledger_pointer.job, ledger_pointer.schema)).fetchone()
    if row is None:
        raise LedgerError(
            f"{ledger_pointer.server} knows nothing of this job ({ledger_pointer.schema}): is it the right server?"
        )
    if not 1 <= row[0] <= VERSION:
        raise LedgerError(
            f"{ledger_pointer.server} was written by another version of batchgen (ledger {row[0]}, this one knows 1 to {VERSION})"
        )
    return int(row[0])


def lock_schema_changes(db: Connection) -> None:
    """Until the end of the transaction nobody else makes or changes tables of this server."""
    db.execute("SELECT pg_advisory_xact_lock(?)", (_MIGRATION_LOCK_ID,))


def _split_statements(ddl: str) -> list[str]:
    return [statement.strip() for statement in ddl.split(";") if statement.strip()]


def _pointer_path(job_folder: Path) -> Path:
    return job_folder / STATE_FOLDER / POINTER_FILE


def _write_pointer(job_folder: Path, ledger_pointer: LedgerPointer) -> None:
    """Durable, and whole from the first moment."""
    path = _pointer_path(job_folder)
    if path.is_file():
        return
    temporary = path.with_name(f"{POINTER_FILE}.new")
    try:
        with open(temporary, "w", encoding="utf-8", opener=private_opener) as file:
            file.write(json.dumps(asdict(ledger_pointer), indent=1) + "\n")
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as error:
        raise LedgerError(f"{path} cannot be written: {error.strerror}") from None


def _trusted_url(job_folder: Path, ledger_pointer: LedgerPointer) -> str:
    """Address of the server that the settings name: the job folder may be a stranger's, and libpq would send a password of the
    user's to the server that it names. Raises LedgerError."""
    if (given := configured_url(job_folder)) is None:
        raise LedgerError(
            f"the ledger of {job_folder} is on a server that is named only in this folder: if you trust it, set {VARIABLE} to"
            f" {ledger_pointer.server}, or pass --ledger"
        )
    return given
