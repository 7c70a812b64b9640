"""Where the ledger of a job is: in its folder, or on a PostgreSQL server that a small file in the folder names. Also
the errors for a ledger that is missing although images or results are there."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
import socket
import time
import uuid
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from batchgen.errors import LedgerError, SettingsError, StoreError
from batchgen.ledger.database import Connection, Database
from batchgen.ledger.postgresql import PostgreSQL, to_postgresql_ddl
from batchgen.ledger.results import RESULTS_FILE, has_result_lines
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
from batchgen.ledger.server_connection import application_name_for, is_unambiguous_url, redacted, without_user_defaults
from batchgen.os_errors import machine_refusal
from batchgen.safe_open import private_opener
from batchgen.settings import LEDGER_VARIABLE as VARIABLE
from batchgen.settings import Settings
from batchgen.store.sniff import EXTENSION, is_picture

MAX_NAMED = 3  # images in a message
POINTER_FILE = "ledger.json"
SHARED_SCHEMA = "batchgen"  # the schema of what all jobs of a server share
_MIGRATION_LOCK_ID = 7_161_988_002  # of `pg_advisory_xact_lock`: any number that nothing else uses
JOB_TABLE_DDL = f"""
CREATE SCHEMA IF NOT EXISTS {SHARED_SCHEMA};
CREATE TABLE IF NOT EXISTS {SHARED_SCHEMA}.job (
  id TEXT PRIMARY KEY, schema TEXT NOT NULL UNIQUE, name TEXT NOT NULL, output TEXT NOT NULL UNIQUE,
  version INTEGER NOT NULL, made_at REAL NOT NULL, made_on TEXT NOT NULL);
"""
_JOB_TABLE_EXISTS = f"SELECT to_regclass('{SHARED_SCHEMA}.job')"
_SELECT_JOB = f"SELECT id, schema FROM {SHARED_SCHEMA}.job WHERE output = ?"
# PostgreSQL's names for what SQLite has.
INSTR_DDL = "CREATE FUNCTION instr(text, text) RETURNS integer LANGUAGE sql IMMUTABLE AS 'SELECT strpos($1, $2)';"


@dataclass(frozen=True, slots=True)
class LedgerServer:
    """Where a new ledger goes. name: the job's; output: identifies it on the server, see `job_identity`."""

    url: str
    name: str
    output: str


@dataclass(frozen=True, slots=True)
class LedgerPointer:
    """What the job folder knows about its ledger on a server; never a password."""

    server: str
    schema: str
    job: str


def job_identity(output: str) -> str:
    """How a server tells jobs apart: by where their images go. A folder is one on this host."""
    return output if "://" in output else f"{socket.gethostname()}:{os.path.abspath(output)}"


def has_ledger(job_folder: Path) -> bool:
    return ledger_path(job_folder).is_file() or _pointer_path(job_folder).is_file()


def read_pointer(job_folder: Path) -> LedgerPointer | None:
    """The pointer, None if there is none. Raises LedgerError if the file cannot be understood."""
    path = _pointer_path(job_folder)
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
        return LedgerPointer(**{name: str(facts[name]) for name in ("server", "schema", "job")})
    except FileNotFoundError:
        return None
    except (OSError, UnicodeEncodeError) as error:  # says nothing about what the file holds
        raise LedgerError(machine_refusal(error) or f"{path}: {error}") from None
    except (ValueError, KeyError, TypeError) as error:
        raise LedgerError(f"{path} does not say where the job's ledger is: {error}") from None


def configured_url(job_folder: Path) -> str | None:
    """BATCHGEN_LEDGER from the environment, or from `.env` beside the job folder. Raises what `ledger_url` does."""
    return ledger_url(Settings.load(job_folder.absolute().parent))


def ledger_url(settings: Settings) -> str | None:
    """The address of the server that has the ledgers, from BATCHGEN_LEDGER; None if that is not set.

    An address in `.env`, which may be a stranger's, is used without anything of the user's own. Raises SettingsError.
    """
    if (found := settings.find(VARIABLE)) is None:
        return None
    url = validated_url(found.text, found.source)
    if found.env_file is None:
        return url
    return without_user_defaults(url, found.source)


