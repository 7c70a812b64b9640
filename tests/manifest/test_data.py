"""A manifest from plain Python data: the same items and the same complaints as from a file, with the item's place in the data."""

from __future__ import annotations

from collections import UserDict
from datetime import date
from pathlib import PurePosixPath
from typing import Any

import pytest
import yaml

from batchgen.errors import ManifestError
from batchgen.manifest import open_manifest
from batchgen.manifest.data import DataSource


def items_of(data: Any, name: str = "n") -> list[Any]:
    return list(open_manifest(DataSource(data, name)).items())


def complaints(data: Any) -> list[str]:
    with pytest.raises(ManifestError) as caught:
        items_of(data)
    return [str(problem) for problem in caught.value.problems]


def test_a_mapping_makes_the_items_that_the_same_file_makes(folder):
    data = {
        "defaults": {"model": "flash", "aspect_ratio": "3:4"},
        "vars": {"brand": "Nordlicht"},
        "items": [
            {"id": "mug", "prompt": "A {{ brand }} mug", "count": 2},
            {"id": "p-{{ city }}", "matrix": {"city": ["Paris", "Tokyo"]}, "prompt": "{{ city }}"},
            {"prompt": "The same mug", "references": ["@mug"], "seed": 7},
        ],
    }
    fields = [name for name in type(items_of(["p"])[0]).__slots__ if name != "origin"]
    ours, theirs = items_of(data), folder.items(yaml.safe_dump(data))
    assert [[getattr(item, name) for name in fields] for item in ours] == [
        [getattr(item, name) for name in fields] for item in theirs
    ]


def test_a_text_is_the_prompt_of_an_item():
    assert [item.prompt for item in items_of(["a mug", {"prompt": "a cup"}])] == ["a mug", "a cup"]
    assert [item.prompt for item in items_of({"vars": {"x": "y"}, "items": ["a {{ x }}"]})] == ["a y"]


def test_numbers_mappings_and_paths_of_other_libraries_are_taken(tmp_path, monkeypatch):
    class Number(int):
        pass

    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"\x00" * 24)
    entry = UserDict(prompt="p", seed=Number(3), references=(PurePosixPath("a.png"),))
    (item,) = items_of((entry,))
    assert (item.seed, type(item.seed), item.references) == (3, int, (str(tmp_path / "a.png"),))


def test_the_items_are_those_of_the_moment_of_loading():
    data = [{"prompt": "before"}]
    manifest = open_manifest(DataSource(data, "n"))
    data[0]["prompt"] = "after"
    data.append({"prompt": "more"})
    assert [item.prompt for item in manifest.items()] == ["before"]


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (
            ["a", {"prompt": "b", "image_sise": "2K"}],
            "data: items[1].image_sise: unknown field (did you mean 'image_size'?)",
        ),
        (["a", {"model": "flash"}], "data: items[1].prompt: missing"),
        ([{"prompt": "a", "references": ["x.png"]}], "data: items[0].references[0]: 'x.png': there is no such file"),
        (
            ["a", {"id": "a-ca978112", "prompt": "b"}],
            "data: items[1].id: 'a-ca978112' is already used at data: items[0]",
        ),
        (["a", 3], "data: items[1]: an item must be a prompt or a mapping of fields, not the number 3"),
        ([{"prompt": "a {{ b }}"}], "data: items[0].prompt: the variable 'b' is not defined; defined here: index, run"),
        ({"limits": {"concurency": 3}, "items": ["a"]}, "data: limits.concurency: unknown field (did you mean"),
        ({"limits": {"attempts": 3}}, "data: items: is missing; without a head, give just a list of items"),
        ({"items": "a"}, "data: items: must be a list, not 'a'"),
        ([], "data: has no items"),
        (
            [{"prompt": "a", "seed": date(2026, 1, 1)}],
            "data: items[0].seed: must be text, a number, true, false, a list or a mapping, not date",
        ),
        ([{"prompt": "a", "temperature": float("nan")}], "data: items[0].temperature: nan is not a number"),
        ([{"prompt": "a", 3: "b"}], "data: items[0]: a name must be text, not the number 3"),
    ],
)
def test_a_complaint_names_the_item_and_the_field(data, expected):
    (found,) = complaints(data)
    assert found.startswith(expected)


def test_all_complaints_come_at_once_and_in_the_order_of_the_data():
    found = complaints([{"prompt": "a", "seed": "x"}, "b", {"prompt": "c", "cuont": 2}, {}])
    assert [line.split(":")[1].strip() for line in found] == ["items[0].seed", "items[2].cuont", "items[3].prompt"]


def test_a_list_that_holds_itself_is_refused():
    data: list[Any] = []
    data.append(data)
    assert "nested deeper than 64 levels" in complaints([{"prompt": "a", "extra": {"x": data}}])[0]
