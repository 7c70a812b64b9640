"""Whatever stands in a file, reading it ends in items or in a ManifestError; and the short way judges like the long one."""

from __future__ import annotations

import contextlib
import json
import tempfile
from pathlib import Path

from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from batchgen.errors import ManifestError
from batchgen.manifest import open_manifest
from batchgen.manifest.assemble import EntryPatterns
from batchgen.manifest.schema import ENTRY_NAMES, HEADER_NAMES

quick = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
scalars = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8),
    st.sampled_from(["1:1", "2K", "flash", "{{ a }}", "{% if a %}", "web", "high", "@x", "*.png", "con", "../x", "{{ a.b }}"]),
)  # fmt: skip
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
entries = st.dictionaries(st.sampled_from(sorted(ENTRY_NAMES)) | st.text(max_size=4), values, max_size=6)
good = st.fixed_dictionaries(
    {"prompt": st.text(min_size=1, max_size=9)}, optional=dict.fromkeys(ENTRY_NAMES - {"prompt"}, values)
)
headers = st.dictionaries(st.sampled_from(sorted(HEADER_NAMES)), values, max_size=3)


def read(data: bytes, name: str):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        path.write_bytes(data)
        try:
            return list(open_manifest(path).items())
        except ManifestError as error:
            assert error.problems and error.total >= len(error.problems)
            return None


@quick
@given(st.binary(max_size=200))
@example(b"\x00")
@example(b"\xff\xfe{\x00")
@example(b"items: [{prompt: p}]\n...\ngarbage")
def test_any_bytes_as_yaml_end_well(data):
    read(data, "j.yaml")


@quick
@given(st.text(alphabet="[]{}:,-?!&*|>'\"%@`# \n\tab1.~<", max_size=60))
def test_any_text_that_looks_like_yaml_ends_well(text):
    read(text.encode(), "j.yaml")


@quick
@given(st.binary(max_size=200))
def test_any_bytes_as_jsonl_end_well(data):
    read(data, "j.jsonl")


@quick
@given(headers, st.lists(entries | good | values, max_size=4))
def test_any_json_as_a_yaml_manifest_ends_well(header, items):
    read(json.dumps({**header, "items": items}).encode(), "j.yaml")


@quick
@given(headers, st.lists(entries | good | values, max_size=4))
def test_any_json_as_lines_ends_well(header, items):
    read("\n".join(json.dumps(line) for line in [{"version": 1, **header}, *items]).encode(), "j.jsonl")


@quick
@given(st.text(max_size=60) | st.sampled_from(["a,b\n1,2\n", 'a,"b\n']), st.sampled_from(["r.csv", "r.tsv", "r.jsonl"]))
def test_any_table_ends_well(text, name):
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / name).write_bytes(text.encode(errors="replace"))
        path = Path(folder) / "j.yaml"
        path.write_text(f"items: [{{id: '{{{{ a }}}}', prompt: p, from: {name}}}]")
        with contextlib.suppress(ManifestError):
            list(open_manifest(path).items())


plain_values = {
    "id": st.sampled_from(["a", "A", "a.", "con", "a b", "é", "-a", "", "x" * 101, "nul.x"]) | st.text(max_size=4),
    "prompt": st.text(max_size=6) | st.sampled_from(["p", " ", "{{ x }}", "\ud800", "\x00", "AIza" + "x" * 40]),
    "seed": st.sampled_from([0, 1, True, 1.0, -1, 2**31, "1", None]),
    "count": st.sampled_from([1, 2, True, 1.0, "1", None]),
    "aspect_ratio": st.sampled_from(["1:1", "5:3", "{{ x }}", None]),
    "tags": st.sampled_from([["x"], ["1"], [1], [], None]),
    "extra": st.sampled_from([{"a": 1}, {"a": True}, {"a": "1"}, {}]),
}
plain = st.fixed_dictionaries({}, optional=plain_values)


@settings(max_examples=300, deadline=None)
@given(plain, st.lists(plain, max_size=3), st.sampled_from([{}, {"seed": 7}, {"count": 2}, {"aspect_ratio": "3:4"}]))
@example({"id": "a", "prompt": "p", "seed": 2**31}, [{"id": "b", "prompt": "p", "seed": 1}], {})
@example({"id": "a", "prompt": "p", "seed": None}, [{"id": "b", "prompt": "p"}], {"seed": 7})
@example({"id": "a", "prompt": "p", "count": True}, [{"id": "b", "prompt": "p", "count": 1}], {})
def test_the_short_way_judges_an_entry_like_the_long_one(entry, before, defaults):
    lines = [{"version": 1, "defaults": defaults}, *before, {"id": "learned", **entry, "prompt": "p"}, entry]
    text = "\n".join(json.dumps(line) for line in lines).encode()

    def outcome():
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / "j.jsonl").write_bytes(text)
            manifest = open_manifest(Path(folder) / "j.jsonl")
            items, told = [], ""
            try:
                items.extend(manifest.items())
            except ManifestError as error:
                told = str(error)
            return [
                i.__class__(**{**{n: getattr(i, n) for n in i.__slots__}, "origin": ""}) for i in items
            ], told.replace(folder, "")

    short = outcome()
    make, EntryPatterns.make = EntryPatterns.make, lambda *_: None  # type: ignore[assignment, method-assign]
    try:
        assert outcome() == short
    finally:
        EntryPatterns.make = make  # type: ignore[method-assign]
