"""The job folder: pictures under their names, a spool for what has just come, `superseded/` for what is no longer wanted."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import stat
import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from batchgen.derivatives.specification import DERIVATIVES
from batchgen.errors import StoreError
from batchgen.ledger.pictures import RecordedImage
from batchgen.ledger.schema import STATE_FOLDER
from batchgen.manifest.storage_url import normalize_bucket_url
from batchgen.records import SIDECARS
from batchgen.store.emergency_spool import EmergencySpool
from batchgen.store.sniff import EXTENSION, Format, is_picture
from batchgen.store.spool import FILE_MODE, SpoolFile, disk_error, sync_folder

SUPERSEDED = "superseded"
DRAFTS = "drafts"
TURNS = "turns"
ADDRESS_NOTE = "bucket"  # in the state folder: what a damaged ledger can no longer say
SPOOL = "spool"
FileVerdict = Literal["right", "missing", "changed"]


class FileStat(NamedTuple):
    """A file as its folder or bucket tells of it, unread. bytes: -1 for what is no plain file. stamp: the time of its last
    change in nanoseconds, or its ETag: with the same one it is the same file; '' when that is not known."""

    bytes: int
    stamp: str


def sidecar_path(path: str, ending: str) -> str:
    """The path of a file beside a picture."""
    return os.path.splitext(path)[0] + ending


def with_sidecars(path: str) -> tuple[str, ...]:
    """A picture's path and those of all that may stand beside it."""
    return (path, *(sidecar_path(path, ending) for ending in SIDECARS))


