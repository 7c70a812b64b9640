"""One transaction that hands work over: rows of the job's ledger and of the queue, all or nothing."""

from __future__ import annotations

from batchgen.engine.cluster import queue
from batchgen.ledger import derivative_work, work_queue
from batchgen.ledger.database import Change, Connection
from batchgen.ledger.location import SHARED, open_schema
from batchgen.ledger.postgresql import PostgreSQL, tables


def prepare(url: str) -> None:
    """The queue's own tables. Raises LedgerError, UsageError."""
    server = PostgreSQL(url, SHARED, "batchgen submits")
    try:
        queue.prepare(server)
    finally:
        server.close()


def submit(url: str, schema: str, change: Change) -> None:
    """The job has tables for what is submitted when `change` is called. Raises LedgerError."""

    def define(db: Connection) -> None:
        for statement in tables(work_queue.TABLES + derivative_work.TABLES).split(";"):
            if statement.strip():
                db.execute(statement)

    database = open_schema(url, schema)
    try:
        database.transact([define, change])
    finally:
        database.close()
