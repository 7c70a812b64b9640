"""Manners of the command line: short options, several jobs at once, the manifest that is meant, and what `--output` is."""

from __future__ import annotations

import json
import re

import pytest

from batchgen.cli.command import WORST_FIRST, worst
from batchgen.cli.main import cli
from tests.docs.pages import page

MUG = {"mug": "A mug"}
BAD = {"bad": "x [[fault:safety]]"}


def options(command):
    return [param for param in command.params if param.param_type_name == "option"]


def long_of(param):
    return next(name for name in param.opts if name.startswith("--"))


def short_of(param):
    return next((name for name in param.opts if not name.startswith("--")), None)


# --- short options


def test_a_short_letter_means_one_thing_everywhere_and_an_option_that_has_one_has_it_everywhere():
    found = [(long_of(each), short_of(each)) for each in cli.params]
    found += [(long_of(each), short_of(each)) for command in cli.commands.values() for each in options(command)]
    letters = {(letter, name) for name, letter in found if letter}
    assert len(letters) == len({letter for letter, _ in letters})
    assert {name for name, letter in found if letter is None} & {name for _, name in letters} == set()
    assert letters >= {
        ("-n", "--dry-run"),
        ("-q", "--quiet"),
        ("-o", "--output"),
        ("-y", "--yes"),
        ("-j", "--concurrency"),
    }


def test_the_manuals_table_has_every_short_option():
    rows = re.findall(r"^\| `(-\w)` \| `(--[\w-]+)` ", page("options"), re.MULTILINE)
    found = {(short_of(each), long_of(each)) for command in cli.commands.values() for each in options(command)}
    found |= {(short_of(each), long_of(each)) for each in cli.params} | {("-h", "--help")}
    assert sorted(rows) == sorted((letter, name) for letter, name in found if letter)


@pytest.mark.parametrize("option", ["-v", "-V", "--version"])
def test_the_version_is_asked_for_as_people_do(batchgen, option):
    answer = batchgen(option)
    assert (answer.code, bool(re.fullmatch(r"batchgen \d+\.\S+\n", answer.out))) == (0, True)


# --- dry runs


def test_a_dry_run_says_what_plan_says_and_leaves_nothing(batchgen, write, tmp_path):
    manifest = str(write(MUG))
    dry = batchgen("run", manifest, "-n", "--emulate", "--summary", "page.md", "--log-file", "log")
    assert (dry.code, dry.out) == (0, batchgen("plan", manifest, "--emulate").out)
    assert "1 image to make" in dry.out
    assert [path.name for path in tmp_path.iterdir() if path.name != "log"] == ["job.yaml"]
    assert batchgen("run", manifest, "--dry-run", "--json").json["images"] == 1


def test_a_dry_run_of_a_wrong_manifest_ends_as_plan_does(batchgen, write):
    manifest = str(write(MUG, head="limit: {}\n"))
    assert (batchgen("run", manifest, "-n").code, batchgen("plan", manifest).code) == (2, 2)


def test_a_dry_retry_names_what_it_would_ask_for_and_sends_nothing(batchgen, write):
    manifest = str(write({**MUG, **BAD}))
    batchgen("run", manifest, "--emulate")
    before = batchgen("status", manifest, "--json").json["requests"]
    answer = batchgen("retry", manifest, "--refused", "-n", "--json")
    assert (answer.code, [step["id"] for step in answer.json["steps"] if step["action"] == "generate"]) == (0, ["bad"])
    assert batchgen("status", manifest, "--json").json["requests"] == before


def test_a_dry_post_counts_files_and_touches_none(batchgen, write, tmp_path):
    head = "post: [{name: web, format: webp, widths: [16]}, {name: thumb, format: png, width: 8}]\n"
    batchgen("run", str(write(MUG, head)), "--emulate", "-q")
    thumb = tmp_path / "job.emulated" / "derivatives" / "thumb" / "mug.png"
    thumb.unlink()
    manifest = str(write(MUG, "post: [{name: thumb, format: png, width: 8}]\n"))
    assert batchgen("post", manifest, "-n").out == "1 file to make, 1 to remove\n"
    assert batchgen("post", manifest, "-n", "--json").json == {
        "folder": str(tmp_path / "job.emulated"), "to_make": 1, "to_remove": 1
    }  # fmt: skip
    assert thumb.with_name("..").resolve().joinpath("web-16", "mug.webp").is_file()
    assert not thumb.exists()
    assert batchgen("post", manifest).err == "1 made · 1 no longer wanted, removed\n"
    assert batchgen("post", manifest, "-n").out == "0 files to make, 0 to remove\n"


