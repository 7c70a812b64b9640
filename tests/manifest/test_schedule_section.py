"""`schedule:` in a manifest's head: what it may say, what is said about the rest, and what it never changes."""

from __future__ import annotations

import pytest

from batchgen.manifest import json_schema, open_manifest
from batchgen.planning.fingerprint import fingerprint, wire_facts
from batchgen.schedule.timer_spec import TimeOfDay

ITEMS = "\nitems: [{id: a, prompt: p}]"


def read(folder, head: str):
    return open_manifest(folder.write(f"schedule: {head}{ITEMS}")).schedule


@pytest.mark.parametrize(("head", "told"), [
    ("'01:30'", (TimeOfDay(1, 30), ())), ("01:30", (TimeOfDay(1, 30), ())),
    ("{at: '1:30', days: Mon-Tue}", (TimeOfDay(1, 30), ("mon", "tue"))),
    ("{cron: '30 1 * * 1'}", (TimeOfDay(1, 30), ("mon",))), ("{cron: '*/30 * * * *'}", None),
])  # fmt: skip
def test_a_time_of_day_alone_is_enough_and_a_crontabs_line_will_do(folder, head, told):
    assert read(folder, head).cadence.once_a_day == told


def test_a_missed_night_is_made_up_for_within_a_day_unless_it_says_otherwise(folder):
    heads = ("'1:30'", "{at: '1:30', catch_up: 90m}", "{at: '1:30', catch_up: none}")
    assert [read(folder, head).catch_up_s for head in heads] == [86400.0, 5400.0, 0.0]


def test_jsonl_has_it_in_its_first_line(folder):
    path = folder.write('{"version": 1, "schedule": {"at": "01:30"}}\n{"id": "a", "prompt": "p"}\n', "job.jsonl")
    assert open_manifest(path).schedule.at == "01:30"


@pytest.mark.parametrize(("head", "complaint"), [
    ("'25:00'", "1:1: schedule.at: must be a time of day such as 01:30, not '25:00'"),
    ("90", "1:1: schedule: must be a time of day such as \"01:30\", or a mapping with at or cron, not the number 90"),
    ("{}", "1:1: schedule: needs at, such as 01:30, or cron, and not both"),
    ("{at: '1:30', cron: '* * * * *'}", "1:1: schedule: needs at, such as 01:30, or cron, and not both"),
    ("{cron: '* * * * *', days: mon}", "1:1: schedule: the days stand in cron already: leave days out"),
    ("{att: '1:30', at: '1:30'}", "1:12: schedule.att: unknown field (did you mean 'at'?)"),
    ("{at: '1:30', days: someday}", "1:24: schedule.days: must be days such as mon-fri or mon,thu, not 'someday'"),
    ("{at: '1:30', timezone: Europe/Berln}",
     "1:24: schedule.timezone: must be a time zone such as Europe/Berlin, not 'Europe/Berln' (did you mean 'Europe/Berlin'?)"),
    ("{at: '1:30', timezone: ../../etc/passwd}", "schedule.timezone: must be a time zone such as Europe/Berlin"),
    ("{at: '1:30', until: six}", "1:24: schedule.until: must be a time of day such as 01:30, not 'six'"),
    ("{at: '1:30', by: '6:00', engine: batch}",
     "1:1: schedule: by chooses between batches and single requests itself: leave engine: batch out"),
    ("{at: '1:30', catch_up: 4}", "1:24: schedule.catch_up: must be text, not the number 4; put it in quotes"),
    ("{at: '1:30', catch_up: soon}", "1:24: schedule.catch_up: must be a duration such as 4h, 90m or 1h30m, not 'soon'"),
    ("{at: '1:30', max_cost: 0}", "1:24: schedule.max_cost: must be more than 0, not the number 0"),
    ("{at: '1:30', later: rest}", "schedule.later: must be 'night' or 'reset', not 'rest' (did you mean 'reset'?)"),
    ("{cron: '61 * * * *'}", "1:12: schedule.cron: is not a line of a crontab: Bad minute in '61 * * * *'"),
])  # fmt: skip
def test_what_is_wrong_is_said_with_its_place(folder, head, complaint):
    assert complaint in folder.complaint(f"schedule: {head}{ITEMS}")


def test_on_an_item_it_is_told_where_it_belongs(folder):
    assert "belongs into the header" in folder.complaint("items: [{prompt: p, schedule: '01:30'}]")


def test_it_is_in_no_fingerprint(folder):
    with_it, without = folder.items(f"schedule: '01:30'{ITEMS}"), folder.items(ITEMS)
    assert [fingerprint(wire_facts(item)) for item in with_it] == [fingerprint(wire_facts(item)) for item in without]


def test_the_schema_for_editors_takes_both_forms():
    forms = json_schema()["properties"]["schedule"]["anyOf"]
    assert {"type": "string"} in forms and {"$ref": "#/$defs/Schedule"} in forms
    assert "timezone" in json_schema()["$defs"]["Schedule"]["properties"]
