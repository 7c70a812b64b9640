"""Rows of a ledger that is built from what is left of a job: attempts whose answers nobody has any more."""

from __future__ import annotations

import calendar
import json
import os
import time
from collections.abc import Mapping
from typing import Any

from batchgen.engine.recovery.repair_lines import ManifestEntry, ResultLine, sent_request
from batchgen.engine.routes import lane_key
from batchgen.ledger.database import upsert_sql
from batchgen.ledger.ledger import Ledger
from batchgen.ledger.schema import IMAGE_COLUMNS
from batchgen.store.check import check_file
from batchgen.store.store import Store

SAMPLE_COLUMNS = (
    "item_id", "n", "model", "tags", "state", "fingerprint", "wire", "path", "bytes", "made_fingerprint", "attempts",
    "usd", "usd_source", "reason", "message", "text", "updated_at",
)  # fmt: skip
UPSERT_SAMPLE = upsert_sql("sample", SAMPLE_COLUMNS, ("item_id", "n"))
UNSUCCESSFUL_STATES = ("refused", "failed", "uncertain")


def record_picture(
    ledger: Ledger,
    store: Store,
    number: int,
    origin: tuple[ResultLine, ManifestEntry | None],
    picture: tuple[str, str],
    position: tuple[int, bool],
    request: tuple[str, str],
) -> None:
    """One picture as an attempt that succeeded when its line says so; the price is its share of the item's.

    picture: path and sha256; position: its sample, and whether it is a draft; request: as `sent` answers.
    """
    (line, entry), (path, sha256), (n, draft), (sample_fingerprint, wire) = origin, picture, position, request
    with store.local_copy(path) as full:
        checked, size = check_file(full), os.path.getsize(full)
    made = sum(not name.startswith("drafts/") for name in line["files"])
    usd = None if line.get("usd") is None or draft else line["usd"] / made
    source, model, at = line.get("usd_source", ""), str(line.get("model", "")), _seconds(line.get("updated_at"))
    lane = lane_key(entry[0].provider, model) if entry else f"restored/{model}"
    texts = json.dumps(store.read_sidecars(path, line.get("sidecars", ())))
    stem = entry[0].filename if entry else os.path.splitext(path)[0]
    tags, text = ",".join(line.get("tags", ())), line.get("text", "")
    ledger.run_statements(
        [
            (
                "INSERT INTO attempt (id, run_id, item_id, n, images, number, lane, fingerprint, stem, started_at, sent_at,"
                " ended_at, outcome, reason, http_status, usd, usd_source, beside)"
                " VALUES (?, ?, ?, ?, 1, 1, ?, ?, ?, ?, ?, ?, 'succeeded', 'restored', 200, ?, ?, ?)",
                (number, ledger.run_id, line["id"], n, lane, sample_fingerprint, stem, at, at, at, usd, source, texts),
            ),
            (
                f"INSERT INTO image ({', '.join(IMAGE_COLUMNS)}) VALUES (?, 0, ?, ?, ?, ?, '', ?, 1, ?, ?, ?, ?, ?, ?)",
                (number, line["id"], n, "draft" if draft else "image", sample_fingerprint, path, sha256, size, checked.width,
                 checked.height, checked.format, "" if draft else ",".join(line.get("flags", ()))),
            ),
            *([] if draft else [(
                UPSERT_SAMPLE,
                (line["id"], n, model, tags, "succeeded", sample_fingerprint, wire, path, size,
                 sample_fingerprint, 1, usd, source, "", "", text, at),
            )]),
        ]
    )  # fmt: skip


def record_unsuccessful(ledger: Ledger, line: ResultLine, entry: ManifestEntry | None) -> None:
    """An item that was refused or failed: what the next run would not ask for unchanged, it does not ask for now either."""
    if line["state"] not in UNSUCCESSFUL_STATES or (entry is not None and entry[0].count > 1):
        return
    sample_fingerprint, wire = sent_request(line, entry, "", 1)
    tags, at = ",".join(line.get("tags", ())), _seconds(line.get("updated_at"))
    end = (line.get("reason", ""), line.get("message", ""), line.get("text", ""))
    row = (
        line["id"],
        1,
        str(line.get("model", "")),
        tags,
        line["state"],
        sample_fingerprint,
        wire,
        None,
        None,
        None,
        1,
        None,
        "",
        *end,
        at,
    )
    ledger.run_statements([(UPSERT_SAMPLE, row)])


def record_kept_response(ledger: Ledger, attempt: int, facts: Mapping[str, Any]) -> None:
    """An answer that is kept and could not be read: paid for, so its samples are not new to the next run."""
    at, item, n, sample_fingerprint = time.time(), facts["item"], facts["n"], facts["fingerprint"]
    ledger.run_statements(
        [
            (
                "INSERT INTO attempt (id, run_id, item_id, n, images, number, lane, fingerprint, stem, started_at, ended_at,"
                " outcome, reason, maybe_billed) VALUES (?, ?, ?, ?, ?, 1, ?, ?, ?, ?, ?, 'failed', 'unreadable', 1)",
                (attempt, ledger.run_id, item, n, facts["images"], lane_key(facts["provider"], facts["model"]), sample_fingerprint,
                 facts["stem"], at, at),
            ),
            *((
                "INSERT INTO sample (item_id, n, model, state, fingerprint, wire, attempts, reason, updated_at)"
                " VALUES (?, ?, ?, 'failed', ?, ?, 1, 'unreadable', ?) ON CONFLICT DO NOTHING",
                (item, k, facts["model"], sample_fingerprint, facts["wire"], at),
            ) for k in range(n, n + facts["images"])),
        ]
    )  # fmt: skip


def _seconds(text: object) -> float:
    try:
        return float(calendar.timegm(time.strptime(str(text), "%Y-%m-%dT%H:%M:%SZ")))
    except ValueError:
        return time.time()
