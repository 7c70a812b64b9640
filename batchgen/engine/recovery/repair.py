"""Builds a ledger from what is left of a job, or completes one: from `results.jsonl`, images, receipts and the
spool."""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from batchgen.engine.job_state import locked_job, open_job_state
from batchgen.engine.recovery.repair_files import RepairFiles, keep_unassigned, pictures_below
from batchgen.engine.recovery.repair_records import (
    UNKNOWN_WIRE,
    LedgerContents,
    ManifestEntry,
    ResultLine,
    entries,
    images_of_line,
    lines_by_name,
    lines_of_receipts,
    read_lines,
    record_kept_response,
    record_picture,
    record_unsuccessful,
    sent_request,
)
from batchgen.errors import LedgerError, StoreError
from batchgen.ledger.ledger import Ledger
from batchgen.ledger.location import LedgerServer
from batchgen.ledger.reader import Reader
from batchgen.ledger.results import RESULTS_FILE
from batchgen.ledger.schema import ledger_path, open_file_for_reading
from batchgen.manifest import Manifest
from batchgen.store.check import ImageError
from batchgen.store.sniff import is_picture
from batchgen.store.spool import disk_error
from batchgen.store.store import STORE_META_KEY, Store, open_store
from batchgen.store.unparsed import load_answer, unparsed_attempts

FIRST_RUN = 1  # the number of a new ledger's first run


@dataclass(slots=True)
class Repair:
    """What a repair did. kept_as: the damaged ledger's new name, None if there was none. unmarked: restored, but not
    known to be what the manifest asks for now. by_name: identified by nothing but their names. moved: (old, new) names
    of images that had other names. gone: named in results.jsonl, but missing or changed. broken: not whole. unassigned:
    images in the spool."""

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
    """What goes into the ledger: lines by item, what the manifest says about them, and paths that only a name
    identifies."""

    lines: Mapping[str, ResultLine]
    entries: Mapping[str, ManifestEntry]
    by_name: Collection[str]
    known: LedgerContents


def is_ledger_intact(folder: Path) -> bool:
    """Whether there is a ledger that knows of a run and can be read completely."""
    try:
        with contextlib.closing(open_file_for_reading(ledger_path(folder))) as connection:
            sound = connection.execute("PRAGMA integrity_check(1)").fetchone()[0] == "ok"
            return sound and Reader(connection).last_run() is not None
    except LedgerError:
        return False


def repair(
    folder: Path, manifest: Manifest | None, bucket: str = "", server: LedgerServer | None = None
) -> Repair | None:
    """Build the ledger. Returns None if it is intact and complete. bucket: where the images are, if not in the folder;
    server: where the ledger goes, if not into the folder.

    The damaged file and results.jsonl are kept beside it. Raises JobLocked, ManifestError, StoreError, LedgerError.
    """
    if not bucket and not folder.is_dir():
        raise StoreError(f"there is no folder {folder}: nothing to build a ledger from")
    store, done = open_store(folder, bucket), Repair()
    with locked_job(store) as lock:
        try:
            whole = is_ledger_intact(folder)
            found = _sources_ledger_lacks(store, manifest) if whole else _sources_of_new_ledger(store, manifest)
            if whole and not found.lines:
                return None
            if not whole:
                done.kept_as = _put_aside(folder)
            with open_job_state(store, lock, server) as state:
                if not whole and state.ledger.reader.last_run() is not None:
                    return None  # it is on the server, and only the folder did not say so
                _rebuild(state.ledger, store, found, done, from_scratch=not whole)
        except OSError as error:
            raise disk_error(error, str(folder)) from error
    return done


