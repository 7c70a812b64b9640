"""Builds a ledger anew from what is left of a job: `results.jsonl`, the pictures it names, and the spool."""

from __future__ import annotations

import calendar
import contextlib
import hashlib
import json
import os
import shutil
import sqlite3
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from batchgen.engine.conversation import contents_of
from batchgen.engine.dependents import wire_of
from batchgen.engine.lanes import lane_key
from batchgen.errors import ImageError, LedgerError, StoreError
from batchgen.ledger.ledger import Ledger
from batchgen.ledger.results import FILE_NAME as RESULTS
from batchgen.ledger.schema import IMAGE_COLUMNS, STATE_FOLDER, ledger_path, open_file_for_reading
from batchgen.manifest import Manifest
from batchgen.manifest.fingerprint import fingerprint
from batchgen.records import Item, needs, sample_key
from batchgen.store.check import check_file
from batchgen.store.lock import JobLock
from batchgen.store.sniff import EXTENSION
from batchgen.store.spool import disk_error
from batchgen.store.store import SUPERSEDED, TURNS, Store
from batchgen.store.unread import finish_keeping, kept_attempts, load
from batchgen.store.whereabouts import META, open_store

Line = dict[str, Any]
Entry = tuple[Item, tuple[str, ...]]  # with what its samples send, the last for all further ones


@dataclass(slots=True)
class Repair:
    """kept_as: the damaged ledger's new name, None when there was none. unmarked: restored, but not known to be what the
    manifest asks for now; gone: named in results.jsonl and not there as it was; unassigned: pictures of the spool."""

    kept_as: str | None = None
    restored: int = 0
    unmarked: list[str] = field(default_factory=list)
    gone: list[str] = field(default_factory=list)
    unassigned: list[str] = field(default_factory=list)


def is_whole(folder: Path) -> bool:
    """Whether there is a ledger and every page of it can be read."""
    try:
        connection = open_file_for_reading(ledger_path(folder))
        with contextlib.closing(connection):
            return bool(connection.execute("PRAGMA integrity_check(1)").fetchone()[0] == "ok")
    except (LedgerError, sqlite3.DatabaseError):
        return False


def repair(folder: Path, manifest: Manifest | None, bucket: str = "") -> Repair | None:
    """Build the ledger anew. None when it is whole. bucket: where the pictures are, when not in the folder.

    The damaged file and results.jsonl are kept beside. Raises JobLocked, ManifestError, StoreError, LedgerError.
    """
    store, done = open_store(folder, bucket), Repair()
    store.prepare()
    lock = JobLock(folder)
    lock.acquire()
    try:
        if is_whole(folder):
            return None
        lines = read_lines(folder / RESULTS)
        wanted = _wanted(manifest, lines, store) if manifest is not None else {}
        done.kept_as = _put_aside(folder)
        ledger = Ledger(folder)
        try:
            _rebuild(ledger, store, lines, wanted, done)
        finally:
            ledger.close()
    except OSError as error:
        raise disk_error(error, str(folder)) from error
    finally:
        lock.release()
    return done


def read_lines(path: Path) -> dict[str, Line]:
    """The last whole line of each item. Raises StoreError without the file: there would be nothing to build from."""
    found: dict[str, Line] = {}
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            for text in file:
                with contextlib.suppress(ValueError):  # a crash may have torn one
                    line = json.loads(text)
                    if isinstance(line, dict) and isinstance(line.get("id"), str):
                        found[line["id"]] = line
    except FileNotFoundError:
        raise StoreError(f"{path} is gone too: without it nothing says which picture is whose") from None
    return found


def _wanted(manifest: Manifest, lines: Mapping[str, Line], store: Store) -> dict[str, Entry]:
    """Items whose prompt and model are still those of their line, with what they send. Reads the manifest to its end."""
    made: dict[str, str] = {}  # sha256 of the pictures that others need, by sample
    wanted = {item.id: _entry(manifest, item, made) for item in _unchanged(manifest, lines) if not needs(item, 1)}
    if not manifest.needed_ids:  # known once the manifest was read
        return wanted
    for item in manifest.items():
        if item.id in manifest.needed_ids and (line := lines.get(item.id)) is not None:
            made |= {
                sample_key(item.id, n): sha256 for _, sha256, n, draft in _pictures(line, item, store) if not draft
            }
    for item in _unchanged(manifest, lines):
        if needs(item, 1):
            with contextlib.suppress(KeyError):  # what it needs has no line: only prompt and model can be compared
                wanted[item.id] = _entry(manifest, item, made)
    return wanted


