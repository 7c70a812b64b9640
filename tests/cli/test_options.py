"""How option values are read, what each command does with them, and which folder a JOB means."""

from __future__ import annotations

import inspect
import time
from dataclasses import fields, is_dataclass
from importlib import import_module

import click
import pytest

from batchgen.cli.job_folder import head_fields, manifest_folder
from batchgen.cli.main import cli
from batchgen.cli.options import next_local_time, read_deadline, read_duration, read_retry_states
from batchgen.cli.run_arguments import RunArguments

CONTEXT = click.Context(click.Command("x"))
OPTION = click.Option(["--x"])
GIVEN = {"output": None, "only": (), "limit": None, "concurrency": None, "max_cost": None, "engine": "online"}


def arguments(**options: object) -> RunArguments:
    return RunArguments(**GIVEN, as_json=False, **options)


@pytest.mark.parametrize("command", cli.commands.values(), ids=list(cli.commands))
def test_what_a_command_does_takes_exactly_what_its_options_give(command):
    module, function = command.body
    given = {param.name for param in command.params if param.expose_value}
    taken = list(inspect.signature(getattr(import_module(module), function)).parameters.values())
    named = {parameter.name for parameter in taken[1:] if parameter.kind is not parameter.VAR_KEYWORD}
    assert (taken[0].name, named - given) == ("invocation", set())
    if given - named:  # the others make one record
        records = [found for _, found in inspect.getmembers(import_module(module), is_dataclass)]
        assert taken[-1].kind is taken[-1].VAR_KEYWORD
        assert given - named <= {field.name for record in records for field in fields(record)}


PATHS = [
    (name, option.opts[-1])
    for name, command in cli.commands.items()
    for option in command.params
    if isinstance(option, click.Option) and isinstance(option.type, click.Path)
]


@pytest.mark.parametrize(("command", "option"), PATHS)
def test_an_empty_path_as_an_unset_variable_leaves_it_is_refused(batchgen, command, option):
    answer = batchgen(command, option, "")
    assert (answer.code, "is empty: give a path" in answer.err) == (2, True), answer.err


@pytest.mark.parametrize(
    ("output", "why"), [("job.yaml", "a file stands where a folder should be"), ("x" * 300, "the path is too long")]
)
def test_an_output_that_cannot_be_a_folder_is_said_to_be_that(batchgen, write, output, why):
    answer = batchgen("run", str(write({"a": "A mug"})), "--emulate", "-o", output)
    assert (answer.code, why in answer.err, "does not say" in answer.err) == (5, True, False), answer.err


@pytest.mark.parametrize("command", ["status", "verify", "export"])
def test_a_file_in_place_of_the_job_s_folder_is_called_one(batchgen, write, command):
    manifest = str(write({"a": "A mug"}))
    answer = batchgen(command, manifest, "--output", manifest)
    assert (answer.code, "is a file; name the job's folder" in answer.err) == (2, True), answer.err


def test_no_state_to_retry_is_quoted_as_it_was_written(batchgen, write):
    answer = batchgen("run", str(write({"a": "A mug"})), "--emulate", "--retry", ",")
    assert (answer.code, "',': choose from failed" in answer.err) == (2, True), answer.err


@pytest.mark.parametrize("usd", ["nan", "inf", "1e999"])
def test_a_cap_that_caps_nothing_is_refused(batchgen, write, usd):
    answer = batchgen("run", str(write({"a": "A mug"})), "--emulate", "--max-cost", usd)
    assert (answer.code, "'--max-cost'" in answer.err) == (2, True), answer.err


@pytest.mark.parametrize(("text", "seconds"), [
    ("4h", 14400), ("90m", 5400), ("90min", 5400), ("1h30m", 5400), ("45s", 45), ("2d", 172800), ("0.5h", 1800), ("1H 5M", 3900),
])  # fmt: skip
def test_a_duration_is_read(text, seconds):
    assert read_duration(CONTEXT, OPTION, text) == seconds


