"""`--engine batch` and `auto` at the command line: what is shown, what is left for later, how one leaves."""

from __future__ import annotations

import json
import os
from urllib.request import Request, urlopen

import jsonschema
import pytest

from batchgen.report.log_events import log_schema
from tests.support.command_line import until
from tests.support.marked_key import KEY

MUGS = {"mug": "A mug", "jug": "A jug"}
QUICK = ("--batch-pending", "0", "--batch-running", "0.3")


@pytest.fixture
def submitted(batchgen, emulator, write):
    """A job whose two pictures lie in a batch that is done in a moment."""
    emulator(*QUICK)
    path = write(MUGS)
    answer = batchgen("run", str(path), "--engine", "batch", "--no-wait", "--json")
    assert answer.code == 9, answer.err
    return path, answer


def all_ended() -> bool:
    """Whether the vendor has answered what it was given."""
    request = Request(os.environ["BATCHGEN_GEMINI_BASE_URL"] + "/v1beta/batches", headers={"x-goog-api-key": KEY})  # noqa: S310
    with urlopen(request) as answer:  # noqa: S310 - loopback
        return all(each.get("done") for each in json.load(answer)["operations"])


def test_what_was_submitted_is_told_and_how_to_collect_it(batchgen, submitted):
    path, answer = submitted
    facts = answer.json
    assert (facts["images"]["made"], facts["batches"]["submitted"], facts["samples"]) == (0, 2, {"submitted": 2})
    assert facts["next"][0].startswith("batchgen run job.yaml --engine batch collects")
    status = batchgen("status", str(path)).out
    assert "submitted" in status and "of 2 requests answered" in status and "2 with the vendor" in status


def test_status_collects_without_asking_for_anything(batchgen, submitted):
    path, _ = submitted
    until(all_ended)
    path.write_text(path.read_text() + "  - {id: new, prompt: A vase}\n")
    answer = batchgen("status", str(path), "--collect", "--json")
    assert (answer.code, answer.json["samples"], answer.json["batches"]) == (0, {"succeeded": 2}, [])


def test_any_later_run_collects_and_says_what_was_saved(batchgen, submitted):
    path, _ = submitted
    answer = batchgen("run", str(path), "--engine", "batch", "--yes")
    assert answer.code == 0, answer.err
    assert (
        "collected: 2 images" in answer.err and "saved" in answer.err and "all done: 2 of 2 images made" in answer.err
    )


def test_later_ok_takes_batches_that_are_out_for_no_failure(batchgen, emulator, write):
    emulator("--batch-running", "60")
    answer = batchgen("run", str(write(MUGS)), "--engine", "auto", "--no-wait", "--later-ok")
    assert answer.code == 0, answer.err


def test_plan_says_which_way_and_why_with_both_prices(batchgen, write):
    path = write(MUGS)
    path.write_text(path.read_text() + "  - {id: room, turns: [A room, Calmer]}\n")
    shown = batchgen("plan", str(path), "--engine", "auto")
    assert "3 images by batch, $0.058" in shown.out
    assert "1 online: a turn after the first needs the answer before it" in shown.out
    assert "all online: $0.157" in shown.out
    found = batchgen("plan", str(path), "--engine", "auto", "--json").json
    each = {step["id"]: step["usd"] for step in found["steps"]}
    twice = 2 * (each["mug"] + each["jug"] + each["room-t1"])
    assert found["usd"] == pytest.approx(sum(each.values()), abs=2e-6)
    assert found["all_online"]["usd"] == pytest.approx(twice + each["room-t2"], abs=4e-6)


def test_what_no_batch_can_have_is_an_error_that_names_the_way_out(batchgen, write):
    path = write({})
    path.write_text("items:\n  - {id: room, turns: [A room, Calmer]}\n")
    for command in ("plan", "run"):
        answer = batchgen(command, str(path), "--engine", "batch", "--output", "elsewhere")
        assert (answer.code, "room-t2" in answer.err, "--engine auto" in answer.err) == (2, True, True)


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--fallback-at", "06:00"], "--fallback-at is about batches"),
        (["--batch-size", "9"], "--batch-size is about batches"),
        (["--engine", "auto", "--no-wait", "--fallback-at", "06:00"], "leave --no-wait out"),
    ],
)
def test_options_that_contradict_each_other_are_refused(batchgen, write, argv, words):
    answer = batchgen("run", str(write(MUGS)), *argv)
    assert (answer.code, words in answer.err) == (2, True)


def test_each_line_of_the_log_is_as_the_schema_says(batchgen, emulator, write):
    emulator(*QUICK)
    answer = batchgen("run", str(write(MUGS)), "--engine", "batch", "--batch-size", "1", "--log-format", "json")
    lines = [json.loads(line) for line in answer.err.splitlines()]
    valid = jsonschema.Draft202012Validator(log_schema())
    for line in lines:
        valid.validate(line)
    names = [line["event"] for line in lines]
    assert (names.count("batch.submitted"), names.count("batch.collected")) == (2, 2)


def test_a_schedule_hands_its_engine_to_the_unit(batchgen, write):
    path = write(MUGS, head='schedule: {at: "01:30", engine: auto}\n')
    assert "--engine auto" in batchgen("schedule", str(path), "--as", "systemd").out
