"""Fingerprints: everything that reaches the wire, nothing else, and stable for years."""

from __future__ import annotations

import dataclasses
import json

import pytest

from batchgen.planning.fingerprint import changed_fields, fingerprint, wire_facts
from batchgen.records import Item, Judge, OnReject, Post

ITEM = Item(id="a", prompt='A "fox",\nø', model="m", provider="gemini", filename="a")

SENT = {
    "prompt": "other",
    "model": "other",
    "provider": "imagen",
    "system": "s",
    "aspect_ratio": "1:1",
    "image_size": "2K",
    "modalities": ("text", "image"),
    "search": "web",
    "thinking": "high",
    "seed": 0,
    "temperature": 0.0,
    "safety": {"HARM_CATEGORY_HARASSMENT": "OFF"},
    "person_generation": "allow_adult",
    "negative_prompt": "n",
    "extra": {"a": 1},
    "keep_thoughts": True,
    "media_resolution": "high",
    "mask": True,
    "quality": "low",
    "background": "opaque",
    "output_format": "png",
}
# Than the golden hash below, which must not change.
LATER = ("keep_thoughts", "media_resolution", "mask", "quality", "background", "output_format")
NOT_SENT = {
    "id": "b",
    "filename": "b",
    "count": 2,
    "tags": ("t",),
    "priority": 3,
    "max_age_s": 60.0,
    "fallback": ("gemini/x",),
    "fallback_on": ("quota",),
    "on_mismatch": "fail",
    "service_tier": "flex",  # it is sent, and changes price and speed but not the picture
    "tier_until": 1.0,
    "post": Post(embed="full"),  # it asks for nothing
    "checks": (),  # what is done with the image that came
    "judge": Judge(model="m", provider="gemini", rubric="r"),
    "on_reject": OnReject(again=1),
    "no_image_suffix": "s",  # only after an answer without a picture
    "origin": "f:1",
}


def test_every_field_of_an_item_is_known_to_be_sent_or_not():
    assert {*SENT, *NOT_SENT, "references", "turn", "history"} == {field.name for field in dataclasses.fields(Item)}


@pytest.mark.parametrize("field", SENT)
def test_a_field_that_is_sent_changes_the_fingerprint(field):
    changed = dataclasses.replace(ITEM, **{field: SENT[field]})
    assert fingerprint(wire_facts(changed)) != fingerprint(wire_facts(ITEM))


@pytest.mark.parametrize("field", SENT)
def test_a_field_that_is_sent_is_named_as_the_change(field):
    assert changed_fields(wire_facts(ITEM), wire_facts(dataclasses.replace(ITEM, **{field: SENT[field]}))) == [field]


def test_what_was_said_before_changes_the_fingerprint_of_a_turn():
    turn = dataclasses.replace(ITEM, turn=2, history=("first",))
    marks = {
        fingerprint(wire_facts(ITEM)),
        fingerprint(wire_facts(turn, earlier_digest="00")),
        fingerprint(wire_facts(turn, earlier_digest="ff")),
        fingerprint(wire_facts(dataclasses.replace(turn, history=("other",)), earlier_digest="00")),
    }
    assert len(marks) == 4


@pytest.mark.parametrize("field", NOT_SENT)
def test_a_field_that_is_not_sent_changes_nothing(field):
    assert wire_facts(dataclasses.replace(ITEM, **{field: NOT_SENT[field]})) == wire_facts(ITEM)


# If this fails, every picture ever bought would be bought again: raise VERSION only on purpose.
def test_the_facts_of_a_plain_item_are_written_like_this_for_ever():
    assert wire_facts(ITEM) == r'{"v":1,"model":"m","provider":"gemini","prompt":"A \"fox\",\nø"}'


def test_the_facts_of_a_full_item_are_written_like_this_for_ever():
    full = dataclasses.replace(
        ITEM, **{name: value for name, value in SENT.items() if name not in ("prompt", "model", "provider", *LATER)}
    )
    digest = fingerprint(wire_facts(full, ["00ff"]))
    assert digest == "d56cd80bb906df608e977a96aa70bfc9613dadecacb892197f305321f0f16b9c"


def test_the_facts_are_json():
    assert json.loads(wire_facts(ITEM))["prompt"] == ITEM.prompt


def test_the_bytes_of_references_count_and_their_order_too():
    wires = {wire_facts(ITEM, digests) for digests in ([], ["a"], ["b"], ["a", "b"], ["b", "a"])}
    assert len(wires) == 5


def test_the_order_of_names_in_extra_does_not_count():
    wires = [wire_facts(dataclasses.replace(ITEM, extra=extra)) for extra in ({"a": 1, "b": 2}, {"b": 2, "a": 1})]
    assert wires[0] == wires[1]


def test_one_and_one_point_zero_are_the_same_temperature():
    wires = [wire_facts(dataclasses.replace(ITEM, temperature=value)) for value in (1, 1.0)]
    assert wires[0] == wires[1]


def test_several_changes_are_named_the_prompt_first():
    other = dataclasses.replace(ITEM, prompt="p", aspect_ratio="1:1", seed=1)
    assert changed_fields(wire_facts(ITEM), wire_facts(other)) == ["prompt", "aspect_ratio", "seed"]


def test_a_new_version_of_the_facts_is_named_as_such():
    assert changed_fields(wire_facts(ITEM).replace('"v":1', '"v":0'), wire_facts(ITEM)) == ["batchgen"]
