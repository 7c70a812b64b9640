"""What each command answers, from a job that the emulator has run."""

from __future__ import annotations

import contextlib
import csv
import hashlib
import io
import json
import sqlite3

import pytest

from batchgen.cli.doctor import folder as folder_finding
from batchgen.store.local_folder import verify_file
from tests.support.marked_key import KEY

REFUSED = "x [[fault:safety]]"


@pytest.fixture
def job(batchgen, write):
    """A manifest with one image made and one refused, run against the emulator."""
    manifest = write({"mug": "A mug", "bad": REFUSED})
    batchgen("run", str(manifest), "--emulate")
    return manifest


@pytest.fixture
def folder(job):
    return job.with_name("job.emulated")


# --- plan and validate


def test_plan_says_what_is_new_and_writes_nothing(batchgen, write, tmp_path):
    answer = batchgen("plan", str(write({"mug": "A mug"})), "--json")
    assert answer.json["steps"] == [
        {
            "id": "mug",
            "model": "gemini-nano-banana-2.1",
            "action": "generate",
            "way": "online",
            "why": "new",
            "images": 1,
            "usd": 0.03874,
        }
    ]
    assert [path.name for path in tmp_path.iterdir()] == ["job.yaml"]


def test_plan_keeps_what_is_made_and_says_why_the_rest_is_left(batchgen, job):
    facts = batchgen("plan", str(job), "--emulate", "--json").json
    assert (facts["kept"], facts["skipped"], facts["images"]) == (1, 1, 0)
    assert facts["steps"][0]["why"] == "refused: safety; change the prompt, or retry --refused"


def test_plan_shows_forty_rows_and_counts_the_others(batchgen, write):
    manifest = str(write({f"mug-{number}": "A mug" for number in range(45)}))
    text, everything = batchgen("plan", manifest).out, batchgen("plan", manifest, "--all").out
    assert ("… and 5 more" in text, "mug-44 " in text, "mug-44 " in everything) == (True, False, True)


def test_plan_adds_up_to_whole_millionths_of_a_dollar(batchgen, write):
    facts = batchgen("plan", str(write({f"mug-{number}": "A mug" for number in range(13)})), "--json").json
    assert (facts["usd"], facts["known_usd"]) == (0.503627, 0.503627)


def test_plan_calls_an_unknown_price_unknown(batchgen, write):
    manifest = str(write({"mug": "A mug"}, head="defaults: {model: google/imagen-4.0-generate-001}\n"))
    answer = batchgen("plan", manifest)
    assert ("cost   unknown" in answer.out, " unknown\n" in answer.out) == (True, True)


def test_plan_names_the_limit_that_binds_and_what_to_change(batchgen, write):
    manifest = str(write({f"mug-{number}": "A mug" for number in range(50)}))
    assert "limit  concurrent requests: 2 in flight take" in batchgen("plan", manifest, "--concurrency", "2").out


def test_validate_counts_items_and_samples(batchgen, write):
    answer = batchgen("validate", str(write({"a": "A mug", "b": "A jug"}, head="defaults: {count: 3}\n")))
    assert (answer.code, answer.out) == (0, "ok: 2 items, 6 samples\n")


def test_validate_lists_every_problem_with_its_place(batchgen, write):
    path = write({"a": "A mug"}, head="nonsense: 1\n")
    path.write_text(path.read_text() + "  - {id: b, promt: x}\n")
    answer = batchgen("validate", "job.yaml")
    lines = answer.err.splitlines()
    assert (answer.code, [line.split(": ")[0] for line in lines[:2]]) == (2, ["job.yaml:2:1", "job.yaml:5:13"])


def test_validate_json_has_the_problems_too(batchgen, write):
    write({"a": "A mug"}, head="nonsense: 1\n")
    answer = batchgen("validate", "job.yaml", "--json")
    assert (answer.json["ok"], answer.json["problems"][0]["line"], answer.json["exit_code"]) == (False, 2, 2)


# --- run


def test_run_json_is_alone_on_stdout_and_tells_all(batchgen, write):
    answer = batchgen("run", str(write({"mug": "A mug", "bad": REFUSED})), "--emulate", "--json")
    facts = answer.json
    assert facts["images"] == {"made": 1, "kept": 0, "moved": 0, "left": 0, "left_out": 0}
    assert (facts["exit_code"], facts["emulated"], facts["newest"]) == (3, True, ["mug.jpg"])
    assert facts["reasons"][0]["remedy"].startswith("soften the prompt")
    assert 0 < facts["exposed_ms"]["median"] == facts["exposed_ms"]["largest"]  # of the one picture


