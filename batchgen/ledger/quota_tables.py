"""The tables of what is shared by all jobs (starts, daily counts, spending, refusals), and their statements."""

from __future__ import annotations

from batchgen.ledger.database import Connection, upsert_sql

SCHEMA = (
    # A place below zero is a turn: whoever waits for the quota may start then, and is no later than others who wait.
    "CREATE TABLE IF NOT EXISTS start (place INTEGER PRIMARY KEY, quota TEXT NOT NULL, at REAL NOT NULL)",
    "CREATE INDEX IF NOT EXISTS start_by_time ON start (quota, at)",
    "CREATE TABLE IF NOT EXISTS daily (quota TEXT NOT NULL, day REAL NOT NULL, job TEXT NOT NULL,"
    " requests INTEGER NOT NULL, PRIMARY KEY (quota, day, job)) WITHOUT ROWID",
    # A row without `ended` is reserved: its request is in flight, or its process died and it may have been billed.
    # purse: '' is the user's money; an emulated job has one of its own. worker: '' is the job's run itself.
    "CREATE TABLE IF NOT EXISTS spending (at REAL NOT NULL, ended REAL, usd REAL NOT NULL, job TEXT NOT NULL,"
    " account TEXT NOT NULL, purse TEXT NOT NULL, place INTEGER, worker TEXT NOT NULL DEFAULT '')",
    "CREATE INDEX IF NOT EXISTS spending_sum ON spending (purse, at, account, usd, ended)",
    "CREATE UNIQUE INDEX IF NOT EXISTS spending_place ON spending (place) WHERE place IS NOT NULL",
    # What a server's refusals have taught: until when nothing starts, and the rate that is kept to and rises after `rises`.
    "CREATE TABLE IF NOT EXISTS held (quota TEXT PRIMARY KEY, cooled REAL NOT NULL, parked REAL NOT NULL, why TEXT NOT NULL,"
    " rate REAL, rises REAL) WITHOUT ROWID",
)
FOLDED_AFTER_S = 3600.0
UPSERT_START = upsert_sql("start", ("place", "quota", "at"), ("place",))
REQUEST_MAX_S = 3600.0  # no request is in flight for longer
RETENTION_S = 400 * 86400.0
COUNT_SQL = """
SELECT used.n, held.cooled, held.parked, held.why, held.rate, held.rises FROM (SELECT count(*) AS n FROM start
 WHERE quota = ? AND at > ? AND at <= ? AND (place > 0 OR (at > ? AND at < ?))) AS used LEFT JOIN held ON held.quota = ?
"""
LAST_START_SQL = """
SELECT at FROM start WHERE quota = ? AND at > ? AND at <= ? AND (place > 0 OR (at > ? AND at < ?))
 ORDER BY at DESC LIMIT 1 OFFSET ?
"""
COOL_SQL = """
INSERT INTO held VALUES (?, ?, 0, '', ?, ?) ON CONFLICT (quota) DO UPDATE SET
 cooled = CASE WHEN held.cooled > excluded.cooled THEN held.cooled ELSE excluded.cooled END,
 rate = coalesce(excluded.rate, held.rate), rises = coalesce(excluded.rises, held.rises)
"""
PARK_SQL = """
INSERT INTO held VALUES (?, 0, ?, ?, NULL, NULL)
 ON CONFLICT (quota) DO UPDATE SET parked = excluded.parked, why = excluded.why
"""


def spent(
    connection: Connection, at: float, job: str | None, account: str | None, spend_scope: str, *, settled: bool = False
) -> float:
    """USD spent or, unless only settled, reserved since then, of one job or account where one is named."""
    sql, values = "SELECT coalesce(sum(usd), 0) FROM spending WHERE purse = ? AND at >= ?", [spend_scope, at]
    for column, value in (("job", job), ("account", account)):
        if value is not None:
            sql, values = f"{sql} AND {column} = ?", [*values, value]
    if settled:
        sql += " AND ended IS NOT NULL"
    return float(connection.execute(sql, values).fetchone()[0])


def requests_on(connection: Connection, quota: str, day: float) -> int:
    sql = "SELECT coalesce(sum(requests), 0) FROM daily WHERE quota = ? AND day = ?"
    return int(connection.execute(sql, (quota, day)).fetchone()[0])


def clear_old(connection: Connection, now: float, midnight_sql: str) -> None:
    connection.execute("DELETE FROM start WHERE at < ?", (now - 86400.0,))
    connection.execute("DELETE FROM daily WHERE day < ?", (now - 3 * 86400.0,))
    connection.execute("DELETE FROM spending WHERE at < ?", (now - RETENTION_S,))
    connection.execute("DELETE FROM spending WHERE purse <> '' AND at < ?", (now - 86400.0,))
    fold_ended(connection, now - FOLDED_AFTER_S, midnight_sql)


def fold_ended(connection: Connection, before: float, midnight_sql: str) -> None:
    """One row for each local day, job and account in place of one for each request that ended before then: sums stay,
    and asking stays fast after a hundred thousand pictures."""
    connection.execute(
        "INSERT INTO spending (at, ended, usd, job, account, purse) SELECT midnight, midnight, sum(usd), job, account, purse"
        f" FROM (SELECT {midnight_sql} AS midnight, usd, job, account, purse FROM spending"
        " WHERE place IS NOT NULL AND ended < ?) AS each_of_them GROUP BY midnight, job, account, purse",
        (before,),
    )
    connection.execute("DELETE FROM spending WHERE place IS NOT NULL AND ended < ?", (before,))
