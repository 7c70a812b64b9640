"""What the gallery shows of a job: every sample with its pictures and attempts, and each run as a night, as plain data."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

from batchgen.ledger.reader import AttemptRow, DerivativeFileRow, HistoryReader, PictureRow, SampleRow
from batchgen.profiles.catalogue import Catalogue
from batchgen.records import SIDECARS
from batchgen.report.run_statistics import Facts, model_of, run_statistics, sent_or_started_at
from batchgen.store.store import STORE_META_KEY
from batchgen.store.stored_files import sidecar_path

MAX_RUNS = 30
THOUGHTS = ".thoughts.md"
SOURCES_MAX_BYTES = 262_144
THOUGHTS_MAX_BYTES = 65_536
SampleKey = tuple[str, int]
R = TypeVar("R", PictureRow, DerivativeFileRow)


@dataclass(frozen=True, slots=True)
class ManifestInfo:
    """What the manifest says and the ledger does not. concurrency: requests in flight at once; order: place of an item by its id.

    folder: where the manifest lies. unfingerprinted: by item, what a manifest that asks again needs and no fingerprint holds:
    names of references, service tier, fallback, post. conversations: all turns, by the id without its turn.
    post: as a manifest says it, of items whose `unfingerprinted` say nothing else; None for none.
    budgets: USD by run, day and month. state: folder or server where the spend of all jobs is noted, None where this job's alone counts.
    """

    catalogue: Catalogue
    concurrency: int | None = None
    order: Mapping[str, int] = field(default_factory=dict)
    folder: Path | None = None
    unfingerprinted: Mapping[str, Facts] = field(default_factory=dict)
    conversations: Mapping[str, Sequence[str]] = field(default_factory=dict)
    post: Facts | None = None
    budgets: Mapping[str, float] = field(default_factory=dict)
    state: Path | str | None = None


@dataclass(frozen=True, slots=True)
class GalleryData:
    """facts: for the page. pictures: (path, sha256) of its thumbnails, by the number that the facts name; samples: how many."""

    facts: Facts
    pictures: Sequence[tuple[str, str]]
    samples: int


class ValueIndex:
    """Numbers equal values from 0, in the order in which they came."""

    def __init__(self) -> None:
        self._index_by_key: dict[Any, int] = {}
        self.values: list[Any] = []

    def index_of(self, key: Any, value: Any) -> int:
        if key not in self._index_by_key:
            self._index_by_key[key] = len(self.values)
            self.values.append(value)
        return self._index_by_key[key]


def gallery_facts(ledger: HistoryReader, folder: Path, manifest_info: ManifestInfo, now: float) -> GalleryData:
    """now: UTC seconds."""
    ledger.snapshot()
    thumbnails, settings = ValueIndex(), ValueIndex()
    attempts = list(ledger.all_attempts())
    of_sample, pictures = attempts_by_sample(attempts), by_sample(ledger.pictures())
    derivatives = by_sample(ledger.derivatives())

    def number(picture: PictureRow) -> int:
        return thumbnails.index_of(picture.sha256, (picture.path, picture.sha256))

    builder = EntryBuilder(sidecar_reader(ledger, folder), manifest_info, settings, number)
    samples = [
        builder.build(row, of_sample.get(row[:2], ()), pictures.get(row[:2], ()), derivatives.get(row[:2], ()))
        for row in sorted(
            ledger.samples(), key=lambda row: manifest_info.order.get(row.item_id, len(manifest_info.order))
        )
    ]
    runs = run_statistics_list(ledger, attempts, manifest_info)
    first = [folder.name, *(night["start"] for night in runs[:1])]
    return GalleryData(
        {
            **job_entry(ledger, folder, settings, manifest_info.catalogue, now),
            **manifest_entry(folder, manifest_info),
            "key": hashlib.sha256(repr(first).encode()).hexdigest()[:12],
            "samples": samples,
            "nights": runs[-MAX_RUNS:],
        },
        thumbnails.values,
        len(samples),
    )


def job_entry(ledger: HistoryReader, folder: Path, settings: ValueIndex, catalogue: Catalogue, now: float) -> Facts:
    """What is the same for all samples. settings: of those that were made entries before."""
    run = ledger.last_run()
    return {
        "job": ledger.meta("name") or folder.name,
        "manifest": Path(ledger.meta("manifest") or "").name,  # nobody else's business where it lies
        "emulated": ledger.meta("emulated") == "yes",
        "at": now,
        "wanted": run.wanted + run.kept if run else 0,  # there is no row yet for what was not tried
        "settings": settings.values,
        "providers": _unusual_providers(settings.values, catalogue),
    }


def manifest_entry(folder: Path, manifest_info: ManifestInfo) -> Facts:
    """What a manifest that asks again needs besides the samples."""
    return {
        "beside": _relative_folder(folder, manifest_info.folder),
        "conversations": manifest_info.conversations,
        "post": manifest_info.post,
    }


def attempts_by_sample(attempts: Sequence[AttemptRow]) -> dict[SampleKey, list[AttemptRow]]:
    """One request may be for several samples."""
    table: dict[SampleKey, list[AttemptRow]] = defaultdict(list)
    for row in attempts:
        for n in range(row.n, row.n + row.images):
            table[row.item_id, n].append(row)
    return table


def by_sample(rows: Iterable[R]) -> dict[SampleKey, list[R]]:
    table: dict[SampleKey, list[R]] = defaultdict(list)
    for row in rows:
        table[row.item_id, row.n].append(row)
    return table


@dataclass(frozen=True, slots=True)
class EntryBuilder:
    """Makes a page's entries of samples. thumbnail: how the page will ask for one."""

    files: SidecarReader
    manifest_info: ManifestInfo
    settings: ValueIndex
    thumbnail: Callable[[PictureRow], Any]

    def build(
        self,
        row: SampleRow,
        attempts: Sequence[AttemptRow],
        pictures: Sequence[PictureRow],
        made: Sequence[DerivativeFileRow],
    ) -> Facts:
        """made: of the picture that the sample has now."""
        entry = _sample(row, attempts, self.settings)
        entry["pictures"] = shown = _pictures(row, pictures, self.thumbnail)
        if found := _sources(self.files, shown):
            entry["sources"] = found
        entry.update(_sidecars(self.files, shown))
        if row.item_id in self.manifest_info.unfingerprinted:
            entry["asks"] = self.manifest_info.unfingerprinted[row.item_id]
        if made:
            entry["derivatives"] = [[file.path, file.width, file.height, file.bytes, file.sha256[:12]] for file in made]
        return entry


