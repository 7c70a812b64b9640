"""What an assistant sees of a job that has run: its images, why others are missing, and what the run said."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from itertools import islice
from typing import Any, cast

import batchgen
from batchgen.errors import UsageError
from batchgen.ledger.location import has_ledger
from batchgen.ledger.reader import HistoryReader
from batchgen.manifest.diagnostics import did_you_mean
from batchgen.money import rounded
from batchgen.records import CURRENT_STATES, Result, sample_key
from batchgen.report import view
from batchgen.report.dashboard.actions import BackgroundRun
from batchgen.report.dashboard.pictures import thumbnail
from batchgen.report.queries import load_status
from batchgen.report.run_state import exit_words

PAGE_RESULTS = 50
MAX_TEXT = 500  # characters of a prompt, or of a vendor's message


def job_json(job: batchgen.Job) -> dict[str, Any] | None:
    """The answer of `batchgen status --json`; None if nothing has run. Raises LedgerError."""
    return cast(dict[str, Any], view.as_json(load_status(job.folder))) if has_ledger(job.folder) else None


def results_page(job: batchgen.Job, states: Sequence[str], start: int) -> dict[str, Any]:
    """The state of each image, from number `start` on. states: empty for all. Raises UsageError for an unknown
    state."""
    if wrong := [state for state in states if state not in CURRENT_STATES]:
        raise UsageError(f"{wrong[0]!r} is not a state: choose from {', '.join(CURRENT_STATES)}")
    page = list(islice(job.results.in_states(states or CURRENT_STATES), start, start + PAGE_RESULTS + 1))
    return {
        "by_state": dict(job.results.counts()),
        "results": [_result_json(result) for result in page[:PAGE_RESULTS]],
        "next_start": start + PAGE_RESULTS if len(page) > PAGE_RESULTS else None,
    }


def image_copy(job: batchgen.Job, key: str, side: int) -> tuple[dict[str, Any], bytes]:
    """The facts of one image, and a WebP copy of it with at most `side` pixels on a side. key: `id`, or `id#2` and so
    on. Raises UsageError."""
    if not has_ledger(job.folder):
        raise UsageError(f"{key}: nothing has run there yet, so there is no image")
    with closing(HistoryReader.open(job.folder)) as ledger:
        rows = ledger.pictures([key.partition("#")[0]])
        row = next((row for row in rows if row.role == "image" and sample_key(row.item_id, row.n) == key), None)
    if row is None:
        known = {result.key: result.state for result in job.results}
        state = f"it is {known[key]}" if key in known else f"there is no such id{did_you_mean(key, known)}"
        raise UsageError(f"{key}: no image: {state}; `results` lists them")
    small = thumbnail(job.folder, row.attempt_id, row.k, side)
    if small is None:
        raise UsageError(f"{key}: the file is missing or cannot be shown; `batchgen verify` says more")
    return {"id": key, "path": row.path, "width": row.width, "height": row.height, "flags": row.flags}, small


def process_json(child: BackgroundRun) -> dict[str, Any]:
    code = child.process.poll()
    return {
        "process": child.process.pid,
        "running": code is None,
        "exit_code": code,
        "end": exit_words(code),
        "log": child.log_tail(),
    }


def _result_json(result: Result) -> dict[str, Any]:
    texts = {"prompt": result.prompt, "message": result.message, "text": result.text}
    return {
        "id": result.key,
        "state": result.state,
        "model": result.model,
        "path": result.image.path if result.image else None,
        "usd": rounded(result.usd),
        "reason": result.reason,
        "untrusted": {name: text[:MAX_TEXT] for name, text in texts.items() if text},
    }
