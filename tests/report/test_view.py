"""Views as JSON: every field is a key, and no key that others read goes or changes."""

from __future__ import annotations

import json
from dataclasses import dataclass, fields

from batchgen.cli.history import JobRun
from batchgen.report.dashboard.job_card import JobCard
from batchgen.report.view import JobStatus, MoneyView, Parked, RunSummary, UtcTime, as_json

# Programs of others read these: add to a list, never take from it.
JOB = {
    "job", "manifest", "folder", "bucket", "waiting", "discrepancies", "emulated", "samples", "requests", "usd", "cluster",
    "uncertain", "account", "outages", "reasons", "batches", "derivatives", "parked",
}  # fmt: skip
STATUS = JOB | {"by_model", "in_flight", "unread", "run"}
RUN = JOB | {
    "run_id", "exit_code", "stopped_by", "message", "remedy", "seconds", "exposed_ms", "own_folder", "engine", "results",
    "images", "limit", "stopped_models", "flagged", "flagged_total", "newest",
}  # fmt: skip
HISTORY = {
    "job", "folder", "emulated", "run", "state", "began", "ended", "seconds", "made", "not_made", "usd", "exit_code", "stopped_by",
}  # fmt: skip
CARD = {
    "job", "folder", "emulated", "samples", "usd", "uncertain", "unread", "run", "files", "manifest", "total", "lanes", "batches",
    "in_flight", "budgets", "left_s", "trouble", "nights", "at",
}  # fmt: skip
MONEY = {
    "spent", "estimated", "guessed", "requests_of_unknown_price", "maybe_billed", "maybe_billed_requests",
    "maybe_billed_of_unknown_price", "searched_requests",
}  # fmt: skip


def test_no_key_of_the_json_answers_ever_changes():
    for view, keys in ((JobStatus, STATUS), (RunSummary, RUN), (JobRun, HISTORY), (JobCard, CARD), (MoneyView, MONEY)):
        assert {field.name for field in fields(view)} == keys, view.__name__


def test_a_new_field_of_a_view_is_a_new_key_of_its_json():
    @dataclass(frozen=True)
    class Wider(Parked):
        colour: tuple[str, ...]

    found = as_json({"pro": Wider(UtcTime(1_795_248_000.9), "used up", ("red",))})
    assert found == {"pro": {"until": "2026-11-21T08:00:00Z", "message": "used up", "colour": ["red"]}}
    assert json.loads(json.dumps(found)) == found
