"""`--log-file` and `--log-format` of real runs: every line is one of the published schema, errors included."""

from __future__ import annotations

import json

import jsonschema
import pytest

from batchgen.report.log_events import log_schema
from tests.support.marked_key import KEY

FAULTS = {
    "mug": "A mug",
    "bad": "x [[fault:safety]]",
    "busy": "x [[fault:503*1]]",
    "slow": "x [[fault:429*1]]",
    "lost": "x [[fault:reset]]",
    "odd": "x [[fault:truncated_json]]",
    "say": "a\u202e\x1b[2J",
}
JSON = ("--log-format", "json")


def events(text: str) -> list[dict[str, object]]:
    found = [json.loads(line) for line in text.splitlines()]
    checker = jsonschema.Draft202012Validator(log_schema())
    for line in found:
        checker.validate(line)
    return found


def names(text: str) -> list[object]:
    return [line["event"] for line in events(text)]


def test_the_published_schema_is_one(batchgen):
    schema = batchgen("schema", "--log").json
    jsonschema.Draft202012Validator.check_schema(schema)
    assert schema == log_schema()


def test_every_line_of_a_run_full_of_faults_is_of_the_schema(batchgen, write):
    answer = batchgen("run", str(write(FAULTS, head="limits: {attempts: 2}\n")), "--emulate", *JSON)
    found = events(answer.err)
    assert {"run.started", "attempt.started", "attempt.failed", "sample.ended", "lane.cooled", "run.ended"} <= {
        line["event"] for line in found
    }
    settled = {line["item"]: line["state"] for line in found if line["event"] == "sample.ended"}
    assert (settled["mug"], settled["bad"], len(settled)) == ("succeeded", "refused", len(FAULTS))
    assert {(line["run"], line["job"]) for line in found} == {(1, "job")}
    assert (answer.err.replace("\n", "").isprintable(), KEY in answer.err) == (True, False)


def test_every_line_of_parked_and_stopped_models_is_of_the_schema(batchgen, write):
    day = batchgen("run", str(write({"a": "x [[fault:429day]]", "b": "y"})), "--emulate", *JSON)
    key = batchgen("run", str(write({"a": "x [[fault:429spend]]"}, name="key.yaml")), "--emulate", *JSON)
    gone = batchgen("run", str(write({"a": "x [[fault:429limit0]]"}, name="gone.yaml")), "--emulate", *JSON)
    found = {*names(day.err), *names(key.err), *names(gone.err)}
    assert {"lane.parked", "run.stopping", "lane.stopped"} <= found


def test_every_line_of_an_outage_is_of_the_schema(batchgen, write):
    answer = batchgen("run", str(write({name: f"{name} [[fault:503*1]]" for name in "abc"})), "--emulate", *JSON)
    told = [line["event"] for line in events(answer.err) if str(line["event"]).startswith("outage.")]
    assert (answer.code, told[0], told[-1]) == (0, "outage.started", "outage.ended")


def test_retry_tells_the_same(batchgen, write):
    manifest = str(write({"bad": "x [[fault:safety]]"}))
    batchgen("run", manifest, "--emulate", "--quiet")
    assert names(batchgen("retry", manifest, "--refused", *JSON).err) == [
        "run.started", "attempt.started", "attempt.failed", "sample.ended", "run.ended",
    ]  # fmt: skip


def test_notes_of_the_repair_at_the_start_are_lines(batchgen, write, tmp_path):
    manifest = str(write({"mug": "A mug"}))
    batchgen("run", manifest, "--emulate", "--quiet")
    (tmp_path / "job.emulated" / "mug.jpg").rename(tmp_path / "job.emulated" / "other.jpg")
    assert "run.started" in names(batchgen("run", manifest, "--emulate", *JSON).err)


def _key_missing(batchgen, write, monkeypatch):
    monkeypatch.delenv("GEMINI_API_KEY", raising=False)
    return batchgen("run", str(write({"a": "b"})), *JSON), "SettingsError"


def _no_manifest(batchgen, write, monkeypatch):
    return batchgen("run", "nowhere.yaml", *JSON), "ManifestError"


def _bad_manifest(batchgen, write, monkeypatch):
    return batchgen("run", str(write({"a": "{{ b }}"})), "--emulate", *JSON), "ManifestError"


