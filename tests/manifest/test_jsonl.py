"""JSON Lines manifests: strict, streamed, and columns found when they are needed."""

from __future__ import annotations

import json
import os
import threading

import pytest

from batchgen.errors import ManifestError
from batchgen.manifest import open_manifest

GOOD = '{"id": "a", "prompt": "p"}\n'


def lines(*entries):
    return "".join(json.dumps(entry) + "\n" for entry in entries)


@pytest.mark.parametrize("header", [{"version": 1}, {"defaults": {"model": "pro"}}])
def test_a_first_line_with_version_or_defaults_is_the_header(folder, header):
    assert [item.id for item in folder.items(lines(header, {"id": "a", "prompt": "p"}), "j.jsonl")] == ["a"]


def test_defaults_of_the_header_hold_for_every_line(folder):
    text = lines({"defaults": {"aspect_ratio": "3:4"}}, {"prompt": "p"}, {"prompt": "q", "aspect_ratio": "1:1"})
    assert [item.aspect_ratio for item in folder.items(text, "j.jsonl")] == ["3:4", "1:1"]


def test_null_takes_a_default_back(folder):
    text = lines({"defaults": {"aspect_ratio": "3:4", "seed": 5}}, {"prompt": "q"}, {"prompt": "p", "seed": None})
    assert [item.seed for item in folder.items(text, "j.jsonl")] == [5, None]


def test_a_complaint_names_line_and_column_of_the_key(folder):
    text = '{"version": 1}\n{"id": "a", "prompt": "p", "extra": {"seed": 1}, "sede": 2}\n'
    assert folder.complaint(text, "j.jsonl").startswith("j.jsonl:2:50: sede: unknown field (did you mean 'seed'?)")


def test_a_missing_prompt_points_at_the_object(folder):
    assert folder.complaint('  {"id": "a"}\n', "j.jsonl") == "j.jsonl:1:3: prompt: missing"


def test_broken_json_names_its_column(folder):
    assert folder.complaint('{"id" "a"}\n', "j.jsonl").startswith("j.jsonl:1:7: not JSON")


def test_a_duplicate_key_is_refused_at_its_second_place(folder):
    assert folder.complaint('{"id": "a", "id": "b"}\n', "j.jsonl").startswith("j.jsonl:1:13: id: given twice")


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999"])
def test_numbers_that_are_none_are_refused(folder, number):
    assert folder.error(f'{{"prompt": "p", "extra": {{"a": {number}}}}}\n', "j.jsonl").total == 1


def test_an_integer_of_five_thousand_digits_is_refused(folder):
    assert "4,300 digits" in folder.complaint(f'{{"prompt": "p", "seed": {"1" * 5000}}}\n', "j.jsonl")


@pytest.mark.parametrize("depth", [65, 1_000, 100_000])
def test_deep_nesting_is_refused(folder, depth):
    text = f'{{"prompt": "p", "extra": {{"a": {"[" * depth}{"]" * depth}}}}}\n'
    assert "nested" in folder.complaint(text, "j.jsonl")


def test_many_brackets_side_by_side_are_no_nesting(folder):
    assert folder.items(lines({"prompt": "[" * 200, "extra": {"a": [[]] * 100}}), "j.jsonl")


def test_a_byte_order_mark_windows_ends_and_empty_lines_are_accepted(folder):
    text = b"\xef\xbb\xbf" + b'{"version": 1}\r\n\r\n' + GOOD.replace("\n", "\r\n").encode()
    assert [item.origin.rpartition(":")[2] for item in folder.items(text, "j.jsonl")] == ["3"]


def test_a_line_beyond_the_cap_is_refused_and_the_next_one_read(folder):
    text = json.dumps({"id": "b", "prompt": "x" * 1_000_000}) + "\n" + GOOD.replace("p", "") + GOOD
    complaints = folder.complaints(text, "j.jsonl")
    assert [complaint.split(": ")[0] for complaint in complaints] == ["j.jsonl:1", "j.jsonl:2:13"]


def test_bytes_that_are_not_utf8_are_named_with_their_column(folder):
    assert folder.complaint(b'{"prompt": "\xff"}\n', "j.jsonl") == "j.jsonl:1:13: not UTF-8; save it as UTF-8"


def test_half_a_surrogate_pair_is_refused(folder):
    assert "surrogate" in folder.complaint('{"prompt": "\\ud800"}\n', "j.jsonl")


def test_a_line_that_is_no_object_is_refused(folder):
    assert "must be a JSON object, not a list" in folder.complaint(GOOD + "[1]\n", "j.jsonl")


def test_a_header_field_in_an_item_is_sent_to_the_header(folder):
    assert "belongs into the header" in folder.complaint('{"prompt": "p", "vars": {}}\n', "j.jsonl")


def test_lines_are_not_limited_in_number(folder):
    assert len(folder.items("".join(f'{{"id": "i{n}", "prompt": "p"}}\n' for n in range(10_001)), "j.jsonl")) == 10_001


def test_lines_are_limited_when_the_header_says_so(folder):
    text = lines({"version": 1, "limits": {"max_items": 2}}, *({"id": f"i{n}", "prompt": "p"} for n in range(3)))
    assert "more than 2 items" in folder.complaint(text, "j.jsonl")


def test_the_first_item_comes_before_the_last_line_is_read(folder):
    path = folder.write(GOOD + '{"id": "b", "prompt": "p"}\n' * 50_000 + "not json", "j.jsonl")
    items = open_manifest(path).items()
    first = next(items)
    os.truncate(path, len(GOOD))  # what has not been read yet cannot be complained about
    assert first.id == "a"
    with pytest.raises(ManifestError) as caught:
        list(items)
    assert ":50002" not in str(caught.value)


def test_items_can_be_read_again(folder):
    manifest = open_manifest(folder.write(GOOD, "j.jsonl"))
    assert list(manifest.items()) == list(manifest.items())


def test_a_pipe_is_refused_instead_of_waited_for(folder):
    os.mkfifo(folder.path / "j.jsonl")
    told = []

    def read():
        try:
            open_manifest(folder.path / "j.jsonl")
        except ManifestError as error:
            told.append(str(error))

    thread = threading.Thread(target=read, daemon=True)
    thread.start()
    thread.join(10)
    assert "is not a regular file" in told[0]


def test_a_manifest_that_is_one_json_array_is_answered_with_what_to_do(folder):
    assert "is one JSON array; put each object on a line of its own" in folder.complaint('[{"prompt": "p"}]', "j.jsonl")


@pytest.mark.parametrize("name", ["j.jsonl", "j.yaml"])
def test_a_manifest_in_utf_16_is_called_so(folder, name):
    assert "is UTF-16" in folder.complaint('{"prompt": "p"}'.encode("utf-16"), name)