def _unchanged(manifest: Manifest, lines: Mapping[str, Line]) -> Iterator[Item]:
    for item in manifest.items():
        line = lines.get(item.id)
        if line is not None and (line.get("prompt"), line.get("model")) == (item.prompt, item.model):
            yield item


def _entry(manifest: Manifest, item: Item, made: Mapping[str, str]) -> Entry:
    samples = range(1, item.count + 1 if item.turn > 1 else 2)  # otherwise all send the same
    return item, tuple(wire_of(item, n, manifest.references.digest, made.__getitem__) for n in samples)


def _put_aside(folder: Path) -> str | None:
    stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    path = ledger_path(folder)
    aside = path.with_name(f"{path.name}.damaged-{stamp}")
    for ending in ("-wal", "-shm", ""):  # under names by which SQLite still finds them
        with contextlib.suppress(FileNotFoundError):
            os.rename(f"{path}{ending}", f"{aside}{ending}")
    shutil.copy2(folder / RESULTS, path.with_name(f"{RESULTS}.before-{stamp}"))
    return str(aside) if aside.exists() else None


def _rebuild(
    ledger: Ledger, store: Store, lines: Mapping[str, Line], wanted: Mapping[str, Entry], done: Repair
) -> None:
    if store.root.endswith(".emulated"):
        ledger.set_meta(emulated="yes")
    if store.url:
        ledger.set_meta(**{META: store.url})
    ledger.run_started(os.getpid(), "", "repair")
    finish_keeping(store)
    spooled = {_sha256(entry.path): entry.name for entry in os.scandir(store.spool)}
    number = max(kept_attempts(store.root), default=0)  # whose numbers stay theirs
    turns = _turns_put_aside(store)
    for item_id, line in lines.items():
        entry = wanted.get(item_id)
        for path, sha256, n, draft in _pictures(line, entry[0] if entry else None, store):
            if not _is_there(store, path, sha256, spooled):
                done.gone.append(path)
                continue
            number += 1
            if (turn := turns.get(sha256)) is not None:
                store.keep_turn(number, Path(turn).read_bytes())
            _record(ledger, store, number, (line, entry), (path, sha256), (max(1, n), draft))
            done.restored += not draft
            if entry is None and not draft:
                done.unmarked.append(path)
    for attempt in kept_attempts(store.root):
        with contextlib.suppress(ValueError, KeyError):  # not whole: its number is all that is taken
            _restore_kept(ledger, attempt, load(store.root, attempt).facts)
    _save_spool(store, done)
    ledger.run_ended(0, "", {"restored": done.restored})


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
            found |= dict.fromkeys(contents_of(Path(entry.path).read_bytes()), entry.path)
    return found


def _pictures(line: Line, item: Item | None, store: Store) -> Iterator[tuple[str, str, int, bool]]:
    """(path, sha256, sample, whether it is a draft) of each picture that a line names."""
    n = 0
    for path, sha256 in zip(line.get("files", ()), line.get("sha256", ()), strict=False):
        draft = path.startswith("drafts/")
        n = n if draft else _number(path, item, store, n)
        yield path, sha256, n, draft


def _number(path: str, item: Item | None, store: Store, last: int) -> int:
    """Which sample a picture is: by its name where the manifest tells the stem, else the next one."""
    stem = os.path.splitext(path)[0]
    if item is not None:
        for n in range(1, item.count + 1):
            if stem == os.path.splitext(store.name(item.filename, n, "png"))[0]:
                return n
    return last + 1


def _is_there(store: Store, path: str, sha256: str, spooled: dict[str, str]) -> bool:
    """In its place, or recorded and not yet moved there."""
    with contextlib.suppress(OSError):
        if not os.path.islink(os.path.join(store.root, path)) and store.sha256(path) == sha256:
            return True
    if sha256 in spooled and os.path.normpath(path) == path and not os.path.isabs(path) and ".." not in path.split("/"):
        name = spooled.pop(sha256)
        store.place(name, path)
        store.sync(path)
        store.forget_placed(0, [(name, path)])
        return True
    return False


