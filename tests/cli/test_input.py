"""Input as people have it, through the program: what is said of it, and what is sent."""

from __future__ import annotations

import json

import pytest
from PIL import Image

CUT = "2:19: prompt: '#1 of 3' is a comment and not part of the text; if it is meant, put the text in quotes"


@pytest.fixture
def manifest(tmp_path):
    """Writes a manifest; gives its path."""

    def write_text(text, name="job.yaml"):
        path = tmp_path / name
        path.write_text(text)
        return str(path)

    return write_text


@pytest.mark.parametrize("command", [["validate"], ["plan"], ["run", "--emulate", "--yes"]])
def test_every_command_shows_what_a_comment_cut_and_none_is_stopped_by_it(batchgen, manifest, command):
    answer = batchgen(*command, manifest("items:\n  - prompt: a mug #1 of 3\n"))
    assert (answer.code, CUT in answer.err) == (0, True), answer.err


@pytest.mark.parametrize("command", ["validate", "plan"])
def test_the_json_answer_has_what_a_comment_cut(batchgen, manifest, command):
    (warning,) = batchgen(command, manifest("items:\n  - prompt: a mug #1 of 3\n"), "--json").json["warnings"]
    assert warning.endswith(CUT)


@pytest.mark.parametrize("command", [["validate"], ["plan"], ["run", "--emulate"]])
def test_a_slip_of_yaml_is_answered_with_the_remedy_and_nothing_is_sent(batchgen, manifest, command):
    answer = batchgen(*command, manifest("items:\n  - prompt: A mug: red\n"))
    assert answer.code == 2
    assert "job.yaml:2:18: not YAML: `: ` in a text that is not in quotes: put the text in quotes" in answer.err


# --- templates


BRACES = 'items: [{id: a, prompt: "{# red #} {{ mug }}", templates: off}]\n'


@pytest.mark.parametrize("head", ["", "templates: on\n"])
def test_text_without_templates_is_taken_as_it_is_written(batchgen, manifest, head):
    answer = batchgen("run", manifest(head + BRACES), "--emulate", "--json")
    assert (answer.code, answer.err.count("comment")) == (0, 0)


def test_the_same_text_keeps_its_fingerprint_whichever_way_it_is_written(batchgen, manifest):
    batchgen("run", manifest("items: [{id: a, prompt: '{% raw %}{{ mug }}{% endraw %}'}]\n"), "--emulate")
    answer = batchgen(
        "plan", manifest("templates: off\nitems: [{id: a, prompt: '{{ mug }}'}]\n"), "--emulate", "--json"
    )
    assert (answer.json["kept"], answer.json["images"]) == (1, 0)


@pytest.mark.parametrize("prompt", ["'a {{ mug }}'", "'a {% mug'", "'a {{ mug'", "'{{ a b }}'"])
def test_braces_that_are_no_template_are_answered_with_both_ways_to_mean_them(batchgen, manifest, prompt):
    answer = batchgen("validate", manifest(f"items: [{{id: a, prompt: {prompt}}}]\n"))
    assert "for braces as text write {% raw %}…{% endraw %} around them, or `templates: off`" in answer.err


def test_a_comment_in_a_prompt_is_warned_about_with_its_text(batchgen, manifest):
    answer = batchgen("validate", manifest("items:\n  - prompt: 'a {# red #} mug {% raw %}{# x #}{% endraw %}'\n"))
    assert answer.code == 0
    assert "job.yaml:2:5: prompt: '{# red #}' is a comment of the template and not sent; for braces" in answer.err


def test_an_entry_of_many_items_needs_its_templates(batchgen, manifest):
    answer = batchgen("validate", manifest("templates: off\nitems: [{prompt: '{{ m }}', matrix: {m: [a]}}]\n"))
    assert "job.yaml:2:9: templates: off would make the same item again and again" in answer.err


# --- one mistake, one message


def complaints(answer):
    return [line for line in answer.err.splitlines() if "job.yaml:" in line]


MATRIX = "matrix: {a: [1, 2, 3, 4, 5, 6, 7, 8, 9], b: [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]}"


@pytest.mark.parametrize(
    ("text", "said", "ends"),
    [
        (
            f"items: [{{id: 'x-{{{{ a }}}}', prompt: p, {MATRIX}}}]\n",
            "job.yaml:1:10: id: 'x-1' is already used in this entry; put {{ b }} into it",
            "(and 80 more items)",
        ),
        (f"items: [{{prompt: '{{{{ m }}}}', {MATRIX}}}]\n", "job.yaml:1:10: prompt: the variable 'm' is not", "(and 89 more items)"),
        (
            f"defaults: {{seed: -1}}\nitems: [{{id: 'x-{{{{ index }}}}', prompt: p, {MATRIX}}}]\n",
            "job.yaml:1:12: defaults.seed: must be from 0",
            "(line 2, and 89 more items)",
        ),
    ],
)  # fmt: skip
def test_a_mistake_that_hits_ninety_items_is_one_message(batchgen, manifest, text, said, ends):
    (complaint,) = complaints(batchgen("validate", manifest(text)))
    assert (said in complaint, complaint.endswith(ends)) == (True, True), complaint


