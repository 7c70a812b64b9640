"""Addresses of PostgreSQL servers (what may be shown of one, and what of the user's own is sent to it), and
connections: how they are opened, how values are converted, and how failures are reported."""

from __future__ import annotations

import functools
import os
import re
import socket
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, quote, unquote, urlencode, urlsplit

from batchgen.errors import LedgerError, LedgerServerFull, LedgerUnreachable, UsageError
from batchgen.settings import LEDGER_VARIABLE, hideable

if TYPE_CHECKING:
    import psycopg

URL_SCHEMES = ("postgresql", "postgres")
# What may be shown of an address: libpq's parameters that say where, and none that authenticate.
_SHOWABLE_PARAMETERS = frozenset(
    {"host", "hostaddr", "port", "dbname", "user", "service", "sslmode", "sslrootcert", "target_session_attrs"}
)
# Switches off what libpq would add to an address from the user's own: variables, password file, certificate, Kerberos.
# What the address contains takes precedence. Source: PostgreSQL 17, 32.1.2, 32.15 to 32.17.
_USER_DEFAULTS_OFF = {
    "hostaddr": "",
    "options": "",
    "passfile": os.devnull,
    "sslcertmode": "disable",
    "gssencmode": "disable",
    "require_auth": "password,md5,scram-sha-256,none",
}
_ALLOWED_IN_ENV_FILE = frozenset({"sslmode", "target_session_attrs"})
_MIN_LIBPQ_VERSION = 16  # the first that supports `sslcertmode` and `require_auth`
_NETWORK_HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(:\d+)?")  # not a socket on this machine
_HOST = r"(?:\[[0-9A-Fa-f:.]+\]|[^/?#@:\[\],]*)(?::\d*)?"
_ADDRESS = re.compile(rf"(?:[^/?#@]*@)?{_HOST}(?:,{_HOST})*")
MIN_SERVER_VERSION = 13  # the first that tells how a transaction ended, by `pg_current_xact_id`
# A peer that silently disappeared is noticed within half a minute: libpq, "keepalives", "tcp_user_timeout".
KEEPALIVE_OPTIONS = {"keepalives_idle": 10, "keepalives_interval": 5, "keepalives_count": 3, "tcp_user_timeout": 30_000}
CONNECT_OPTIONS = {"autocommit": True, "connect_timeout": 10, **KEEPALIVE_OPTIONS}
# What waiting does not fix, in the words of English servers and libpq.
_PERMANENT_ERROR = re.compile(
    r"authentication failed|no password supplied|does not exist|permission denied|no pg_hba\.conf entry"
    r"|not permitted to log in|invalid port number"
)
_NO_CONNECTION_LEFT = re.compile("too many clients|connection slots|too many connections")


# --- addresses


def is_postgresql_url(text: str) -> bool:
    return text.partition("://")[0] in URL_SCHEMES


def is_unambiguous_url(url: str) -> bool:
    """Whether libpq and batchgen parse it alike. A password that contains any of `@/?#` has to be percent-encoded."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return False
    if not is_postgresql_url(url) or "@" in f"{parts.path}{parts.query}" or "#" in url:
        return False
    return _ADDRESS.fullmatch(parts.netloc) is not None


def without_user_defaults(url: str, source: str) -> str:
    """An address without any of the user's own credentials, for one that a stranger may have written.

    It has to contain everything itself. Raises LedgerError, which names its `source`.
    """
    parts = urlsplit(url)
    login, _, hosts = parts.netloc.rpartition("@")
    user, _, password = login.partition(":")
    given = parse_qsl(parts.query, keep_blank_values=True)
    found = [_NETWORK_HOST.fullmatch(host) for host in hosts.split(",")]
    remedy = f"or set {LEDGER_VARIABLE} in the environment"
    if not (user and password and parts.path.strip("/") and all(found)):
        raise LedgerError(f"{source}: an address in .env must be postgresql://user:password@host/database, {remedy}")
    if others := sorted({name for name, _ in given} - _ALLOWED_IN_ENV_FILE):
        raise LedgerError(f"{source}: {', '.join(others)} is not allowed in an address in .env: remove it, {remedy}")
    if load_psycopg().pq.version() // 10000 < _MIN_LIBPQ_VERSION:
        raise LedgerError(
            f"{source}: an address in .env needs libpq {_MIN_LIBPQ_VERSION} or later: pip install 'psycopg[binary]', {remedy}"
        )
    hosts = ",".join(match[0] if match[2] else f"{match[0]}:5432" for match in found if match)
    query = urlencode([*given, *_USER_DEFAULTS_OFF.items()], safe="/,")
    return f"{parts.scheme}://{login}@{hosts}{parts.path}?{query}"


def redacted(url: str) -> str:
    """The address without a password, fit to be shown and stored."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return "(a malformed address)"
    login, at, hosts = parts.netloc.rpartition("@")
    query = urlencode(
        [(name, value) for name, value in parse_qsl(parts.query) if name in _SHOWABLE_PARAMETERS], safe="/,"
    )
    return f"{parts.scheme}://{login.partition(':')[0]}{at}{hosts}{parts.path}{'?' if query else ''}{query}"


