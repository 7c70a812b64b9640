"""Builds a ledger from what is left of a job, or adds to one what it lacks: `results.jsonl`, pictures, receipts, the spool."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import sqlite3
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from batchgen.engine.conversation import embedded_sha256s
from batchgen.engine.recovery.receipts import is_inside
from batchgen.engine.recovery.repair_lines import (
    UNKNOWN_WIRE,
    LedgerContents,
    ManifestEntry,
    ResultLine,
    entries,
    images_of_line,
    lines_by_name,
    lines_of_receipts,
    read_lines,
    sent_request,
)
from batchgen.engine.recovery.repair_records import record_kept_response, record_picture, record_unsuccessful
from batchgen.errors import ImageError, LedgerError, StoreError
from batchgen.ledger.ledger import Ledger
from batchgen.ledger.location import LedgerServer
from batchgen.ledger.reader import Reader
from batchgen.ledger.results import RESULTS_FILE
from batchgen.ledger.schema import STATE_FOLDER, ledger_path, open_file_for_reading
from batchgen.ledger.server_lock import ServerLock
from batchgen.manifest import Manifest
from batchgen.store.check import check_file
from batchgen.store.job_folder import TURNS
from batchgen.store.lock import JobLock
from batchgen.store.sniff import EXTENSION, is_picture
from batchgen.store.spool import disk_error
from batchgen.store.store import STORE_META_KEY, Store, open_store
from batchgen.store.stored_files import DRAFTS, SUPERSEDED
from batchgen.store.unparsed import finish_interrupted_saves, load_answer, unparsed_attempts

FIRST_RUN = 1  # the number that a new ledger gives to its first run


@dataclass(slots=True)
class Repair:
    """kept_as: the damaged ledger's new name, None when there was none. unmarked: restored, but not known to be what the
    manifest asks for now; by_name: nothing but their names says what they are; moved: (old, new) of those that lay under
    other names; gone: named in results.jsonl and not there as it was; broken: not whole; unassigned: pictures of the spool."""

    kept_as: str | None = None
    restored: int = 0
    unmarked: list[str] = field(default_factory=list)
    by_name: list[str] = field(default_factory=list)
    moved: list[tuple[str, str]] = field(default_factory=list)
    gone: list[str] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)
    unassigned: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class RepairSources:
    """What is to be in the ledger: lines by item, what the manifest says of them, and paths that nothing but a name tells of."""

    lines: Mapping[str, ResultLine]
    entries: Mapping[str, ManifestEntry]
    by_name: Collection[str]
    known: LedgerContents


def is_ledger_intact(folder: Path) -> bool:
    """Whether there is a ledger that knows of a run, and every page of it can be read."""
    try:
        with contextlib.closing(open_file_for_reading(ledger_path(folder))) as connection:
            sound = connection.execute("PRAGMA integrity_check(1)").fetchone()[0] == "ok"
            return sound and Reader(connection).last_run() is not None
    except (LedgerError, sqlite3.DatabaseError):
        return False


def repair(
    folder: Path, manifest: Manifest | None, bucket: str = "", server: LedgerServer | None = None
) -> Repair | None:
    """Build the ledger. None when it is whole and lacks nothing. bucket: where the pictures are, when not in the folder;
    server: where the ledger goes, when not into the folder.

    The damaged file and results.jsonl are kept beside. Raises JobLocked, ManifestError, StoreError, LedgerError.
    """
    if not bucket and not folder.is_dir():
        raise StoreError(f"there is no folder {folder}: nothing to build a ledger from")
    store, done = open_store(folder, bucket), Repair()
    store.prepare()
    lock = JobLock(folder)
    lock.acquire()
    try:
        whole = is_ledger_intact(folder)
        found = _sources_ledger_lacks(store, manifest) if whole else _sources_of_new_ledger(store, manifest)
        if whole and not found.lines:
            return None
        if not whole:
            done.kept_as = _put_aside(folder)
        ledger = Ledger(folder, server)
        try:
            ServerLock(ledger).acquire()
            if not whole and ledger.reader.last_run() is not None:
                return None  # it is on the server, and only the folder had forgotten so
            _rebuild(ledger, store, found, done, from_scratch=not whole)
        finally:
            ledger.close()
    except OSError as error:
        raise disk_error(error, str(folder)) from error
    finally:
        lock.release()
    return done


def _sources_of_new_ledger(store: Store, manifest: Manifest | None) -> RepairSources:
    """All that a new ledger can be built from. Raises StoreError when nothing says which picture is whose, or none of those
    that are named is there: all would be bought again."""
    lines, by_name = read_lines(store.folder / RESULTS_FILE), list[str]()
    if manifest is not None:
        lines = {**lines_of_receipts(store, manifest), **lines}
        named, by_name = lines_by_name(manifest, store, lines, LedgerContents())
        lines |= named
    where = store.url or store.root
    if not lines and not unparsed_attempts(store.root):
        more = "no picture under a name that the manifest asks for" if manifest is not None else "no manifest was named"
        raise StoreError(f"nothing says which picture in {where} is whose: there is no {RESULTS_FILE}, and {more}")
    there = {path for path, _ in store.files()}
    wanted = {path for line in lines.values() for path in line["files"]}
    if (
        wanted
        and not wanted & there
        and not _pictures_below(store)
        and not any(map(is_picture, Path(store.spool).iterdir()))
    ):
        raise StoreError(
            f"none of the {len(wanted):,} picture(s) that {store.folder / RESULTS_FILE} names is in {where}: bring them back first,"
            f" or say where they are, --output DIR or --output s3://bucket/prefix. To pay for all of them again, remove {RESULTS_FILE}"
        )
    return RepairSources(
        lines, entries(manifest, lines, store) if manifest is not None else {}, by_name, LedgerContents()
    )


def _sources_ledger_lacks(store: Store, manifest: Manifest | None) -> RepairSources:
    """What a ledger that is whole has never heard of: it is older than what lies there."""
    with Reader.open(store.folder) as reader:
        samples = {(result.id, result.n) for result in reader.results()}
        known = LedgerContents(samples, {path for path, _ in reader.recorded_files()})
    lines, by_name = read_lines(store.folder / RESULTS_FILE), list[str]()
    if manifest is not None:
        named, by_name = lines_by_name(manifest, store, lines, known)
        lines |= named
    counts = {item.id: item for item in manifest.items() if item.id in lines} if manifest is not None else {}
    lines = {
        item_id: line
        for item_id, line in lines.items()
        if any(
            not draft and (item_id, n) not in samples and path not in known.paths
            for path, _, n, draft in images_of_line(line, counts.get(item_id), store)
        )
    }
    return RepairSources(
        lines, entries(manifest, lines, store) if manifest is not None and lines else {}, by_name, known
    )


def _put_aside(folder: Path) -> str | None:
    stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    path = ledger_path(folder)
    aside = path.with_name(f"{path.name}.damaged-{stamp}")
    for ending in ("-wal", "-shm", ""):  # under names by which SQLite still finds them
        with contextlib.suppress(FileNotFoundError):
            os.rename(f"{path}{ending}", f"{aside}{ending}")
    with contextlib.suppress(FileNotFoundError):
        shutil.copy2(folder / RESULTS_FILE, path.with_name(f"{RESULTS_FILE}.before-{stamp}"))
    return str(aside) if aside.exists() else None


def _rebuild(ledger: Ledger, store: Store, found: RepairSources, done: Repair, *, from_scratch: bool) -> None:
    """from_scratch: there is no ledger yet, and whatever the state folder holds belongs to it. Its run is recorded last: until
    then no other run takes what has been built so far for a ledger."""
    number, spooled, turns = ledger.reader.last_attempt_id(), dict[str, str](), dict[str, str]()
    if from_scratch:
        ledger.run_statements(
            [(f"DELETE FROM {table}", ()) for table in ("image", "sample", "attempt")]
        )  # of a repair that died
        ledger.run_id = FIRST_RUN
        if store.root.endswith(".emulated"):
            ledger.set_meta(emulated="yes")
        if store.url:
            ledger.set_meta(**{STORE_META_KEY: store.url})
        finish_interrupted_saves(store)
        spooled = {_sha256(entry.path): entry.name for entry in os.scandir(store.spool)}
        number = max(unparsed_attempts(store.root), default=0)  # whose numbers stay theirs
        turns = _turns_put_aside(store)
    else:
        ledger.run_started(os.getpid(), "", "repair")
    renamed = _RenamedImages(store, found.lines)
    for item_id, line in found.lines.items():
        entry = found.entries.get(item_id)
        for path, sha256, n, draft in images_of_line(line, entry[0] if entry else None, store):
            if (item_id, n) in found.known.samples or path in found.known.paths:
                continue
            if not (_is_there(store, path, sha256, spooled) or renamed.move_back(path, sha256, done)):
                done.gone.append(path)
                continue
            number += 1
            if (turn := turns.get(sha256)) is not None:
                store.save_turn(number, Path(turn).read_bytes())
            sample_fingerprint, wire = sent_request(line, entry, path, n)
            try:
                record_picture(
                    ledger, store, number, (line, entry), (path, sha256), (max(1, n), draft), (sample_fingerprint, wire)
                )
            except ImageError:
                done.broken.append(path)
                continue
            if not draft:
                done.restored += 1
                if path in found.by_name:
                    done.by_name.append(path)
                elif not sample_fingerprint or wire == UNKNOWN_WIRE:
                    done.unmarked.append(path)
        if not line["files"]:
            record_unsuccessful(ledger, line, entry)
    if from_scratch:
        for attempt in unparsed_attempts(store.root):
            with contextlib.suppress(ValueError, KeyError):  # not whole: its number is all that is taken
                record_kept_response(ledger, attempt, load_answer(store.root, attempt).facts)
        _keep_unassigned(store, done)
        ledger.run_started(os.getpid(), "", "repair")
    if not isinstance(ledger.database, sqlite3.Connection):  # SQLite counts on from the largest number by itself
        ledger.run_statements(
            [("SELECT setval(pg_get_serial_sequence('attempt', 'id'), (SELECT max(id) FROM attempt))", ())]
        )
    ledger.run_ended(0, "", {"restored": done.restored})


class _RenamedImages:
    """Pictures of a folder that no line names, by their bytes: read only when one that is named is missing."""

    def __init__(self, store: Store, lines: Mapping[str, ResultLine]) -> None:
        self._store = store
        self._lines = lines
        self._by_hash: dict[str, str] | None = None

    def move_back(self, path: str, sha256: str, done: Repair) -> bool:
        """Whether it lay under another name, and has its own again."""
        if self._store.url or not is_inside(path):  # a bucket may hold any number of other objects
            return False
        if self._by_hash is None:
            named = {name for line in self._lines.values() for name in line["files"]}
            others = [name for name in _pictures_below(self._store) if name not in named]
            self._by_hash = {self._store.sha256(name): name for name in others}
        if (old := self._by_hash.pop(sha256, None)) is None:
            return False
        self._store.supersede(path)
        self._store.move(old, path)
        self._store.sync(old, path)
        done.moved.append((old, path))
        return True


def _pictures_below(store: Store) -> list[str]:
    """All pictures in a folder but those that were put aside."""
    if store.url:
        return []
    paths = (path for path, _ in store.files() if path.partition("/")[0] not in (SUPERSEDED, DRAFTS))
    return [path for path in paths if is_picture(os.path.join(store.root, path))]


def _turns_put_aside(store: Store) -> dict[str, str]:
    """The models' turns of conversations, whose attempts get new numbers: their paths, by the sha256 of what they hold."""
    folder = os.path.join(store.root, STATE_FOLDER, TURNS)
    if not os.path.isdir(folder):
        return {}
    aside = f"{folder}.before-{time.time_ns()}"
    os.rename(folder, aside)
    found: dict[str, str] = {}
    for entry in os.scandir(aside):
        with contextlib.suppress(ValueError):
            found |= dict.fromkeys(embedded_sha256s(Path(entry.path).read_bytes()), entry.path)
    return found


def _is_there(store: Store, path: str, sha256: str, spooled: dict[str, str]) -> bool:
    """In its place, or recorded and not yet moved there."""
    if not is_inside(path):
        return False
    with contextlib.suppress(OSError):
        if not os.path.islink(os.path.join(store.root, path)) and store.sha256(path) == sha256:
            return True
    if sha256 in spooled:
        name = spooled.pop(sha256)
        store.move_into_place(name, path)
        store.sync(path)
        store.discard_spooled(0, [(name, path)])
        return True
    return False


def _keep_unassigned(store: Store, done: Repair) -> None:
    """Whole pictures whose attempt is forgotten: paid for, so kept where no run clears them away."""
    for entry in sorted(os.scandir(store.spool), key=lambda entry: entry.name):
        try:
            kind = check_file(entry.path).format
        except ImageError:
            continue
        path = f"{SUPERSEDED}/unassigned-{int(time.time())}-{entry.name}{EXTENSION[kind]}"
        os.makedirs(os.path.join(store.root, SUPERSEDED), exist_ok=True)
        os.rename(entry.path, os.path.join(store.root, path))
        done.unassigned.append(path)


def _sha256(path: str) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
