"""A job whose pictures live in a bucket: spool, turns and lock stay in the job folder, pictures go up by create-only puts."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import threading
import uuid
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from batchgen.derivatives.specification import DERIVATIVES
from batchgen.errors import StoreError
from batchgen.ledger.pictures import RecordedImage, SpooledPicture
from batchgen.ledger.schema import STATE_FOLDER
from batchgen.records import SIDECARS
from batchgen.store.objects import BucketUnavailable, ObjectInfo, ObjectStorage
from batchgen.store.sniff import EXTENSION, HEAD_BYTES, sniff
from batchgen.store.spool import NO_FOLLOW, SpoolFile
from batchgen.store.store import (
    ADDRESS_NOTE,
    SPOOL,
    SUPERSEDED,
    TURNS,
    FileStat,
    FileVerdict,
    Store,
    noted_location,
    sidecar_path,
)

RECEIPTS = f"{STATE_FOLDER}/receipts"
MAX_PUT_ATTEMPTS = 3  # of a put whose name is taken each time: somebody else writes there


class BucketStore(Store):
    """Nothing is overwritten, and nothing deleted but what was copied to `superseded/` before.

    waiting: spool names, by path, of pictures that the ledger has and the bucket has not.
    token: tells receipts of this ledger's attempts from those of another job with the same address.
    away: why the bucket did not take a picture; empty while it does.
    moving: held while one that waits goes up, so that it keeps its name until it is there.
    """

    def __init__(self, folder: Path, url: str, spool: str = SPOOL) -> None:
        super().__init__(folder, spool)
        self.url = url
        self.token = ""
        self.unavailable_reason = ""
        self.has_remote_workers = False  # with workers on other machines
        self.on_unavailable: Callable[[], None] = lambda: None
        self.pending_uploads: dict[str, str] = {}
        self.upload_lock = threading.RLock()
        self._objects = ObjectStorage(url)
        self._objects_by_path: dict[str, ObjectInfo] | None = None
        self._receipts: list[str] = []  # their paths, when the bucket was listed
        self._listing_lock = threading.Lock()
        self._uploaded: dict[
            str, tuple[ObjectInfo, tuple[str, str] | None]
        ] = {}  # by spool name: where it is, and what made way
        self._uploaded_elsewhere: dict[str, str] = {}  # by spool name: where another process has put it
        self._displaced: dict[
            str, tuple[str, str]
        ] = {}  # by spool name: what made way for one that has not gone up yet
        self._name_conflicts: set[tuple[str, str]] = set()  # (spool name, path) of those whose name something else has

    def prepare(self) -> None:
        """Prove besides that the bucket takes a new object, and refuses to write over one. Raises StoreError."""
        super().prepare()
        probe = f"{STATE_FOLDER}/probe-{uuid.uuid4().hex}"
        first, again = self._objects.create(probe, b"batchgen"), self._objects.create(probe, b"batchgen")
        with contextlib.suppress(BucketUnavailable):  # a policy may forbid to delete anything
            self._objects.delete(probe)
        if not first or again:
            raise StoreError(f"{self.url}: this storage writes over what is there although it was asked not to")

    def write_address_note(self) -> None:
        """In the job folder, for the day on which the ledger cannot be read."""
        if noted_location(self.folder) != self.url:
            note = SpoolFile(self.spool, f"{ADDRESS_NOTE}-{uuid.uuid4().hex}")
            note.write(self.url.encode())
            note.sync()
            os.replace(note.path, self.folder / STATE_FOLDER / ADDRESS_NOTE)

    # --- what other machines need as well

    def save_turn(self, attempt: int, text: bytes) -> None:
        super().save_turn(attempt, text)
        if self.has_remote_workers:
            self._objects.create(self._turn_path(attempt), text)

    def read_turn(self, attempt: int) -> str:
        """Raises BucketAway besides."""
        try:
            return super().read_turn(attempt)
        except FileNotFoundError:
            return self._objects.read(self._turn_path(attempt)).decode("utf-8")

    def _turn_path(self, attempt: int) -> str:
        return f"{STATE_FOLDER}/{TURNS}/{self.token}-{attempt}.json"

    def upload_state(self, name: str, file: str) -> None:
        """A file that travels with the work, under its name. Raises BucketAway."""
        self._objects.create(f"{STATE_FOLDER}/{name}", Path(file))

    def download_state(self, name: str, target: str) -> None:
        """Raises FileNotFoundError, BucketAway, StoreError."""
        self.download(f"{STATE_FOLDER}/{name}", target)

    # --- an answer's way into the bucket

    def upload_with_receipt(self, attempt: int, pictures: Sequence[SpooledPicture], receipt: Mapping[str, Any]) -> None:
        """Put the pictures of an attempt, durable in the spool, under their names where these are free, and then its receipt.

        Nothing makes way yet: the ledger may give the name to another. receipt: all that settling needs, so that nothing
        has to be bought again by a process that finds it.
        Raises BucketAway, at once after an earlier failure: then the ledger is told first and the pictures wait.
        """
        if self.unavailable_reason:
            raise BucketUnavailable(self.unavailable_reason)
        text = json.dumps(receipt, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")
        self.remove_spooled(_receipt_name(attempt))
        kept = SpoolFile(self.spool, _receipt_name(attempt))
        kept.write(text)
        kept.sync()
        try:
            for picture in pictures:
                if not self._upload(picture.spool, picture.file.path):
                    self._name_conflicts.add((picture.spool, picture.file.path))
            self._objects.create(self._receipt_path(attempt), text)
        except BucketUnavailable as error:
            self.unavailable_reason = str(error)
            raise

    def read_receipt(self, attempt: int) -> dict[str, Any] | None:
        """What `deposit` kept of an attempt, here or in the bucket; None when it did not come that far."""
        try:
            text = Path(self.spooled(_receipt_name(attempt))).read_bytes()
        except OSError:
            text = b""
        if (found := _parse_receipt(text)) is None:
            with contextlib.suppress(FileNotFoundError):
                found = _parse_receipt(self._objects.read(self._receipt_path(attempt)))
        return found

    def receipts(self) -> Iterator[dict[str, Any]]:
        """All that lie below the address, of whichever job. Raises BucketAway."""
        self._listing()
        for path in self._receipts:
            with contextlib.suppress(FileNotFoundError):
                if (found := _parse_receipt(self._objects.read(path))) is not None:
                    yield found

    def note_upload_elsewhere(self, spool_name: str, path: str) -> None:
        """Another process has put the picture there, as its receipt says; one that is in no spool here has been verified."""
        self._uploaded_elsewhere[spool_name] = path

    def move_into_place(self, spool_name: str, path: str) -> tuple[str, str] | None:
        """As in a folder, but the spooled file stays until `forget_placed`. Raises BucketAway."""
        found, moved = self._uploaded.get(spool_name, (None, None))
        if found is not None and found.path == path:
            return moved
        was = self._uploaded_elsewhere.get(spool_name, path) if found is None else found.path
        if was != path and self._rename_uploaded(spool_name, was, path):
            return None
        if not os.path.exists(self.spooled(spool_name)) and self._objects.size(path) is not None:
            return None  # it went up, and another process has forgotten it
        for _ in range(MAX_PUT_ATTEMPTS):
            if (spool_name, path) not in self._name_conflicts and self._upload(spool_name, path):
                break
            self._name_conflicts.discard((spool_name, path))
            if (pair := self._supersede(path)) is not None:
                self._displaced[spool_name] = pair
        else:
            raise BucketUnavailable(f"{self.url}/{path}: another program keeps writing there")
        moved = self._displaced.pop(spool_name, None)
        self._uploaded[spool_name] = self._uploaded[spool_name][0], moved
        return moved

    def _upload(self, spool_name: str, path: str) -> bool:
        """Whether it stands there now; False when something else does."""
        file = Path(self.spooled(spool_name))
        found = self._objects.create(path, file) or self._find_identical(path, file)
        if found is not None:
            self._update_listing(path, found)
            self._uploaded[spool_name] = found, None
        return found is not None

    def _rename_uploaded(self, spool_name: str, was: str, path: str) -> bool:
        """Whether a picture that was deposited under a name which the ledger gave to another has its own now. The other may
        have moved it to `superseded/` meanwhile."""
        file = Path(self.spooled(spool_name))
        if file.exists():
            places = (place for place in (was, *self._superseded_candidates(was)) if self._find_identical(place, file))
            if (where := next(places, None)) is None:
                return False  # it goes up again
            was = where
        self._move(was, path)
        self._uploaded[spool_name] = self._listing()[path], None
        return True

    def _superseded_candidates(self, path: str) -> Iterator[str]:
        """Where what had this name may lie in `superseded/` by now, whoever moved it."""
        stem, extension = os.path.splitext(os.path.basename(path))
        for found in self._objects.list_below(SUPERSEDED):
            if found.path.startswith(f"{SUPERSEDED}/{stem}.") and found.path.endswith(extension):
                yield found.path

    def stamp(self, spool_name: str, path: str) -> str:
        found, _ = self._uploaded.get(spool_name, (None, None))
        return found.etag if found is not None else ""

    def displace_pending(self, pictures: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
        """Of two pictures that wait for one name the earlier makes way. Answers (its new path, its spool name)."""
        displaced: list[tuple[str, str]] = []
        if not any(self.pending_uploads.get(path, spool) != spool for spool, path in pictures):
            return displaced
        with self.upload_lock:
            for spool, path in pictures:
                if (other := self.pending_uploads.get(path, spool)) == spool:
                    continue
                earlier = min(spool, other, key=lambda name: int(name.partition(".")[0]))
                stem, extension = os.path.splitext(os.path.basename(path))
                displaced.append((f"{SUPERSEDED}/{stem}.{earlier}{extension}", earlier))
                if earlier == other:
                    del self.pending_uploads[path]
                    self.pending_uploads[displaced[-1][0]] = other
        return displaced

    def add_pending(
        self, attempt: int, pictures: Sequence[tuple[str, str]], error: BucketUnavailable
    ) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
        """(spool name, path) of pictures that the ledger has and the bucket did not take.

        Answers (new path, spool name) of those that waited for one of these names and make way, and (new path, old path) of
        those that have made way in the bucket: the ledger has to hear of both.
        """
        displaced = self.displace_pending(pictures)
        aside = {spool: path for path, spool in displaced}
        self.pending_uploads.update((aside.get(spool, path), spool) for spool, path in pictures)
        self.remove_spooled(_receipt_name(attempt))  # the ledger knows it all
        self.unavailable_reason = str(error)
        self.on_unavailable()
        pairs = [
            self._displaced.pop(spool, None) or self._uploaded.get(spool, (None, None))[1] for spool, _ in pictures
        ]
        return displaced, [(new, old) for old, new in filter(None, pairs)]

    def load_pending(self, unplaced: Iterable[RecordedImage]) -> None:
        self.pending_uploads.update((image.file.path, image.spool) for image in unplaced)

    def discard_spooled(self, attempt: int, pictures: Sequence[tuple[str, str]]) -> None:
        """The bucket has them and the ledger knows: their files in the spool have served."""
        for spool, path in pictures:
            if self.pending_uploads.get(path) == spool:
                del self.pending_uploads[path]
            self._uploaded.pop(spool, None)
            self._uploaded_elsewhere.pop(spool, None)
            self.remove_spooled(spool)
        self.remove_spooled(_receipt_name(attempt))

    def _receipt_path(self, attempt: int) -> str:
        return f"{RECEIPTS}/{self.token}-{attempt}.json"

    def _find_identical(self, path: str, file: Path) -> ObjectInfo | None:
        """What stands there, when it is exactly this: put by a run that died before it could say so."""
        found = self._objects.head(path)
        if found is None or found.bytes != file.stat().st_size:
            return None
        with contextlib.suppress(FileNotFoundError), open(file, "rb") as data:
            if self._sha256(path) == hashlib.file_digest(data, "sha256").hexdigest():
                return found
        return None

    # --- what is there

    def verify(self, path: str, sha256: str, size: int) -> FileVerdict:
        """None of what is read is kept. Raises BucketAway."""
        try:
            return "right" if self._sha256(path) == sha256 else "changed"
        except FileNotFoundError:
            return "missing"

    def is_empty(self) -> bool:
        return not self._listing()

    def picture_at(self, stem: str, n: int) -> str | None:
        listing = self._listing()
        for path in (self.file_name(stem, n, kind) for kind in EXTENSION):
            with contextlib.suppress(FileNotFoundError):
                if path in listing and sniff(self._objects.read_head(path, HEAD_BYTES)[1]) is not None:
                    return path
        return None

    def has_file(self, path: str, size: int) -> bool:
        if (spool := self.pending_uploads.get(path)) is not None:
            with contextlib.suppress(OSError):
                return os.path.getsize(self.spooled(spool)) == size
        found = self._listing().get(path)
        return found is not None and found.bytes == size

    def name_exists(self, path: str) -> bool:
        return path in self.pending_uploads or path in self._listing()

    def stat_lookup(self) -> Callable[[str], FileStat | None]:
        with self._listing_lock:
            found = self._objects_by_path = self._list()
        return lambda path: FileStat(found[path].bytes, found[path].etag) if path in found else None

    def sha256(self, path: str) -> str:
        with self._open_pending(path) as file:
            return self._sha256(path) if file is None else hashlib.file_digest(file, "sha256").hexdigest()  # type: ignore[arg-type]

    def open(self, path: str) -> IO[bytes]:
        """The picture, at its start. Raises FileNotFoundError, BucketAway."""
        with self._open_pending(path) as file:
            return io.BytesIO(self._objects.read(path) if file is None else file.read())

    def download(self, path: str, target: str) -> None:
        """Copy the picture into a file of this machine. Raises FileNotFoundError, BucketAway, StoreError."""
        part = SpoolFile(os.path.dirname(target), f"{os.path.basename(target)}.part")
        try:
            with self._open_pending(path) as file:
                for piece in self._objects.stream(path) if file is None else iter(lambda: file.read(1 << 20), b""):
                    part.write(piece)
            part.close()
            os.replace(part.path, target)
        finally:
            part.discard()

    @contextlib.contextmanager
    def local_copy(self, path: str) -> Iterator[str]:
        copy = self.spooled(f"copy-{uuid.uuid4().hex}")
        try:
            self.download(path, copy)
            yield copy
        finally:
            Path(copy).unlink(missing_ok=True)

    def files(self) -> Iterator[tuple[str, int]]:
        for path, found in self._listing().items():
            if not any(part.startswith(".") for part in path.split("/")) and not path.startswith(f"{DERIVATIVES}/"):
                yield path, found.bytes

    @contextlib.contextmanager
    def _open_pending(self, path: str) -> Iterator[IO[bytes] | None]:
        """The spooled file of a picture that waits; None for one that the bucket has."""
        spool = self.pending_uploads.get(path)
        try:
            fd = -1 if spool is None else os.open(self.spooled(spool), os.O_RDONLY | NO_FOLLOW)
        except OSError:
            fd = -1  # it has gone up meanwhile
        if fd < 0:
            yield None
            return
        with os.fdopen(fd, "rb") as file:
            yield file

    def _sha256(self, path: str) -> str:
        digest = hashlib.sha256()
        for piece in self._objects.stream(path):
            digest.update(piece)
        return digest.hexdigest()

    def _listing(self) -> dict[str, ObjectInfo]:
        """By path: listed once, a thousand to a request, and kept up to date by what this process does."""
        with self._listing_lock:
            if self._objects_by_path is None:
                self._objects_by_path = self._list()
            return self._objects_by_path

    def _list(self) -> dict[str, ObjectInfo]:
        listed = list(self._objects.list_below(""))
        self._receipts = [found.path for found in listed if found.path.startswith(f"{RECEIPTS}/")]
        return {found.path: found for found in listed if not found.path.startswith(f"{STATE_FOLDER}/")}

    def _update_listing(self, path: str, found: ObjectInfo | None) -> None:
        if self._objects_by_path is None:
            return
        if found is None:
            self._objects_by_path.pop(path, None)
        else:
            self._objects_by_path[path] = found

    # --- making way

    def supersede(self, path: str) -> tuple[str, str] | None:
        if path not in self.pending_uploads:
            return self._supersede(path)
        new = self._free_superseded_name(path)
        self.move(path, new)
        return path, new

    def _supersede(self, path: str) -> tuple[str, str] | None:
        """What the bucket has there, whatever waits for the name."""
        if self._objects.size(path) is None:
            return None
        with self._supersede_lock:
            new = self._free_superseded_name(path)
            self._move_with_sidecars(path, new)
        return path, new

    def _is_taken(self, stem: str) -> bool:
        listing = self._listing()
        return any(stem + ending in listing or stem + ending in self.pending_uploads for ending in EXTENSION.values())

    def move(self, path: str, new: str) -> None:
        """Copied, then deleted. One that waits in the spool will go up under its new name."""
        if (spool := self.pending_uploads.pop(path, None)) is not None:
            self.pending_uploads[new] = spool
            return
        self._move_with_sidecars(path, new)

    def _move_with_sidecars(self, path: str, new: str) -> None:
        listing = self._listing()
        for old in (sidecar_path(path, ending) for ending in SIDECARS):
            if old in listing:
                name = sidecar_path(new, os.path.basename(old)[len(os.path.splitext(os.path.basename(path))[0]) :])
                if name in listing:
                    self._supersede_sidecar(name)
                self._move(old, name)
        self._move(path, new)

    def _move(self, path: str, new: str) -> None:
        was = self._listing().get(path)
        try:
            self._objects.move(path, new)
        except FileNotFoundError:
            raise StoreError(f"{self.url}/{path}: it has gone: it was there when the run began") from None
        self._update_listing(
            new, ObjectInfo(new, was.bytes if was is not None else 0, "")
        )  # the ETag of the copy is its own
        self._update_listing(path, None)

    def _supersede_sidecar(self, name: str) -> None:
        number = 1
        while (aside := f"{SUPERSEDED}/{os.path.basename(name)}.{number}") in self._listing():
            number += 1
        self._move(name, aside)

    # --- what stands beside pictures

    def write_sidecars(self, path: str, contents: Mapping[str, str]) -> None:
        for ending, text in contents.items():
            data, name = text.encode(errors="replace"), sidecar_path(path, ending)
            if not self._objects.create(name, data) and not self._is_identical(name, data):
                self._supersede_sidecar(name)
                self._objects.create(name, data)
            self._update_listing(name, ObjectInfo(name, len(data), ""))

    def _is_identical(self, name: str, data: bytes) -> bool:
        with contextlib.suppress(FileNotFoundError):
            return self._objects.size(name) == len(data) and self._objects.read(name) == data
        return False

    def read_sidecars(self, path: str, listed: Collection[str]) -> dict[str, str]:
        found = {}
        for ending in SIDECARS:
            if (name := sidecar_path(path, ending)) in listed:
                with contextlib.suppress(FileNotFoundError):
                    found[ending] = self._objects.read(name).decode("utf-8", "replace")
        return found

    def lacks_sidecars(self, path: str, contents: Mapping[str, str]) -> bool:
        listing = self._listing()
        return path in listing and not all(sidecar_path(path, ending) in listing for ending in contents)

    def sync(self, *paths: str) -> None:
        """A put that was answered is durable."""


def _parse_receipt(text: bytes) -> dict[str, Any] | None:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def _receipt_name(attempt: int) -> str:
    return f"receipt-{attempt}"