def passwords_in_url(url: str) -> set[str]:
    """The secrets in an address, as written there and decoded."""
    if not is_postgresql_url(url):
        return set()
    login = url.partition("://")[2].rpartition("@")[0]
    given = [login.partition(":")[2]]
    given += [value for name, value in parse_qsl(url.partition("?")[2]) if name in ("password", "sslpassword")]
    return {form for word in given if word for form in (word, unquote(word), quote(unquote(word), safe=""))}


# --- connections


def load_psycopg() -> Any:
    """The package psycopg, an extra. Raises UsageError without it."""
    try:
        import psycopg
    except ImportError:
        raise UsageError("a ledger in PostgreSQL needs the extra `cluster`: pip install 'batchgen[cluster]'") from None
    return psycopg


def connect(url: str, application: str) -> psycopg.Connection[Any]:
    """Connect. Raises LedgerUnreachable if the server cannot be reached now, LedgerError if it never will be by this
    address or is too old, UsageError without psycopg."""
    psycopg = load_psycopg()
    try:
        connection = psycopg.connect(
            url, application_name=application, cursor_factory=psycopg.ClientCursor, **CONNECT_OPTIONS
        )
    except (psycopg.Error, ValueError) as error:
        raise connect_error(url, error) from None
    if (version := connection.info.server_version // 10000) < MIN_SERVER_VERSION:
        connection.close()
        raise LedgerError(f"{redacted(url)} is PostgreSQL {version}, and a ledger needs {MIN_SERVER_VERSION} or later")
    _adapt(connection)
    return connection  # type: ignore[no-any-return] # imported late


def is_pooled(connection: psycopg.Connection[Any]) -> bool:
    """Whether there is a pooler (PgBouncer) before the server, which may use another server process for each
    transaction. It names none of them when it accepts a client."""
    row = connection.execute("SELECT pg_backend_pid()").fetchone()
    return row is not None and int(row[0]) != connection.info.backend_pid


def connect_error(url: str, error: Exception) -> LedgerError:
    said = " ".join(str(error).split())
    for password in sorted(hideable(passwords_in_url(url)), key=len, reverse=True):
        said = said.replace(password, "***")
    remedy = ""
    if "password" in said:  # in English; the words of other languages are shown alone
        remedy = f". A password comes from {LEDGER_VARIABLE}, PGPASSWORD or ~/.pgpass"
    elif "database" in said and "does not exist" in said:
        remedy = ". Make the database first (createdb), or name another"
    # An address that libpq does not understand is its ProgrammingError, or a ValueError of Python's.
    lasting = not isinstance(error, load_psycopg().OperationalError) or _PERMANENT_ERROR.search(said)
    kind = LedgerError if lasting else LedgerUnreachable
    if _NO_CONNECTION_LEFT.search(said):
        kind, remedy = LedgerServerFull, f". All its connections are in use: {LedgerServerFull.REMEDY}"
    return kind(f"the ledger's server {redacted(url)} cannot be used: {said}{remedy}")


def database_error(error: Exception, connection: psycopg.Connection[Any]) -> LedgerError:
    said = getattr(getattr(error, "diag", None), "message_primary", None) or " ".join(str(error).split())
    if getattr(error, "sqlstate", None) == "42501":
        user, name = connection.info.user, connection.info.dbname
        said += f". If its user may not create schemas: GRANT CREATE ON DATABASE {name} TO {user}"
    kind = LedgerUnreachable if connection.broken else LedgerError
    failed = kind(f"the ledger's database refused: {said}")
    failed.__cause__ = error
    return failed


def _adapt(connection: psycopg.Connection[Any]) -> None:
    """Convert values as SQLite does: booleans are 1 and 0, sums are plain numbers, and no text contains a zero byte."""
    import psycopg
    from psycopg.adapt import Dumper, Loader

    class Flag(Dumper):
        def dump(self, obj: bool) -> bytes:
            return b"1" if obj else b"0"

        def quote(self, obj: bool) -> bytes:
            return self.dump(obj)

    class Number(Loader):
        def load(self, data: Any) -> int | float:
            text = bytes(data)
            return float(text) if b"." in text else int(text)

    class Text(psycopg.types.string.StrDumperUnknown):
        def dump(self, obj: str) -> Any:
            return super().dump(obj.replace("\0", "\N{REPLACEMENT CHARACTER}") if "\0" in obj else obj)

    connection.adapters.register_dumper(bool, Flag)
    connection.adapters.register_dumper(str, Text)
    connection.adapters.register_loader("numeric", Number)


def application_name_for(activity: str) -> str:
    """The name of a connection of this process on the server."""
    return f"batchgen {activity} {os.getpid()} {socket.gethostname()}"


@functools.cache
def retryable_errors() -> tuple[type[Exception], ...]:
    """The errors after which PostgreSQL wants a transaction to be repeated: chapter 13.5, "Serialization Failure
    Handling"."""
    errors = load_psycopg().errors
    return (errors.SerializationFailure, errors.DeadlockDetected)