def _sources_of_new_ledger(store: Store, manifest: Manifest | None) -> RepairSources:
    """Everything that a new ledger can be built from. Raises StoreError if nothing says which image belongs to which
    item, or if none of the named ones exist: all would be bought again."""
    lines, by_name = read_lines(store.folder / RESULTS_FILE), list[str]()
    if manifest is not None:
        lines = {**lines_of_receipts(store, manifest), **lines}
        named, by_name = lines_by_name(manifest, store, lines, LedgerContents())
        lines |= named
    where = store.url or store.root
    if not lines and not unparsed_attempts(store.root):
        more = "no image under a name that the manifest asks for" if manifest is not None else "no manifest was named"
        raise StoreError(f"nothing says which image in {where} is whose: there is no {RESULTS_FILE}, and {more}")
    there = {path for path, _ in store.files()}
    wanted = {path for line in lines.values() for path in line["files"]}
    if (
        wanted
        and not wanted & there
        and not pictures_below(store)
        and not any(map(is_picture, Path(store.spool).iterdir()))
    ):
        raise StoreError(
            f"none of the {len(wanted):,} image(s) that {store.folder / RESULTS_FILE} names is in {where}: bring them back first,"
            f" or say where they are, --output DIR or --output s3://bucket/prefix. To pay for all of them again, remove {RESULTS_FILE}"
        )
    return RepairSources(
        lines, entries(manifest, lines, store) if manifest is not None else {}, by_name, LedgerContents()
    )


def _sources_ledger_lacks(store: Store, manifest: Manifest | None) -> RepairSources:
    """What an intact ledger has never heard of: it is older than what is in the folder."""
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
    for ending in ("-wal", "-shm", ""):  # names by which SQLite still finds them
        with contextlib.suppress(FileNotFoundError):
            os.rename(f"{path}{ending}", f"{aside}{ending}")
    with contextlib.suppress(FileNotFoundError):
        shutil.copy2(folder / RESULTS_FILE, path.with_name(f"{RESULTS_FILE}.before-{stamp}"))
    return str(aside) if aside.exists() else None


def _rebuild(ledger: Ledger, store: Store, found: RepairSources, done: Repair, *, from_scratch: bool) -> None:
    """Write the rows. from_scratch: there is no ledger yet, and everything in the state folder belongs to the new one.
    Its run is recorded last: until then no other run mistakes an unfinished ledger for a whole one."""
    number, files = ledger.reader.last_attempt_id(), RepairFiles(store, found.lines, from_scratch=from_scratch)
    if from_scratch:
        _clear(ledger, store)
        number = max(unparsed_attempts(store.root), default=0)  # these keep their numbers
    else:
        ledger.run_started(os.getpid(), "", "repair")
    for item_id, line in found.lines.items():
        entry = found.entries.get(item_id)
        for named in images_of_line(line, entry[0] if entry else None, store):
            path, sha256, n, draft = named
            if (item_id, n) in found.known.samples or path in found.known.paths:
                continue
            if not files.is_there(path, sha256):
                done.gone.append(path)
                continue
            number += 1
            files.restore_turn(sha256, number)
            request = sent_request(line, entry, path, n)
            try:
                record_picture(ledger, store, number, line, entry, named, request)
            except ImageError:
                done.broken.append(path)
                continue
            if not draft:
                done.restored += 1
                if path in found.by_name:
                    done.by_name.append(path)
                elif not request[0] or request[1] == UNKNOWN_WIRE:
                    done.unmarked.append(path)
        if not line["files"]:
            record_unsuccessful(ledger, line, entry)
    done.moved += files.moved
    if from_scratch:
        for attempt in unparsed_attempts(store.root):
            with contextlib.suppress(ValueError, KeyError):  # not whole: only its number is used
                record_kept_response(ledger, attempt, load_answer(store.root, attempt).facts)
        done.unassigned += keep_unassigned(store)
        ledger.run_started(os.getpid(), "", "repair")
    if not isinstance(ledger.database, sqlite3.Connection):  # SQLite continues from the largest number by itself
        sql = "SELECT setval(pg_get_serial_sequence('attempt', 'id'), (SELECT max(id) FROM attempt))"
        ledger.run_statements([(sql, ())])
    ledger.run_ended(0, "", {"restored": done.restored})


def _clear(ledger: Ledger, store: Store) -> None:
    """Remove what a repair that died has left in a new ledger."""
    ledger.run_statements([(f"DELETE FROM {table}", ()) for table in ("image", "sample", "attempt")])
    ledger.run_id = FIRST_RUN
    if store.root.endswith(".emulated"):
        ledger.set_meta(emulated="yes")
    if store.url:
        ledger.set_meta(**{STORE_META_KEY: store.url})
