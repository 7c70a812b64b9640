"""The store of a job's files, in a folder or in the bucket that its ledger names: it moves images from the spool to
their names, and keeps receipts."""

from __future__ import annotations

import contextlib
import hashlib
import os
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from batchgen.errors import LedgerError, StoreError, UsageError
from batchgen.ledger.pictures import RecordedImage, SpooledPicture
from batchgen.ledger.reader import Reader
from batchgen.ledger.schema import STATE_FOLDER
from batchgen.manifest.addresses import normalize_bucket_url
from batchgen.store.blobs import BlobInfo, Blobs, BucketUnavailable
from batchgen.store.job_folder import SPOOL, TURNS
from batchgen.store.objects import ObjectStorage
from batchgen.store.spool import SpoolFile
from batchgen.store.stored_files import SUPERSEDED, StoredFiles
from batchgen.store.uploads import Moved, ReceiptFiles, SpooledPath, read_receipts

ADDRESS_NOTE = "bucket"  # in the state folder, in case the ledger is damaged
STORE_META_KEY = "store"  # the ledger's name for the address; empty or missing for a folder
MAX_PUT_ATTEMPTS = 3  # of a put whose name is taken each time: somebody else writes there


class Store(StoredFiles):
    """`StoredFiles`, and how an image becomes one of them: from the spool to its name, wherever that is."""

    def __init__(self, folder: Path, spool: str = SPOOL, blobs: Blobs | None = None) -> None:
        super().__init__(folder, spool, blobs)
        self._token = ""
        self._has_remote_workers = False
        self._receipts: ReceiptFiles | None = None

    @property
    def pending_uploads(self) -> Mapping[str, str]:
        """By path, the spool names of images that the ledger has and the bucket does not."""
        return self.uploads.pending

    def prepare(self) -> None:
        super().prepare()
        self.blobs.prepare()

    def bind(self, token: str, *, remote_workers: bool = False) -> None:
        """Use this token for the receipts and turns of this ledger's attempts. remote_workers: other machines need the
        turns too."""
        self._token, self._has_remote_workers = token, remote_workers
        self._receipts = ReceiptFiles(self, self.blobs, token)

    def with_spool(self, spool: str) -> Store:
        """A store of these images with a worker's spool."""
        blobs = self.blobs if self.properties.remote else None
        other = Store(self.folder, spool, blobs)
        if self._receipts is not None:
            other.bind(self._token, remote_workers=True)
        return other

    # --- what other machines need too

    def save_turn(self, attempt: int, text: bytes) -> None:
        super().save_turn(attempt, text)
        if self._has_remote_workers:
            self.blobs.put_new(self._remote_turn_path(attempt), text)

    def read_turn(self, attempt: int) -> str:
        """Read a turn. Raises OSError if it is gone."""
        try:
            return super().read_turn(attempt)
        except FileNotFoundError:
            if not self.properties.remote:
                raise
            return b"".join(self.blobs.get(self._remote_turn_path(attempt))).decode("utf-8")

    def _remote_turn_path(self, attempt: int) -> str:
        return f"{STATE_FOLDER}/{TURNS}/{self._token}-{attempt}.json"

    def share_state(self, name: str, file: str) -> None:
        """Share a file of the state with workers; in a folder it is where everybody finds it."""
        if self.properties.remote:
            self.blobs.put_new(f"{STATE_FOLDER}/{name}", Path(file))

    def fetch_state(self, name: str, target: str) -> None:
        """Fetch a shared file. Raises FileNotFoundError, StoreError."""
        self.download(f"{STATE_FOLDER}/{name}", target)

    # --- an image's way to its name

    def upload_with_receipt(self, attempt: int, pictures: Sequence[SpooledPicture], receipt: Mapping[str, Any]) -> None:
        """Store the images of an attempt, which are durable in the spool, under their names where these are free, and
        then its receipt.

        Nothing makes way yet: the ledger may give a name to another image. receipt: everything that settling needs, so
        that a process that finds it does not have to buy anything again. Raises BucketUnavailable, immediately after an
        earlier failure: then the ledger is told first and the images wait.
        """
        if self.uploads.unavailable_reason:
            raise BucketUnavailable(self.uploads.unavailable_reason)
        assert self._receipts is not None  # noqa: S101 - `bind` comes first
        text = self._receipts.spool(attempt, receipt)
        try:
            for picture in pictures:
                if not self._upload(picture.spool, picture.file.path):
                    self.uploads.name_conflicts.add((picture.spool, picture.file.path))
            self._receipts.put(attempt, text)
        except BucketUnavailable as error:
            self.uploads.unavailable_reason = str(error)
            raise

    def read_receipt(self, attempt: int) -> dict[str, Any] | None:
        """The receipt of an attempt, here or in the bucket; None if it did not get that far, and for a folder."""
        return self._receipts.read(attempt) if self._receipts is not None else None

    def receipts(self) -> Iterator[dict[str, Any]]:
        """All receipts below the address, of any job; a folder does not need them."""
        return read_receipts(self.blobs, self._listing) if self.properties.keeps_receipts else iter(())

    def stamp(self, spool_name: str, path: str) -> str:
        """The stamp of the image that `move_into_place` put there; '' if unknown."""
        found = self.uploads.uploaded(spool_name) or (None if self.properties.remote else self.blobs.stat(path))
        return found.stamp if found is not None else ""

    def move_into_place(self, spool_name: str, path: str) -> Moved | None:
        """Move a spooled image to its name. If there is a file already, it makes way: returns (old path, new path)
        then.

        Safe to repeat. Call `sync` for the folder afterwards, and `discard_spooled` once it is recorded: an image for a
        bucket stays in the spool until then.
        """
        if self.properties.atomic_rename:
            return self._rename_into_place(spool_name, path)
        found = self.uploads.uploaded(spool_name)
        if found is not None and found.path == path:
            return self.uploads.made_way(spool_name)
        was = self.uploads.last_path(spool_name, path)
        if was != path and self._rename_uploaded(spool_name, was, path):
            return None
        if not os.path.exists(self.spooled(spool_name)) and self.blobs.stat(path) is not None:
            return None  # it was uploaded, and another process has deleted it here
        for _ in range(MAX_PUT_ATTEMPTS):
            if (spool_name, path) not in self.uploads.name_conflicts and self._upload(spool_name, path):
                return self.uploads.made_way(spool_name)
            self.uploads.name_conflicts.discard((spool_name, path))
            if (pair := self._supersede(path)) is not None:
                self.uploads.displaced[spool_name] = pair
        raise BucketUnavailable(f"{self.url}/{path}: another program keeps writing there")

    def _rename_into_place(self, spool_name: str, path: str) -> Moved | None:
        """Rename a spooled file to its path. A planted link makes way like a file, and is not followed."""
        file, moved = Path(self.spooled(spool_name)), None
        if not os.path.lexists(file) and self.blobs.stat(path) is not None:
            return None  # it is there already
        for _ in range(MAX_PUT_ATTEMPTS):
            if self.blobs.put_new(path, file) is not None:
                return moved
            moved = self._supersede(path) or moved
        raise StoreError(f"{path}: another program keeps writing there")

    def _upload(self, spool_name: str, path: str) -> bool:
        """Upload an image. Returns whether it is there now; False if something else is."""
        file = Path(self.spooled(spool_name))
        found = self.blobs.put_new(path, file) or self._find_identical(path, file)
        if found is not None:
            self._listing.note(path, found)
            self.uploads.note_uploaded(spool_name, found)
        return found is not None

    def _rename_uploaded(self, spool_name: str, was: str, path: str) -> bool:
        """Rename an image that was stored under a name which the ledger then gave to another. Returns whether it has
        its own name now. The other's process may have moved it to `superseded/` in the meantime."""
        file = Path(self.spooled(spool_name))
        if file.exists():
            candidates = (one for one in (was, *self._superseded_candidates(was)) if self._find_identical(one, file))
            if (where := next(candidates, None)) is None:
                return False  # it is uploaded again
            was = where
        self._move(was, path)
        self.uploads.note_uploaded(spool_name, self._listing[path] or BlobInfo(path, 0, ""))
        return True

    def _superseded_candidates(self, path: str) -> Iterator[str]:
        """Where something that had this name may be in `superseded/` by now, whoever moved it."""
        stem, extension = os.path.splitext(os.path.basename(path))
        for found in self.blobs.list(SUPERSEDED):
            if found.path.startswith(f"{SUPERSEDED}/{stem}.") and found.path.endswith(extension):
                yield found.path

    def _find_identical(self, path: str, file: Path) -> BlobInfo | None:
        """The file with this path if it has exactly these contents: it was stored by a run that died before recording
        it."""
        found = self.blobs.stat(path)
        if found is None or found.bytes != file.stat().st_size:
            return None
        with contextlib.suppress(FileNotFoundError), open(file, "rb") as data:
            if self._stored_sha256(path) == hashlib.file_digest(data, "sha256").hexdigest():
                return found
        return None

    def add_pending(
        self, attempt: int, pictures: Sequence[SpooledPath], error: BucketUnavailable
    ) -> tuple[list[SpooledPath], list[Moved]]:
        """Add images that wait, see `Uploads.add_pending`. The receipt has served its purpose: the ledger knows
        everything."""
        if self._receipts is not None:
            self._receipts.discard_spooled(attempt)
        return self.uploads.add_pending(pictures, str(error))

    def load_pending(self, unplaced: Iterable[RecordedImage]) -> None:
        """Load images that are settled and not in place: in a folder they count as missing until a run has moved
        them."""
        if self.properties.remote:
            self.uploads.load_pending(unplaced)

    def discard_spooled(self, attempt: int, pictures: Sequence[SpooledPath]) -> None:
        """Delete images from the spool that are in place and recorded."""
        if self.properties.atomic_rename:
            return
        self.uploads.forget(pictures)
        for spool, _ in pictures:
            self.remove_spooled(spool)
        if self._receipts is not None:
            self._receipts.discard_spooled(attempt)