class Store:
    """Files of one job. Paths it takes and gives are relative to the job folder, with `/` between parts.

    `bucket.BucketStore` keeps spool and state here too, and the pictures in a bucket. url: of that, empty for a folder.
    waiting: spool names, by path, of pictures that the ledger has and the bucket has not; in a folder none waits.
    """

    url = ""
    pending_uploads: Mapping[str, str] = {}

    def __init__(self, folder: Path, spool: str = SPOOL) -> None:
        """spool: the name of its folder; each of several processes has its own."""
        self.folder = folder
        self.root = str(folder)
        self.spool = os.path.join(self.root, STATE_FOLDER, spool)
        self._supersede_lock = threading.RLock()  # of two threads each gets a name of its own in `superseded/`
        self.emergency_spool = EmergencySpool(self.root, os.path.join(self.root, STATE_FOLDER), self.spool)

    def prepare(self) -> None:
        """Create the folders and prove that they can be written and synced, before anything is paid for. Raises StoreError."""
        try:
            created = [folder for folder in (self.folder, *self.folder.parents) if not folder.exists()]
            self.folder.mkdir(mode=0o755, parents=True, exist_ok=True)
            for folder in created:
                sync_folder(str(folder.parent))
            for part in (STATE_FOLDER, os.path.join(STATE_FOLDER, os.path.basename(self.spool))):
                self.plain_folder(part, 0o700)
            name = f"probe-{os.getpid()}"
            Path(self.spooled(name)).unlink(missing_ok=True)  # of a process that had this number and died
            probe = SpoolFile(self.spool, name)
            probe.write(b"batchgen")
            probe.sync()
            sync_folder(self.spool)
            os.unlink(probe.path)
            self.emergency_spool.note_folder_identity()
        except OSError as error:
            raise disk_error(error, self.root) from None

    def plain_folder(self, part: str, mode: int = 0o755) -> str:
        """A folder of ours inside the job folder, created and durable if need be. A symbolic link in its place is refused."""
        path = os.path.join(self.root, part)
        with contextlib.suppress(FileExistsError):
            os.mkdir(path, mode)
            sync_folder(os.path.dirname(path))  # what is in a folder is lost with its name
        if os.path.islink(path) or not os.path.isdir(path):
            raise StoreError(f"{path}: a link or file stands where batchgen keeps a folder; remove it")
        return path

    def free_bytes(self) -> int:
        return shutil.disk_usage(self.root).free

    def spool_file(self, attempt: int, k: int) -> SpoolFile:
        return SpoolFile(self.spool, f"{attempt}.{k}", self.emergency_spool, mode=FILE_MODE)

    def reserve_space(self) -> None:
        """Set aside what answers in the air will need should the disk become full; only behind the lock. Raises StoreError."""
        try:
            self.emergency_spool.reserve_space()
        except OSError as error:
            raise disk_error(error, self.root) from None

    def recover_stranded(self, attempt: int, since: float) -> list[str]:
        """Copy what an attempt left in the temporary folder into the spool. Answers the paths it came from, still there.

        Raises StoreError while there is no room for it.
        """
        came_from = []
        for name, path in self.emergency_spool.stranded_files(attempt, since):
            Path(self.spooled(name)).unlink(missing_ok=True)
            copy = SpoolFile(self.spool, name, mode=FILE_MODE)
            with open(path, "rb") as file:
                while piece := file.read(1 << 20):
                    copy.write(piece)
            copy.sync()
            came_from.append(path)
        return came_from

    def turn_path(self, attempt: int) -> str:
        """Where the model's own turn of a conversation is kept as it came: the next turn sends it back."""
        return os.path.join(self.root, STATE_FOLDER, TURNS, f"{attempt}.json")

    def read_turn(self, attempt: int) -> str:
        """Raises OSError when it is gone."""
        return Path(self.turn_path(attempt)).read_text(encoding="utf-8")

    def save_turn(self, attempt: int, text: bytes) -> None:
        """Durable when this returns, and never there in part. Raises StoreError."""
        folder = self.plain_folder(os.path.join(STATE_FOLDER, TURNS), 0o700)
        name = f"turn-{attempt}"
        self.remove_spooled(name)
        file = SpoolFile(self.spool, name)
        file.write(text)
        file.sync()
        try:
            os.replace(file.path, self.turn_path(attempt))
        except OSError as error:
            raise disk_error(error, folder) from error
        sync_folder(folder)

    def file_name(self, stem: str, n: int, kind: Format) -> str:
        """The path of sample n of an item: sample 1 has the stem itself, so that raising `count` renames nothing."""
        return f"{stem}{'' if n == 1 else f'-{n}'}{EXTENSION[kind]}"

    def draft_name(self, stem: str, n: int, k: int, attempt: int, kind: Format) -> str:
        """Earlier pictures of one answer: paid for, so kept."""
        return f"{DRAFTS}/{stem}{'' if n == 1 else f'-{n}'}.{attempt}-{k}{EXTENSION[kind]}"

    def is_empty(self) -> bool:
        """Whether nothing is there but what is hidden."""
        try:
            with os.scandir(self.root) as entries:
                return all(entry.name.startswith(".") for entry in entries)
        except OSError:
            return True

    def picture_at(self, stem: str, n: int) -> str | None:
        """The path of a picture under the name of sample n of an item, in whichever format, whoever put it there."""
        path = os.path.splitext(self.file_name(stem, n, "png"))[0]
        full = f"{self.root}/{path}"
        for ending in EXTENSION.values():
            if os.path.lexists(full + ending) and is_picture(full + ending):
                return path + ending
        return None

    def receipts(self) -> Iterator[dict[str, Any]]:
        """What a bucket keeps of each request beside the pictures; a folder has no need of that."""
        return iter(())

    def has_file(self, path: str, size: int) -> bool:
        """Whether a picture is there with its size; `judge` compares the hash."""
        try:
            return os.stat(f"{self.root}/{path}", follow_symlinks=False).st_size == size
        except OSError:
            return False

    def name_exists(self, path: str) -> bool:
        """Whether anything stands there."""
        return os.path.lexists(f"{self.root}/{path}")

    def stat_lookup(self) -> Callable[[str], FileStat | None]:
        """What stands under a path now; None when nothing does. Of a bucket it is asked once for all. Raises StoreError."""
        return lambda path: _file_stat(f"{self.root}/{path}")

    def stamp(self, spool_name: str, path: str) -> str:
        """Stamp of the picture that `place` put there; '' when that is not known."""
        found = _file_stat(f"{self.root}/{path}")
        return found.stamp if found is not None else ""

    def verify(self, path: str, sha256: str, size: int) -> FileVerdict:
        """Every byte is read. A link in a file's place is a change: what it leads to is not what was stored."""
        return verify_file(os.path.join(self.root, path), sha256, size)

    def sha256(self, path: str) -> str:
        """In hex. Raises OSError when there is no such picture."""
        with open(os.path.join(self.root, path), "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    @contextlib.contextmanager
    def local_copy(self, path: str) -> Iterator[str]:
        """The path of a file of this machine that holds the picture."""
        yield os.path.join(self.root, path)

    def files(self) -> Iterator[tuple[str, int]]:
        """(path, size) of every file that is not hidden, nor a copy made of a picture, `/` between parts."""
        for folder, folders, names in os.walk(self.root):
            folders[:] = [
                name for name in folders if not name.startswith(".") and (folder != self.root or name != DERIVATIVES)
            ]
            for name in names:
                full = os.path.join(folder, name)
                if not name.startswith(".") and not os.path.islink(full):
                    yield os.path.relpath(full, self.root).replace(os.sep, "/"), os.path.getsize(full)

    def spooled(self, name: str) -> str:
        return os.path.join(self.spool, name)

    def move_into_place(self, spool_name: str, path: str) -> tuple[str, str] | None:
        """Move a spooled picture to its name. What stands there makes way: answers (old path, new path) then.

        The rename replaces a planted link instead of following it. Call `sync` for the folder afterwards. Safe to repeat.
        """
        if "/" in path:
            self.plain_folder(path.rsplit("/", 1)[0])
        taken = self.name_exists(path)
        if taken and not os.path.lexists(self.spooled(spool_name)):
            return None  # it is there already
        moved = self.supersede(path) if taken else None
        try:
            os.replace(os.path.join(self.spool, spool_name), os.path.join(self.root, path))
        except OSError as error:
            raise disk_error(error, path) from error
        return moved

    def write_sidecars(self, path: str, contents: Mapping[str, str]) -> None:
        """Write what belongs beside the picture at `path`, by ending; the same again after a crash. Raises StoreError.

        Each file is whole before it has its name; call `sync` for the folder afterwards.
        """
        for ending, text in contents.items():
            data, name = text.encode(errors="replace"), sidecar_path(path, ending)
            if self._displace_unless_same(name, data):
                continue
            spooled = self.spooled(f"beside-{threading.get_ident()}")  # a thread places one picture at a time
            Path(spooled).unlink(missing_ok=True)
            file = SpoolFile(*os.path.split(spooled), mode=FILE_MODE)
            file.write(data)
            file.sync()
            try:
                os.replace(spooled, os.path.join(self.root, name))
            except OSError as error:
                raise disk_error(error, name) from error

    def read_sidecars(self, path: str, listed: Collection[str]) -> dict[str, str]:
        """What of `listed` stands beside the picture at `path`, by ending."""
        names = {ending: sidecar_path(path, ending) for ending in SIDECARS}
        files = {ending: Path(self.root, name) for ending, name in names.items() if name in listed}
        return {
            ending: file.read_text(encoding="utf-8", errors="replace")
            for ending, file in files.items()
            if file.is_file() and not file.is_symlink()
        }

    def lacks_sidecars(self, path: str, contents: Mapping[str, str]) -> bool:
        """Whether the picture stands at `path` and something of this does not stand beside it."""
        there = [
            os.path.lexists(os.path.join(self.root, name))
            for name in (path, *(sidecar_path(path, e) for e in contents))
        ]
        return there[0] and not all(there)

    def _displace_unless_same(self, name: str, data: bytes) -> bool:
        """Whether exactly this stands at `name` already. Anything else there is kept in `superseded/`."""
        full = os.path.join(self.root, name)
        if not os.path.lexists(full):
            return False
        try:
            if not os.path.islink(full) and Path(full).read_bytes() == data:
                return True
            with self._supersede_lock:
                self.plain_folder(SUPERSEDED)
                os.rename(full, self._free_superseded_path(os.path.basename(name)))
        except OSError as error:
            raise disk_error(error, name) from error
        return False

    def supersede_foreign(self, path: str) -> None:
        """Keep a file of somebody else's below `superseded/`, under its whole path, so that whoever moves another one at the same
        time takes another name. Raises StoreError."""
        folder = SUPERSEDED
        self.plain_folder(folder)
        for part in path.split("/")[:-1]:
            folder = f"{folder}/{part}"
            self.plain_folder(folder)
        try:
            os.rename(os.path.join(self.root, path), self._free_superseded_path(path))
        except OSError as error:
            raise disk_error(error, path) from error

    def _free_superseded_path(self, name: str) -> str:
        path, number = os.path.join(self.root, SUPERSEDED, name), 1
        while os.path.lexists(f"{path}.{number}"):
            number += 1
        return f"{path}.{number}"

    def supersede(self, path: str) -> tuple[str, str] | None:
        """Move whatever is called `path` into `superseded/`: paid bytes are never deleted. None when nothing is there."""
        with self._supersede_lock:
            if not os.path.lexists(os.path.join(self.root, path)):
                return None
            self.plain_folder(SUPERSEDED)
            new = self._free_superseded_name(path)
            self.move(path, new)
            return path, new

    def _free_superseded_name(self, path: str) -> str:
        """A free name in `superseded/`."""
        stem, extension = os.path.splitext(os.path.basename(path))
        stem = stem.encode()[:200].decode(errors="ignore")
        number = 1
        while self._is_taken(f"{SUPERSEDED}/{stem}.{number}"):
            number += 1
        return f"{SUPERSEDED}/{stem}.{number}{extension}"

    def _is_taken(self, stem: str) -> bool:
        """By a picture of any format: what stands beside pictures goes by their stem."""
        return any(os.path.lexists(os.path.join(self.root, stem + ending)) for ending in EXTENSION.values())

    def move(self, path: str, new: str) -> None:
        """Rename inside the job folder, with what is beside it. Raises StoreError.

        What is beside it goes first and is durable then, so that a move that is taken up again separates nothing.
        """
        moved = False
        for ending in SIDECARS:
            old = os.path.join(self.root, sidecar_path(path, ending))
            try:
                if os.path.lexists(old):
                    self._displace_unless_same(sidecar_path(new, ending), Path(old).read_bytes())
                    os.replace(old, os.path.join(self.root, sidecar_path(new, ending)))
                    moved = True
            except OSError as error:
                raise disk_error(error, old) from error
        if moved:
            self.sync(path, new)
        try:
            os.rename(os.path.join(self.root, path), os.path.join(self.root, new))
        except OSError as error:
            raise disk_error(error, path) from error

    def sync(self, *paths: str) -> None:
        """Make the names of these paths durable."""
        for folder in {os.path.dirname(path) for path in paths}:
            sync_folder(os.path.join(self.root, folder))

    def load_pending(self, unplaced: Iterable[RecordedImage]) -> None:
        """Pictures that are settled and not placed: in a folder they count as missing until a run has placed them."""

    def discard_spooled(self, attempt: int, pictures: Sequence[tuple[str, str]]) -> None:
        """(spool name, path) of pictures that are placed and recorded: nothing is left of them in the spool."""

    def remove_spooled(self, name: str) -> None:
        Path(self.spooled(name)).unlink(missing_ok=True)

    def clean_spool(self, keep: set[str]) -> int:
        """Remove spool files that belong to nothing, once everything that could be rescued has been. Answers how many."""
        removed = 0
        for entry in os.scandir(self.spool):
            if entry.name not in keep:
                os.unlink(entry.path)
                removed += 1
        return removed


def _file_stat(path: str) -> FileStat | None:
    try:
        found = os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError:
        return FileStat(-1, "")
    return FileStat(found.st_size if stat.S_ISREG(found.st_mode) else -1, str(found.st_mtime_ns))


def verify_file(path: str, sha256: str, size: int) -> FileVerdict:
    """`Store.judge` of any file of this machine."""
    found = _file_stat(path)
    if found is None:
        return "missing"
    if found.bytes != size:
        return "changed"
    try:
        with open(path, "rb") as file:
            return "right" if hashlib.file_digest(file, "sha256").hexdigest() == sha256 else "changed"
    except FileNotFoundError:
        return "missing"
    except OSError:
        return "changed"


def noted_location(folder: Path) -> str:
    with contextlib.suppress(OSError, ValueError):
        return normalize_bucket_url((folder / STATE_FOLDER / ADDRESS_NOTE).read_text(encoding="utf-8").strip())
    return ""
