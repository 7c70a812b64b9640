"""What a ledger needs of its database, SQLite or PostgreSQL: connections, the base of all readers, and SQL that both
understand."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, cast, runtime_checkable

MODEL_SQL = "substr(a.lane, instr(a.lane, '/') + 1)"  # from a lane's key `provider/model`


class PreparedSql(str):
    """A statement that is run repeatedly: a server keeps its plan if it can."""


class Cursor(Protocol):
    @property
    def rowcount(self) -> int: ...

    def fetchone(self) -> Any: ...

    def fetchall(self) -> list[Any]: ...

    def __iter__(self) -> Iterator[Any]: ...


class Connection(Protocol):
    """A connection whose statements mark their values with `?`. `sqlite3.Connection` is one."""

    def execute(self, sql: str, values: Sequence[Any] = ..., /) -> Cursor: ...

    def executemany(self, sql: str, rows: Iterable[Sequence[Any]], /) -> object: ...

    def close(self) -> None: ...


Change = Callable[[Connection], Any]


@dataclass(frozen=True, slots=True)
class LockedChange:
    """A change that is never made at the same time as another with one of the same locks. A writer of an SQLite file is
    alone anyway."""

    change: Change
    locks: tuple[str, ...]

    def __call__(self, connection: Connection) -> Any:
        return self.change(connection)


@dataclass(frozen=True, slots=True)
class GroupedChange:
    """A change that is made together with all others of its kind in a transaction, after the single changes. kind:
    returns one value for each that it is given. Whoever makes one waits for it before making another about the same
    thing."""

    kind: Callable[[Connection, Sequence[Any]], Sequence[Any]]
    value: Any

    def __call__(self, connection: Connection) -> Any:
        return self.kind(connection, [self.value])[0]


def run_changes(changes: Sequence[Change], connection: Connection) -> list[Any]:
    """Make the changes, and return what they return, in their order."""
    answers: list[Any] = [None] * len(changes)
    groups: dict[Any, list[int]] = {}
    for place, change in enumerate(changes):
        if isinstance(change, GroupedChange):
            groups.setdefault(change.kind, []).append(place)
        else:
            answers[place] = change(connection)
    for kind, places in groups.items():
        values = [cast("GroupedChange", changes[place]).value for place in places]
        for place, answer in zip(places, kind(connection, values), strict=True):
            answers[place] = answer
    return answers


class Database(Connection, Protocol):
    """A connection that may write. is_remote: whether its server may be another machine."""

    is_remote: bool

    def transact(self, changes: Sequence[Change]) -> list[Any]:
        """Make the changes, all of them durable on return, or none. Raises what a change raises, and the database's
        errors."""


def placeholders(values: Sequence[Any]) -> str:
    """Placeholders for `IN (…)`, which PostgreSQL does not accept empty; nothing is equal to NULL."""
    return ",".join("?" * len(values)) or "NULL"


def column_list(names: Iterable[str], table: str = "") -> str:
    """A list of columns for a statement. table: its alias, if there are several tables."""
    return ", ".join(f"{table}.{name}" if table else name for name in names)


def upsert_sql(table: str, columns: Sequence[str], key: Sequence[str]) -> str:
    """A statement that writes a row in place of the one with the same key."""
    changes = ", ".join(f"{name} = excluded.{name}" for name in columns if name not in key)
    row = f"{table} ({column_list(columns)}) VALUES ({placeholders(columns)})"
    return f"INSERT INTO {row} ON CONFLICT ({column_list(key)}) DO UPDATE SET {changes}"


@runtime_checkable
class StreamingConnection(Protocol):
    """A connection that would otherwise fetch an answer as a whole."""

    def stream(self, sql: str, values: Sequence[Any], /) -> Iterator[Any]: ...


class BaseReader:
    """A connection that only reads."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def _query(self, sql: str, *values: Any) -> Iterator[tuple[Any, ...]]:
        return iter(self._connection.execute(sql, values))

    def _row(self, sql: str, *values: Any) -> Any:
        """The one row of an answer, None if there is none."""
        return self._connection.execute(sql, values).fetchone()

    def _stream_query(self, sql: str, *values: Any) -> Iterator[tuple[Any, ...]]:
        """The rows of an answer that grows with the job, as they are needed."""
        if isinstance(self._connection, StreamingConnection):
            return self._connection.stream(sql, values)
        return self._query(sql, *values)

    def has_work_table(self) -> bool:
        """Whether the cluster's queue has ever had work of this job."""
        if isinstance(self._connection, sqlite3.Connection):
            return False
        return self._row("SELECT to_regclass('work')")[0] is not None