def open_store(folder: Path, url: str = "", spool: str = SPOOL) -> Store:
    """Open a store. url: of the bucket, from `normalize_bucket_url`; empty for the folder itself. spool: the name of
    the spool's folder. Raises SettingsError without the extra."""
    return Store(folder, spool, ObjectStorage(url) if url else None)


def open_store_of(folder: Path, reader: Reader) -> Store:
    """A store for reading only, which finds what waits in the spool there."""
    store = open_store(folder, reader.meta(STORE_META_KEY) or "")
    store.load_pending(reader.unplaced())
    return store


def last_location(folder: Path) -> str:
    """The bucket of a job that has run in this folder; empty if its images are here, or nothing is known."""
    try:
        with Reader.open(folder) as reader:
            return reader.meta(STORE_META_KEY) or ""
    except LedgerError:
        return noted_location(folder)


def refuse_other_location(reader: Reader, store: Store) -> None:
    """Refuse a job whose images are somewhere else: it would buy them all again. Raises UsageError unless they were
    copied."""
    was = reader.meta(STORE_META_KEY) or ""
    if was == store.url:
        return
    store.load_pending(reader.unplaced())
    missing = sum(latest and not store.has_file(path, size) for path, _, size, latest in reader.expected_files())
    if missing:
        old, new = was or str(store.folder), store.url or str(store.folder)
        raise UsageError(
            f"{missing:,} image(s) of this job are in {old} and not in {new}, and would be bought again:"
            f" copy what is in {old} to {new} first, or go back to the earlier output"
        )


def noted_location(folder: Path) -> str:
    """The address that `note_location` wrote; empty if there is none."""
    with contextlib.suppress(OSError, ValueError):
        return normalize_bucket_url((folder / STATE_FOLDER / ADDRESS_NOTE).read_text(encoding="utf-8").strip())
    return ""


def note_location(store: Store) -> None:
    """Write the bucket's address into the job folder, for the case that the ledger cannot be read."""
    if store.properties.remote and noted_location(store.folder) != store.url:
        note = SpoolFile(store.spool, f"{ADDRESS_NOTE}-{uuid.uuid4().hex}")
        note.write(store.url.encode())
        note.sync()
        os.replace(note.path, store.folder / STATE_FOLDER / ADDRESS_NOTE)
