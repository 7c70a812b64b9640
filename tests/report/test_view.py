"""Views as JSON: every field is a key, and no key that others read goes or changes."""

from __future__ import annotations

import json
from dataclasses import dataclass, fields
from typing import NamedTuple

import pytest

from batchgen.cli.history import JobRun
from batchgen.report.acceptance import VariantBar, VariantView
from batchgen.report.dashboard.job_card import JobCard
from batchgen.report.dashboard.watched_job import LivePage
from batchgen.report.gallery_data import AttemptView, MadeFile, PageView, SamplesView, SampleView
from batchgen.report.picture_views import Box, PictureView, VerdictView
from batchgen.report.run_statistics import RunStatistics
from batchgen.report.view import JobStatus, MoneyView, Parked, RunSummary, UtcTime, as_json, view_of

# Programs of others read these: add to a list, never take from it.
ACCEPTED = {
    "accepted", "rejected", "rejected_for", "warned", "usd_per_accepted", "usd_per_accepted_estimated", "usd_per_accepted_at_least",
    "minutes_per_accepted",
}  # fmt: skip
JOB = ACCEPTED | {
    "job", "manifest", "folder", "bucket", "waiting", "discrepancies", "emulated", "samples", "requests", "usd", "cluster",
    "uncertain", "account", "account_of_run", "outages", "reasons", "batches", "derivatives", "parked", "totals", "blocked",
    "rejected_samples", "warned_samples",
}  # fmt: skip
STATUS = JOB | {"by_model", "in_flight", "jobs", "unread", "run", "total"}
RUN = JOB | {
    "run_id", "exit_code", "stopped_by", "message", "remedy", "seconds", "exposed_ms", "own_folder", "engine", "results",
    "images", "limit", "stopped_models", "flagged", "flagged_total", "newest", "retried", "unreviewed",
}  # fmt: skip
HISTORY = ACCEPTED | {
    "job", "folder", "emulated", "run", "state", "began", "ended", "seconds", "made", "not_made", "usd", "exit_code", "stopped_by",
}  # fmt: skip
CARD = STATUS | {
    "id",
    "action",
    "files",
    "words",
    "accepted_words",
    "lanes",
    "budgets",
    "left_s",
    "trouble",
    "nights",
    "newest",
    "at",
}
MONEY = {
    "spent", "estimated", "guessed", "requests_of_unknown_price", "maybe_billed", "maybe_billed_requests",
    "maybe_billed_of_unknown_price", "searched_requests",
}  # fmt: skip


SAMPLES = {"job", "manifest", "emulated", "at", "wanted", "settings", "providers", "accepted", "samples"}
PAGE = SAMPLES | {
    "beside", "conversations", "post", "key", "base", "nights", "compared", "references", "manifest_base", "pages", "related",
}  # fmt: skip
SAMPLE = {
    "id", "n", "place", "state", "model", "prompt", "settings", "at", "tags", "usd", "usd_source", "reason", "message", "text",
    "seconds", "served_by", "tier", "attempts", "pictures", "sources", "files", "thoughts", "asks", "derivatives",
}  # fmt: skip
NIGHT = {
    "id", "ended", "exit_code", "stopped_by", "start", "step_s", "sent", "in_flight", "cap", "rpm", "latency", "money", "outcomes",
    "verdict", "end",
}  # fmt: skip


@pytest.mark.parametrize(("view", "keys"), [
    (JobStatus, STATUS), (RunSummary, RUN), (JobRun, HISTORY), (JobCard, CARD), (MoneyView, MONEY),
    (SamplesView, SAMPLES), (PageView, PAGE), (LivePage, PAGE | {"live", "card"}), (SampleView, SAMPLE), (RunStatistics, NIGHT),
    (PictureView, {"kind", "path", "thumbnail", "sha", "width", "height", "bytes", "flags", "at", "verdicts"}),
    (VerdictView, {"by", "name", "ruling", "at", "reason", "message", "score", "twin", "boxes"}),
    (VariantView, ACCEPTED | {"variant", "images", "share", "low", "high", "overlaps_best"}),
])  # fmt: skip
def test_no_key_of_the_json_answers_and_pages_ever_changes(view, keys):
    assert {field.name for field in fields(view)} == keys


def test_rows_of_a_page_keep_their_order_for_it_names_none_of_their_columns():
    assert AttemptView._fields[:5] == ("started", "seconds", "model", "outcome", "reason")
    assert AttemptView._fields[5:] == ("message", "status", "usd", "usd_source", "run", "sent_as")
    assert Box._fields == ("x", "y", "width", "height", "text")
    assert VariantBar._fields == ("variant", "text", "share", "low", "high")
    assert MadeFile._fields == ("path", "width", "height", "bytes", "sha")
    assert as_json([MadeFile("a.webp", 8, 9, 10, "ab")]) == [["a.webp", 8, 9, 10, "ab"]]


def test_what_is_empty_in_a_sample_is_left_out_and_nought_is_not():
    sample = SampleView(id="a", n=1, place=0, state="failed", model="m", settings=0, at=0, usd=0.0, pictures=())
    assert as_json(sample) == {
        "id": "a", "n": 1, "place": 0, "state": "failed", "model": "m", "settings": 0, "at": 0, "usd": 0.0, "pictures": [],
    }  # fmt: skip


def test_a_new_field_of_a_view_is_a_new_key_of_its_json():
    @dataclass(frozen=True)
    class Wider(Parked):
        colour: tuple[str, ...]

    found = as_json({"pro": Wider(UtcTime(1_795_248_000.9), "used up", ("red",))})
    assert found == {"pro": {"until": "2026-11-21T08:00:00Z", "message": "used up", "colour": ["red"]}}
    assert json.loads(json.dumps(found)) == found


def test_a_new_column_of_a_row_is_one_field_of_its_view():
    class Row(NamedTuple):
        until: float
        message: str
        colour: str

    @dataclass(frozen=True)
    class Wider(Parked):
        colour: str

    found = view_of(Wider, Row(0.0, "used up", "red"), until=UtcTime(0.0))
    assert as_json(found) == {"until": "1970-01-01T00:00:00Z", "message": "used up", "colour": "red"}