def test_run_without_json_leaves_stdout_empty(batchgen, write):
    assert batchgen("run", str(write({"mug": "A mug"})), "--emulate").out == ""


def test_an_emulated_run_says_so_before_and_after(batchgen, write):
    answer = batchgen("run", str(write({"mug": "A mug"})), "--emulate")
    lines = answer.err.splitlines()
    assert (lines[0].startswith("EMULATED: "), [line[:9] for line in lines].count("EMULATED:")) == (True, 2)


def test_quiet_says_nothing_of_a_run_that_went_well(batchgen, write):
    answer = batchgen("run", str(write({"mug": "A mug"})), "--emulate", "--quiet")
    assert (answer.code, answer.out, answer.err) == (0, "", "")


def test_quiet_still_tells_what_went_wrong(batchgen, write):
    assert "1 × safety" in batchgen("run", str(write({"bad": REFUSED})), "--emulate", "--quiet").err


def test_only_and_limit_choose_what_is_made(batchgen, write, tmp_path):
    manifest = str(write({"mug-1": "A mug", "mug-2": "A mug", "jug": "A jug"}))
    batchgen("run", manifest, "--emulate", "--only", "mug-*", "--limit", "1")
    assert [path.name for path in (tmp_path / "job.emulated").glob("*.jpg")] == ["mug-1.jpg"]


def test_held_uncertain_samples_are_not_asked_for_again(batchgen, write):
    manifest = str(write({"lost": "x [[fault:reset*1]]"}))
    held = batchgen("run", manifest, "--emulate", "--on-uncertain", "hold", "--json").json
    again = batchgen("run", manifest, "--emulate", "--on-uncertain", "hold", "--json").json
    assert (held["uncertain"], again["requests"]) == ([{"id": "lost", "maybe_usd": 0.038745}], {})


def test_run_takes_up_what_is_uncertain_unless_told_otherwise(batchgen, write):
    manifest = str(write({"lost": "x [[fault:reset*1]]"}))
    batchgen("run", manifest, "--emulate", "--on-uncertain", "hold")
    assert batchgen("run", manifest, "--emulate", "--json").json["requests"] != {}


def test_retry_none_takes_up_nothing(batchgen, write):
    manifest = str(write({"lost": "x [[fault:reset]]"}))
    batchgen("run", manifest, "--emulate")
    assert batchgen("run", manifest, "--emulate", "--retry", "none", "--json").json["requests"] == {}


def test_an_unknown_engine_is_a_wrong_command_line(batchgen, write):
    answer = batchgen("run", str(write({"mug": "A mug"})), "--emulate", "--engine", "steam")
    assert (answer.code, "installed are auto, batch, cluster, online" in answer.err) == (2, True)


def test_the_log_file_has_one_json_object_for_each_event(batchgen, write, tmp_path):
    batchgen("run", str(write({"mug": "A mug"})), "--emulate", "--log-file", "run.log", "--log-format", "json")
    events = [json.loads(line)["event"] for line in (tmp_path / "run.log").read_text().splitlines()]
    assert events == ["run.started", "attempt.started", "sample.ended", "run.ended"]


def test_a_json_log_without_a_file_takes_the_place_of_the_lines_on_stderr(batchgen, write):
    answer = batchgen("run", str(write({"mug": "A mug"})), "--emulate", "--log-format", "json")
    first = next(line for line in answer.err.splitlines() if line.startswith("{"))
    assert json.loads(first)["event"] == "run.started"


# --- retry


def test_retry_asks_again_for_exactly_what_is_named(batchgen, job, write):
    write({"mug": "A mug", "bad": REFUSED, "new": "A jug"})
    facts = batchgen("retry", str(job), "--refused", "--json").json
    assert facts["requests"] == {"refused": 1}


def test_retry_finds_manifest_and_emulator_by_the_folder(batchgen, job, folder):
    assert batchgen("retry", str(folder), "--refused", "--json").json["emulated"] is True


def test_retry_by_another_reason_asks_for_nothing(batchgen, job):
    sent = batchgen("status", str(job), "--json").json["requests"]
    assert batchgen("retry", str(job), "--reason", "recitation").code == 2
    assert batchgen("status", str(job), "--json").json["requests"] == sent


