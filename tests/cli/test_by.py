"""`--by` at the command line: what its value may be, and what `plan` says of the ways, at 80 columns too."""

from __future__ import annotations

import json
import re
import time
from datetime import datetime

import click
import pytest

from batchgen.cli.daemon import run_command
from batchgen.cli.options import next_local_time, read_by
from batchgen.daemon.scheduled_jobs import ScheduledJobs
from batchgen.report.console import display_width
from batchgen.schedule.due import DueRun
from tests.cli.test_terminal import at_terminal, lines_of  # noqa: F401

CONTEXT, OPTION = click.Context(click.Command("x")), click.Option(["--by"])
MUGS = {f"mug-{number}": "A mug" for number in range(40)}
TURNS = "  - {id: room, model: pro, turns: [A room, Calmer]}\n  - {id: fox, model: imagen-4.0-generate-001, prompt: A fox}\n"


def test_it_takes_a_time_of_day_a_duration_or_a_moment():
    now = time.time()
    assert read_by(CONTEXT, OPTION, "06:00") == next_local_time(6, 0, now)
    assert read_by(CONTEXT, OPTION, "8h") == pytest.approx(now + 8 * 3600, abs=5)
    local = datetime(2099, 1, 2, 6, 0).timestamp()  # noqa: DTZ001 - as it is typed
    assert read_by(CONTEXT, OPTION, "2099-01-02T06:00") == local
    assert read_by(CONTEXT, OPTION, "2099-01-02T06:00+00:00") == 4071016800.0
    assert read_by(CONTEXT, OPTION, None) is None


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("soon", "is not a time; write 06:00, 8h or 2026-12-01T06:00"),
        ("2020-01-01T06:00", "2020-01-01T06:00 has passed"),
    ],
)
def test_what_is_no_time_to_come_is_an_error(text, complaint):
    with pytest.raises(click.BadParameter, match=re.escape(complaint)):
        read_by(CONTEXT, OPTION, text)


@pytest.fixture
def manifest(write):
    path = write(MUGS)
    path.write_text(path.read_text() + TURNS)
    return str(path)


def test_plan_says_how_many_go_which_way_and_why_and_what_more_time_would_save(batchgen, manifest):
    shown = batchgen("plan", manifest, "--emulate", "--by", "50m").out
    assert re.search(r"by     .*, \d\d min( \d\d s)? from now: all in time, the last by about ", shown)
    assert re.search(r"gemini-nano-banana-2.1: \d+ images by flex, \$0.\d+, by .*: batch is too slow\n", shown)
    assert re.search(r"\d+ images? online, .*: batch is too slow; flex has no room for more\n", shown)
    assert "imagen-4.0-generate-001: 1 image online, $0.04" in shown and ": the cheapest\n" in shown
    assert "takes  flex within 15 min: the vendor's aim, not measured yet\n" in shown
    assert re.search(r"more   an hour more would save \$0.\d+; a day more would save \$0.\d+; --concurrency 10 ", shown)
    assert "else   all online: $" in shown


def test_plan_says_what_will_be_late(batchgen, manifest):
    shown = batchgen("plan", manifest, "--emulate", "--by", "60s").out
    assert re.search(r"by     .* from now: \d+ images will probably be late; none starts after that time\n", shown)
    assert ", late: no way is in time, and this is the fastest\n" in shown
    assert re.search(r"more   an hour more would bring \d+ more images in time", shown)


def test_each_row_of_the_table_says_its_way(batchgen, manifest):
    shown = batchgen("plan", manifest, "--emulate", "--by", "26h", "--all").out
    rows = {
        line.split()[0]: line.split()[2] for line in shown.splitlines() if line.startswith(("mug", "room", "fox", "id"))
    }
    assert (rows["id"], rows["mug-1"], rows["room-t1"], rows["fox"]) == ("way", "batch", "flex", "online")


def test_the_json_has_the_same(batchgen, manifest):
    found = batchgen("plan", manifest, "--emulate", "--by", "26h", "--json").json
    assert {step["id"]: step["way"] for step in found["steps"]}["mug-1"] == "batch"
    by = found["by"]
    assert {(each["way"], each["model"], each["images"]) for each in by["ways"]} == {
        ("batch", "gemini-nano-banana-2.1", 40),
        ("flex", "gemini-3-pro-image", 2),
        ("online", "imagen-4.0-generate-001", 1),
    }
    assert by["late_images"] == 0 and by["more_time"]["hour"] == {"saved_usd": 0.0, "images_in_time": 0}
    assert all(each["ends_at"] <= by["at"] and not each["late"] for each in by["ways"])
    (batch,) = [each for each in by["ways"] if each["way"] == "batch"]
    assert batch["latency"] == {"seconds": 86400.0, "basis": "documented", "measured": 0} and batch["passed"] == []
    assert found["usd"] == pytest.approx(sum(each["usd"] for each in by["ways"]), abs=0.001)
    assert batchgen("plan", manifest, "--emulate", "--json").json["by"] is None


def test_a_price_that_nobody_knows_stays_unknown(batchgen, write):
    path = str(write({"mug": "A mug"}, head="defaults: {model: gemini-9-new-image}\n"))
    (way,) = batchgen("plan", path, "--by", "2h", "--json").json["by"]["ways"]
    assert (way["usd"], way["known_usd"], way["latency"]["basis"]) == (None, 0.0, "guess")
    assert "unknown (1 request of unknown price)" in batchgen("plan", path, "--by", "2h").out


def test_plan_fits_a_terminal(at_terminal, manifest):  # noqa: F811
    code, text = at_terminal(80, "plan", manifest, "--emulate", "--by", "90m", out=True, NO_COLOR="1")
    lines = lines_of(text)
    assert (code, max(map(display_width, lines)) <= 80) == (0, True)
    labels = {
        line[:7].strip() for line in lines[lines.index(next(line for line in lines if line.startswith("cost"))) :]
    }
    assert labels == {"cost", "by", "way", "takes", "more", "else", ""}


def test_a_run_with_a_budget_begins_nothing_beyond_it(batchgen, manifest):
    answer = batchgen("run", manifest, "--emulate", "--by", "5m", "--max-cost", "0.2", "--json")
    assert (answer.code, json.loads(answer.out)["stopped_by"]) == (6, "budget")


@pytest.mark.parametrize("engine", ["batch", "cluster"])
def test_an_engine_that_leaves_no_choice_is_refused(batchgen, manifest, engine):
    answer = batchgen("plan", manifest, "--emulate", "--by", "5m", "--engine", engine)
    assert (answer.code, f"leave --engine {engine} out" in answer.err) == (2, True)


@pytest.mark.parametrize(("schedule", "words"), [("22:00", "480m --by 06:00"), ("23:30", "390m --by 06:00")])
def test_the_daemon_passes_it_on_and_a_night_that_is_made_up_for_lasts_no_longer(write, tmp_path, schedule, words):
    at = f"schedule: {{at: '{schedule}', by: '06:00', timezone: UTC}}\n"
    jobs = ScheduledJobs((str(write({"a": "A mug"}, head=at)),), tmp_path / "state", persistent=False)
    jobs.reload(0.0)
    (job,) = jobs.jobs.values()
    jobs.close()
    hours, minutes = schedule.split(":")
    command, _ = run_command(
        job, DueRun(3600.0 * int(hours) + 60.0 * int(minutes), "due"), emulate=False, log_format="text"
    )
    assert f"--max-duration {words} " in f"{' '.join(command)} "
