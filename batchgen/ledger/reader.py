"""Read-only questions to a ledger, safe while a run is writing it, and after a run has died."""

from __future__ import annotations

from pathlib import Path
from typing import Self

from batchgen.ledger.location import open_for_reading
from batchgen.ledger.pictures import ImageQueries, RecordedImage
from batchgen.ledger.queue_status import WorkQueueQueries
from batchgen.ledger.requests import AttemptQueries, Money, OpenAttempt, SurplusRequest
from batchgen.ledger.runs import RunQueries, RunRow
from batchgen.ledger.samples import SampleQueries
from batchgen.ledger.submissions import ChunkQueries

__all__ = ["Money", "OpenAttempt", "Reader", "RecordedImage", "RunRow", "SurplusRequest"]


class Reader(SampleQueries, AttemptQueries, ImageQueries, RunQueries, ChunkQueries, WorkQueueQueries):
    """Views of one ledger. Every method is one snapshot."""

    @classmethod
    def open(cls, job_folder: Path, url: str | None = None) -> Self:
        """url: of the server that has it, by default what BATCHGEN_LEDGER says. Raises LedgerError when there is none, or
        it is damaged."""
        return cls(open_for_reading(job_folder, url))

    def close(self) -> None:
        self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