def test_retry_without_a_choice_is_a_wrong_command_line(batchgen, job):
    assert batchgen("retry", str(job)).code == 2


def test_retry_of_a_folder_whose_manifest_has_gone_says_what_to_name(batchgen, job, folder):
    job.unlink()
    answer = batchgen("retry", str(folder), "--refused")
    assert (answer.code, "name it, with --output" in answer.err) == (2, True)


# --- status


def test_status_has_counts_money_and_reasons(batchgen, job):
    facts = batchgen("status", str(job), "--json").json
    assert facts["by_model"] == {"gemini-nano-banana-2.1": {"refused": 1, "succeeded": 1}}
    assert (facts["run"]["state"], facts["reasons"][0]["reason"], facts["emulated"]) == ("ended", "safety", True)


def test_status_of_a_folder_is_that_of_its_manifest(batchgen, job, folder):
    assert batchgen("status", str(folder)).out.split("ended")[0] == batchgen("status", str(job)).out.split("ended")[0]


def test_status_before_the_first_run_says_so(batchgen, write):
    answer = batchgen("status", str(write({"mug": "A mug"})))
    assert (answer.code, "nothing has run there yet" in answer.err) == (5, True)


def test_status_shows_the_real_job_and_names_the_emulated_one(batchgen, job, emulator):
    emulator("--latency", "0")
    batchgen("run", str(job))
    answer = batchgen("status", str(job))
    assert ("EMULATED" in answer.out, "emulated job too" in answer.out) == (False, True)


def test_status_sees_a_run_that_is_going_on(batchgen, write, emulator, spawn):
    emulator("--latency", "5")
    manifest = str(write({"mug": "A mug"}))
    process = spawn("run", manifest, "--log-format", "json")
    next(line for line in process.stderr if '"attempt.started"' in line)
    facts = batchgen("status", manifest, "--json").json
    assert (facts["run"]["state"], [entry["id"] for entry in facts["in_flight"]]) == ("running", ["mug"])


def test_status_sees_that_a_run_has_died(batchgen, write, emulator, spawn):
    emulator("--latency", "5")
    manifest = str(write({"mug": "A mug"}))
    process = spawn("run", manifest, "--log-format", "json")
    next(line for line in process.stderr if '"attempt.started"' in line)
    process.kill()
    process.wait(10)
    text = batchgen("status", manifest).out
    assert ("died without an end" in text, "the next run settles them" in text) == (True, True)


def test_status_finds_the_folder_that_the_manifest_names(batchgen, write):
    manifest = str(write({"mug": "A mug"}, head="output: 'elsewhere'  # not beside it\n"))
    batchgen("run", manifest, "--emulate")
    assert batchgen("status", manifest, "--json").json["folder"].endswith("/elsewhere.emulated")


# --- verify


def test_verify_is_content_with_an_untouched_job(batchgen, job):
    answer = batchgen("verify", str(job))
    assert (answer.code, answer.out.startswith("ok: 1 file verified")) == (0, True)


@pytest.mark.parametrize("keep_size", [True, False])
def test_verify_finds_a_changed_file(batchgen, job, folder, keep_size):
    picture = folder / "mug.jpg"
    data = picture.read_bytes()
    picture.write_bytes(data[:-3] + b"xyz" if keep_size else data + b"x")
    answer = batchgen("verify", str(job), "--json")
    assert (answer.code, answer.json["changed"]) == (3, ["mug.jpg"])


def test_verify_finds_a_missing_file(batchgen, job, folder):
    (folder / "mug.jpg").unlink()
    answer = batchgen("verify", str(job), "--json")
    assert (answer.code, answer.json["missing"]) == (3, ["mug.jpg"])