def _sample(row: SampleRow, attempts: Sequence[AttemptRow], settings: ValueIndex) -> Facts:
    """What is empty is left out: the page stays small."""
    wire = _parse_object(row.wire)
    prompt = wire.pop("prompt", "")
    wire.pop("v", None)
    last = next((a for a in reversed(attempts) if a.outcome == "succeeded" and a.ended_at), None)
    entry: Facts = {
        "id": row.item_id,
        "n": row.n,
        "state": row.state,
        "model": row.model,
        "prompt": prompt,
        "settings": settings.index_of(json.dumps(wire, sort_keys=True), wire),
        "at": round(row.updated_at),
        "tags": row.tags.split(",") if row.tags else [],
        "usd": row.usd,
        "usd_source": row.usd_source,
        "reason": row.reason,
        "message": row.message,
        "text": row.text,
        "seconds": round(last.ended_at - sent_or_started_at(last), 2) if last and last.ended_at else None,
        "served_by": model_of(last) if last and model_of(last) != wire.get("model", row.model) else None,
        "tier": _parse_object(last.usage or "").get("tier") if last else None,
        "attempts": [_attempt(attempt) for attempt in attempts],
    }
    return {name: value for name, value in entry.items() if value not in ("", None, [])}


def _parse_object(text: str) -> dict[str, Any]:
    try:
        facts = json.loads(text)
    except ValueError:
        return {}
    return facts if isinstance(facts, dict) else {}


def _attempt(row: AttemptRow) -> list[Any]:
    """[started, seconds, model, outcome, reason, message, HTTP status, USD, source of it, run, how it was sent otherwise]."""
    maybe = row.usd is None and row.maybe_billed
    return [
        round(row.started_at, 1),
        round(row.ended_at - sent_or_started_at(row), 2) if row.ended_at else None,
        model_of(row),
        row.outcome or "open",
        row.reason or "",
        row.message or "",
        row.http_status,
        row.estimate_usd if maybe else row.usd,
        "maybe" if maybe else row.usd_source or "",
        row.run_id,
        row.sent_as or "",
    ]


def _pictures(row: SampleRow, rows: Sequence[PictureRow], thumbnail: Callable[[PictureRow], Any]) -> list[Facts]:
    """The picture that counts first, then drafts and thoughts of its answer, then earlier versions, the newest first."""
    current = next(
        (p.attempt_id for p in rows if row.state in ("succeeded", "superseded") and p.role == "image"
         and p.fingerprint == row.made_fingerprint), None,
    )  # fmt: skip
    entries = []
    for picture in rows:
        kind = picture.role if picture.role != "image" else "image" if picture.attempt_id == current else "earlier"
        entries.append(
            {
                "kind": kind,
                "path": picture.path,
                "thumbnail": thumbnail(picture),
                "sha": picture.sha256[:12],
                "width": picture.width,
                "height": picture.height,
                "bytes": picture.bytes,
                "flags": picture.flags.split(",") if picture.flags else [],
                "at": round(picture.made_at) if picture.made_at else None,
            }
        )
    return sorted(entries, key=lambda entry: ("image", "draft", "thought", "earlier").index(entry["kind"]))


