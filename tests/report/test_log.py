"""The log's lines: names that never change, fields that its schema names, nothing that acts, no key; and its file."""

from __future__ import annotations

import dataclasses
import io
import json
import logging
import os
import warnings
from pathlib import Path

import jsonschema
import pytest

from batchgen import events
from batchgen.errors import UsageError
from batchgen.events import Event, LaneParked, Notice, Outage, RunEnded, RunStarted, SampleEnded, SampleResult
from batchgen.report.log import Log, LogFile, Stream
from batchgen.report.log_events import EVENTS, FIELDS, FIELDS_BY_EVENT, LOG_EVENTS, log_schema

AT = 1_795_228_800.5
ENDED = SampleEnded(at=AT, key="mug#2", model="pro", state="refused", reason="safety", message="no")
HOSTILE = "a\x1b[2J\x9b\x7f\u202e\u2066\u2028\u200b\ud800\nrun.ended"


def lines(*told: Event, form="json", secrets=(), quiet=False, plain=False) -> list[str]:
    stream = io.StringIO()
    with Log(Stream(stream, plain=plain), form, lambda: secrets, quiet=quiet) as log:
        for event in told:
            log(event)
    return stream.getvalue().splitlines()


# --- names


def test_no_name_ever_changes():
    """Add to this list; never change it: programs of others read these names."""
    assert {kind.__name__: kind.log_name for kind in EVENTS if kind is not SampleResult} == {
        "RunStarted": "run.started",
        "AttemptStarted": "attempt.started",
        "AttemptFailed": "attempt.failed",
        "ImageJudged": "image.judged",
        "ImageReviewed": "image.reviewed",
        "SampleSucceeded": "sample.ended",
        "SampleEnded": "sample.ended",
        "LaneCooled": "lane.cooled",
        "LaneParked": "lane.parked",
        "LaneWaiting": "lane.waiting",
        "LaneStopped": "lane.stopped",
        "OutageStarted": "outage.started",
        "OutageProbeFailed": "outage.probe_failed",
        "OutageEnded": "outage.ended",
        "Stopping": "run.stopping",
        "Notice": "run.notice",
        "RunEnded": "run.ended",
        "BatchSubmitted": "batch.submitted",
        "BatchUpdated": "batch.updated",
        "BatchCollected": "batch.collected",
        "ScheduledRunPlanned": "scheduled_run.planned",
        "ScheduledRunStarted": "scheduled_run.started",
        "ScheduledRunOutput": "scheduled_run.output",
        "ScheduledRunEnded": "scheduled_run.ended",
        "ScheduledRunSkipped": "scheduled_run.skipped",
    }
    assert set(LOG_EVENTS) == {kind.log_name for kind in EVENTS} | {"run.failed", "log.message"}


def test_every_event_has_a_name():
    found = {kind for kind in vars(events).values() if isinstance(kind, type) and issubclass(kind, Event)}
    assert found - {Event, Outage} == set(EVENTS)


def test_every_field_is_described_and_every_description_used():
    told = {field for kind in LOG_EVENTS.values() for field in (*kind.required, *kind.optional)}
    assert told | {"at", "level", "worker", "run", "job"} == set(FIELDS)


def test_every_field_of_an_event_stands_in_its_line_but_for_those_listed_here():
    """run_id and job of a run stand in every line already."""
    unlogged = {
        f"{kind.__name__}.{field.name}"
        for kind in EVENTS
        for field in dataclasses.fields(kind)
        if field.name != "at" and field.name not in {found.attribute for found in FIELDS_BY_EVENT[kind]}
    }
    assert unlogged == {
        "RunStarted.run_id", "RunStarted.job", "RunStarted.known_usd", "AttemptStarted.batch", "RunEnded.run_id",
    }  # fmt: skip


def test_a_field_means_the_same_in_every_event():
    for kind in EVENTS:
        for field in FIELDS_BY_EVENT[kind]:
            assert field.logged.unit == "key" or field.schema == FIELDS[field.name], (kind, field.name)


# --- lines


def test_a_line_says_when_what_of_which_run_and_then_the_rest():
    started = RunStarted(at=AT, run_id=3, job="shop", samples={"pro": 2}, kept=0, usd=None, eta_s=None)
    assert json.loads(lines(started, ENDED)[1]) == {
        "at": "2026-11-21T02:40:00.500Z",
        "level": "warning",
        "event": "sample.ended",
        "run": 3,
        "job": "shop",
        "item": "mug",
        "sample": 2,
        "model": "pro",
        "state": "refused",
        "reason": "safety",
        "message": "no",
    }


def test_a_text_line_is_one_line_with_quoted_values_and_says_nothing_empty():
    event = SampleEnded(at=AT, key="k", model="pro", state="refused", reason="", message="no\n\x1b way")
    assert lines(event, form="text") == [
        "2026-11-21T02:40:00.500Z warning sample.ended item=k sample=1 model=pro state=refused"
        ' message="no\\n\\u001b way"'
    ]


@pytest.mark.parametrize("form", ["json", "text"])
@pytest.mark.parametrize("plain", [False, True])
def test_nothing_that_a_terminal_acts_upon_is_in_a_line(form, plain):
    (line,) = lines(Notice(at=AT, message=HOSTILE), form=form, plain=plain)
    assert line.isprintable()
    assert line.isascii() or not plain
    if form == "json":
        assert json.loads(line)["message"] == HOSTILE