def validated_url(text: str, name: str = VARIABLE) -> str:
    """The address of a PostgreSQL server. Raises SettingsError, which never contains the password."""
    if not is_unambiguous_url(text):
        raise SettingsError(
            f"{name}: not the address of a ledger; write postgresql://user@host:5432/database, and %40 %2F %3F %23 for @ / ? #"
            " in a password"
        )
    return text


def open_for_reading(job_folder: Path, url: str | None = None) -> Connection:
    """A connection for reading. url: the server's, for a caller who knows it better than the folder. Raises LedgerError
    if there is no ledger, or it cannot be read."""
    if (pointer := read_pointer(job_folder)) is None:
        if not ledger_path(job_folder).is_file():
            raise lost_ledger_in(job_folder) or LedgerError(f"no ledger in {job_folder}: nothing has run here yet")
        return open_file_for_reading(ledger_path(job_folder))
    return _open_pointed(url or _trusted_url(job_folder, pointer), pointer)


def open_registered(server: LedgerServer) -> Connection | None:
    """A connection for reading to the ledger that a server has for a job whose folder does not say so. Raises
    LedgerError."""
    with contextlib.closing(PostgreSQL(server.url, SHARED_SCHEMA, application_name_for("reads"))) as database:
        if database.execute(_JOB_TABLE_EXISTS).fetchone()[0] is None:
            return None
        found = database.execute(_SELECT_JOB, (server.output,)).fetchone()
    return None if found is None else _open_pointed(server.url, LedgerPointer(redacted(server.url), found[1], found[0]))


def server_snapshot_id(job_folder: Path) -> str | None:
    """An identifier of a server's state, which changes with every commit, also those of other jobs. None for a ledger
    in the folder.

    Source: PostgreSQL, `pg_current_snapshot`: equal snapshots see the same. Raises LedgerError.
    """
    if (pointer := read_pointer(job_folder)) is None:
        return None
    url = _trusted_url(job_folder, pointer)
    with contextlib.closing(PostgreSQL(url, pointer.schema, application_name_for("watches"))) as server:
        return f"{pointer.schema} {server.execute('SELECT pg_current_snapshot()::text').fetchone()[0]}"


def ledger_identity(job_folder: Path) -> object:
    """An identifier that distinguishes the ledger of a folder from one that was built in its place; None if there is
    none. Raises LedgerError."""
    if (pointer := read_pointer(job_folder)) is not None:
        return pointer.schema
    path = ledger_path(job_folder)
    return path.stat().st_ino if path.is_file() else None


def _open_pointed(url: str, pointer: LedgerPointer) -> Connection:
    database = PostgreSQL(url, pointer.schema, application_name_for("reads"))
    try:
        for statement in compatibility_views(_checked_version(database, pointer)):
            database.execute(to_postgresql_ddl(statement.replace("main.", f"{pointer.schema}.")))
    except LedgerError:
        database.close()
        raise
    return database


def open_for_writing(job_folder: Path, server: LedgerServer | None = None) -> Database:
    """The database of the job's ledger, created or brought up to date. Raises LedgerError."""
    pointer = read_pointer(job_folder)
    if pointer is None and server is None:
        return open_file_for_writing(ledger_path(job_folder))
    if ledger_path(job_folder).is_file():
        raise LedgerError(
            f"the ledger of {job_folder} is {ledger_path(job_folder)}, and a server is named for it: leave {VARIABLE} and"
            " --ledger out, or choose another --output"
        )
    url = server_address(job_folder, server) or ""
    with contextlib.closing(PostgreSQL(url, SHARED_SCHEMA, application_name_for("opens"))) as registry:
        if pointer is None and server is not None:
            pointer = register_job(registry, server)
            _write_pointer(job_folder, pointer)
        if pointer is not None:
            migrate(registry, pointer)
    return open_schema(url, pointer.schema if pointer is not None else "")