def test_a_run_status_and_their_json_name_an_image_that_somebody_changed_and_say_what_helps(batchgen, write, tmp_path):
    job, folder = str(write({"mug": "A mug", "jug": "A jug"})), tmp_path / "job.emulated"
    batchgen("run", job, "--emulate")
    (folder / "mug.jpg").write_bytes(b"drawn over")
    (folder / "jug.jpg").unlink()
    run, status = batchgen("run", job, "--emulate", "--only", "mug"), batchgen("status", str(folder))
    assert run.code == 5
    for text in (run.err, status.out):
        assert "1 image is not what the ledger recorded:\n" in text
        assert "    mug.jpg\n" in text and "put the original back; or --fresh --only ID makes it again" in text
        assert "1 image is no longer there:\n" in text and "    jug.jpg\n" in text
    assert "batchgen verify job.yaml reads every file" in run.err
    expected = {"missing": ["jug.jpg"], "missing_total": 1, "changed": ["mug.jpg"], "changed_total": 1}
    assert batchgen("run", job, "--emulate", "--only", "mug", "--json").json["discrepancies"] == expected
    assert batchgen("status", str(folder), "--json").json["discrepancies"] == expected
    assert (
        batchgen("run", job, "--emulate", "--fresh", "--only", "mug").code == 3
    )  # the jug has not been made again yet
    assert batchgen("run", job, "--emulate").code == 0


def test_verify_takes_a_link_for_a_change_even_when_size_and_bytes_agree(tmp_path):
    target, link = tmp_path / "target", tmp_path / "link"
    data = b"x" * len(str(target))  # the size of a link is the length of what it names
    target.write_bytes(data)
    link.symlink_to(target)
    assert verify_file(str(link), hashlib.sha256(data).hexdigest(), len(data)) == "changed"


def test_verify_lists_a_stranger_and_does_not_mind_it(batchgen, job, folder):
    (folder / "notes.txt").write_text("mine")
    answer = batchgen("verify", str(job), "--json")
    assert (answer.code, answer.json["extra"]) == (0, ["notes.txt"])


def test_verify_takes_the_gallery_for_no_stranger(batchgen, job, folder):
    batchgen("report", str(job))
    assert (folder / "report.html").is_file()
    assert batchgen("verify", str(job), "--json").json["extra"] == []


def test_verify_knows_what_was_made_anew(batchgen, job, folder):
    batchgen("run", str(job), "--emulate", "--fresh")
    answer = batchgen("verify", str(job), "--json")
    assert (answer.code, answer.json["checked"], answer.json["extra"]) == (0, 2, [])


# --- export


def test_export_writes_one_json_line_for_each_sample(batchgen, job):
    rows = [json.loads(line) for line in batchgen("export", str(job)).out.splitlines()]
    assert [(row["key"], row["state"], row["file"]) for row in rows] == [
        ("mug", "succeeded", "mug.jpg"),
        ("bad", "refused", None),
    ]


def test_export_csv_cannot_start_a_formula(batchgen, write):
    manifest = str(write({"a": '=HYPERLINK("http://x")', "b": "+1", "c": "-1", "d": "@x", "e": "plain"}))
    batchgen("run", manifest, "--emulate")
    rows = csv.DictReader(io.StringIO(batchgen("export", manifest, "--format", "csv").out))
    assert [row["prompt"] for row in rows] == ['\'=HYPERLINK("http://x")', "'+1", "'-1", "'@x", "plain"]


def test_export_to_a_file_leaves_stdout_empty(batchgen, job, tmp_path):
    answer = batchgen("export", str(job), "--to", "rows.jsonl")
    assert (answer.out, len((tmp_path / "rows.jsonl").read_text().splitlines())) == ("", 2)


def test_export_into_a_folder_that_is_not_there_needs_a_person(batchgen, job):
    assert batchgen("export", str(job), "--to", "absent/rows.jsonl").code == 5


# --- the rest


def test_init_writes_a_manifest_that_validates(batchgen):
    assert (batchgen("init").code, batchgen("validate", "batch.yaml").code) == (0, 0)


def test_init_never_overwrites(batchgen, write):
    before = write({"a": "A mug"}).read_text()
    assert (batchgen("init", "job.yaml").code, write({"a": "A mug"}).read_text()) == (2, before)


def test_schema_is_json_schema(batchgen):
    assert "json-schema.org" in batchgen("schema").json["$schema"]


def test_models_lists_aliases_and_leaves_out_what_is_retired(batchgen):
    some, all_of_them = batchgen("models", "--json").json, batchgen("models", "--all", "--json").json
    assert ("pro" in some[1]["aliases"], {m["status"] for m in all_of_them} - {m["status"] for m in some}) == (
        True, {"retired"})  # fmt: skip


def test_models_that_judge_have_a_table_of_their_own_and_say_in_json_what_they_make(batchgen):
    makers, judges = batchgen("models").out.split("\n\n")
    assert ("gemini-3.1-flash-lite " in makers, "gemini-3.1-flash-lite " in judges) == (False, True)
    assert "in $0.25  out $1.50" in judges
    makes = {model["id"]: model["makes"] for model in batchgen("models", "--json").json}
    assert (makes["gemini-3.1-flash-lite"], makes["gemini-3-pro-image"]) == (["text"], ["image"])