@pytest.mark.parametrize("form", ["json", "text"])
def test_a_key_is_in_no_line_however_json_writes_it(form):
    key = 'kö-"quoted"\\key'
    (line,) = lines(Notice(at=AT, message=f"bad {key} there"), form=form, secrets=[key])
    assert ("bad [redacted] there" in line, "quoted" in line) == (True, False)


def test_a_key_that_becomes_known_later_is_hidden_from_then_on():
    stream, secrets = io.StringIO(), set()
    with Log(Stream(stream, plain=False), "json", lambda: secrets) as log:
        secrets.add("SECRET-1")
        log(Notice(at=AT, message="a SECRET-1"))
    assert json.loads(stream.getvalue())["message"] == "a [redacted]"


def test_quiet_is_only_what_is_amiss():
    ended = [RunEnded(at=AT, run_id=1, exit_code=code, seconds=1.0) for code in (0, 3)]
    told = lines(Notice(at=AT, message="x"), *ended, ENDED, quiet=True)
    assert [json.loads(line)["event"] for line in told] == ["run.ended", "sample.ended"]


def test_a_run_that_lacks_only_files_of_post_says_so_in_its_log():
    ended = RunEnded(
        at=AT, run_id=1, exit_code=3, seconds=1.0, counts={"succeeded": 3}, derived={"made": 8, "failed": 1}
    )
    (line,) = map(json.loads, lines(ended))
    assert (line["level"], line["derivatives"]) == ("warning", {"made": 8, "failed": 1})


def test_what_libraries_warn_of_is_a_line_too_and_bugs_are_errors():
    stream = io.StringIO()
    with Log(Stream(stream, plain=False), "json", lambda: ["SECRET-1"]), warnings.catch_warnings():
        warnings.simplefilter("always")
        logging.getLogger("asyncio").warning("slow %s", "loop")
        logging.getLogger("asyncio").info("not this")
        logging.getLogger("batchgen").info("but this")
        warnings.warn("old SECRET-1", UserWarning, stacklevel=1)
        try:
            raise KeyError("SECRET-1")
        except KeyError:
            logging.getLogger("batchgen").exception("an observer failed")
    found = [json.loads(line) for line in stream.getvalue().splitlines()]
    for line in found:
        jsonschema.validate(line, log_schema())
    assert [(line["logger"], line["level"]) for line in found] == [
        ("asyncio", "warning"), ("batchgen", "info"), ("py.warnings", "warning"), ("batchgen", "error"),
    ]  # fmt: skip
    assert "KeyError: '[redacted]'" in found[3]["exception"]


def test_after_the_log_is_closed_logging_is_as_before():
    before = (list(logging.getLogger().handlers), logging.getLogger("batchgen").level, warnings.showwarning)
    lines(ENDED)
    assert (list(logging.getLogger().handlers), logging.getLogger("batchgen").level, warnings.showwarning) == before


def test_the_time_a_lane_is_parked_until_is_in_utc():
    assert json.loads(lines(LaneParked(at=AT, model="m", until=AT, message=""))[0])["until"].endswith("02:40:00.500Z")


# --- the file


def log_to(path: Path) -> LogFile:
    return LogFile(str(path))


def test_a_file_is_appended_to_and_a_line_is_there_at_once(tmp_path):
    path = tmp_path / "run.log"
    path.write_text("before\n")
    file = log_to(path)
    file.write("é\n")
    assert path.read_text() == "before\né\n"
    file.close()


def test_a_file_that_was_torn_by_a_kill_goes_on_with_a_line_of_its_own(tmp_path):
    path = tmp_path / "run.log"
    path.write_text('{"half')
    file = log_to(path)
    file.write("a\n")
    file.write("b\n")
    assert path.read_text() == '{"half\na\nb\n'
    file.close()


@pytest.mark.skipif(os.name == "nt", reason="an open file cannot be renamed there")
def test_a_file_that_is_rotated_is_followed(tmp_path):
    path = tmp_path / "run.log"
    file = log_to(path)
    file.write("1\n")
    path.rename(tmp_path / "run.log.1")
    file.write("2\n")
    path.unlink()  # as when a person cleans up
    file.write("3\n")
    path.write_text("")  # copytruncate
    file.write("4\n")
    file.close()
    assert ((tmp_path / "run.log.1").read_text(), path.read_text(), file.lost_lines) == ("1\n", "4\n", 0)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="NOT TESTED: there is no /dev/full")
def test_a_full_disk_costs_lines_and_not_the_run():
    file = log_to(Path("/dev/full"))
    file.write("a\n")
    assert (file.lost_lines, file.loss_reason) == (1, "No space left on device")
    file.close()


def test_a_folder_that_vanishes_costs_nothing_while_the_file_is_open_and_is_used_again(tmp_path):
    (tmp_path / "logs").mkdir()
    path = tmp_path / "logs" / "run.log"
    file = log_to(path)
    (tmp_path / "logs").rename(tmp_path / "away")
    file.write("1\n")
    (tmp_path / "logs").mkdir()
    file.write("2\n")
    file.close()
    assert ((tmp_path / "logs" / "run.log").read_text(), file.lost_lines) == ("2\n", 1)


def test_a_file_that_cannot_be_written_to_is_an_error_with_its_name(tmp_path):
    with pytest.raises(UsageError, match=r"--log-file .*nowhere/run\.log: No such file"):
        log_to(tmp_path / "nowhere" / "run.log")
