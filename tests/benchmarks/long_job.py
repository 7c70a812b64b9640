"""Builds a job of many items of which all but a few are done, as if batchgen had made them: manifest, pictures, ledger."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import random
import sqlite3
import time
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import batchgen
from batchgen.ledger.reader import Reader
from batchgen.ledger.results import ResultsFile
from batchgen.ledger.schema import ledger_path, open_file_for_writing
from batchgen.planning.fingerprint import fingerprint, wire_facts
from batchgen.records import Item
from tests.benchmarks.contenders import MODEL
from tests.benchmarks.measure import write_manifest
from tests.benchmarks.noise import noise_png

PICTURE_BYTES = 400
USD = 0.0336
# That look at a job; of their words, those in braces are known when it is there.
COMMANDS = {
    "plan": ["plan", "{manifest}"],
    "validate": ["validate", "{manifest}"],
    "status": ["status", "{manifest}"],
    "verify": ["verify", "{manifest}"],
    "export csv": ["export", "{manifest}", "--format", "csv", "--to", "{folder}/rows.csv"],
    "export jsonl": ["export", "{manifest}", "--format", "jsonl", "--to", "{folder}/rows.jsonl"],
    "report": ["report", "{manifest}"],
}
AT = time.time() - 86_400  # a day ago: no quota reaches back so far
USAGE = json.dumps({"prompt_tokens": 14, "image_tokens": 1120, "total_tokens": 1134})

SAMPLE = (
    "INSERT INTO sample (item_id, n, model, tags, state, fingerprint, wire, path, bytes, made_fingerprint, attempts, usd,"
    f" usd_source, updated_at) VALUES (?, 1, ?, '', 'succeeded', ?, ?, ?, {PICTURE_BYTES}, ?, 1, {USD}, 'usage', {AT})"
)
ATTEMPT = (
    "INSERT INTO attempt (id, run_id, item_id, n, images, number, lane, fingerprint, stem, started_at, sent_at, ended_at,"
    " outcome, reason, http_status, estimate_usd, usd, usd_source, usage, reply_id, model_version)"
    f" VALUES (?, 1, ?, 1, 1, 1, ?, ?, ?, {AT}, {AT}, {AT}, 'succeeded', '', 200, {USD}, {USD}, 'usage', '{USAGE}',"
    " 'benchmark', ?)"
)
IMAGE = (
    "INSERT INTO image (attempt_id, k, item_id, n, role, fingerprint, spool, path, placed, sha256, bytes, width, height,"
    f" format) VALUES (?, 0, ?, 1, 'image', ?, ?, ?, 1, ?, {PICTURE_BYTES}, 9, 9, 'png')"
)


def build(folder: Path, items: int, missing: int) -> Path:
    """The manifest's path. The last `missing` items have no row and no picture; every other one has both.

    The pictures are hard links to a few small PNGs, for the folder has as many names and the disk fewer files to write;
    a run looks at name and size only, as it does for pictures of any size.
    """
    out = folder / "out"
    header = {"output": str(out), "models": {MODEL: {"rpm": None}}}
    lines = [
        {"id": f"sku-{number:07}", "prompt": f"Studio photo of article {number}, soft light, on oiled oak"}
        for number in range(items)
    ]
    manifest = write_manifest(folder, header, lines)
    del lines
    (out / ".batchgen" / "spool").mkdir(parents=True, mode=0o700)
    picture = noise_png(PICTURE_BYTES, random.Random(0))
    done = islice(batchgen.load(manifest).manifest.items(), items - missing)
    database = open_file_for_writing(ledger_path(out))
    fill(database, done, hashlib.sha256(picture).hexdigest())
    database.close()
    link_files((f"{out}/sku-{number:07}.png" for number in range(items - missing)), picture)
    with Reader.open(out) as reader:
        ResultsFile(out, reader).rebuild()
    return manifest


def fill(database: sqlite3.Connection, done: Iterator[Item], sha256: str) -> None:
    """The rows that a run which made these items has left, in one transaction."""
    database.execute("PRAGMA synchronous=OFF")
    database.execute("BEGIN")
    meta = {"results_tidy": "yes", "manifest": "bench.jsonl", "emulated": "no", "name": "bench"}
    database.executemany("INSERT INTO meta VALUES (?, ?)", meta.items())
    run = (AT, AT, 0, "localhost", batchgen.__version__)
    database.execute(
        "INSERT INTO run (id, started_at, ended_at, pid, host, version, exit_code, stopped_by) VALUES (1, ?, ?, ?, ?, ?, 0, '')",
        run,
    )
    numbered = enumerate(done, 1)
    while chunk := list(islice(numbered, 10_000)):
        insert(database, [(number, item, wire_facts(item)) for number, item in chunk], sha256)
    database.execute("COMMIT")
    database.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def insert(database: sqlite3.Connection, chunk: list[tuple[int, Item, str]], sha256: str) -> None:
    samples: list[tuple[Any, ...]] = []
    attempts: list[tuple[Any, ...]] = []
    images: list[tuple[Any, ...]] = []
    for number, item, wire in chunk:
        mark, path = fingerprint(wire), f"{item.filename}.png"
        samples.append((item.id, item.model, mark, wire, path, mark))
        attempts.append((number, item.id, f"{item.provider}/{item.model}", mark, item.filename, item.model))
        images.append((number, item.id, mark, f"{number}.0", path, sha256))
    database.executemany(SAMPLE, samples)
    database.executemany(ATTEMPT, attempts)
    database.executemany(IMAGE, images)


def link_files(paths: Iterable[str], data: bytes) -> None:
    """Files of the same bytes. ext4 allows 65,000 names for one, so there is another whenever the last one has no more."""
    source = ""
    for path in paths:
        try:
            if source:
                os.link(source, path)
                continue
        except OSError as error:
            if error.errno != errno.EMLINK:
                raise
        Path(path).write_bytes(data)
        source = path