def _record(
    ledger: Ledger,
    store: Store,
    number: int,
    origin: tuple[Line, Entry | None],
    picture: tuple[str, str],
    place: tuple[int, bool],
) -> None:
    """One picture as an attempt that succeeded when its line says so; the price is its share of the item's."""
    (line, entry), (path, sha256), (n, draft) = origin, picture, place
    with store.at_hand(path) as full:
        checked, size = check_file(full), os.path.getsize(full)
    made = sum(not name.startswith("drafts/") for name in line["files"])
    usd = None if line.get("usd") is None or draft else line["usd"] / made
    source, model, at = line.get("usd_source", ""), str(line.get("model", "")), _seconds(line.get("updated_at"))
    wire = (
        entry[1][min(n, len(entry[1])) - 1] if entry else json.dumps({"model": model, "prompt": line.get("prompt", "")})
    )
    mark = fingerprint(wire) if entry else ""
    lane = lane_key(entry[0].provider, model) if entry else f"restored/{model}"
    texts = json.dumps(store.read_beside(path, line.get("sidecars", ())))
    stem = entry[0].filename if entry else os.path.splitext(path)[0]
    ledger.apply(
        [
            (
                "INSERT INTO attempt (id, run_id, item_id, n, images, number, lane, fingerprint, stem, started_at, sent_at,"
                " ended_at, outcome, reason, http_status, usd, usd_source, beside)"
                " VALUES (?, ?, ?, ?, 1, 1, ?, ?, ?, ?, ?, ?, 'succeeded', 'restored', 200, ?, ?, ?)",
                (number, ledger.run_id, line["id"], n, lane, mark, stem, at, at, at, usd, source, texts),
            ),
            (
                f"INSERT INTO image ({', '.join(IMAGE_COLUMNS)}) VALUES (?, 0, ?, ?, ?, ?, '', ?, 1, ?, ?, ?, ?, ?, ?)",
                (number, line["id"], n, "draft" if draft else "image", mark, path, sha256, size, checked.width,
                 checked.height, checked.format, "" if draft else ",".join(line.get("flags", ()))),
            ),
            *([] if draft else [(
                "INSERT OR REPLACE INTO sample (item_id, n, model, tags, state, fingerprint, wire, path, bytes,"
                " made_fingerprint, attempts, usd, usd_source, text, updated_at)"
                " VALUES (?, ?, ?, ?, 'succeeded', ?, ?, ?, ?, ?, 1, ?, ?, ?, ?)",
                (line["id"], n, model, ",".join(line.get("tags", ())), mark, wire, path, size, mark, usd, source,
                 line.get("text", ""), at),
            )]),
        ]
    )  # fmt: skip


def _restore_kept(ledger: Ledger, attempt: int, facts: Mapping[str, Any]) -> None:
    """An answer that is kept and could not be read: paid for, so its samples are not new to the next run."""
    at, item, n, mark = time.time(), facts["item"], facts["n"], facts["fingerprint"]
    ledger.apply(
        [
            (
                "INSERT INTO attempt (id, run_id, item_id, n, images, number, lane, fingerprint, stem, started_at, ended_at,"
                " outcome, reason, maybe_billed) VALUES (?, ?, ?, ?, ?, 1, ?, ?, ?, ?, ?, 'failed', 'unreadable', 1)",
                (attempt, ledger.run_id, item, n, facts["images"], lane_key(facts["provider"], facts["model"]), mark,
                 facts["stem"], at, at),
            ),
            *((
                "INSERT OR IGNORE INTO sample (item_id, n, model, state, fingerprint, wire, attempts, reason, updated_at)"
                " VALUES (?, ?, ?, 'failed', ?, ?, 1, 'unreadable', ?)",
                (item, k, facts["model"], mark, facts["wire"], at),
            ) for k in range(n, n + facts["images"])),
        ]
    )  # fmt: skip


def _save_spool(store: Store, done: Repair) -> None:
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


def _seconds(text: object) -> float:
    try:
        return float(calendar.timegm(time.strptime(str(text), "%Y-%m-%dT%H:%M:%SZ")))
    except ValueError:
        return time.time()


def _sha256(path: str) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
