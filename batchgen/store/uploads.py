"""What has gone up to a bucket and what waits for it, a record kept in memory, and receipts beside the pictures: one for each
attempt, here until the ledger has heard of it, and there for good."""

from __future__ import annotations

import contextlib
import json
import os
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, InvalidStateError
from pathlib import Path
from typing import Any

from batchgen.ledger.pictures import RecordedImage
from batchgen.ledger.schema import STATE_FOLDER
from batchgen.store.blobs import BlobInfo, Blobs, Listing
from batchgen.store.job_folder import JobFolder
from batchgen.store.spool import SpoolFile

RECEIPTS = f"{STATE_FOLDER}/receipts"
Moved = tuple[str, str]  # a path, and where what was there has gone
SpooledPath = tuple[str, str]  # a spool name, and the path of its picture


class Uploads:
    """Only a record: the ledger and the spool have it for good. All of it by spool name, but for `pending`.

    pending: spool names, by path, of pictures that the ledger has and the bucket has not; in a folder none waits.
    unavailable_reason: why the bucket did not take a picture; empty while it does.
    lock: held while one that waits goes up, so that it keeps its name until it is there.
    """

    def __init__(self, superseded: str) -> None:
        self.pending: dict[str, str] = {}
        self.unavailable_reason = ""
        self.lock = threading.RLock()
        self.displaced: dict[str, Moved] = {}  # what made way for one that has not gone up yet
        self.name_conflicts: set[SpooledPath] = set()  # those whose name something else has
        self._superseded = superseded
        self._uploaded: dict[str, tuple[BlobInfo, Moved | None]] = {}  # where it is, and what made way
        self._uploaded_elsewhere: dict[str, str] = {}  # where another process has put it
        self._something_waits: Future[None] = Future()

    def note_uploaded(self, spool_name: str, found: BlobInfo) -> None:
        self._uploaded[spool_name] = found, self.displaced.pop(spool_name, None)

    def note_uploaded_elsewhere(self, spool_name: str, path: str) -> None:
        self._uploaded_elsewhere[spool_name] = path

    def uploaded(self, spool_name: str) -> BlobInfo | None:
        """Put there by this process."""
        return self._uploaded.get(spool_name, (None, None))[0]

    def made_way(self, spool_name: str) -> Moved | None:
        """For one that has gone up."""
        return self._uploaded.get(spool_name, (None, None))[1]

    def last_path(self, spool_name: str, path: str) -> str:
        """Where it was put, by whichever process; `path` when it was not."""
        found = self.uploaded(spool_name)
        return self._uploaded_elsewhere.get(spool_name, path) if found is None else found.path

    def when_pending(self) -> Future[None]:
        """Done as soon as a picture waits."""
        waits = self._something_waits = Future()
        if self.pending:
            _finish(waits)
        return waits

    def displace_pending(self, pictures: Sequence[SpooledPath]) -> list[SpooledPath]:
        """Of two pictures that wait for one name the earlier makes way. Answers (its new path, its spool name)."""
        displaced: list[SpooledPath] = []
        if not any(self.pending.get(path, spool) != spool for spool, path in pictures):
            return displaced
        with self.lock:
            for spool, path in pictures:
                if (other := self.pending.get(path, spool)) == spool:
                    continue
                earlier = min(spool, other, key=lambda name: int(name.partition(".")[0]))
                stem, extension = os.path.splitext(os.path.basename(path))
                displaced.append((f"{self._superseded}/{stem}.{earlier}{extension}", earlier))
                if earlier == other:
                    del self.pending[path]
                    self.pending[displaced[-1][0]] = other
        return displaced

    def add_pending(self, pictures: Sequence[SpooledPath], reason: str) -> tuple[list[SpooledPath], list[Moved]]:
        """(spool name, path) of pictures that the ledger has and the bucket did not take.

        Answers (new path, spool name) of those that waited for one of these names and make way, and (new path, old path) of
        those that have made way in the bucket: the ledger has to hear of both.
        """
        displaced = self.displace_pending(pictures)
        aside = {spool: path for path, spool in displaced}
        self.pending.update((aside.get(spool, path), spool) for spool, path in pictures)
        self.unavailable_reason = reason
        _finish(self._something_waits)
        pairs = [self.displaced.pop(spool, None) or self.made_way(spool) for spool, _ in pictures]
        return displaced, [(new, old) for old, new in filter(None, pairs)]

    def load_pending(self, unplaced: Iterable[RecordedImage]) -> None:
        self.pending.update((image.file.path, image.spool) for image in unplaced)

    def still_pending(self, images: Iterable[RecordedImage]) -> list[RecordedImage]:
        """Those of these that wait: the ledger hears of what has gone up a moment later."""
        return [image for image in images if self.pending.get(image.file.path) == image.spool]

    def forget(self, pictures: Sequence[SpooledPath]) -> None:
        """They are in the bucket and recorded."""
        for spool, path in pictures:
            if self.pending.get(path) == spool:
                del self.pending[path]
            self._uploaded.pop(spool, None)
            self._uploaded_elsewhere.pop(spool, None)


def _finish(waits: Future[None]) -> None:
    with contextlib.suppress(InvalidStateError):  # done before, or nobody waits any more
        waits.set_result(None)


class ReceiptFiles:
    """token: tells receipts of one ledger's attempts from those of another job with the same address."""

    def __init__(self, folder: JobFolder, blobs: Blobs, token: str) -> None:
        self._folder = folder
        self._blobs = blobs
        self._token = token

    def spool(self, attempt: int, receipt: Mapping[str, Any]) -> bytes:
        """Durable here. Answers its text. Raises StoreError."""
        text = json.dumps(receipt, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")
        self.discard_spooled(attempt)
        kept = SpoolFile(self._folder.spool, _spool_name(attempt))
        kept.write(text)
        kept.sync()
        return text

    def put(self, attempt: int, text: bytes) -> None:
        """Raises BucketUnavailable."""
        self._blobs.put_new(self._path(attempt), text)

    def read(self, attempt: int) -> dict[str, Any] | None:
        """What was kept of an attempt, here or in the bucket; None when it did not come that far. Raises BucketUnavailable."""
        found = None
        with contextlib.suppress(OSError):
            found = _parse(Path(self._folder.spooled(_spool_name(attempt))).read_bytes())
        if found is None:
            with contextlib.suppress(FileNotFoundError):
                found = _parse(b"".join(self._blobs.get(self._path(attempt))))
        return found

    def discard_spooled(self, attempt: int) -> None:
        self._folder.remove_spooled(_spool_name(attempt))

    def _path(self, attempt: int) -> str:
        return f"{RECEIPTS}/{self._token}-{attempt}.json"


def read_receipts(blobs: Blobs, listing: Listing) -> Iterator[dict[str, Any]]:
    """All that lie below the address, of whichever job. Raises BucketUnavailable."""
    for path in listing.receipt_paths():
        with contextlib.suppress(FileNotFoundError):
            if (found := _parse(b"".join(blobs.get(path)))) is not None:
                yield found


def _parse(text: bytes) -> dict[str, Any] | None:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def _spool_name(attempt: int) -> str:
    return f"receipt-{attempt}"