def test_models_calls_an_unknown_price_a_question_mark(batchgen):
    assert "1K ?" in batchgen("models").out


def test_doctor_without_a_key_says_what_to_do(batchgen, write, monkeypatch):
    monkeypatch.delenv("GEMINI_API_KEY")
    answer = batchgen("doctor", str(write({"a": "A mug"})))
    assert (answer.code, "→ set GEMINI_API_KEY" in answer.out) == (5, True)


def test_doctor_names_the_source_of_the_key_and_never_the_key(batchgen, write, monkeypatch):
    monkeypatch.setenv("GEMINI_API_KEY", KEY)
    answer = batchgen("doctor", str(write({"a": "A mug"})))
    assert (answer.code, "from GEMINI_API_KEY" in answer.out, KEY[7:14] in answer.out) == (0, True, False)


def test_doctor_online_asks_for_the_models(batchgen, write, emulator, monkeypatch):
    url = emulator()
    monkeypatch.setenv("GEMINI_API_KEY", KEY)
    assert f"{url} answers and takes the key" in batchgen("doctor", "--online").out


def test_doctor_online_finds_a_bad_key(batchgen, write, emulator, monkeypatch):
    emulator()
    monkeypatch.setenv("GEMINI_API_KEY", "bad-key")
    answer = batchgen("doctor", "--online")
    assert (answer.code, "the key is not taken" in answer.out) == (5, True)


def test_doctor_finds_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    assert folder_finding(tmp_path / "file" / "job").verdict == "fail"


def test_emulate_passes_its_options_on(batchgen, capfd):
    answer = batchgen("emulate", "--fault", "nonsense=1")
    assert (answer.code, "unknown fault" in answer.err) == (2, True)


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_completion_prints_a_script_of_that_shell(batchgen, shell):
    assert "_BATCHGEN_COMPLETE" in batchgen("completion", shell).out


def test_a_shell_that_asks_gets_the_commands(batchgen, monkeypatch):
    monkeypatch.setenv("_BATCHGEN_COMPLETE", "zsh_complete")
    monkeypatch.setenv("COMP_WORDS", "batchgen val")
    monkeypatch.setenv("COMP_CWORD", "1")
    assert "validate" in batchgen().out


def test_a_mistyped_command_gets_a_suggestion(batchgen):
    assert "Did you mean 'plan'?" in batchgen("plam").err


@pytest.mark.parametrize(
    ("command", "option", "instead"),
    [
        ("status", "--emulate", "Leave it out"),
        ("retry", "--emulate", "Leave it out"),
        ("run", "--budget=1", "Did you mean '--max-cost'?"),
        ("plan", "--model", "The manifest names the model"),
    ],
)
def test_an_option_that_is_looked_for_where_it_is_not_is_answered_with_what_to_do(batchgen, command, option, instead):
    answer = batchgen(command, "job.yaml", option)
    assert answer.code == 2
    assert instead in answer.err


def test_a_damaged_ledger_is_said_and_left_alone(batchgen, job, folder):
    ledger = folder / ".batchgen" / "ledger.sqlite"
    ledger.write_bytes(b"not a database, but long enough to look like a file" * 40)
    with contextlib.closing(sqlite3.connect(ledger)) as connection, pytest.raises(sqlite3.DatabaseError):
        connection.execute("PRAGMA user_version")
    assert batchgen("status", str(job)).code == 5


@pytest.mark.parametrize("command", ["run", "plan"])
@pytest.mark.parametrize(
    ("only", "says"),
    [
        (["--only", "mgu"], "--only 'mgu' matches no item of the manifest; did you mean mug?"),
        (
            ["--only", "mug", "--only", "tag:none"],
            "--only 'tag:none' matches no item of the manifest; `batchgen plan --all`",
        ),
    ],
)
def test_a_selection_that_matches_nothing_is_an_error_that_names_the_nearest(batchgen, write, command, only, says):
    manifest = str(write({"mug": "A mug", "jug": "A jug"}))
    answer = batchgen(command, manifest, "--emulate", *only)
    assert (answer.code, says in answer.err) == (2, True), answer.err
    assert batchgen(command, manifest, "--emulate", "--only", "m*").code == 0


