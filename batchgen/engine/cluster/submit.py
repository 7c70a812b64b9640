"""One transaction that hands work over: rows of the job's ledger and of the queue, all or nothing."""

from __future__ import annotations

from batchgen.engine.cluster import queue
from batchgen.ledger import derivative_work, work_queue
from batchgen.ledger.database import Change, Connection
from batchgen.ledger.location import SHARED_SCHEMA, open_schema
from batchgen.ledger.postgresql import PostgreSQL, to_postgresql_ddl


def migrate_queue(url: str) -> None:
    """The queue's own tables. Raises LedgerError, UsageError."""
    server = PostgreSQL(url, SHARED_SCHEMA, "batchgen submits")
    try:
        queue.migrate(server)
    finally:
        server.close()


def submit(url: str, schema: str, change: Change) -> None:
    """The job has tables for what is submitted when `change` is called. Raises LedgerError."""

    def define(db: Connection) -> None:
        for statement in to_postgresql_ddl(work_queue.TABLES_DDL + derivative_work.TABLES_DDL).split(";"):
            if statement.strip():
                db.execute(statement)

    database = open_schema(url, schema)
    try:
        database.transact([define, change])
    finally:
        database.close()