def _bad_option(batchgen, write, monkeypatch):
    return batchgen("run", "--concurrency", "x", str(write({"a": "b"})), *JSON), "BadParameter"


def _no_job(batchgen, write, monkeypatch):
    return batchgen("retry", "nowhere", "--failed", *JSON), "UsageError"


def _locked(batchgen, write, monkeypatch):
    from batchgen.store.lock import JobLock

    manifest = write({"a": "b"})
    batchgen("run", str(manifest), "--emulate", "--quiet")
    lock = JobLock(manifest.parent / "job.emulated")
    lock.acquire()
    try:
        return batchgen("run", str(manifest), "--emulate", "--fresh", *JSON), "JobLocked"
    finally:
        lock.release()


@pytest.mark.parametrize("case", [_key_missing, _no_manifest, _bad_manifest, _bad_option, _no_job, _locked])
def test_an_error_before_the_run_is_a_json_line_and_nothing_else(batchgen, write, monkeypatch, case):
    answer, error = case(batchgen, write, monkeypatch)
    (line,) = events(answer.err)
    assert (line["event"], line["level"], line["error"], line["exit_code"]) == (
        "run.failed",
        "error",
        error,
        answer.code,
    )
    assert line["message"]


def test_an_error_before_the_run_is_in_the_log_file_and_on_stderr_in_words(batchgen, write, tmp_path):
    answer = batchgen("run", "nowhere.yaml", "--log-file", "run.log", *JSON)
    assert names((tmp_path / "run.log").read_text()) == ["run.failed"]
    assert answer.err.startswith("nowhere.yaml: there is no such file")


def test_a_text_log_has_the_same_names_and_the_lines_for_people_stay(batchgen, write, tmp_path):
    answer = batchgen("run", str(write({"mug": "A mug"})), "--emulate", "--log-file", "run.log")
    told = [line.split()[2] for line in (tmp_path / "run.log").read_text().splitlines()]
    assert told == ["run.started", "attempt.started", "sample.ended", "run.ended"]
    assert "1 of 1 image made" in answer.err


def test_a_log_file_that_cannot_be_written_to_is_an_error_before_anything_is_sent(batchgen, write, tmp_path):
    answer = batchgen("run", str(write({"mug": "A mug"})), "--emulate", "--log-file", "no/run.log", *JSON)
    assert (answer.code, "--log-file no/run.log" in answer.err, (tmp_path / "job.emulated").exists()) == (
        2,
        True,
        False,
    )


def test_a_disk_that_fills_up_under_the_log_is_said_at_the_end_and_the_pictures_are_made(batchgen, write):
    answer = batchgen("run", str(write({"mug": "A mug"})), "--emulate", "--log-file", "/dev/full")
    assert answer.code == 0
    assert answer.err.splitlines()[-1] == "4 line(s) of the log could not be written: No space left on device"


def test_a_quiet_json_log_says_nothing_of_a_run_without_a_fault(batchgen, write):
    assert batchgen("run", str(write({"mug": "A mug"})), "--emulate", "--quiet", *JSON).err == ""


def test_a_message_that_was_not_sent_is_a_line_too(batchgen, write, tmp_path):
    manifest = write({"mug": "A mug"}, head="notify: {to: ['${NOTIFY_NOWHERE}']}\n")
    (noted,) = [
        line for line in events(batchgen("run", str(manifest), "--emulate", *JSON).err) if line["event"] == "run.notice"
    ]
    assert (noted["level"], "NOTIFY_NOWHERE is not set" in str(noted["message"])) == ("warning", True)


def test_a_run_without_a_log_and_status_import_no_logging_library(python, write):
    manifest = str(write({"mug": "A mug"}))
    code = (
        "import sys; from batchgen.cli.main import run_command_line as r; "
        f"r(['run', {manifest!r}, '--emulate', '--quiet', '--limit', '1']); r(['status', {manifest!r}]); r(['run', '--help']); "
        "print([name for name in ('structlog', 'rich') if name in sys.modules])"
    )
    assert python(code).out.splitlines()[-1] == "[]"


def test_ascii_on_stderr_is_still_json(spawn, write):
    process = spawn("run", str(write({"Größe": "A mug"})), *JSON, PYTHONIOENCODING="ascii", GEMINI_API_KEY="")
    _, err = process.communicate(timeout=30)
    assert (err.isascii(), names(err)[-1]) == (True, "run.failed")
