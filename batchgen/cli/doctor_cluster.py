"""What `batchgen doctor` finds out about the server of a ledger in PostgreSQL, and about the queue and workers on it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

from batchgen.cli.doctor_finding import Finding
from batchgen.errors import SettingsError, UsageError
from batchgen.ledger.location import SHARED_SCHEMA, ledger_url
from batchgen.report import formatting
from batchgen.settings import LEDGER_VARIABLE, Settings

if TYPE_CHECKING:
    from batchgen.ledger.postgresql import PostgreSQL

MIN_SERVER_VERSION = 130_000  # PostgreSQL 13: the first that tells what became of a transaction by its number
MAX_CLOCK_SKEW_S = 5.0  # budgets and quotas go by the server's clock, deadlines and nights' limits by each host's


def check_server(settings: Settings) -> Iterator[Finding]:
    """Nothing when no server is named. Nothing is written there."""
    try:
        url = ledger_url(settings)
        if url is None:
            return
        from batchgen.ledger.postgresql import PostgreSQL
        from batchgen.ledger.server_url import redacted

        database = PostgreSQL(url, SHARED_SCHEMA, "batchgen doctor")
    except UsageError as error:
        yield Finding("fail", "ledger", str(error), "pip install 'batchgen[cluster]'")
        return
    except SettingsError as error:
        yield Finding(
            "fail", "ledger", str(error), f"check {LEDGER_VARIABLE}, password (PGPASSWORD, ~/.pgpass) and network"
        )
        return
    try:
        yield _check_version(database, redacted(url))
        yield _check_rights(database)
        yield _check_clock(database)
        yield from _check_queue(database)
    except SettingsError as error:
        yield Finding("fail", "ledger", str(error), "may this user read it, and does the server stay up?")
    finally:
        database.close()


def _check_version(database: PostgreSQL, where: str) -> Finding:
    number, name = database.execute(
        "SELECT current_setting('server_version_num')::int, current_setting('server_version')"
    ).fetchone()
    says = f"PostgreSQL {name} at {where}"
    if number < MIN_SERVER_VERSION:
        return Finding("fail", "ledger", says, "batchgen needs PostgreSQL 13 or newer")
    return Finding("ok", "ledger", says)


def _check_rights(database: PostgreSQL) -> Finding:
    user, name, may = database.execute(
        "SELECT current_user, current_database(), has_database_privilege(current_database(), 'CREATE')::int"
    ).fetchone()
    if may:
        return Finding("ok", "ledger rights", f"{user} may make schemas in {name}")
    remedy = f'as its owner: GRANT CREATE ON DATABASE "{name}" TO "{user}"'
    return Finding("fail", "ledger rights", f"{user} may not make schemas in {name}, and each job has one", remedy)


def _check_clock(database: PostgreSQL) -> Finding:
    before = time.time()
    there = database.now()
    skew_s = abs(there - (before + time.time()) / 2)
    if skew_s > MAX_CLOCK_SKEW_S:
        says = f"{formatting.duration(skew_s)} apart from that of the ledger's server"
        return Finding("warn", "ledger clock", says, "let both systems set their time (NTP)")
    return Finding("ok", "ledger clock", "agrees with that of the ledger's server")


def _check_queue(database: PostgreSQL) -> Iterator[Finding]:
    from batchgen.engine.cluster import queue

    if database.execute("SELECT to_regclass(?)", (f"{SHARED_SCHEMA}.worker",)).fetchone()[0] is None:
        yield Finding("ok", "queue", "not there yet: the first worker or `run --engine cluster` makes it")
        return
    try:
        newest = queue.latest_version()
    except UsageError as error:
        yield Finding("fail", "queue", str(error), "pip install 'batchgen[cluster]'")
        return
    made = queue.schema_version(database) or queue.OLDEST_VERSION
    if made > newest:
        yield Finding(
            "fail",
            "queue",
            f"its tables are of a newer procrastinate ({made})",
            "pip install --upgrade 'batchgen[cluster]'",
        )
    else:
        later = "" if made == newest else "; the next worker brings them up to date"
        yield Finding("ok", "queue", f"tables of procrastinate's {made}{later}")
    yield _check_workers(database, queue.STALE_S)


def _check_workers(database: PostgreSQL, stale_s: float) -> Finding:
    from batchgen.engine.cluster.queue import SCHEMA, SERVER_NOW

    rows = database.execute(
        f"SELECT name FROM {SHARED_SCHEMA}.worker WHERE at > {SERVER_NOW} - ? ORDER BY name", (stale_s,)
    ).fetchall()
    waiting = database.execute(
        f"SELECT count(*) FROM {SCHEMA}.procrastinate_jobs WHERE status IN ('todo', 'doing')"
    ).fetchone()[0]
    says = f"{formatting.count(len(rows), 'worker')} alive, {formatting.count(waiting, 'sample')} in the queue"
    if waiting and not rows:
        return Finding("warn", "workers", says, "start `batchgen worker` on a machine that reaches the server")
    return Finding("ok", "workers", says + (f": {', '.join(name for (name,) in rows[:8])}" if rows else ""))
