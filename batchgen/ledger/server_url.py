"""Addresses of PostgreSQL servers: what is one, what of it may be shown, and what of the user's own goes to one."""

from __future__ import annotations

import os
import re
from typing import Any
from urllib.parse import parse_qsl, quote, unquote, urlencode, urlsplit

from batchgen.errors import LedgerError, UsageError
from batchgen.settings import LEDGER_VARIABLE

URL_SCHEMES = ("postgresql", "postgres")
# What of an address may be shown: libpq's parameters that say where, and none that lets anybody in.
_SHOWABLE_PARAMETERS = frozenset(
    {"host", "hostaddr", "port", "dbname", "user", "service", "sslmode", "sslrootcert", "target_session_attrs"}
)
# What libpq would add of the user's own to an address, switched off: variables, password file, certificate, Kerberos.
# What an address has itself wins over all of them. Source: PostgreSQL 17, 32.1.2, 32.15 to 32.17.
_USER_DEFAULTS_OFF = {
    "hostaddr": "",
    "options": "",
    "passfile": os.devnull,
    "sslcertmode": "disable",
    "gssencmode": "disable",
    "require_auth": "password,md5,scram-sha-256,none",
}
_ALLOWED_IN_ENV_FILE = frozenset({"sslmode", "target_session_attrs"})
_MIN_LIBPQ_VERSION = 16  # the first that knows `sslcertmode` and `require_auth`
_NETWORK_HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(:\d+)?")  # no socket of this machine
_HOST = r"(?:\[[0-9A-Fa-f:.]+\]|[^/?#@:\[\],]*)(?::\d*)?"
_ADDRESS = re.compile(rf"(?:[^/?#@]*@)?{_HOST}(?:,{_HOST})*")


def is_postgresql_url(text: str) -> bool:
    """Whether this names a PostgreSQL server."""
    return text.partition("://")[0] in URL_SCHEMES


def is_unambiguous_url(url: str) -> bool:
    """Whether libpq and we find the same parts in it. A password with one of `@/?#` in it has to be percent-encoded."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return False
    if not is_postgresql_url(url) or "@" in f"{parts.path}{parts.query}" or "#" in url:
        return False
    return _ADDRESS.fullmatch(parts.netloc) is not None


def without_user_defaults(url: str, source: str) -> str:
    """The same address with nothing of the user's own offered to its server, for one that a stranger may have named.

    It has to hold all that it takes. Raises LedgerError, which names its `source`.
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
    """The address without a password, fit to be shown and noted."""
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
    """The secrets of an address, as they stand there and as they are meant."""
    if not is_postgresql_url(url):
        return set()
    login = url.partition("://")[2].rpartition("@")[0]
    given = [login.partition(":")[2]]
    given += [value for name, value in parse_qsl(url.partition("?")[2]) if name in ("password", "sslpassword")]
    return {form for word in given if word for form in (word, unquote(word), quote(unquote(word), safe=""))}


def load_psycopg() -> Any:
    """The package that speaks to a server, which is an extra. Raises UsageError without it."""
    try:
        import psycopg
    except ImportError:
        raise UsageError("a ledger in PostgreSQL needs the extra `cluster`: pip install 'batchgen[cluster]'") from None
    return psycopg