def register_job(database: PostgreSQL, server: LedgerServer) -> LedgerPointer:
    """The job that the server identifies by its output, created if necessary."""
    job, made_at = str(uuid.uuid4()), time.time()
    schema = f"batchgen_job_{re.sub(r'[^a-z0-9]+', '_', server.name.lower())[:24].strip('_')}_{job[:8]}"

    def change(db: Connection) -> tuple[str, str]:
        lock_schema_changes(db)
        for statement in _split_statements(JOB_TABLE_DDL):
            db.execute(statement)
        if (row := db.execute(_SELECT_JOB, (server.output,)).fetchone()) is not None:
            return str(row[0]), str(row[1])
        db.execute(f"CREATE SCHEMA {schema}")
        db.execute(f"SET LOCAL search_path = {schema}")
        for statement in (*_split_statements(TABLES_DDL), *_split_statements(CHUNK_DDL), INSTR_DDL):
            db.execute(statement)
        row = (job, schema, server.name, server.output, VERSION, made_at, socket.gethostname())
        db.execute(f"INSERT INTO {SHARED_SCHEMA}.job VALUES (?, ?, ?, ?, ?, ?, ?)", row)
        return job, schema

    found, named = database.transact([change])[0]
    return LedgerPointer(redacted(server.url), named, found)


def migrate(database: PostgreSQL, pointer: LedgerPointer) -> None:
    """Bring an older ledger up to date, one version at a time, while nobody else does. Raises LedgerError."""
    if _checked_version(database, pointer) == VERSION:
        return

    def change(db: Connection) -> None:
        lock_schema_changes(db)
        sql = f"SELECT version FROM {SHARED_SCHEMA}.job WHERE id = ?"
        version = int(db.execute(sql, (pointer.job,)).fetchone()[0])
        db.execute(f"SET LOCAL search_path = {pointer.schema}")
        for before in range(version, VERSION):
            for statement in _split_statements(MIGRATIONS[before]):
                db.execute(statement)
        db.execute(f"UPDATE {SHARED_SCHEMA}.job SET version = ? WHERE id = ?", (VERSION, pointer.job))

    database.transact([change])


def create_shared_tables(database: Database, statements: Sequence[str], last_table: str) -> None:
    """Create the tables that all jobs of the server share, unless `last_table` exists. Raises LedgerError."""

    def change(db: Connection) -> None:
        lock_schema_changes(db)
        # Even CREATE INDEX IF NOT EXISTS waits for everybody who writes to its table, and they for it.
        if db.execute(f"SELECT to_regclass('{SHARED_SCHEMA}.{last_table}')").fetchone()[0] is not None:
            return
        for statement in (f"CREATE SCHEMA IF NOT EXISTS {SHARED_SCHEMA}", *statements):
            db.execute(to_postgresql_ddl(statement))

    database.transact([change])


def server_address(job_folder: Path, server: LedgerServer | None) -> str | None:
    """The address of the server that has the job's ledger, with credentials; None for a file."""
    pointer = read_pointer(job_folder)
    if server is not None or pointer is None:
        return server.url if server is not None else None
    return _trusted_url(job_folder, pointer)


def _checked_version(database: Connection, pointer: LedgerPointer) -> int:
    """The version of the ledger."""
    row = None
    if database.execute(_JOB_TABLE_EXISTS).fetchone()[0] is not None:
        sql = f"SELECT version FROM {SHARED_SCHEMA}.job WHERE id = ? AND schema = ?"
        row = database.execute(sql, (pointer.job, pointer.schema)).fetchone()
    if row is None:
        raise LedgerError(f"{pointer.server} knows nothing of this job ({pointer.schema}): is it the right server?")
    if not 1 <= row[0] <= VERSION:
        raise LedgerError(
            f"{pointer.server} was written by another version of batchgen (ledger {row[0]}, this one knows 1 to {VERSION})"
        )
    return int(row[0])


def open_schema(url: str, schema: str, reconnect_timeout_s: float | None = None) -> PostgreSQL:
    """The ledger of one job of a server, for writing. Raises LedgerError."""
    return PostgreSQL(url, schema, application_name_for("writes"), reconnect_timeout_s)


def lock_schema_changes(db: Connection) -> None:
    """Keep everybody else from creating or changing tables of this server until the end of the transaction."""
    db.execute("SELECT pg_advisory_xact_lock(?)", (_MIGRATION_LOCK_ID,))


