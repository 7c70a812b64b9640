"""A connection that only reads, and the bits of SQL that several views of a ledger use."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from typing import Any, Protocol, runtime_checkable

from batchgen.ledger.database import Connection

MODEL_SQL = "substr(a.lane, instr(a.lane, '/') + 1)"  # of a lane's key `provider/model`


@runtime_checkable
class StreamingConnection(Protocol):
    """A connection that would otherwise fetch an answer as a whole."""

    def stream(self, sql: str, values: Sequence[Any], /) -> Iterator[Any]: ...


class BaseReader:
    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def _query(self, sql: str, *values: Any) -> Iterator[tuple[Any, ...]]:
        return iter(self._connection.execute(sql, values))

    def _stream_query(self, sql: str, *values: Any) -> Iterator[tuple[Any, ...]]:
        """Of an answer that grows with the job."""
        if isinstance(self._connection, StreamingConnection):
            return self._connection.stream(sql, values)
        return self._query(sql, *values)

    def has_work_table(self) -> bool:
        """Whether the queue of the cluster has ever had anything of this job."""
        if isinstance(self._connection, sqlite3.Connection):
            return False
        return self._connection.execute("SELECT to_regclass('work')").fetchone()[0] is not None