def test_what_only_and_limit_leave_out_is_said_of_the_manifest(batchgen, write):
    manifest = str(write({"mug": "A mug", "jug": "A jug", "cup": "A cup"}))
    answer = batchgen("run", manifest, "--emulate", "--limit", "1")
    assert "job: 1 of 3 images made; 2 left out by --limit 1" in answer.err and "all done" not in answer.err
    assert (
        "run 1, 1 image to make, 0 kept, 2 left out by --limit" in answer.err
        and "makes the 2 images left out" in answer.err
    )
    answer = batchgen("run", manifest, "--emulate", "--only", "mug", "--json")
    assert (answer.code, answer.json["images"]["kept"], answer.json["images"]["left_out"]) == (0, 1, 2)
    assert "job: nothing to ask for: 1 of 3 images made; 2 left out by --only" in answer.err
    assert "all done: 3 of 3 images made (2 in this run)" in batchgen("run", manifest, "--emulate").err


def test_status_says_the_manifests_totals_and_how_far_to_trust_them(batchgen, write):
    manifest = write({"mug": "A mug", "jug": "A jug", "cup": "A cup"})
    batchgen("run", str(manifest), "--emulate", "--limit", "1", "-q")
    folder = str(manifest.with_name("job.emulated"))
    found = batchgen("status", folder, "--json").json
    assert found["totals"] | {"read_at": ""} == {
        "images": 3, "made": 1, "not_made": {}, "not_tried": 0, "not_in_manifest": 0, "left_out": {"limit": 2}, "limit": 1,
        "outdated": 0, "rejected": 0, "read_by_run": 1, "read_at": "", "manifest": "same",
    }  # fmt: skip
    assert found["total"] == 3
    assert "job: 1 of 3 images made; 2 left out by --limit 1" in batchgen("status", folder).out
    text = manifest.read_text()
    manifest.write_text(text)  # saved again as it was
    assert batchgen("status", folder, "--json").json["totals"]["manifest"] == "same"
    manifest.write_text(text.replace("A cup", "A cap"))
    assert "job.yaml has changed since run 1 read it" in batchgen("status", folder).out
    manifest.unlink()
    assert "job.yaml is gone: the totals are as run 1 read it" in batchgen("status", folder).out


def test_what_the_manifest_no_longer_has_is_said_apart(batchgen, write):
    manifest = write({"mug": "A mug", "jug": "A jug"})
    batchgen("run", str(manifest), "--emulate", "-q")
    write({"mug": "A mug"})
    answer = batchgen("run", str(manifest), "--emulate")
    assert "job: nothing to do: 1 of 1 image made" in answer.err and "1 image no longer in the manifest" in answer.err
    status = batchgen("status", str(manifest.with_name("job.emulated")))
    assert "job: 1 of 1 image made" in status.out and "not in the manifest" in status.out.splitlines()[2]


def test_images_of_an_earlier_prompt_that_limit_leaves_out_do_not_count_as_made(batchgen, write):
    manifest = str(write({"mug": "A mug", "jug": "A jug", "cup": "A cup"}))
    batchgen("run", manifest, "--emulate", "-q")
    write({"mug": "A red mug", "jug": "A red jug", "cup": "A cup"})
    answer = batchgen("run", manifest, "--emulate", "--limit", "1", "--json")
    assert (answer.json["totals"]["made"], answer.json["totals"]["outdated"]) == (2, 1)
    assert "job: 2 of 3 images made (1 in this run); 1 to be made again" in answer.err
    again = batchgen("run", manifest, "--emulate", "--fresh", "--limit", "1", "--json")
    assert again.json["totals"]["made"] == 3  # nothing has become outdated by asking for it again


WAITING = [
    ("mug", "[[fault:safety]] A mug"),
    ("snow", "The mug in snow"),
    ("cup", "A cup"),
    ("rain", "The cup in rain"),
]


@pytest.fixture
def waiting(tmp_path):
    """A manifest of which `snow` needs the mug, that is refused, and `rain` needs the cup."""
    lines = [f"  - id: {key}\n    prompt: '{prompt}'" for key, prompt in WAITING]
    lines[1] += "\n    references: ['@mug']"
    lines[3] += "\n    references: ['@cup']"
    path = tmp_path / "job.yaml"
    path.write_text("version: 1\nitems:\n" + "\n".join(lines) + "\n")
    return str(path)


