"""What waits for other samples, when the queue of the cluster keeps it back."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from batchgen.engine.dependents import Dependents, blocked_by
from batchgen.ledger import work
from batchgen.ledger.backlog import Backlog, load_sample
from batchgen.ledger.database import Connection
from batchgen.ledger.fenced import FencedLedger
from batchgen.manifest.references import References
from batchgen.records import Sample
from batchgen.store.store import Store


class QueuedDependents(Dependents):
    """The ledger lets go what waited for a picture, in the transaction that records the picture."""

    def __init__(self, ledger: FencedLedger, store: Store, references: References) -> None:
        super().__init__(Backlog(), ledger, store, references, lambda lane: None)
        self._ledger = ledger

    def made(self, keys: Iterable[str]) -> None: ...

    def never(self, keys: Iterable[str], state: str, reason: str) -> list[tuple[Sample, str]]:
        """These samples end without pictures: takes them and all that waited for them out of the queue, and answers the
        latter, with reasons."""
        ended = list(keys)

        def change(db: Connection) -> list[tuple[Sample, str]]:
            blocked: dict[str, tuple[Sample, str]] = {}
            left = [(key, blocked_by(key, state, reason)) for key in ended]
            gone = list(ended)
            while left:
                key, why = left.pop()
                for name, body in work.waiting_for(db, key):
                    sample = load_sample(body)
                    gone.append(name)
                    for n in range(sample.n, sample.n + sample.images):
                        single = replace(sample, n=n, images=1)
                        if single.key not in blocked:
                            blocked[single.key] = (single, why)
                            left.append((single.key, blocked_by(single.key, "blocked", "")))
            work.forget(db, gone)
            return list(blocked.values())

        found: list[tuple[Sample, str]] = self._ledger.writer.submit(change).result()
        return found

    def close(self) -> None:
        self._backlog.close()
