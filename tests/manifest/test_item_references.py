"""What items need of each other, as far as the manifest alone can tell: turns, `@id`, circles and names that are not there."""

from __future__ import annotations

import pytest


def test_a_conversation_is_an_item_for_each_turn(folder):
    first, second, third = folder.items("items: [{id: a, turns: [x, y, z], filename: f, model: pro}]")
    assert [item.id for item in (first, second, third)] == ["a-t1", "a-t2", "a-t3"]
    assert [item.filename for item in (first, second, third)] == ["f-t1", "f-t2", "f-t3"]
    assert (third.prompt, third.history, third.turn, third.model) == ("z", ("x", "y"), 3, first.model)


def test_a_conversation_without_an_id_is_named_after_its_first_turn(folder):
    assert [item.id for item in folder.items("items: [{turns: [A red fox, Calmer]}]")] == [
        "a-red-fox-86cc9e34-t1", "a-red-fox-86cc9e34-t2",
    ]  # fmt: skip


def test_turns_are_templates_like_any_other_text(folder):
    items = folder.items("items: [{id: 'a-{{ x }}', matrix: {x: [p, q]}, turns: ['one {{ x }}', 'two {{ id }}']}]")
    assert [item.prompt for item in items] == ["one p", "two a-p", "one q", "two a-q"]


def test_an_entry_with_a_prompt_is_no_conversation_though_the_defaults_have_turns(folder):
    items = folder.items("defaults: {turns: [x, y]}\nitems: [{id: a, prompt: p}, {id: b}]")
    assert [item.id for item in items] == ["a", "b-t1", "b-t2"]


@pytest.mark.parametrize(
    ("entry", "complaint"),
    [
        (
            "{id: a, prompt: p, turns: [x]}",
            "job.yaml:1:28: turns: is given beside a prompt: an item has one or the other",
        ),
        ("{id: a, turns: []}", "job.yaml:1:17: turns: is empty"),
        ("{id: a, turns: [x], model: imagen-4}", None),
        (f"{{id: {'a' * 97}, turns: [x]}}", "over 96 characters"),
    ],
)
def test_what_is_wrong_with_turns_is_said(folder, entry, complaint):
    text = str(folder.error(f"items: [{entry}]")).replace(f"{folder.path}/", "")
    assert (complaint or "turns: ") in text


def test_references_to_items_keep_their_order_among_files(folder):
    folder.write(b"\x89PNG\r\n\x1a\n" + b"\x00" * 24, "f.png")
    *_, item = folder.items(
        "items: [{id: a, prompt: p, count: 2}, {id: b, prompt: p, references: ['@a#2', f.png, '@a#1']}]"
    )
    assert [name.rpartition("/")[2] for name in item.references] == ["@a#2", "f.png", "@a"]


@pytest.mark.parametrize(
    ("reference", "words"),
    [
        ("@nix", "there is no item 'nix'"),
        ("@heroo", "there is no item 'heroo' (did you mean 'hero'?)"),
        ("@hero#3", "'hero' has 2 sample(s), so there is no @hero#3"),
        ("@talk", "'talk' is a conversation: name one of its turns, such as @talk-t1"),
        ("@talk-t3", "there is no item 'talk-t3' (did you mean 'talk-t2'?)"),
        ("@hero#x", "what follows '#' is the number of a sample, from 1"),
        ("@a/b", "may hold letters, digits"),
        ("@me", "a circle: me needs me"),
    ],
)
def test_a_reference_to_an_item_that_is_not_there_is_said_with_its_place(folder, reference, words):
    text = f"""items:
  - {{id: me, prompt: p, references: ['{reference}']}}
  - {{id: hero, prompt: p, count: 2}}
  - {{id: talk, turns: [x, y]}}
"""
    complaint = folder.complaint(text)
    assert complaint.startswith("job.yaml:2:")
    assert words in complaint


def test_every_circle_is_said_once_even_through_a_conversation(folder):
    text = """items:
  - {id: a, prompt: p, references: ['@b']}
  - {id: b, prompt: p, references: ['@a']}
  - {id: talk, turns: [x, y], references: ['@c']}
  - {id: c, prompt: p, references: ['@talk-t1']}
  - {id: outside, prompt: p, references: ['@a', '@c']}
"""
    told = [complaint.partition("references: ")[2] for complaint in folder.complaints(text)]
    assert sorted(told) == ["a circle: a needs b needs a", "a circle: talk-t1 needs c needs talk-t1"]


def test_more_references_than_the_model_takes_are_refused_items_included(folder):
    many = ", ".join(f"'@i{n}'" for n in range(15))
    text = f"items: [{{id: a, prompt: p, references: [{many}]}}"
    text += "".join(f", {{id: i{n}, prompt: p}}" for n in range(15)) + "]"
    assert "takes at most 14 reference images, not 15" in folder.complaint(text)


def test_needs_of_a_long_manifest_take_memory_for_what_is_needed_only(folder):
    from batchgen.manifest import open_manifest

    lines = ['{"id": "hero", "prompt": "p"}']
    lines += [f'{{"id": "i{n}", "prompt": "p", "references": ["@hero"]}}' for n in range(3000)]
    manifest = open_manifest(folder.write("\n".join(lines), "job.jsonl"))
    assert sum(1 for _ in manifest.items()) == 3001
    assert manifest.ids_others_need == {"hero"}
