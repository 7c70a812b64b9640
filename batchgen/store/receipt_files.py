"""Receipts beside the pictures of a bucket: one for each attempt, here until the ledger has heard of it, and there for good."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from batchgen.ledger.schema import STATE_FOLDER
from batchgen.store.blobs import Blobs, Listing
from batchgen.store.job_folder import JobFolder
from batchgen.store.spool import SpoolFile

RECEIPTS = f"{STATE_FOLDER}/receipts"


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
