"""What the cluster's workers still have of a job, for those who look on."""

from __future__ import annotations

from dataclasses import dataclass

from batchgen.ledger.base_reader import BaseReader
from batchgen.ledger.location import SHARED_SCHEMA

WORKER_SILENT_AFTER_S = 30.0  # a worker that has not been heard of for so long is taken for dead


@dataclass(frozen=True, slots=True)
class QueueStatus:
    """samples: handed over and not ended; taken: of these, with a worker; workers: that are alive, whatever they do;
    stopped_by, message: why the last submission starts nothing more, empty while it goes on."""

    samples: int
    taken: int
    workers: int
    stopped_by: str
    message: str


class WorkQueueQueries(BaseReader):
    def queue_status(self) -> QueueStatus | None:
        """None for a job that was never handed over."""
        if not self.has_work_table():
            return None
        samples, taken = next(
            self._query(
                "SELECT coalesce(sum(images), 0), coalesce(sum(images) FILTER (WHERE claim <> ''), 0) FROM work"
            )
        )
        alive = f"SELECT count(*) FROM {SHARED_SCHEMA}.worker WHERE at > extract(epoch FROM clock_timestamp()) - ?"
        workers = next(self._query(alive, WORKER_SILENT_AFTER_S))[0]
        last = next(self._query("SELECT stopped_by, message FROM submission ORDER BY run_id DESC LIMIT 1"), ("", ""))
        return QueueStatus(int(samples), int(taken), int(workers), *last)