@pytest.mark.parametrize("text", ["4", "h", "", "4x", "30m1h", "-4h", "0s"])
def test_what_is_no_duration_is_refused(text):
    with pytest.raises(click.BadParameter):
        read_duration(CONTEXT, OPTION, text)


@pytest.mark.parametrize("text", ["24:00", "6", "06:60", "six", "06:00:00"])
def test_what_is_no_time_of_day_is_refused(text):
    with pytest.raises(click.BadParameter):
        read_deadline(CONTEXT, OPTION, text)


@pytest.fixture
def berlin(monkeypatch):
    monkeypatch.setenv("TZ", "Europe/Berlin")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.mark.usefixtures("berlin")
@pytest.mark.parametrize(("now", "then"), [
    ("2026-11-21T01:30", "2026-11-21T06:00"), ("2026-11-21T06:00", "2026-11-22T06:00"), ("2026-11-21T23:00", "2026-11-22T06:00"),
    ("2026-12-31T22:00", "2027-01-01T06:00"), ("2026-10-24T22:00", "2026-10-25T06:00"), ("2026-03-28T22:00", "2026-03-29T06:00"),
])  # fmt: skip
def test_until_is_the_next_time_the_clock_on_the_wall_shows_it(now, then):
    form = "%Y-%m-%dT%H:%M"
    at = next_local_time(6, 0, time.mktime(time.strptime(now, form)))
    assert time.strftime(form, time.localtime(at)) == then


def test_the_earlier_of_two_deadlines_holds():
    given = [(100.0, 50.0), (60.0, 50.0), (None, None)]
    assert [arguments(until=at, max_duration=s).deadline(20.0) for at, s in given] == [70.0, 60.0, None]


@pytest.mark.parametrize(
    ("text", "states"), [("none", set()), ("failed", {"failed"}), ("failed, refused", {"failed", "refused"})]
)
def test_states_are_read(text, states):
    assert read_retry_states(CONTEXT, OPTION, text) == states


@pytest.mark.parametrize("text", ["", "succeeded", "failed,none"])
def test_what_is_no_state_is_refused(text):
    with pytest.raises(click.BadParameter):
        read_retry_states(CONTEXT, OPTION, text)


def test_holding_leaves_uncertain_samples_out_unless_they_are_named():
    held = [arguments(on_uncertain="hold", retry_states=states) for states in (None, frozenset({"uncertain"}))]
    assert [each.retry_selection.states for each in held] == [{"failed"}, {"uncertain"}]


@pytest.mark.parametrize(("head", "folder"), [
    ("", "job"), ("name: shop\n", "shop"), ("name: 'shop'  # mine\n", "shop"), ('output: "../x"\n', "../x"), ("output: a b # c\n", "a b"),
    ("items:\n  - {name: x}\n  - id: y\n    output: z\n", "job"), ("# name: x\n", "job"), ("name: shop\noutput: here\n", "here"),
    ("name: shop\r\n", "shop"),
])  # fmt: skip
def test_the_folder_is_found_in_the_head_of_a_yaml_manifest(tmp_path, head, folder):
    path = tmp_path / "sub" / "job.yaml"
    path.parent.mkdir()
    path.write_bytes(f"version: 1\n{head}".encode())
    assert manifest_folder(path).resolve() == (path.parent / folder).resolve()


def test_the_folder_is_found_in_the_first_line_of_a_jsonl_manifest(tmp_path):
    path = tmp_path / "job.jsonl"
    path.write_text('\n{"version": 1, "name": "shop"}\n{"id": "a", "prompt": "x", "name": "y"}\n')
    assert head_fields(path) == {"name": "shop"}


@pytest.mark.parametrize("data", [b"\xff\xfe", b"[" * 100_000, b"{", b""])
def test_a_manifest_that_cannot_be_read_has_no_head(tmp_path, data):
    path = tmp_path / "job.jsonl"
    path.write_bytes(data)
    assert head_fields(path) == {}