def test_a_default_that_hits_ninety_entries_is_one_message(batchgen, manifest):
    items = "".join(f"  - {{id: i{n}, prompt: p}}\n" for n in range(90))
    (complaint,) = complaints(batchgen("validate", manifest(f"defaults: {{model: flsh}}\nitems:\n{items}")))
    assert "job.yaml:1:12: defaults.model: 'flsh' is not a known model (did you mean 'flash'?)" in complaint
    assert complaint.endswith("(line 3, line 4, line 5, line 6, and 86 more items)")


@pytest.mark.parametrize("values", [["7x"] * 90, [f"r{n}" for n in range(90)]])
def test_a_column_that_is_wrong_in_ninety_rows_is_one_message(batchgen, manifest, values):
    manifest("sku,ratio\n" + "".join(f"s{n},{value}\n" for n, value in enumerate(values)), "rows.csv")
    entry = "items: [{id: '{{ sku }}', prompt: p, from: rows.csv, aspect_ratio: '{{ ratio }}'}]\n"
    (complaint,) = complaints(batchgen("validate", manifest(entry)))
    assert f"aspect_ratio: must look like 16:9, not '{values[0]}'" in complaint
    assert complaint.endswith("(row rows.csv:2, row rows.csv:3, row rows.csv:4, row rows.csv:5, and 86 more items)")


def test_the_same_words_about_two_entries_are_two_mistakes(batchgen, manifest):
    answer = batchgen(
        "validate", manifest("items:\n  - {id: a, prompt: p, seed: x}\n  - {id: b, prompt: p, seed: x}\n")
    )
    assert len(complaints(answer)) == 2


# --- ids made of prompts


ALIKE = [f"A stoneware mug on an old oak table by the window, variant {n}" for n in (59555, 63511)]  # of one short hash
SHORT, LONG = (
    "a-stoneware-mug-on-an-old-oak-table-by-the-39dde4e9",
    "a-stoneware-mug-on-an-old-oak-table-by-the-39dde4e9fbdd",
)


def steps(answer):
    return {step["id"]: (step["action"], step["why"]) for step in answer.json["steps"]}


def lines(*prompts):
    return "".join(json.dumps({"prompt": prompt}) + "\n" for prompt in prompts)


def test_prompts_of_one_hash_get_ids_of_their_own(batchgen, manifest):
    assert list(steps(batchgen("plan", manifest(lines(*ALIKE), "job.jsonl"), "--json"))) == [SHORT, LONG]


def test_a_prompt_that_comes_later_renames_nothing_and_buys_only_itself(batchgen, manifest):
    batchgen("run", manifest(lines(ALIKE[0]), "job.jsonl"), "--emulate")
    answer = batchgen("plan", manifest(lines(*ALIKE), "job.jsonl"), "--emulate", "--json")
    assert (answer.json["kept"], answer.json["images"], list(steps(answer))) == (1, 1, [LONG])


def test_the_same_prompt_twice_is_still_a_mistake(batchgen, manifest):
    answer = batchgen("validate", manifest(lines(*ALIKE, ALIKE[1]), "job.jsonl"))
    assert f"job.jsonl:3:1: id: '{LONG}' is already used at" in answer.err


# --- folders elsewhere


@pytest.fixture
def elsewhere(tmp_path):
    (tmp_path / "photos").mkdir()
    Image.new("RGB", (16, 16), "red").save(tmp_path / "photos" / "mug.png")
    (tmp_path / "jobs").mkdir()
    return tmp_path / "photos"


def from_elsewhere(folder):
    return f"reference_folders: ['{folder}']\nitems: [{{id: a, prompt: p, references: [mug.png]}}]\n"


@pytest.mark.parametrize("command", [["validate"], ["plan"], ["run", "--emulate"]])
def test_a_stranger_s_manifest_takes_no_picture_from_a_folder_elsewhere(batchgen, manifest, elsewhere, command):
    (elsewhere.parent / "jobs" / ".env").write_text(f"BATCHGEN_REFERENCE_FOLDERS={elsewhere}\n")
    answer = batchgen(*command, manifest(from_elsewhere(elsewhere), "jobs/job.yaml"))
    assert (answer.code, f"add the line {elsewhere} to " in answer.err) == (2, True), answer.err


def test_a_folder_elsewhere_that_the_user_allows_is_used(batchgen, manifest, elsewhere, monkeypatch):
    monkeypatch.setenv("BATCHGEN_REFERENCE_FOLDERS", str(elsewhere.parent))
    answer = batchgen("run", manifest(from_elsewhere(elsewhere), "jobs/job.yaml"), "--emulate")
    assert answer.code == 0, answer.err


# --- what a plan points out or refuses


def test_the_same_request_under_two_ids_is_pointed_out_by_plan_and_blocks_nothing(batchgen, manifest):
    items = "[{id: a, prompt: p}, {id: b, prompt: p}, {id: c, prompt: p, model: pro}, {id: d, prompt: q}]"
    answer = batchgen("plan", manifest(f"items: {items}\n"), "--json")
    (warning,) = answer.json["warnings"]
    assert (answer.code, warning.startswith("1 item asks for the same as another")) == (0, True)
    assert "settings: a = b; `count`" in warning


@pytest.mark.parametrize("command", ["validate", "plan"])
def test_a_request_that_could_never_start_is_refused_before_a_plan_is_made(batchgen, manifest, command):
    answer = batchgen(command, manifest("limits: {usd_per_10_min: 0.001}\nitems: [{id: a, prompt: p}]\n"))
    assert (answer.code, "it could never start: raise limits: usd_per_10_min" in answer.err) == (2, True)
