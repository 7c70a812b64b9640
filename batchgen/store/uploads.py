"""What was uploaded to a bucket and what waits for it, in memory, and the receipts beside the images: one for each
attempt, kept here until the ledger has recorded it, and there for good."""

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
Moved = tuple[str, str]  # a path, and where the file that was there has gone
SpooledPath = tuple[str, str]  # a spool name, and the path of its image


class Uploads:
    """A record of uploads; the ledger and the spool have everything for good. Everything except `pending` is by spool
    name.

    pending: by path, the spool names of images that the ledger has and the bucket does not; in a folder none waits.
    unavailable_reason: why the bucket refused an image; empty if it did not. lock: held while a waiting image is
    uploaded, so that it keeps its name until then.
    """

    def __init__(self, superseded: str) -> None:
        self.pending: dict[str, str] = {}
        self.unavailable_reason = ""
        self.lock = threading.RLock()
        self.displaced: dict[str, Moved] = {}  # what made way for an image that is not uploaded yet
        self.name_conflicts: set[SpooledPath] = set()  # those whose name something else has
        self._superseded = superseded
        self._uploaded: dict[str, tuple[BlobInfo, Moved | None]] = {}  # where it is, and what made way
        self._uploaded_elsewhere: dict[str, str] = {}  # where another process put it
        self._something_waits: Future[None] = Future()

    def note_uploaded(self, spool_name: str, found: BlobInfo) -> None:
        self._uploaded[spool_name] = found, self.displaced.pop(spool_name, None)

    def note_uploaded_elsewhere(self, spool_name: str, path: str) -> None:
        self._uploaded_elsewhere[spool_name] = path

    def uploaded(self, spool_name: str) -> BlobInfo | None:
        """An image that this process uploaded, None for others."""
        return self._uploaded.get(spool_name, (None, None))[0]

    def made_way(self, spool_name: str) -> Moved | None:
        """What made way for an image that was uploaded."""
        return self._uploaded.get(spool_name, (None, None))[1]

    def last_path(self, spool_name: str, path: str) -> str:
        """Where an image was stored, by any process; `path` if it was not."""
        found = self.uploaded(spool_name)
        return self._uploaded_elsewhere.get(spool_name, path) if found is None else found.path

    def when_pending(self) -> Future[None]:
        """A future that is done as soon as an image waits."""
        waits = self._something_waits = Future()
        if self.pending:
            _finish(waits)
        return waits

    def displace_pending(self, pictures: Sequence[SpooledPath]) -> list[SpooledPath]:
        """Let the earlier of two images that wait for one name make way. Returns (its new path, its spool name)."""
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
        """Note (spool name, path) of images that the ledger has and the bucket refused.

        Returns (new path, spool name) of those that waited for one of these names and make way, and (new path, old
        path) of those that made way in the bucket: the ledger has to record both.
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
        """The images among these that still wait: the ledger records an upload a moment later."""
        return [image for image in images if self.pending.get(image.file.path) == image.spool]

    def forget(self, pictures: Sequence[SpooledPath]) -> None:
        """Forget images that are in the bucket and recorded."""
        for spool, path in pictures:
            if self.pending.get(path) == spool:
                del self.pending[path]
            self._uploaded.pop(spool, None)
            self._uploaded_elsewhere.pop(spool, None)


def _finish(waits: Future[None]) -> None:
    with contextlib.suppress(InvalidStateError):  # done before, or nobody waits any more
        waits.set_result(None)


class ReceiptFiles:
    """token: tells this ledger's receipts from those of another job with the same address."""

    def __init__(self, folder: JobFolder, blobs: Blobs, token: str) -> None:
        self._folder = folder
        self._blobs = blobs
        self._token = token

    def spool(self, attempt: int, receipt: Mapping[str, Any]) -> bytes:
        """Write a receipt into the spool, durably. Returns its text. Raises StoreError."""
        text = json.dumps(receipt, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")
        self.discard_spooled(attempt)
        kept = SpoolFile(self._folder.spool, _spool_name(attempt))
        kept.write(text)
        kept.sync()
        return text

    def put(self, attempt: int, text: bytes) -> None:
        """Upload a receipt. Raises BucketUnavailable."""
        self._blobs.put_new(self._path(attempt), text)

    def read(self, attempt: int) -> dict[str, Any] | None:
        """The receipt of an attempt, here or in the bucket; None if it did not get that far. Raises
        BucketUnavailable."""
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
    """All receipts below the address, of any job. Raises BucketUnavailable."""
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
