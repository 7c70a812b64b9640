"""Finds out, without a ledger, which image belongs to which item, from lines of `results.jsonl`, a bucket's receipts or
names alone, and makes the ledger's rows for attempts whose answers are gone."""

from __future__ import annotations

import calendar
import contextlib
import json
import os
import time
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from batchgen.engine.dependents import wire_of
from batchgen.engine.routes import lane_key
from batchgen.ledger.database import upsert_sql
from batchgen.ledger.ledger import Ledger
from batchgen.ledger.results import is_result_line
from batchgen.ledger.samples import format_utc
from batchgen.ledger.schema import IMAGE_COLUMNS
from batchgen.manifest import Manifest
from batchgen.planning.fingerprint import fingerprint
from batchgen.records import Item, required_keys, sample_key
from batchgen.store.check import check_file
from batchgen.store.store import Store
from batchgen.store.stored_files import sidecar_path

# As `ledger.results.item_line` writes it. One made from a receipt also has `n` and `fingerprint`, as lists beside
# `files`.
ResultLine = dict[str, Any]
ManifestEntry = tuple[Item, tuple[str, ...]]  # with what its samples send, the last for all further ones
UNKNOWN_WIRE = "{}"  # something else was sent than the manifest asks for now, but what is unknown
UNSUCCESSFUL_STATES = ("refused", "failed", "uncertain")


@dataclass(frozen=True, slots=True)
class LedgerContents:
    """What an intact ledger has: (item id, n) of its samples, and the paths of its images."""

    samples: Collection[tuple[str, int]] = frozenset()
    paths: Collection[str] = frozenset()


def read_lines(path: Path) -> dict[str, ResultLine]:
    """The last whole line of each item; none without the file."""
    found: dict[str, ResultLine] = {}
    with contextlib.suppress(FileNotFoundError), open(path, encoding="utf-8", errors="replace") as file:
        for text in file:
            with contextlib.suppress(ValueError, RecursionError):  # a crash may have torn a line
                if is_result_line(line := json.loads(text)):
                    found[line["id"]] = line
    return found


def lines_of_receipts(store: Store, manifest: Manifest) -> dict[str, ResultLine]:
    """Lines from the receipts of the latest image of each sample that the manifest asks for; other jobs may use the
    same address.

    A receipt does not contain the prompt, but its fingerprint.
    """
    latest: dict[tuple[str, int], tuple[float, ResultLine]] = {}
    for receipt in store.receipts():
        with contextlib.suppress(KeyError, TypeError, ValueError):  # somebody may have made it up
            at = float(receipt["sent_at"] or 0.0)
            for n in {int(picture["n"]) for picture in receipt["pictures"]}:
                key = str(receipt["item"]), n
                if key not in latest or latest[key][0] <= at:
                    latest[key] = at, receipt
    lines: dict[str, ResultLine] = {}
    for item in manifest.items() if latest else ():
        receipts = [(n, *latest[item.id, n]) for n in range(1, item.count + 1) if (item.id, n) in latest]
        with contextlib.suppress(KeyError, TypeError, ValueError, AttributeError):
            if receipts:
                lines[item.id] = _line_of_receipts(item, receipts)
    return lines


def _line_of_receipts(item: Item, receipts: list[tuple[int, float, ResultLine]]) -> ResultLine:
    line = _empty_line(item, max(at for _, at, _ in receipts)) | {
        "n": [],
        "fingerprint": [],
        "usd": 0.0,
        "sidecars": [],
    }
    for n, _, receipt in receipts:
        pictures = [picture for picture in receipt["pictures"] if picture["n"] == n]
        for picture in pictures:
            file = picture["file"]
            line["files"].append(str(file["path"]))
            line["sha256"].append(str(file["sha256"]))
            line["n"].append(n)
            line["fingerprint"].append(str(receipt["fingerprint"]))
            line["flags"] = sorted({*line["flags"], *file["flags"]})
            if file["role"] == "image":
                line["sidecars"] += [sidecar_path(str(file["path"]), ending) for ending in receipt["beside"]]
        usd = [picture["usd"] for picture in pictures if picture["file"]["role"] == "image"]
        line["usd"] = None if line["usd"] is None or None in usd else line["usd"] + sum(usd)
        line |= {"usd_source": str(receipt["usd_source"]), "text": str(receipt["text"])}
    return line


