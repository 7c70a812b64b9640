"""`post:` in a manifest: what may stand in it, how items inherit it, and that it changes nothing that is sent."""

from __future__ import annotations

import json

import pytest

from batchgen.manifest import json_schema, open_manifest
from batchgen.manifest.post_section import post_fields
from batchgen.planning.fingerprint import fingerprint, wire_facts

WEB = "{name: web, format: webp, widths: [960, 480, 480], quality: 80}"
ITEMS = "items:\n  - {id: a, prompt: p}\n"


def made(folder, text):
    return {item.id: item.post for item in folder.items(text)}


def test_it_stands_at_the_head_in_defaults_or_at_an_item_and_the_nearest_holds(folder):
    text = (
        "post: [{name: head, format: png}]\n{}items:\n  - {id: a, prompt: p}\n"
        "  - {id: b, prompt: p, post: [{name: own, format: jpeg}]}\n  - {id: c, prompt: p, post: null}\n"
    )
    for defaults, name in [
        ("", "head"),
        ("defaults: {post: {derivatives: [{name: default, format: png}]}}\n", "default"),
    ]:
        posts = made(folder, text.replace("{}", defaults, 1))
        names = {key: [one.name for one in post.derivatives] if post else None for key, post in posts.items()}
        assert names == {"a": [name], "b": ["own"], "c": None}


def test_a_list_is_the_same_as_an_object_with_it(folder):
    assert made(folder, f"post: [{WEB}]\n{ITEMS}") == made(folder, f"post: {{derivatives: [{WEB}]}}\n{ITEMS}")
    (post,) = made(folder, f"post: [{WEB}]\n{ITEMS}").values()
    assert (post.derivatives[0].widths, post.derivatives[0].quality, post.embed) == ((480, 960), 80, "none")


@pytest.mark.parametrize("text", [
    f"[{WEB}]",
    "[{name: a, format: png, width: 9}, {name: b, format: jpeg, crop: '4:5', gravity: north, upscale: true, background: '#000000'}]",
    "{derivatives: [{name: a, format: original}], embed: full, sidecar: true, source_type: compositeWithTrainedAlgorithmicMedia}",
    "{embed: ids}",
    "{sign: true}",
    "[{name: a, format: png, cutout: key}, {name: b, format: webp, cutout: key, background: '#00ff00'}]",
    "null",
])  # fmt: skip
def test_what_is_read_can_be_written_as_a_manifest_that_says_the_same(folder, text):
    (post,) = made(folder, f"post: {text}\n{ITEMS}").values()
    assert made(folder, f"post: {json.dumps(post_fields(post))}\n{ITEMS}") == {"a": post}


def test_items_that_say_the_same_share_one_object(folder):
    text = f"post: [{WEB}]\nitems:\n" + "".join(f"  - {{id: i{n}, prompt: p}}\n" for n in range(5))
    manifest = open_manifest(folder.write(text))
    assert {id(item.post) for item in manifest.items()} == {id(manifest.post)}


def test_what_asks_for_no_file_is_nothing_to_do(folder):
    assert made(folder, f"post: {{embed: none}}\n{ITEMS}") == {"a": None}


def test_it_never_makes_a_picture_stale(folder):
    marks = {
        fingerprint(wire_facts(item))
        for head in ("", f"post: [{WEB}]\n", "post: {embed: full, sidecar: true}\n")
        for item in folder.items(head + ITEMS)
    }
    assert len(marks) == 1


@pytest.mark.parametrize(
    ("post", "said"),
    [
        ("[{name: w, format: webp, qualty: 8}]", "1:32: post.0.qualty: unknown field (did you mean 'quality'?)"),
        ("{emded: ids}", "1:8: post.emded: unknown field (did you mean 'embed'?)"),
        ("{derivatives: [{format: webp}]}", "1:22: post.derivatives.0.name: is missing"),
        ("[{name: w, format: jpg}]", "1:18: post.0.format: must be 'webp', 'avif', 'jpeg', 'png' or 'original', not 'jpg'"),
        ("[{name: W/x, format: png}]", "1:9: post.0.name: must be small letters"),
        ("[{name: nul, format: png}]", "1:9: post.0.name: must be small letters"),
        ("[{name: w, format: png, crop: 4x5}]", "1:31: post.0.crop: must look like 4:5, not '4x5'"),
        ("[{name: w, format: jpeg, background: red}]", "1:32: post.0.background: must look like #ffffff, not 'red'"),
        ("[{name: w, format: png, width: 0}]", "1:31: post.0.width: must be at least 1"),
        ("[{name: w, format: png, width: 9, widths: [9]}]", "1:8: post.0: has both width and widths: choose one"),
        ("[{name: w, format: png, quality: 9}]", "1:8: post.0: a PNG has no quality: it loses nothing"),
        ("[{name: w, format: original, width: 9}]", "1:8: post.0: the original is copied as it is: take 'width' away"),
        ("[{name: w, format: png, gravity: north}]", "1:8: post.0: gravity says what a crop keeps, and there is no crop"),
        ("[{name: w, format: webp, background: '#000000'}]", "1:8: post.0: background is for jpeg"),
        ("[{name: w, format: jpeg, cutout: key}]", "1:8: post.0: a cutout needs transparency, which jpeg is not used for"),
        ("[{name: w, format: png, cutout: difference, background: '#00ff00'}]", "1:8: post.0: background is for cutout: key"),
        ("[{name: w, format: original, cutout: key}]", "1:8: post.0: the original is copied as it is: take 'cutout' away"),
        ("[{name: w, format: webp, width: 20000}]", "1:8: post.0: a webp is at most 16,383 pixels wide"),
        ("[{name: w, format: png}, {name: w, format: jpeg}]", "two derivatives would write to derivatives/w/"),
        ("[{name: w-9, format: png}, {name: w, widths: [9], format: jpeg}]", "would write to derivatives/w-9/"),
        ("yes please", "1:1: post: must be a mapping, not 'yes please'"),
    ],
)  # fmt: skip
def test_a_mistake_is_said_with_its_place(folder, post, said):
    assert said in folder.complaint(f"post: {post}\n{ITEMS}")


def test_signing_without_its_library_is_said_before_anything_is_paid_for(folder, monkeypatch):
    monkeypatch.setattr("batchgen.manifest.post_section.find_spec", lambda name: None)
    text = f"post: {{derivatives: [{WEB}], sign: true}}\n{ITEMS}"
    assert "1:1: post: `sign` needs the library c2pa-python: pip install 'batchgen[c2pa]'" in folder.complaint(text)
    assert made(folder, text.replace("true", "false"))["a"].sign is False


def test_a_mistake_at_an_item_is_said_with_its_place(folder):
    text = "items:\n  - id: a\n    prompt: p\n    post:\n      - {name: w, format: png, width: wide}\n"
    assert "5:32: post[0].width: must be a whole number, not 'wide'" in folder.complaint(text)


def test_editors_know_it(folder):
    schema = json_schema()
    for place in (
        schema["properties"],
        schema["$defs"]["Entry"]["properties"],
        schema["$defs"]["ItemFields"]["properties"],
    ):
        assert "DerivativeFields" in json.dumps(place["post"])
    assert schema["$defs"]["DerivativeFields"]["required"] == ["name", "format"]
