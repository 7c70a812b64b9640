"""Ids and file names: safe on every system, and never two pictures for one file."""

from __future__ import annotations

import json

import pytest

from batchgen.manifest.names import PLAIN_ID, default_id, id_problem, sample_stem, stem_problem

GOOD = ["a", "mug-hero", "A_1.2", "été", "_x", "0", "con-x", "console", "com10", "x" * 100]
BAD = [
    "",
    ".",
    "..",
    ".x",
    "-x",
    "a/b",
    "a\\b",
    "a b",
    "a\n",
    "a\x00",
    "con",
    "CON.png",
    "nul",
    "com1",
    "lpt9.x",
    "x" * 101,
]
BAD_STEMS = [
    "",
    ".",
    "..",
    "a/b",
    "a\\b",
    "../x",
    "a:b",
    "a?",
    'a"b',
    "nul",
    "AUX.tar",
    "x.",
    "x ",
    " x",
    "-x",
    "a\x07",
]
BAD_STEMS += ["a\u202eb", "x" * 201, "é" * 101, "a\ud800"]


@pytest.mark.parametrize("text", GOOD)
def test_an_id_may_look_like_this(text):
    assert id_problem(text) is None


@pytest.mark.parametrize("text", BAD)
def test_an_id_may_not_look_like_this(text):
    assert id_problem(text)


@pytest.mark.parametrize("text", [*GOOD, *BAD, "x.", "é", "a\u202eb"])
def test_the_fast_check_of_ids_lets_nothing_pass_that_the_full_one_refuses(text):
    assert not PLAIN_ID.fullmatch(text) or (id_problem(text) is None and stem_problem(text) is None)


@pytest.mark.parametrize("text", ["a b", "Mug, großer", "x" * 200, "2024-01-01", "aux2"])
def test_a_file_name_may_look_like_this(text):
    assert stem_problem(text) is None


@pytest.mark.parametrize("text", BAD_STEMS)
def test_a_file_name_may_not_look_like_this(text):
    assert stem_problem(text)


def test_the_second_sample_has_its_number_behind_the_name():
    assert [sample_stem("mug", n) for n in (1, 2, 3)] == ["mug", "mug-2", "mug-3"]


def test_a_default_id_is_readable_and_stable():
    assert default_id("A photo of Café Zoë, at night") == "a-photo-of-cafe-zoe-at-night-9068e9e1"


@pytest.mark.parametrize("prompt", ["猫", "!!!", "../../etc/passwd", "x" * 10_000, "con", "a\nb", "\ud800"])
def test_a_default_id_is_an_id_whatever_the_prompt(prompt):
    assert id_problem(default_id(prompt)) is None


def test_a_default_id_is_used_when_there_is_none(folder):
    (item,) = folder.items('{"prompt": "A red fox"}', "j.jsonl")
    assert (item.id, item.filename) == (default_id("A red fox"), default_id("A red fox"))


def test_the_file_name_is_a_template_that_knows_the_id(one):
    assert one(id="mug", filename="shop {{ id }}").filename == "shop mug"


def test_a_file_name_has_no_extension(folder):
    assert "without an extension" in folder.complaint("items: [{prompt: p, filename: mug.png}]")


def test_a_file_name_is_composed_to_nfc(one):
    assert one(filename="e\u0301te\u0301").filename == "été"


def test_a_file_name_cannot_leave_the_folder(folder):
    assert "names a folder" in folder.complaint("items: [{prompt: p, filename: ../x}]")


def jsonl(*entries):
    return "".join(json.dumps({"prompt": "p", **entry}) + "\n" for entry in entries)


def test_an_id_used_twice_is_complained_about_with_both_places(folder):
    text = jsonl({"id": "a"}, {"id": "b"}, {"id": "a"})
    assert folder.complaint(text, "j.jsonl") == "j.jsonl:3:17: id: 'a' is already used at j.jsonl:1"


def test_ids_that_differ_only_in_case_would_be_one_file(folder):
    assert "the file 'MUG' is also written by 'mug' at j.jsonl:1" in folder.complaint(
        jsonl({"id": "mug"}, {"id": "MUG"}), "j.jsonl"
    )


def test_two_items_may_not_have_one_file_name(folder):
    text = jsonl({"id": "a", "filename": "x"}, {"id": "b", "filename": "x"})
    assert "filename: the file 'x' is also written by 'a'" in folder.complaint(text, "j.jsonl")


def test_a_second_sample_may_not_take_another_items_file(folder):
    text = jsonl({"id": "mug", "count": 3}, {"id": "mug-3"})
    assert "the file 'mug-3' is also written by 'mug'" in folder.complaint(text, "j.jsonl")


def test_a_file_name_may_be_another_items_id_when_that_one_has_its_own(folder):
    assert len(folder.items(jsonl({"id": "a", "filename": "b"}, {"id": "b", "filename": "a"}), "j.jsonl")) == 2


def test_names_that_differ_only_in_composition_are_one_file(folder):
    text = jsonl({"id": "a", "filename": "Été"}, {"id": "b", "filename": "E\u0301te\u0301"})
    assert "also written by" in folder.complaint(text, "j.jsonl")


def test_repeats_from_rows_name_both_rows(folder):
    folder.write("sku\na\nb\na\n", "rows.csv")
    complaint = folder.complaint("items: [{id: '{{ sku }}', prompt: p, from: rows.csv}]")
    assert complaint == "job.yaml:1:10: id: 'a' is already used at rows.csv:2 (row rows.csv:4)"


def test_the_same_prompt_twice_without_ids_is_refused(folder):
    assert "is already used" in folder.complaint('{"prompt": "p"}\n{"prompt": "p"}\n', "j.jsonl")