def lines_by_name(
    manifest: Manifest, store: Store, lines: Mapping[str, ResultLine], known: LedgerContents
) -> tuple[dict[str, ResultLine], list[str]]:
    """(lines with what they lack, paths) of images that have their names and that no line mentions."""
    found, paths = dict[str, ResultLine](), list[str]()
    for item in manifest.items():
        line = lines.get(item.id)
        for n in range(1, item.count + 1):
            if (item.id, n) in known.samples or (path := store.picture_at(item.filename, n)) is None:
                continue
            if path not in known.paths and (line is None or path not in line["files"]):
                with store.local_copy(path) as full:
                    at = os.path.getmtime(full)
                line = found[item.id] = {**(line or _empty_line(item, at))}
                line["files"] = [*line["files"], path]
                line["sha256"] = [*line["sha256"], store.sha256(path)]
                paths.append(path)
    return found, paths


def _empty_line(item: Item, at: float) -> ResultLine:
    nothing = dict.fromkeys(("usd_source", "reason", "message", "text"), "")
    lists: dict[str, list[str]] = {name: [] for name in ("files", "sha256", "sidecars", "flags")}
    asked = {"id": item.id, "model": item.model, "prompt": item.prompt, "tags": list(item.tags)}
    return {**asked, **lists, **nothing, "state": "succeeded", "usd": None, "updated_at": format_utc(at)}


def entries(manifest: Manifest, lines: Mapping[str, ResultLine], store: Store) -> dict[str, ManifestEntry]:
    """The items whose prompt and model are still those of their line, with what they send. Reads the manifest to its
    end."""
    made: dict[str, str] = {}  # by sample, the sha256 of images that others need
    wanted = {
        item.id: _manifest_entry(manifest, item, made)
        for item in _unchanged(manifest, lines)
        if not required_keys(item, 1)
    }
    if not manifest.ids_others_need:  # known once the manifest was read
        return wanted
    for item in manifest.items():
        if item.id in manifest.ids_others_need and (line := lines.get(item.id)) is not None:
            made |= {
                sample_key(item.id, n): sha256 for _, sha256, n, draft in images_of_line(line, item, store) if not draft
            }
    for item in _unchanged(manifest, lines):
        if required_keys(item, 1):
            with contextlib.suppress(KeyError):  # what it needs has no line: only prompt and model are compared
                wanted[item.id] = _manifest_entry(manifest, item, made)
    return wanted


def _unchanged(manifest: Manifest, lines: Mapping[str, ResultLine]) -> Iterator[Item]:
    for item in manifest.items():
        line = lines.get(item.id)
        if line is not None and (line.get("prompt"), line.get("model")) == (item.prompt, item.model):
            yield item


def _manifest_entry(manifest: Manifest, item: Item, made: Mapping[str, str]) -> ManifestEntry:
    samples = range(1, item.count + 1 if item.turn > 1 else 2)  # otherwise all send the same
    return item, tuple(wire_of(item, n, manifest.references.digest, made.__getitem__) for n in samples)


class NamedImage(NamedTuple):
    """An image that a line names. n: its sample."""

    path: str
    sha256: str
    n: int
    is_draft: bool


def images_of_line(line: ResultLine, item: Item | None, store: Store) -> Iterator[NamedImage]:
    n = 0
    recorded = line.get("n")
    for k, (path, sha256) in enumerate(zip(line["files"], line["sha256"], strict=True)):
        draft = path.startswith("drafts/")
        n = recorded[k] if recorded else n if draft else _number(path, item, store, n)
        yield NamedImage(path, sha256, n, draft)


def _number(path: str, item: Item | None, store: Store, last: int) -> int:
    """The sample that an image belongs to: by its name if the manifest gives the stem, else the next one."""
    stem = os.path.splitext(path)[0]
    if item is not None:
        for n in range(1, item.count + 1):
            if stem == os.path.splitext(store.file_name(item.filename, n, "png"))[0]:
                return n
    return last + 1


def sent_request(line: ResultLine, entry: ManifestEntry | None, path: str, n: int) -> tuple[str, str]:
    """(fingerprint, what reached the wire) of an image, as far as line and entry say; '' for an unknown fingerprint."""
    if entry is None:
        wire = json.dumps({"model": str(line.get("model", "")), "prompt": line.get("prompt", "")})
        return "", wire
    wire = entry[1][min(n, len(entry[1])) - 1]
    sample_fingerprint = fingerprint(wire)
    recorded = (
        line["fingerprint"][line["files"].index(path)] if path and line.get("fingerprint") else sample_fingerprint
    )
    return recorded, wire if recorded == sample_fingerprint else UNKNOWN_WIRE


# --- rows


