"""Matrix, zip, include and exclude, as in GitHub Actions; and ids, which must tell the results apart."""

from __future__ import annotations

import re
from datetime import datetime, timedelta

import pytest

from batchgen.manifest import open_manifest
from batchgen.manifest.expand import Expansion, combinations


def made(rows=None, **kinds):
    return list(combinations(Expansion(**kinds), rows))


def test_without_any_expansion_there_is_one_item():
    assert made() == [{}]


def test_a_matrix_is_every_combination():
    assert made(matrix={"a": [1, 2], "b": ["x", "y"]}) == [
        {"a": 1, "b": "x"}, {"a": 1, "b": "y"}, {"a": 2, "b": "x"}, {"a": 2, "b": "y"},
    ]  # fmt: skip


def test_zip_takes_lists_side_by_side():
    assert made(zip={"a": [1, 2], "b": ["x", "y"]}) == [{"a": 1, "b": "x"}, {"a": 2, "b": "y"}]


def test_matrix_and_zip_multiply():
    assert made(matrix={"m": [1, 2]}, zip={"a": [1], "b": [2]}) == [{"m": 1, "a": 1, "b": 2}, {"m": 2, "a": 1, "b": 2}]


def test_exclude_drops_what_has_all_its_values():
    assert made(matrix={"a": [1, 2], "b": [1, 2]}, exclude=[{"a": 1, "b": 2}, {"a": 2}]) == [{"a": 1, "b": 1}]


def test_exclude_finds_a_number_in_a_row_of_text():
    assert made(rows=[{"year": "2024"}, {"year": "2025"}], exclude=[{"year": 2024}]) == [{"year": "2025"}]


# The example of docs.github.com, "Expanding or adding matrix configurations", with its result.
def test_include_extends_and_adds_as_documented():
    combined = made(
        matrix={"fruit": ["apple", "pear"], "animal": ["cat", "dog"]},
        include=[
            {"color": "green"},
            {"color": "pink", "animal": "cat"},
            {"fruit": "apple", "shape": "circle"},
            {"fruit": "banana"},
            {"fruit": "banana", "animal": "cat"},
        ],
    )
    assert combined == [
        {"fruit": "apple", "animal": "cat", "color": "pink", "shape": "circle"},
        {"fruit": "apple", "animal": "dog", "color": "green", "shape": "circle"},
        {"fruit": "pear", "animal": "cat", "color": "pink"},
        {"fruit": "pear", "animal": "dog", "color": "green"},
        {"fruit": "banana"},
        {"fruit": "banana", "animal": "cat"},
    ]


def test_include_alone_is_the_list_of_combinations():
    assert made(include=[{"a": 1}, {"a": 2}]) == [{"a": 1}, {"a": 2}]


def test_include_works_on_rows_too():
    assert made(rows=[{"sku": "a"}, {"sku": "b"}], include=[{"sku": "a", "hero": True}, {"sku": "c"}]) == [
        {"sku": "a", "hero": True}, {"sku": "b"}, {"sku": "c"},
    ]  # fmt: skip


def test_rows_are_taken_one_by_one():
    def endless():
        n = 0
        while True:
            yield {"n": n}
            n += 1

    assert next(combinations(Expansion(), endless())) == {"n": 0}


def test_unequal_lists_to_zip_are_refused(folder):
    text = "items: [{id: '{{ a }}', prompt: p, zip: {a: [1, 2], b: [1]}}]"
    assert "the lists must be equally long: a has 2, b has 1" in folder.complaint(text)


def test_an_empty_list_is_refused(folder):
    assert "is an empty list" in folder.complaint("items: [{id: '{{ a }}', prompt: p, matrix: {a: []}}]")


def test_a_product_is_counted_and_never_made(folder):
    axes = ", ".join(f"v{n}: [{', '.join(map(str, range(100)))}]" for n in range(8))
    text = f"items: [{{id: '{{{{ v0 }}}}', prompt: p, matrix: {{{axes}}}}}]"
    assert "100 x 100 x 100 x 100 x 100 x 100 x 100 x 100 = 10,000,000,000,000,000 items" in folder.complaint(text)


def test_the_limit_of_items_can_be_raised(folder):
    text = (
        f"limits: {{max_items: 10001}}\nitems: [{{id: 'i{{{{ a }}}}', prompt: p, matrix: {{a: {[*range(10_001)]}}}}}]"
    )
    assert len(folder.items(text)) == 10_001


def test_yaml_makes_no_more_than_ten_thousand_items_unless_told(folder):
    text = f"items: [{{id: 'i{{{{ a }}}}', prompt: p, matrix: {{a: {[*range(10_000)]}}}}}, {{prompt: q}}]"
    assert "more than 10,000 items" in folder.complaint(text)


def test_an_id_that_is_the_same_for_all_combinations_is_explained(folder):
    text = "items: [{id: mug, prompt: p, matrix: {colour: [a, b]}}]"
    assert "put a variable into it, such as {{ colour }}" in folder.complaint(text)


def test_index_counts_the_combinations_of_an_entry(folder):
    items = folder.items("items: [{id: 'n{{ index }}', prompt: p, matrix: {a: [x, y]}}]")
    assert [item.id for item in items] == ["n1", "n2"]


def test_a_variable_needs_a_usable_name(folder):
    assert "is not a usable name for a variable" in folder.complaint("items: [{prompt: p, matrix: {a-b: [1]}}]")


@pytest.mark.parametrize("kind", ["matrix", "zip", "include", "exclude"])
def test_a_wrong_shape_of_an_expansion_is_refused(folder, kind):
    assert f"{kind}: must be a" in folder.complaint(f"items: [{{prompt: p, {kind}: 7}}]")


def test_the_date_of_the_run_is_a_variable_and_stays_the_same_for_the_whole_manifest(folder):
    manifest = open_manifest(
        folder.write("items: [{id: 'a-{{ run.date }}', prompt: '{{ run.year }} {{ run.week }} {{ run.weekday }}'}]")
    )
    today = datetime.now().astimezone()
    first, second = list(manifest.items()), list(manifest.items())
    assert [item.id for item in first] in ([f"a-{today:%Y-%m-%d}"], [f"a-{today + timedelta(seconds=60):%Y-%m-%d}"])
    assert first == second
    assert re.fullmatch(r"\d{4} \d{4}-W\d{2} [A-Z]\w+", first[0].prompt)


def test_a_variable_of_the_manifests_own_called_run_wins(folder):
    assert folder.items("vars: {run: mine}\nitems: [{id: a, prompt: '{{ run }}'}]")[0].prompt == "mine"


@pytest.mark.parametrize(("text", "seconds"), [("36h", 129600.0), ("7d", 604800.0), ("2w", 1209600.0)])
def test_an_age_is_hours_days_or_weeks(folder, text, seconds):
    assert folder.items(f"items: [{{id: a, prompt: p, max_age: {text}}}]")[0].max_age_s == seconds


@pytest.mark.parametrize("text", ["7", "0d", "a week", "7 d", "1y"])
def test_any_other_age_is_refused_with_an_example(folder, text):
    assert "such as 36h, 7d or 4w" in folder.complaint(f"items: [{{id: a, prompt: p, max_age: '{text}'}}]")
