"""Help of every command: one layout, whoever asks for it and how, and nothing wider than a terminal of 80 columns."""

from __future__ import annotations

import re

import pytest

from batchgen.cli.main import cli
from batchgen.sanitize import display_width

COMMANDS = list(cli.commands)


@pytest.fixture(autouse=True)
def _eighty_columns(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")


@pytest.mark.parametrize("name", ["", *COMMANDS])
def test_help_has_one_layout_within_eighty_columns(batchgen, name):
    answer = batchgen(*name.split(), "--help")
    lines = answer.out.splitlines()
    assert (answer.code, answer.err) == (0, "")
    assert [line for line in lines if display_width(line) > 80 or "\\n" in line] == []
    assert lines[0].startswith(f"Usage: batchgen {name}".rstrip() + " ")
    assert "Options:" in lines
    assert re.search(r"-h, --help +Show this message and exit\.", answer.out)
    assert "INTEGER" not in answer.out
    assert " TEXT" not in answer.out
    assert "<=" not in answer.out


@pytest.mark.parametrize("name", COMMANDS)
def test_help_is_the_same_by_its_short_option_and_by_the_command_help(batchgen, name):
    shown = batchgen(name, "--help").out
    assert batchgen(name, "-h").out == shown
    assert batchgen("help", name).out.startswith(shown)


@pytest.mark.parametrize("name", ["models", "schedule"])
def test_help_shows_the_page_of_the_same_name_after_the_options(batchgen, name):
    _, options, page = batchgen("help", name).out.partition("Show this message and exit.")
    assert (bool(options), page.lstrip().startswith("# ")) == (True, True)


def test_without_a_command_the_help_comes_in_lines_on_stderr(batchgen):
    bare, asked = batchgen(), batchgen("--help")
    assert (bare.code, bare.out, bare.err) == (2, "", asked.out)


def test_a_missing_option_lists_its_values_in_a_sentence(batchgen, write):
    answer = batchgen("schedule", str(write({"a": "A mug"})))
    assert answer.code == 2
    assert answer.err.splitlines() == [
        "Missing option '--as'. Choose from: systemd, cron, launchd, kubernetes, github",
        "Try: batchgen schedule --help",
    ]
