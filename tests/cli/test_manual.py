"""Every command line in README and manual: it runs, or where it would serve, install or need a server, its options exist."""

from __future__ import annotations

import contextlib
import io
import re
import shlex

import click
import pytest

from batchgen.cli.main import cli
from batchgen.cli.printed import show_page, titles
from batchgen.report.console import Console
from tests.docs.pages import PAGES, README, blocks, page
from tests.support.marked_key import KEY

# What would not end by itself, would change this machine, or needs a server that other tests have.
ONLY_READ = re.compile(
    r"^(serve|worker|cancel|emulate|mcp)\b|^daemon(?! --list)|--install|--engine cluster|s3://|/var/lib|--notify|--online|--live|--quota|--revoke"
)
COMMANDS = {
    line: path.stem
    for path in PAGES
    for language in ("console", "sh")
    for block in blocks(path.read_text(encoding="utf-8"), language)
    for line in re.findall(r"^(?:\$ )?batchgen ([^#\n]*[^#\s])", block, re.MULTILINE)
}
INLINE = {line for path in PAGES for line in re.findall(r"`batchgen ([a-z][^`]*)`", path.read_text(encoding="utf-8"))}
CATALOG = """
items:
  - {id: mug-hero, prompt: A mug}
  - {id: mug-winter, prompt: A mug in snow}
"""


def parsed(line: str) -> None:
    words = shlex.split(line)
    with click.Context(cli) as context:
        command = cli.get_command(context, words[0])
        assert command is not None
        if words[0] != "emulate":  # its options are the emulator's
            command.make_context(words[0], words[1:], parent=context)


@pytest.mark.parametrize("line", [line for line in COMMANDS if ONLY_READ.search(line)])
def test_a_command_that_is_not_run_here_has_the_options_that_the_manual_gives_it(line):
    parsed(line)


@pytest.mark.parametrize("line", sorted(INLINE))
def test_a_command_in_a_sentence_has_the_options_that_the_manual_gives_it(line):
    with contextlib.suppress(click.MissingParameter):  # a sentence may leave out which job
        parsed(line)


@pytest.fixture
def here(tmp_path, emulator, monkeypatch):
    emulator("--latency", "0-0", "--rpm", "0", "--batch-pending", "0", "--batch-running", "0")
    monkeypatch.setenv("GEMINI_API_KEY", KEY)
    (tmp_path / "catalog.yaml").write_text(CATALOG)
    (tmp_path / "my.yaml").write_text(CATALOG)
    (tmp_path / "catalog-picks.json").write_text('{"picked": []}')


def test_every_other_command_of_the_manual_runs(here, batchgen, tmp_path):
    ran = [line for line in COMMANDS if not ONLY_READ.search(line)]
    assert len(ran) > 20
    ends = {}
    for line in sorted(ran, key=lambda line: not line.startswith("run ")):  # the others look at what was made
        if line.startswith("init"):
            (tmp_path / "my.yaml").unlink()
        answer = batchgen(*shlex.split(line), *(["--yes"] if line.startswith(("run", "retry")) else []))
        if answer.code not in ((0, 9) if "--no-wait" in line else (0,)):
            ends[line] = (answer.code, answer.err)
    assert ends == {}


def test_help_lists_the_pages_and_shows_one(batchgen):
    listed = batchgen("help").out
    assert [line.split()[0] for line in listed.splitlines()] == list(titles())
    assert "Quotas and budgets" in listed
    assert batchgen("help", "quotas").out.startswith("# Quotas and budgets")


def test_at_a_terminal_a_page_is_laid_out_and_goes_into_the_pager(monkeypatch):
    paged, out = [], Console(io.StringIO(), {"NO_COLOR": "1"})
    out.tty = True
    monkeypatch.setattr(click, "echo_via_pager", lambda text, color: paged.append(text))
    show_page(out, page("exit-codes"))
    assert "exit code" in paged[0] and "|" not in paged[0] and "\x1b" not in paged[0]
    assert max(map(len, paged[0].splitlines())) <= 100


def test_help_shows_the_options_of_a_command(batchgen):
    answer = batchgen("help", "run")
    assert (answer.code, answer.out) == (0, batchgen("run", "--help").out)


def test_help_of_something_unknown_says_where_to_look(batchgen):
    answer = batchgen("help", "qotas")
    assert answer.code == 2
    assert "`batchgen help` lists the pages" in answer.err


def test_the_readme_has_five_commands():
    assert len(re.findall(r"^\$ batchgen ", README.read_text(encoding="utf-8"), re.MULTILINE)) == 5