def test_what_waits_for_an_image_that_is_not_there_is_blocked_and_says_for_which(batchgen, waiting):
    answer = batchgen("run", waiting, "--emulate", "--only", "rain", "--json")
    assert (answer.code, answer.json["totals"]["not_made"]) == (3, {"blocked": 1})
    assert answer.json["blocked"] == [{"id": "rain", "message": "needs @cup, which is not made and not selected"}]
    assert "job: nothing to ask for: 0 of 4 images made; 1 blocked, 3 left out by --only" in answer.err
    assert "1 image waits for an image that is not there" in answer.err and "run without --only" in answer.err
    answer = batchgen("run", waiting, "--emulate")
    assert (answer.code, "job: 2 of 4 images made; 1 refused, 1 blocked" in answer.err) == (3, True), answer.err
    assert (
        "snow  needs @mug, which was refused (safety)" in batchgen("status", waiting.replace(".yaml", ".emulated")).out
    )


def test_what_is_beyond_the_limit_with_what_it_needs_is_left_out_and_not_blocked(batchgen, waiting):
    answer = batchgen("run", waiting, "--emulate", "--only", "cup", "--only", "rain", "--limit", "1", "--json")
    assert answer.json["totals"]["left_out"] == {"only": 2, "limit": 1}
    again = batchgen(
        "run", waiting, "--emulate", "--fresh", "--only", "cup", "--only", "rain", "--limit", "1", "--json"
    )
    assert (again.json["totals"]["made"], again.json["totals"]["outdated"]) == (1, 0)


def test_a_retry_of_nothing_says_what_there_is(batchgen, waiting):
    batchgen("run", waiting, "--emulate", "--limit", "1")  # the mug is refused
    folder = waiting.replace(".yaml", ".emulated")
    answer = batchgen("retry", folder, "--failed")
    assert (answer.code, "job: nothing to retry, no image failed: 0 of 4 images made; 1 refused" in answer.err) == (
        0,
        True,
    )
    assert "3 not asked for" in answer.err and "nothing to do" not in answer.err
    for reasons, says in (
        (["--reason", "saftey"], "--reason 'saftey' matches no image; did you mean safety? The reasons in this job are"),
        (["--refused", "--reason", "nonsense"], "--reason 'nonsense' matches no image. The reasons in this job are: safety (1 refused)"),
        (["--failed", "--reason", "safety"], "--reason 'safety' matches no image. The reasons in this job are: safety (1 refused)"),
    ):  # fmt: skip
        answer = batchgen("retry", folder, *reasons)
        assert (answer.code, says in answer.err) == (2, True), answer.err
    assert batchgen("status", folder, "--json").json["run"]["id"] == 2  # nothing was begun


def test_what_was_billed_is_one_line_of_the_last_run_and_the_details_on_request(batchgen, write):
    manifest = str(write({"mug": "[[fault:reset*1]] A mug", "jug": "A jug"}))
    first = batchgen("run", manifest, "--emulate", "--json")
    account = [line for line in first.err.splitlines() if line.startswith("account")]
    assert account == [
        "account   3 requests billed: 2 for images, 1 possibly billed twice; `batchgen status job.emulated --billing` has the details"
    ]
    assert first.json["account_of_run"] == first.json["account"]
    folder = manifest.replace(".yaml", ".emulated")
    batchgen("run", manifest, "--emulate", "--fresh", "--only", "jug")
    assert "account" not in batchgen("status", folder).out  # the last run was billed for nothing else
    found = batchgen("status", folder, "--billing")
    for words in (
        "requests  4 requests billed: 2 for images",
        "by model  ",
        "by run    run 2, ",
        "possibly billed twice:",
        "mug  ",
    ):
        assert words in found.out
    facts = batchgen("status", folder, "--billing", "--json").json
    assert [run["run"] for run in facts["by_run"]] == [2, 1]
    assert sum(run["usd"]["spent"] for run in facts["by_run"]) == pytest.approx(facts["usd"]["spent"])
    assert sum(each["spent"] for each in facts["by_model"].values()) == pytest.approx(facts["usd"]["spent"])
    assert {(entry["id"], entry["kind"]) for entry in facts["account"]["listed"]} == {
        ("mug", "maybe_twice"),
        ("jug", "again"),
    }
    assert batchgen("status", folder, "--billing", "--watch").code == 2
