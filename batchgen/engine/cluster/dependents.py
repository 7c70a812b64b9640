"""What a worker has in place of what a run has: what waits for other samples, and the lines of results."""

from __future__ import annotations

from collections.abc import Iterable

from batchgen.engine.dependents import Dependents
from batchgen.ledger.backlog import Backlog
from batchgen.ledger.results import ResultsFile
from batchgen.ledger.worker_ledger import FencedLedger
from batchgen.records import Result, Sample
from batchgen.references.local import References
from batchgen.store.store import Store


class QueuedDependents(Dependents):
    """The ledger lets go what waited for a picture, in the transaction that records the picture."""

    def __init__(self, ledger: FencedLedger, store: Store, references: References) -> None:
        super().__init__(Backlog(), ledger, store, references, lambda lane: None)
        self._ledger = ledger

    def images_made(self, keys: Iterable[str]) -> None: ...

    def block(self, keys: Iterable[str], state: str, reason: str) -> list[tuple[Sample, str]]:
        return self._ledger.block_dependents(list(keys), state, reason)

    def close(self) -> None:
        self._backlog.close()


class NoResultsFile(ResultsFile):
    """The lines are written by the run that submitted the work, from the ledger."""

    def __init__(self) -> None: ...

    def append(self, sample: Sample, made: Result | None = None) -> None: ...
