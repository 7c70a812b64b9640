"""The manifest as a whole: its header, all complaints at once, and nothing secret in any of them."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys

import pytest

from batchgen.errors import ManifestError
from batchgen.manifest import Limits, json_schema, open_manifest, starter
from batchgen.scheduling.window import Budget
from tests.support.paths import ROOT

KEY = "AIzaSyD-1234567890abcdefghijklmnopqrstu"
JOBS = ROOT / "jobs"


def test_every_complaint_comes_at_once_in_the_order_of_the_file(folder):
    text = "limits: {concurrency: 0}\nitems:\n  - {id: a/b, prompt: p}\n  - {prompt: ''}\n  - {id: c, prompt: p, sede: 1}\n"
    places = [complaint.split(": ")[0] for complaint in folder.complaints(text)]
    assert places == ["job.yaml:1:10", "job.yaml:3:6", "job.yaml:4:6", "job.yaml:5:24"]


def test_several_things_wrong_with_one_item_are_all_said(folder):
    text = "items: [{id: a/b, prompt: p, seed: x, aspect_ratio: 5:3, model: gemini-3-pro-image-preview}]"
    fields = {complaint.split(": ")[1] for complaint in folder.complaints(text)}
    assert fields == {"id", "seed", "aspect_ratio", "model"}


def test_a_broken_template_does_not_hide_what_else_is_wrong(folder):
    complaints = folder.complaints("items: [{id: a/b, prompt: '{{ x }}', seed: y, system: '{{ z }}'}]")
    assert {complaint.split(": ")[1] for complaint in complaints} == {"id", "prompt", "seed", "system"}


def test_a_prompt_that_is_no_text_is_one_complaint(folder):
    assert "prompt: must be text, not a list" in folder.complaint("items: [{prompt: []}]")


def test_twenty_complaints_are_shown_and_the_rest_counted(folder):
    error = folder.error('{"id": "a"}\n' * 57, "j.jsonl")
    assert (len(error.problems), error.total) == (20, 57)
    assert str(error).endswith("… and 37 more")


def test_good_items_are_given_before_the_complaint_is_raised(folder):
    manifest = open_manifest(
        folder.write('{"id": "a", "prompt": "p"}\n{"id": 7}\n{"id": "b", "prompt": "p"}\n', "j.jsonl")
    )
    seen = []
    with pytest.raises(ManifestError):
        for item in manifest.items():
            seen.append(item.id)  # noqa: PERF401 - extend keeps nothing when the iterator raises
    assert seen == ["a", "b"]


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("j.yaml", "", "is empty"),
        ("j.yaml", "# only a comment\n", "is empty"),
        ("j.yaml", "version: 1\n", "items: is missing"),
        ("j.yaml", "items: []\n", "has no items"),
        ("j.yaml", "items: {a: 1}\n", "items: must be a list, not a mapping"),
        ("j.yaml", "- prompt: p\n", "put `items:` above it"),
        ("j.yaml", "items: [a red fox]\n", "write `- prompt: …`"),
        ("j.yaml", b"items:\n  - prompt: caf\xe9\n", "j.yaml:2:16: not UTF-8; save it as UTF-8"),
        ("j.jsonl", "", "has no items"),
        ("j.jsonl", '{"version": 1}\n', "has no items"),
        ("j.txt", "x", "a manifest ends in .yaml, .yml or .jsonl"),
        ("j.csv", "x", "name it in a manifest: `from: j.csv`"),
        ("j.xlsx", "x", "name it in a manifest: `from: j.xlsx`"),
    ],
)
def test_a_manifest_that_is_none_gets_one_clear_message(folder, name, text, says):
    assert says in folder.complaint(text, name)


def test_a_missing_manifest_is_named(tmp_path):
    with pytest.raises(ManifestError, match="there is no such file"):
        open_manifest(tmp_path / "none.yaml")
    (tmp_path / "shop.csv").write_text("a\n1\n")
    with pytest.raises(ManifestError, match=r"there is no such file$"):
        open_manifest(tmp_path / "shop.yml")
    (tmp_path / "shop.yaml").write_text("items: [a]\n")
    with pytest.raises(ManifestError, match=r"there is no such file \(did you mean 'shop.yaml'\?\)"):
        open_manifest(tmp_path / "shop.yml")


def test_a_folder_is_not_a_manifest(tmp_path):
    with pytest.raises(ManifestError, match="is a folder"):
        open_manifest(tmp_path)


def test_a_manifest_that_cannot_be_read_is_said(tmp_path):
    os.symlink("loop.yaml", tmp_path / "loop.yaml")
    with pytest.raises(ManifestError, match="cannot be read"):
        open_manifest(tmp_path / "loop.yaml")


def test_name_and_output_come_from_the_file_name(folder):
    manifest = open_manifest(folder.write("items: [{prompt: p}]", "jobs/spring.yaml"))
    assert (manifest.name, manifest.output) == ("spring", folder.path / "jobs" / "spring")


def test_name_and_output_can_be_given(folder):
    manifest = open_manifest(folder.write("name: n\noutput: ./out\nitems: [{prompt: p}]"))
    assert (manifest.name, manifest.output) == ("n", folder.path / "out")


@pytest.mark.parametrize("name", ["..", "a/b", "/etc", ".x", "''"])
def test_a_name_that_leaves_the_folder_is_refused(folder, name):
    assert ": name: " in folder.complaint(f"name: {name}\nitems: [{{prompt: p}}]")


def test_limits_have_defaults(folder):
    limits = open_manifest(folder.write("items: [{prompt: p}]")).limits
    assert (limits.concurrency, limits.attempts, limits.budget_usd, limits.budget_usd_per_day, limits.max_items) == (
        5,
        5,
        None,
        None,
        None,
    )


@pytest.mark.parametrize(
    "limit", ["concurrency: 0", "concurrency: 1.5", "budget_usd: -1", "attempts: many", "budget_usd: true"]
)
def test_limits_that_make_no_sense_are_refused(folder, limit):
    assert ": limits." in folder.complaint(f"limits: {{{limit}}}\nitems: [{{prompt: p}}]")


def test_a_tag_that_the_ledger_would_split_is_refused(folder):
    assert "tags: a tag holds no comma, not 'a,b'" in folder.complaint("items: [{prompt: p, tags: ['a,b']}]")
    assert "a tag holds no comma" in folder.complaint("vars: {x: 'a,b'}\nitems: [{prompt: p, tags: ['{{ x }}']}]")


def test_output_may_be_a_bucket_and_then_the_folder_is_the_usual_one(folder):
    manifest = open_manifest(folder.write("output: S3://bucket/x/\nitems: [{prompt: p}]"))
    assert (manifest.bucket, manifest.output.name) == ("s3://bucket/x", "job")


@pytest.mark.parametrize(
    ("address", "complaint"),
    [
        ("http://host/x", "http:// is not a storage that batchgen knows"),
        ("s3://user:hidden@bucket/x", "credentials come from the environment"),
        ("s3:///x", "names no bucket"),
        ("s3://x/y", "a bucket's name has 3 to 63 letters"),
        ("s3://bucket/../x", "the prefix is made of names"),
        ("s3://bucket/a//b", "the prefix is made of names"),
        ("s3://bucket/a?x=1", "the prefix is made of names"),
    ],
)
def test_an_address_that_is_no_bucket_is_refused_with_its_line(folder, address, complaint):
    said = folder.complaint(f"output: {address}\nitems: [{{prompt: p}}]")
    assert complaint in said and "output" in said and "hidden" not in said


@pytest.mark.parametrize("field", ["when", "items"])
def test_fields_that_are_not_known_are_refused(folder, field):
    assert "unknown field" in folder.complaint(f"items: [{{prompt: p, {field}: x}}]")


def test_variables_of_the_caller_take_the_place_of_the_manifests(folder):
    items = folder.items("vars: {a: 1, b: 2}\nitems: [{prompt: '{{ a }}{{ b }}'}]", variables={"b": 3})
    assert items[0].prompt == "13"


def test_defaults_may_be_templates(folder):
    items = folder.items(
        "defaults: {filename: 'x-{{ id }}', system: 'In {{ c }}'}\nitems: [{id: a, prompt: p, matrix: {c: [red]}}]"
    )
    assert (items[0].filename, items[0].system) == ("x-a", "In red")


def test_a_wrong_default_does_not_hide_what_is_wrong_with_items(folder):
    text = "defaults: {model: 7, aspect_ratio: 1:1}\nitems: [{id: a/b, prompt: p}]"
    assert [complaint.split(": ")[1] for complaint in folder.complaints(text)] == ["defaults.model", "id"]


@pytest.mark.parametrize(
    "where", ["defaults: {api_key: %s}", "api_key: %s", "vars: {my: %s}", "models: {pro: {note: %s}}"]
)
def test_a_key_in_the_header_is_refused_and_never_echoed(folder, where):
    complaint = folder.complaint(where % KEY + "\nitems: [{prompt: p}]")
    assert "never stands in a manifest" in complaint and KEY[:12] not in complaint


@pytest.mark.parametrize(
    "field", ["api_key: %s", "key: %s", "token: %s", "extra: {a: {apiKey: %s}}", "api-key: abc%.0s"]
)
def test_a_key_in_an_item_is_refused_and_never_echoed(folder, field):
    complaint = folder.complaint(f"items: [{{prompt: p, {field % KEY}}}]")
    assert "never stands in a manifest" in complaint and KEY[:12] not in complaint


@pytest.mark.parametrize("field", ["id", "aspect_ratio", "model", "from", "filename", "seed"])
def test_a_key_in_a_wrong_place_is_not_echoed(folder, field):
    key = KEY + "/"  # no id either
    manifest = open_manifest(folder.write(f"items: [{{prompt: p, {field}: {key}}}]"))
    told = ""
    try:
        list(manifest.items())
    except ManifestError as error:
        told = str(error)
    assert KEY[:12] not in told + "".join(manifest.warnings)


def test_a_key_in_a_prompt_is_warned_about_and_never_echoed(folder):
    for name, text in (("j.yaml", f"items: [{{prompt: 'x {KEY}'}}]"), ("j.jsonl", json.dumps({"prompt": f"x {KEY}"}))):
        (warning,) = folder.warnings(text, name)
        assert "looks like an API key" in warning and KEY[:12] not in warning


def test_an_environment_variable_in_a_prompt_stays_text(one):
    assert one(prompt="${GEMINI_API_KEY} $HOME ~").prompt == "${GEMINI_API_KEY} $HOME ~"


def test_control_characters_never_reach_a_complaint(folder):
    complaints = folder.complaints(
        '{"id": "a\\u001b[2J\\u202e", "prompt": "p", "x\\n\\u001b": 1}\n{"id": "\\n", "prompt": "p"}', "j.jsonl"
    )
    assert all(complaint.isprintable() for complaint in complaints)


def test_an_item_can_cross_processes(one):
    item = one(extra={"a": [1]}, safety={"HARM_CATEGORY_HARASSMENT": "OFF"})
    assert pickle.loads(pickle.dumps(item)) == item  # noqa: S301 - our own bytes


def test_the_starter_is_valid(folder):
    assert len(folder.items(starter())) == 4


@pytest.mark.parametrize(("name", "images"), [("catalog.yaml", 36), ("prompts.jsonl", 13)])
def test_the_example_jobs_are_valid_without_warnings(name, images):
    manifest = open_manifest(JOBS / name)
    items = list(manifest.items())
    assert (sum(item.count for item in items), manifest.warnings) == (images, [])
    assert {manifest.catalogue.resolve(item.model).status for item in items} == {"live"}


def test_the_schema_describes_every_field():
    definitions = json_schema()["$defs"]
    assert all(
        "description" in field for model in ("Entry", "Limits") for field in definitions[model]["properties"].values()
    )
    assert set(definitions["Entry"]["properties"]) >= {"id", "from", "matrix", "prompt", "turns"}


def test_the_schema_allows_a_template_for_a_number():
    assert {"type": "string", "pattern": r"\{[{%]"} in json_schema()["$defs"]["Entry"]["properties"]["count"]["anyOf"]


def test_importing_the_package_does_not_import_pydantic():
    code = "import sys, batchgen.manifest; sys.exit('pydantic' in sys.modules or 'jinja2' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_manifest_without_templates_does_not_import_jinja(folder):
    path = folder.write("items: [{prompt: p}]")
    code = (
        "import sys; from batchgen.manifest import open_manifest\n"
        f"list(open_manifest({str(path)!r}).items()); sys.exit('jinja2' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_tier_sets_googles_spend_limits_and_what_is_given_goes_before_it():
    def limits(**facts):
        return Limits.model_validate(facts)

    month = (Budget("month", 250.0, "acc"),)
    assert (limits(tier=1).spend_rate("gemini"), limits(tier=1).shared_budgets("imagen", "acc")) == (10.0, month)
    assert (limits(tier=1).spend_rate("aimlapi"), limits(tier=1).shared_budgets("aimlapi", "acc")) == (None, ())
    given = limits(tier=2, usd_per_10_min=5, budget_usd_per_day=9.0, budget_usd_per_month=7.0)
    assert [given.spend_rate(provider) for provider in ("gemini", "aimlapi")] == [5.0, 5.0]
    assert given.shared_budgets("gemini", "acc") == (Budget("day", 9.0), Budget("month", 7.0))


def test_a_tier_that_does_not_exist_is_a_complaint(folder):
    assert "must be 1, 2 or 3" in folder.complaint("limits: {tier: 4}\nitems: [{prompt: p}]")
