"""The morning after: the summary as a page, and the nights of many jobs at one glance."""

from __future__ import annotations

import re
import sqlite3

import pytest

from batchgen.ledger.schema import ledger_path
from batchgen.sanitize import escape_markdown

REFUSED = "x [[fault:safety]]"


# --- --summary


def test_the_summary_is_appended_as_markdown(batchgen, write, tmp_path):
    page = tmp_path / "page.md"
    page.write_text("before\n")
    batchgen("run", str(write({"mug": "A mug", "bad": REFUSED})), "--emulate", "--summary", str(page))
    text = page.read_text()
    assert text.startswith("before\n### job: 1 of 2 images made; 1 refused\n")
    assert "| images | 1 made · 0 kept · 1 refused |" in text
    assert "that a vendor would have charged |" in text
    for label in ("why", "newest", "next"):
        assert f"\n**{label}**\n\n- " in text
    assert "- mug.jpg" in text


def test_a_run_that_could_not_begin_is_on_the_page_too(batchgen, write, tmp_path):
    manifest, page = write({"mug": "A mug"}, head="nonsense: 1\n"), tmp_path / "page.md"
    assert batchgen("run", str(manifest), "--summary", str(page)).code == 2
    assert page.read_text().startswith("### job: ended by an error\n\n- ")
    assert "nonsense: unknown field" in page.read_text()


def test_a_page_that_cannot_be_written_changes_no_exit_code(batchgen, write, tmp_path):
    answer = batchgen("run", str(write({"mug": "A mug"})), "--emulate", "--summary", str(tmp_path))
    assert (answer.code, "the summary was not written" in answer.err) == (0, True)


@pytest.mark.parametrize(
    "text", ["<script>alert(1)</script>", "![x](http://a/b)", "a | b", "`rm`", "**x**", "# x", "- x"]
)
def test_foreign_words_never_become_markup(text):
    shown = escape_markdown(text)
    assert "<" not in shown
    for mark in "`*[]|#!":
        assert shown.count(f"\\{mark}") == shown.count(mark)
    assert not shown.startswith("- ")


# --- history


def test_history_has_a_line_for_each_run_the_newest_first(batchgen, write):
    manifest = str(write({"mug": "A mug", "bad": REFUSED}))
    for argv in ((), ("--retry", "refused")):
        batchgen("run", manifest, "--emulate", *argv)
    first, second = reversed(batchgen("history", manifest, "--json").json)
    assert (first["run"], first["made"], first["not_made"], first["exit_code"]) == (1, 1, {"refused": 1}, 3)
    assert (second["run"], second["made"], second["not_made"], second["exit_code"]) == (2, 0, {"refused": 1}, 4)
    assert first["usd"]["spent"] > 0
    lines = batchgen("history", manifest).out.splitlines()
    assert [line.split()[-2:] for line in lines[1:]] == [["exit", "4"], ["exit", "3"]]


def test_history_counts_a_sample_by_its_last_request(batchgen, write):
    manifest = str(write({"slow": "x [[fault:503*1]]"}))
    batchgen("run", manifest, "--emulate")
    (run,) = batchgen("history", manifest, "--json").json
    assert (run["made"], run["not_made"]) == (1, {})


def test_history_finds_the_jobs_here_and_in_jobs(batchgen, write, tmp_path):
    (tmp_path / "jobs").mkdir()
    for name in ("a.yaml", "jobs/b.yaml", "never.yaml"):
        manifest = str(write({"mug": "A mug"}, name=name))
        if name != "never.yaml":
            batchgen("run", manifest, "--emulate")
    assert [run["job"] for run in batchgen("history", "--json").json] == ["b", "a"]
    assert len(batchgen("history", "--last", "1", "--json").json) == 1
    assert [run["job"] for run in batchgen("history", str(tmp_path / "jobs"), "--json").json] == ["b"]


def test_history_of_nothing_says_what_to_name(batchgen):
    answer = batchgen("history")
    assert (answer.code, "name a manifest" in answer.err) == (2, True)


def test_history_says_of_a_run_without_an_end_that_it_died(batchgen, write):
    manifest = write({"mug": "A mug"})
    batchgen("run", str(manifest), "--emulate")
    with sqlite3.connect(ledger_path(manifest.with_name("job.emulated"))) as db:
        db.execute("UPDATE run SET ended_at = NULL, exit_code = NULL")
    db.close()
    assert batchgen("history", str(manifest)).out.splitlines()[1].endswith("died")


def test_history_shows_the_other_jobs_when_one_cannot_be_read(batchgen, write, tmp_path):
    for name in ("bad", "job"):
        batchgen("run", str(write({"mug": "A mug"}, name=f"{name}.yaml")), "--emulate")
    with sqlite3.connect(ledger_path(tmp_path / "bad.emulated")) as db:
        db.execute("PRAGMA user_version = 99")
    db.close()
    answer = batchgen("history", str(tmp_path))
    assert (answer.code, answer.out.count("\n"), " job (emulated) " in answer.out) == (5, 2, True)
    assert ("bad.emulated" in answer.err, "another version" in answer.err) == (True, True)


# --- status --watch


def test_a_watch_without_a_terminal_is_a_line_and_ends_with_the_run(batchgen, write):
    manifest = str(write({"mug": "A mug"}))
    batchgen("run", manifest, "--emulate")
    answer = batchgen("status", manifest, "--watch")
    assert (answer.code, bool(re.match(r"1 of 1 image made; \$0\.0\d+; run 1 ended ", answer.out))) == (0, True)
    assert (answer.out.count("\n"), "\x1b" in answer.out) == (1, False)


def test_a_watch_has_no_json(batchgen, write):
    assert batchgen("status", "job", "--watch", "--json").code == 2