# --- several jobs


@pytest.fixture
def two(write):
    return str(write(MUG, name="a.yaml")), str(write(BAD, name="b.yaml"))


def test_several_manifests_run_in_turn_and_the_worst_code_is_the_commands(batchgen, two, tmp_path):
    answer = batchgen("run", *two, "--emulate")
    assert answer.code == 4
    assert (
        answer.err.index("a.yaml (1 of 2):")
        < answer.err.index("images    1 made")
        < answer.err.index("b.yaml (2 of 2):")
    )
    assert {path.name for path in tmp_path.iterdir()} >= {"a.emulated", "b.emulated"}


def test_a_job_that_ends_badly_does_not_keep_the_next_from_running(batchgen, two):
    answers = batchgen("run", *reversed(two), "--emulate", "--json")
    assert answers.code == 4
    assert [(each["job"], each["exit_code"]) for each in json.loads(answers.out)] == [("b", 4), ("a", 0)]


def test_nothing_is_sent_while_one_of_them_has_a_mistake(batchgen, two, write, tmp_path):
    wrong = str(write(MUG, head="limit: {}\n", name="c.yaml"))
    answer = batchgen("run", *two, wrong, "--emulate")
    assert (answer.code, "c.yaml:2" in answer.err, "b.yaml (2 of" in answer.err) == (2, True, False)
    assert [path.name for path in tmp_path.iterdir() if path.is_dir() and path.name != "state"] == []


def test_the_other_commands_take_several_too(batchgen, two, tmp_path):
    batchgen("run", *two, "--emulate")
    assert [each["job"] for each in json.loads(batchgen("plan", *two, "--json").out)] == ["a", "b"]
    assert batchgen("validate", *two).out.splitlines()[::2] == [f"{path} ({n} of 2):" for n, path in enumerate(two, 1)]
    assert [each["job"] for each in json.loads(batchgen("status", *two, "--json").out)] == ["a", "b"]
    verified = batchgen("verify", *two, "--json")
    assert (verified.code, len(json.loads(verified.out))) == (0, 2)
    (tmp_path / "a.emulated" / "mug.jpg").unlink()
    assert batchgen("verify", *two).code == 3
    assert len(batchgen("report", *two).out.splitlines()) == 2
    assert batchgen("retry", *two, "--refused").code == 4
    assert batchgen("history", *two).out.count("\n") == 5


def test_an_error_of_one_stands_in_the_list_of_answers(batchgen, two):
    batchgen("run", two[0], "--emulate")
    answer = batchgen("status", *two, "--json")
    first, second = json.loads(answer.out)
    assert (answer.code, first["job"], second["error"]) == (5, "a", "LedgerError")


@pytest.mark.parametrize("argv", [
    ("run", "--output", "x"), ("plan", "-o", "x"), ("status", "--output", "x"), ("report", "--to", "x.html"),
    ("run", "--metrics-file", "x.prom"), ("status", "--watch"),
])  # fmt: skip
def test_an_option_that_is_for_one_job_is_refused_with_several(batchgen, two, argv, tmp_path):
    answer = batchgen(argv[0], *two, *argv[1:])
    assert (answer.code, "goes with one job, and 2 are named" in answer.err) == (2, True)
    assert not (tmp_path / "x").exists()


def test_every_exit_code_has_its_rank_and_an_unknown_one_is_the_worst():
    assert set(WORST_FIRST) >= {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 11, 129, 130, 141, 143}
    assert [worst(codes) for codes in ([0, 9], [6, 3], [3, 4, 5], [0, 77, 1], [4, 130])] == [9, 3, 5, 77, 130]
    ranks = re.search(r"^The worst of several.*?: (.+?)\.$", page("options"), re.MULTILINE)
    assert ranks is not None
    assert [int(code) for code in re.findall(r"\d+", ranks[1])] == list(WORST_FIRST)


def test_the_ledger_of_one_manifests_env_file_is_not_that_of_the_next(batchgen, write, tmp_path):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    first, second = (str(write(MUG, name=f"{name}/m.yaml")) for name in ("one", "two"))
    (tmp_path / "one" / ".env").write_text("BATCHGEN_LEDGER=postgresql://nobody@127.0.0.1:1/none\n")
    first_answer, second_answer = json.loads(batchgen("plan", first, second, "--json").out)
    assert (first_answer["error"], second_answer.get("images")) == ("LedgerError", 1)


# --- the manifest that is meant