class SidecarReader:
    """Which plain files a folder holds: each listed once, for ten thousand pictures stand in few."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._names: dict[str, frozenset[str]] = {}

    def has(self, path: str) -> bool:
        below, _, name = path.rpartition("/")
        if below not in self._names:
            try:
                with os.scandir(self.folder / below) as found:
                    self._names[below] = frozenset(at.name for at in found if at.is_file(follow_symlinks=False))
            except OSError:
                self._names[below] = frozenset()
        return name in self._names[below]

    def read(self, path: str, max_bytes: int) -> bytes:
        """The first of its bytes, at most so many. Raises OSError."""
        if (self.folder / path).is_symlink():
            return b""
        with open(self.folder / path, "rb") as file:
            return file.read(max_bytes)


class RecordedSidecarReader(SidecarReader):
    """What stands beside pictures in a bucket, from the ledger: nothing is fetched for it."""

    def __init__(self, folder: Path, texts: Iterable[tuple[str, Mapping[str, str]]]) -> None:
        super().__init__(folder)
        self._texts = {sidecar_path(path, ending): text for path, found in texts for ending, text in found.items()}

    def has(self, path: str) -> bool:
        return path in self._texts

    def read(self, path: str, max_bytes: int) -> bytes:
        return self._texts.get(path, "").encode("utf-8", "replace")[:max_bytes]


def sidecar_reader(ledger: HistoryReader, folder: Path) -> SidecarReader:
    return (
        RecordedSidecarReader(folder, ledger.all_sidecar_texts())
        if ledger.meta(STORE_META_KEY)
        else SidecarReader(folder)
    )


def _sidecars(files: SidecarReader, pictures: Sequence[Facts]) -> Facts:
    """What stands beside the picture: {thoughts: what the model let see of its thinking, files: names of it all}."""
    current = next((picture["path"] for picture in pictures if picture["kind"] == "image"), None)
    if current is None:
        return {}
    stem = current[: -len(PurePosixPath(current).suffix) or None]
    there = [stem + ending for ending in SIDECARS if files.has(stem + ending)]
    found: Facts = {"files": there} if there else {}
    for path in there:
        if path.endswith(THOUGHTS):
            with contextlib.suppress(OSError):
                found["thoughts"] = files.read(path, THOUGHTS_MAX_BYTES).decode("utf-8", "replace").strip()
    return found


def _relative_folder(folder: Path, manifest_folder: Path | None) -> str | None:
    """The way from the manifest's folder to the job's, as a reference to one of its pictures begins; None when it lies elsewhere."""
    if manifest_folder is None:
        return None
    try:
        relative = folder.resolve().relative_to(manifest_folder.resolve())
    except (ValueError, OSError):
        return None
    return "" if relative == Path() else f"{relative.as_posix()}/"


def _sources(files: SidecarReader, pictures: Sequence[Facts]) -> Facts | None:
    """What a search found for the picture, from the file beside it: {queries, sources: [{title, uri}]}."""
    current = next((picture["path"] for picture in pictures if picture["kind"] == "image"), None)
    if current is None:
        return None
    try:
        text = files.read(sidecar_path(current, ".sources.json"), SOURCES_MAX_BYTES + 1)
        if len(text) > SOURCES_MAX_BYTES:
            return None
        found = json.loads(text)
    except (OSError, ValueError, RecursionError):
        return None
    if not isinstance(found, dict):
        return None
    lists = {name: found[name] for name in ("queries", "image_queries", "sources") if isinstance(found.get(name), list)}
    texts = [text for name in ("queries", "image_queries") for text in lists.get(name, ()) if isinstance(text, str)]
    links = [entry for entry in lists.get("sources", ()) if isinstance(entry, dict)]
    return {"queries": texts, "sources": [_source(entry) for entry in links]} if texts or links else None


def _source(entry: Facts) -> Facts:
    return {name: text for name in ("title", "uri", "domain") if isinstance(text := entry.get(name), str)}


def run_statistics_list(
    ledger: HistoryReader, attempts: Sequence[AttemptRow], manifest_info: ManifestInfo
) -> list[Facts]:
    """Runs that sent anything."""
    catalogue, concurrency = manifest_info.catalogue, manifest_info.concurrency
    of_run: dict[int, list[AttemptRow]] = defaultdict(list)
    for attempt in attempts:
        of_run[attempt.run_id].append(attempt)
    rpm = {model: catalogue.resolve(model).rpm for model in {model_of(attempt) for attempt in attempts}}
    return [
        {"id": run.id, "ended": run.ended_at, "exit_code": run.exit_code, "stopped_by": run.stopped_by or "",
         **run_statistics(of_run[run.id], rpm, concurrency)}
        for run in ledger.all_runs() if run.id in of_run
    ]  # fmt: skip


def _unusual_providers(settings: Sequence[Facts], catalogue: Catalogue) -> dict[str, str]:
    """Model -> provider, where the model's id alone would mean another: a manifest that asks again has to say so."""
    pairs = {(facts.get("model", ""), facts.get("provider", "")) for facts in settings}
    return {model: provider for model, provider in pairs if model and catalogue.resolve(model).provider != provider}
