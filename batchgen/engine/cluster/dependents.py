"""What a worker uses in place of a run's dependents and results file."""

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
    """Dependents of a worker: the ledger releases what waited for an image, in the same transaction that records the
    image."""

    def __init__(self, ledger: FencedLedger, store: Store, references: References) -> None:
        super().__init__(Backlog(), ledger, store, references, lambda lane: None)
        self._ledger = ledger

    def images_made(self, keys: Iterable[str]) -> None: ...

    def block(self, keys: Iterable[str], state: str, reason: str) -> list[tuple[Sample, str]]:
        return self._ledger.block_dependents(list(keys), state, reason)

    def close(self) -> None:
        self._backlog.close()


class NoResultsFile(ResultsFile):
    """Stands in for the results file: the run that submitted the work writes the lines, from the ledger."""

    def __init__(self) -> None: ...

    def append(self, sample: Sample, made: Result | None = None) -> None: ...
