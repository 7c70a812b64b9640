"""`cutout: difference`: one entry of a manifest is two items, the second an edit of the first."""

from __future__ import annotations

import json

import pytest

from batchgen.manifest.post_section import post_fields

HEAD = "post: [{name: sprite, format: png, cutout: difference}, {name: web, format: webp, width: 64}]\n"


def names(item):
    return [one.name for one in item.post.derivatives] if item.post else None


def test_an_item_is_asked_for_on_white_and_edited_to_be_on_black(folder):
    (folder.path / "ref.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"\x00" * 24)
    text = (
        HEAD
        + "items:\n  - {id: mug, prompt: A mug, filename: cup, references: [ref.png], tags: [t], seed: 7, max_age: 7d}\n"
    )
    white, black = folder.items(text)
    assert (white.id, white.filename, names(white)) == ("mug-white", "cup-white", ["web"])
    assert white.prompt.startswith("A mug\n\n")
    assert "pure white background (#ffffff)" in white.prompt
    assert [name.rpartition("/")[2] for name in white.references] == ["ref.png"]
    assert (black.id, black.filename, names(black), black.references) == ("mug", "cup", ["sprite"], ("@mug-white",))
    assert "pure black background (#000000)" in black.prompt
    assert (black.tags, black.seed, black.model, black.max_age_s) == (("t",), 7, white.model, None)
    assert "twin" in [check.name for check in white.checks]
    assert "twin" not in [check.name for check in black.checks]


def test_every_entry_is_two_also_where_it_is_like_the_one_before(folder):
    lines = [{"version": 1, "defaults": {"post": [{"name": "s", "format": "png", "cutout": "difference"}]}}]
    lines += [{"id": name, "prompt": "p"} for name in "abc"]
    items = folder.items("\n".join(map(json.dumps, lines)), "job.jsonl")
    assert [item.id for item in items] == ["a-white", "a", "b-white", "b", "c-white", "c"]
    assert names(items[0]) is None


def test_a_pair_that_is_written_out_is_taken_as_it_is(folder):
    white, black = folder.items(HEAD + "items:\n  - {id: mug, prompt: A mug}\n")
    written = [
        {"id": item.id, "prompt": item.prompt, "references": list(item.references), "post": post_fields(item.post)}
        for item in (white, black)
    ]
    again = folder.items(json.dumps({"items": written}), "again.yaml")
    assert [(item.id, item.prompt, item.post) for item in again] == [
        (item.id, item.prompt, item.post) for item in (white, black)
    ]


@pytest.mark.parametrize(("fields", "said"), [
    ("prompt: p, count: 2", "2:24: count: must be 1 for `cutout: difference`"),
    ("turns: [p, q]", "2:13: turns: make no pair of images"),
    ("prompt: p, model: gpt-image-2.6-sunburst, background: transparent", "background: is transparent already"),
    ("prompt: p, model: google/gemini-2.5-flash-image", "an edit on black: references: google/gemini-2.5-flash-image does not"),
])  # fmt: skip
def test_what_cannot_be_a_pair_is_said_with_its_place(folder, fields, said):
    text = "items:\n  - {id: a, " + fields + ", post: [{name: s, format: png, cutout: difference}]}\n"
    assert said in "\n".join(folder.complaints(text))


def test_a_name_has_room_for_its_ending(folder):
    text = f"items:\n  - {{id: {'a' * 95}, prompt: p, post: [{{name: s, format: png, cutout: difference}}]}}\n"
    assert "has 101 characters, at most 100" in folder.complaint(text)