def _split_statements(ddl: str) -> list[str]:
    return [statement.strip() for statement in to_postgresql_ddl(ddl).split(";") if statement.strip()]


def _pointer_path(job_folder: Path) -> Path:
    return job_folder / STATE_FOLDER / POINTER_FILE


def _write_pointer(job_folder: Path, pointer: LedgerPointer) -> None:
    """Write the pointer: durable, and whole from the first moment."""
    path = _pointer_path(job_folder)
    if path.is_file():
        return
    temporary = path.with_name(f"{POINTER_FILE}.new")
    try:
        with open(temporary, "w", encoding="utf-8", opener=private_opener) as file:
            file.write(json.dumps(asdict(pointer), indent=1) + "\n")
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


def _trusted_url(job_folder: Path, pointer: LedgerPointer) -> str:
    """The address of the server from the settings: the job folder may be a stranger's, and libpq would send a password
    of the user's to the server that it names. Raises LedgerError."""
    if (given := configured_url(job_folder)) is None:
        raise LedgerError(
            f"the ledger of {job_folder} is on a server that is named only in this folder: if you trust it, set {VARIABLE} to"
            f" {pointer.server}, or pass --ledger"
        )
    return given


# --- a ledger that is missing although images or results are there


def lost_ledger_error(folder: str | Path, found: str, job: str) -> LedgerError:
    """found: what is there, in words; job: the argument for `batchgen verify`."""
    return LedgerError(
        f"there is no ledger in {folder}, but {found}. Either the ledger is lost or .batchgen/ was not copied along; a run would"
        " buy again what is there already. Put .batchgen/ back, name the server if the ledger is on one (--ledger), or build a"
        f" new ledger from what is there: `batchgen verify {job} --repair`. To start over, and to pay again, choose another"
        " --output"
    )


def verify_arguments(manifest: str, output: str | Path, usual: str | Path) -> str:
    """The arguments of `batchgen verify` that mean this job. usual: where the manifest's job is without an --output."""
    return shlex.join([manifest, *([] if str(output) == str(usual) else ["--output", str(output)])])


def list_some(paths: Sequence[str]) -> str:
    """The first few paths, and how many more there are."""
    more = f" and {len(paths) - MAX_NAMED:,} more" if len(paths) > MAX_NAMED else ""
    return f"{', '.join(paths[:MAX_NAMED])}{more}"


def evidence_of_a_run(folder: Path) -> str:
    """What in a folder shows that a run has paid for something there, in words; empty if nothing does. Raises
    StoreError like `has_result_lines`."""
    if has_result_lines(folder):
        return f"{RESULTS_FILE} there says what a run has made"
    for path in sorted(folder.glob(f"{STATE_FOLDER}/spool*/*")):
        if is_picture(path):
            return f"an image that was paid for lies in {path.parent}"
    if any(folder.glob(f"{STATE_FOLDER}/unread/[0-9]*")):
        return f"answers that were paid for lie in {folder / STATE_FOLDER / 'unread'}"
    return ""


def lost_ledger_in(folder: Path, job: str = "") -> LedgerError | None:
    """The error for a folder without a ledger in which a run has paid for something; None for any other folder."""
    with contextlib.suppress(StoreError):  # a user's own file
        if found := evidence_of_a_run(folder):
            return lost_ledger_error(folder, found, job or shlex.quote(str(folder)))
    return None


def no_ledger_error(folder: Path, explanation: str, job: str = "") -> LedgerError:
    """The error for a command that needs a ledger. explanation: for a folder in which nothing has run."""
    if (lost := lost_ledger_in(folder, job)) is not None:
        return lost
    pictures = sorted(_picture_names(folder))
    if pictures:
        explanation = (
            f"{explanation}. There are images in it ({list_some(pictures)}): if batchgen made them, its ledger is lost, and"
            " `batchgen verify MANIFEST --repair` builds a new one"
        )
    return LedgerError(f"no ledger in {folder}: {explanation}")


def _picture_names(folder: Path) -> list[str]:
    endings = tuple(EXTENSION.values())
    with contextlib.suppress(OSError):
        return [entry.name for entry in os.scandir(folder) if entry.name.endswith(endings) and is_picture(entry.path)]
    return []
