"""Read-only questions to a ledger, safe while a run is writing it, and after a run has died."""

from __future__ import annotations

from pathlib import Path
from typing import Self

from batchgen.ledger.location import open_for_reading
from batchgen.ledger.pictures import Pictures, StoredImage
from batchgen.ledger.queue_status import Queued
from batchgen.ledger.requests import Beyond, Money, OpenAttempt, Requests
from batchgen.ledger.runs import RunRow, Runs
from batchgen.ledger.samples import Samples
from batchgen.ledger.submissions import Submissions

__all__ = ["Beyond", "Money", "OpenAttempt", "Reader", "RunRow", "StoredImage"]


class Reader(Samples, Requests, Pictures, Runs, Submissions, Queued):
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
