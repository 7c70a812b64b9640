"""YAML manifests: places to the column, and every bomb refused before it goes off."""

from __future__ import annotations

import pytest


def test_a_complaint_names_file_line_and_column(folder):
    text = "items:\n  - id: a\n    prompt: p\n    aspect_ratoi: '1:1'\n"
    assert folder.complaint(text).startswith("job.yaml:4:5: aspect_ratoi: unknown field (did you mean 'aspect_ratio'?)")


def test_a_complaint_about_an_element_names_its_own_place(folder):
    text = "items:\n  - prompt: p\n    references: [nothing.png,  7]\n"
    assert "job.yaml:3:32: references[1]: must be text" in folder.complaint(text)


def test_an_unquoted_ratio_is_text_and_not_a_number_of_base_sixty(folder):
    (item,) = folder.items("items: [{prompt: p, aspect_ratio: 16:9}]")
    assert item.aspect_ratio == "16:9"


def test_no_is_a_word(folder):
    items = folder.items("items: [{id: '{{ c }}', prompt: p, matrix: {c: [no, on, y]}}]")
    assert [item.id for item in items] == ["no", "on", "y"]


def test_a_size_of_512_may_be_written_as_a_number(folder):
    facts = "models: {pro: {sizes: ['512', 1K]}}"
    fields = "prompt: p, model: gemini-3.1-flash-image, image_size: 512, fallback: [pro]"
    (item,) = folder.items(f"{facts}\nitems: [{{{fields}}}]")
    assert (item.image_size, item.fallback) == ("512", ("gemini/gemini-3-pro-image",))


def test_a_number_for_text_is_refused_with_the_remedy(folder):
    assert "must be text, not the number 7; put it in quotes" in folder.complaint("items: [{id: 007, prompt: p}]")


def test_a_duplicate_key_is_refused_with_both_places(folder):
    text = "items:\n  - prompt: p\n    seed: 1\n    seed: 2\n"
    assert folder.complaint(text) == "job.yaml:4:5: seed: given twice in the same mapping, first in line 3"


@pytest.mark.parametrize("tag", ["!!python/object/apply:os.system", "!mine", "!!binary", "!!set"])
def test_tags_are_refused(folder, tag):
    assert "tags are not read" in folder.complaints(f"vars: {{a: {tag} x}}\nitems: [{{prompt: p}}]")[0]


@pytest.mark.parametrize("bomb", ["[" * 100_000, "{a: " * 100_000, "- " * 100_000, "? " * 100_000, "[" * 65 + "]" * 65])
def test_deep_nesting_is_refused_without_overflowing_a_stack(folder, bomb):
    assert "nested deeper than 64 levels" in folder.complaint(f"items:\n {bomb}")


def test_an_alias_bomb_is_refused(folder):
    levels = "\n".join(f"  l{n}: &l{n} [{', '.join([f'*l{n - 1}'] * 10)}]" for n in range(1, 10))
    assert "aliases expand to more than 100,000" in folder.complaint(f"vars:\n  l0: &l0 [x]\n{levels}\nitems: []")


def test_an_alias_inside_its_own_anchor_is_refused(folder):
    assert "no finished anchor" in folder.complaint("vars: {a: &a [*a]}\nitems: [{prompt: p}]")


def test_an_alias_repeats_what_its_anchor_holds(folder):
    items = folder.items("items:\n  - &one {prompt: p, tags: [x]}\n  - {<<: *one, id: b}\n")
    assert [item.tags for item in items] == [("x",), ("x",)]


def test_a_second_document_is_refused(folder):
    assert "job.yaml:2:1: one document to a manifest" in folder.complaint("items: [{prompt: p}]\n---\nitems: []\n")


def test_broken_yaml_is_said_with_its_place(folder):
    assert folder.complaint("items:\n  - prompt: [p\n").startswith("job.yaml:3:1: not YAML:")


def test_a_number_of_five_thousand_digits_is_refused(folder):
    assert "5,000 digits" in folder.complaints(f"items: [{{prompt: p, seed: {'1' * 5000}}}]")[0]


def test_infinity_is_refused(folder):
    assert "not a number" in folder.complaints("items: [{prompt: p, extra: {a: .inf}}]")[0]


def test_a_byte_order_mark_and_windows_line_ends_are_accepted(folder):
    (item,) = folder.items(b"\xef\xbb\xbfitems:\r\n  - id: a\r\n    prompt: p\r\n")
    assert (item.id, item.prompt) == ("a", "p")


def test_a_manifest_larger_than_the_limit_is_refused(folder):
    assert "use JSONL" in folder.complaint(b"# " + b"x" * 64_000_000)


@pytest.mark.parametrize("text", ["0042", "1.10", "12E5", "010", "0x1F", "+5", "7", "0.5"])
def test_what_a_template_prints_of_a_number_is_what_was_written(folder, text):
    manifest = f"vars: {{v: {text}}}\nitems: [{{id: 'i{{{{ index }}}}', prompt: '{{{{ v }}}} {{{{ m }}}}', matrix: {{m: [{text}]}}}}]"
    assert [item.prompt for item in folder.items(manifest)] == [f"{text} {text}"]


def test_a_number_stays_one_for_fields_and_sums(folder):
    (item,) = folder.items("vars: {v: 010}\nitems: [{id: a, prompt: '{{ v + 1 }}', count: 02, temperature: 1.50}]")
    assert (item.prompt, item.count, item.temperature) == ("11", 2, 1.5)