def record_picture(
    ledger: Ledger,
    store: Store,
    number: int,
    line: ResultLine,
    entry: ManifestEntry | None,
    named: NamedImage,
    request: tuple[str, str],
) -> None:
    """Record an image as an attempt that succeeded when its line says so. Its price is its share of the item's.

    request: from `sent_request`.
    """
    path, sha256, n, draft = named
    n, sample_fingerprint = max(1, n), request[0]
    with store.local_copy(path) as full:
        checked, size = check_file(full), os.path.getsize(full)
    made = sum(not name.startswith("drafts/") for name in line["files"])
    usd = None if line.get("usd") is None or draft else line["usd"] / made
    source, model, at = line.get("usd_source", ""), str(line.get("model", "")), _seconds(line.get("updated_at"))
    attempt = {
        "id": number,
        "run_id": ledger.run_id,
        "item_id": line["id"],
        "n": n,
        "images": 1,
        "number": 1,
        "lane": lane_key(entry[0].provider, model) if entry else f"restored/{model}",
        "fingerprint": sample_fingerprint,
        "stem": entry[0].filename if entry else os.path.splitext(path)[0],
        **dict.fromkeys(("started_at", "sent_at", "ended_at"), at),
        "outcome": "succeeded",
        "reason": "restored",
        "http_status": 200,
        "usd": usd,
        "usd_source": source,
        "beside": json.dumps(store.read_sidecars(path, line.get("sidecars", ()))),
    }
    flags = "" if draft else ",".join(line.get("flags", ()))
    described = (sha256, size, checked.width, checked.height, checked.format, flags)
    image = (number, 0, line["id"], n, "draft" if draft else "image", sample_fingerprint, "", path, 1, *described)
    changes = [_insert("attempt", attempt), _insert("image", dict(zip(IMAGE_COLUMNS, image, strict=True)))]
    if not draft:
        kept = {"path": path, "bytes": size, "made_fingerprint": sample_fingerprint, "usd": usd, "usd_source": source}
        end = {"state": "succeeded", "reason": "", "message": ""}
        if line["state"] == "rejected" and made == 1:  # of several images, nobody knows which it was
            end = {name: line.get(name, "") for name in end}
        changes.append(_upsert_sample(line, n, request, {**kept, **end}))
    ledger.run_statements(changes)


def record_unsuccessful(ledger: Ledger, line: ResultLine, entry: ManifestEntry | None) -> None:
    """Record an item that was refused or failed, so that the next run does not request it again unchanged."""
    if line["state"] not in UNSUCCESSFUL_STATES or (entry is not None and entry[0].count > 1):
        return
    nothing = {**dict.fromkeys(("path", "bytes", "made_fingerprint", "usd")), "usd_source": ""}
    end = {"state": line["state"], "reason": line.get("reason", ""), "message": line.get("message", "")}
    ledger.run_statements([_upsert_sample(line, 1, sent_request(line, entry, "", 1), {**nothing, **end})])


def record_kept_response(ledger: Ledger, attempt: int, facts: Mapping[str, Any]) -> None:
    """Record an answer that is kept and could not be read: it is paid for, so its samples are not new to the next run.
    facts: from `answer.request_facts`."""
    at, item, n, images, model = time.time(), *(facts[name] for name in ("item", "n", "images", "model"))
    asked = {"item_id": item, "fingerprint": facts["fingerprint"], "reason": "unreadable"}
    sent = {
        "id": attempt,
        "run_id": ledger.run_id,
        "n": n,
        "images": images,
        "number": 1,
        "lane": lane_key(facts["provider"], model),
        "stem": facts["stem"],
        "started_at": at,
        "ended_at": at,
        "outcome": "failed",
        "maybe_billed": 1,
    }
    sample = {**asked, "model": model, "state": "failed", "wire": facts["wire"], "attempts": 1, "updated_at": at}
    samples = [_insert("sample", {**sample, "n": k}, " ON CONFLICT DO NOTHING") for k in range(n, n + images)]
    ledger.run_statements([_insert("attempt", {**asked, **sent}), *samples])


def _insert(table: str, row: Mapping[str, Any], rest: str = "") -> tuple[str, tuple[Any, ...]]:
    marks = ", ".join("?" * len(row))
    return f"INSERT INTO {table} ({', '.join(row)}) VALUES ({marks}){rest}", tuple(row.values())


def _upsert_sample(
    line: ResultLine, n: int, request: tuple[str, str], became: Mapping[str, Any]
) -> tuple[str, tuple[Any, ...]]:
    """The statement for a sample. request: from `sent_request`; became: the sample's state."""
    row = {
        "item_id": line["id"],
        "n": n,
        "model": str(line.get("model", "")),
        "tags": ",".join(line.get("tags", ())),
        "fingerprint": request[0],
        "wire": request[1],
        "attempts": 1,
        "text": line.get("text", ""),
        **became,
        "updated_at": _seconds(line.get("updated_at")),
    }
    return upsert_sql("sample", tuple(row), ("item_id", "n")), tuple(row.values())


def _seconds(text: object) -> float:
    try:
        return float(calendar.timegm(time.strptime(str(text), "%Y-%m-%dT%H:%M:%SZ")))
    except ValueError:
        return time.time()