def test_the_manifest_that_init_wrote_is_the_default(batchgen, tmp_path):
    batchgen("init")
    (tmp_path / "compose.yaml").write_text("services: {}\n")
    answer = batchgen("validate")
    assert (answer.code, answer.err, answer.out) == (
        0,
        "using batch.yaml, the only manifest here\n",
        "ok: 4 items, 4 samples\n",
    )
    batchgen("run", "--emulate", "-q")
    for command in ("plan", "status", "verify", "report", "export"):
        assert "using batch.yaml" in batchgen(command).err


def test_without_a_manifest_the_error_lists_what_there_is(batchgen, two, tmp_path):
    assert batchgen("run").err.startswith("which manifest? Here are a.yaml, b.yaml: name one, or several")
    for path in tmp_path.glob("*.yaml"):
        path.unlink()
    answer = batchgen("run")
    assert (answer.code, "`batchgen init` writes one" in answer.err) == (2, True)
    (tmp_path / "jobs").mkdir()
    batchgen("init", "jobs/shop.yaml")
    assert "jobs/shop.yaml: name one" in batchgen("status").err


# --- files of one's own


def test_output_is_the_jobs_folder_in_every_command_that_has_it():
    helps = {each.help for command in cli.commands.values() for each in options(command) if long_of(each) == "--output"}
    assert all("older" in text for text in helps)
    assert {name for name, command in cli.commands.items() if any(long_of(each) == "--to" for each in options(command))} == {
        "report", "export"}  # fmt: skip


def test_report_and_export_look_into_the_folder_that_output_names(batchgen, write):
    manifest = str(write(MUG))
    batchgen("run", manifest, "--emulate", "-o", "elsewhere", "-q")
    assert json.loads(batchgen("export", manifest, "-o", "elsewhere").out)["id"] == "mug"
    assert "elsewhere" in batchgen("report", manifest, "-o", "elsewhere").out


@pytest.mark.parametrize("argv", [("report", "-o", "page.html"), ("export", "--output", "rows.csv")])
def test_a_file_for_output_is_answered_with_the_option_that_writes_one(batchgen, write, argv, tmp_path):
    manifest = str(write(MUG))
    batchgen("run", manifest, "--emulate", "-q")
    answer = batchgen(argv[0], manifest, *argv[1:])
    assert (answer.code, "--to FILE names a file to write" in answer.err) == (2, True)


def test_a_contact_sheet_does_not_take_the_manifest_behind_it_for_its_name(batchgen, write, tmp_path):
    manifest = write(MUG)
    batchgen("run", str(manifest), "--emulate", "-q")
    before = manifest.read_bytes()
    answer = batchgen("report", "--contact-sheet", str(manifest))
    assert (answer.code, answer.out.strip()) == (0, str(tmp_path / "job.emulated" / "contact-sheet.jpg"))
    assert manifest.read_bytes() == before


@pytest.mark.parametrize("name", [name for name in cli.commands if name != "emulate"])
def test_no_option_has_a_value_that_may_be_left_out(batchgen, name):
    for each in options(cli.commands[name]):
        if not each.is_flag:
            answer = batchgen(name, long_of(each))
            assert (answer.code, answer.err.splitlines()[0]) == (2, f"Option {long_of(each)!r} requires an argument.")


@pytest.mark.parametrize(("option", "kind"), [("--max-cost", "number"), ("--limit", "whole number")])
def test_a_figure_that_is_none_is_called_so_in_words(batchgen, write, option, kind):
    answer = batchgen("run", str(write(MUG)), option, "abc")
    assert (answer.code, f"'{option}'" in answer.err, f"'abc' is not a valid {kind}." in answer.err) == (2, True, True)


@pytest.mark.parametrize(
    ("command", "hint"),
    [
        (("retry", "{out}", "mug"), "; an item is chosen with --only mug"),
        (("report", "{out}", "sheet.png", "--contact-sheet"), "; a file to write is named with --to sheet.png"),
        (("run", "{manifest}", "other.yaml", "--emulate"), ""),
    ],
)
def test_what_is_no_job_among_several_is_said_once_and_before_anything_is_done(
    batchgen, write, tmp_path, command, hint
):
    manifest = write(MUG)
    batchgen("run", str(manifest), "--emulate", "-q")
    out, before = tmp_path / "job.emulated", sorted(tmp_path.rglob("*"))
    answer = batchgen(*(part.format(out=out, manifest=manifest) for part in command))
    wrong = command[2]
    assert (answer.code, answer.err, answer.out) == (2, f"{wrong}: there is no such manifest or folder{hint}\n", "")
    assert sorted(tmp_path.rglob("*")) == before
