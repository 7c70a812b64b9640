"""What a ledger asks of its database, SQLite or PostgreSQL, and the SQL that both of them understand."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol


class Cursor(Protocol):
    @property
    def rowcount(self) -> int: ...

    def fetchone(self) -> Any: ...

    def fetchall(self) -> list[Any]: ...

    def __iter__(self) -> Iterator[Any]: ...


class Connection(Protocol):
    """Statements mark their values with `?`. `sqlite3.Connection` is one as it stands."""

    def execute(self, sql: str, values: Sequence[Any] = ..., /) -> Cursor: ...

    def executemany(self, sql: str, rows: Iterable[Sequence[Any]], /) -> object: ...

    def close(self) -> None: ...


Change = Callable[[Connection], Any]


@dataclass(frozen=True, slots=True)
class LockedChange:
    """A change that nobody makes at the same time as another that names one of the same locks. One who writes an SQLite
    file is alone anyway."""

    change: Change
    locks: tuple[str, ...]

    def __call__(self, connection: Connection) -> Any:
        return self.change(connection)


class Database(Connection, Protocol):
    """A connection that may write."""

    def transact(self, changes: Sequence[Change]) -> list[Any]:
        """All of it durable when this returns, or none of it. Raises what a change raises, and the database's errors."""


def placeholders(values: Sequence[Any]) -> str:
    """For `IN (…)`, which PostgreSQL does not take empty; nothing is equal to NULL."""
    return ",".join("?" * len(values)) or "NULL"


def upsert_sql(table: str, columns: Sequence[str], key: Sequence[str]) -> str:
    """A statement that writes a row in place of the one with the same key."""
    names = ", ".join(columns)
    changes = ", ".join(f"{name} = excluded.{name}" for name in columns if name not in key)
    return f"INSERT INTO {table} ({names}) VALUES ({placeholders(columns)}) ON CONFLICT ({', '.join(key)}) DO UPDATE SET {changes}"
