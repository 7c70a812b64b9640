"""Samples that need images of other samples: what they send once these exist, and what happens if they never will."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import TYPE_CHECKING

from batchgen.errors import UsageError
from batchgen.ledger.backlog import Backlog
from batchgen.ledger.ledger import Ledger
from batchgen.ledger.pictures import RecordedImage
from batchgen.ledger.reader import Reader
from batchgen.planning.fingerprint import fingerprint, wire_facts
from batchgen.planning.reason import blocked_message
from batchgen.records import Item, Sample, previous_turn_id, reference_key, sample_key, split_key
from batchgen.references.local import References
from batchgen.store.store import Store

if TYPE_CHECKING:
    from batchgen.ledger.worker_ledger import FencedLedger


def wire_of(item: Item, n: int, file_digest: Callable[[str], str], made_digest: Callable[[str], str]) -> str:
    """Everything that reaches the wire for sample n. file_digest: the sha256 of a path; made_digest: that of another
    sample's image, by key."""
    digests = [
        made_digest(reference_key(name)) if name.startswith("@") else file_digest(name) for name in item.references
    ]
    earlier = made_digest(sample_key(previous_turn_id(item), n)) if item.turn > 1 else None
    return wire_facts(item, digests, earlier)


class Dependents:
    """Releases samples that waited for images of others, and provides these images. Not thread-safe: call it from the
    event loop only."""

    def __init__(
        self, backlog: Backlog, ledger: Ledger, store: Store, references: References, on_supplied: Callable[[str], None]
    ) -> None:
        """on_supplied: called with each lane that has more to do."""
        self._backlog = backlog
        self._reader: Reader = ledger.reader
        self._store = store
        self.references = references
        self._item_images = References(store.root)
        self._on_supplied = on_supplied

    def images_made(self, keys: Iterable[str]) -> None:
        """Release the samples that waited only for the images of these samples, which are now in the ledger."""
        for key in keys:
            for lane, sample in self._backlog.release_dependents(key):
                self._backlog.add(lane, [self.with_fingerprint(sample)])
                self._on_supplied(lane)

    def block(self, keys: Iterable[str], state: str, reason: str) -> list[tuple[Sample, str]]:
        """Block the samples that waited for these samples, which end without images, and those that waited for the
        blocked ones. Returns them with reasons."""
        blocked: list[tuple[Sample, str]] = []
        left = [(key, blocked_message(key, state, reason)) for key in keys]
        while left:
            key, why = left.pop()
            for sample in self._backlog.drop_dependents(key):
                for n in range(sample.n, sample.n + sample.images):
                    single = replace(sample, n=n, images=1)
                    blocked.append((single, why))
                    left.append((single.key, blocked_message(single.key, "blocked", "")))
        return blocked

    def locate_reference(self, name: str) -> tuple[References, str]:
        """Where a reference that is not a link is: a file of the manifest, or the image of another item.

        Raises UsageError if it is gone.
        """
        if not name.startswith("@"):
            return self.references, name
        file = self.referenced_image(name).file
        path = os.path.join(self._item_images.folder, file.path)
        self._item_images.expect_digest(path, file.sha256)
        return self._item_images, path

    def referenced_image(self, name: str) -> RecordedImage:
        """The image that the reference `@item` means. Raises UsageError if it is gone."""
        return self._picture(reference_key(name))

    def earlier_turns(self, item: Item, n: int) -> tuple[str, ...]:
        """What the model said before this turn. Raises OSError or UsageError."""
        texts = []
        while item.turn > 1:
            item = replace(item, id=previous_turn_id(item), turn=item.turn - 1)
            texts.append(self._store.read_turn(self._picture(sample_key(item.id, n)).attempt))
        return tuple(reversed(texts))

    def with_fingerprint(self, sample: Sample) -> Sample:
        try:
            wire = wire_of(sample.item, sample.n, self.references.digest, lambda key: self._picture(key).file.sha256)
        except (OSError, UsageError):
            return sample  # its inputs cannot be read: it alone fails, when its turn comes
        return replace(sample, wire=wire, fingerprint=fingerprint(wire))

    def _picture(self, key: str) -> RecordedImage:
        found = self._reader.current_picture(*split_key(key))
        if found is None:
            raise UsageError(f"the image of {key} is no longer there")
        return found


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
