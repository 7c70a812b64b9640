"""`load` takes a path or data; data says itself, by `name` or `output`, which folder it is for."""

from __future__ import annotations

from pathlib import Path

import pytest

import batchgen
from batchgen.cli.job_folder import find_manifest


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    ("data", "arguments", "name", "folder"),
    [
        (["a"], {"name": "mugs"}, "mugs", "mugs"),
        (["a"], {"name": "mugs", "emulate": True}, "mugs", "mugs.emulated"),
        (["a"], {"output": "out/my mugs"}, "my-mugs", "out/my mugs"),
        (["a"], {"output": Path("x"), "name": "y", "emulate": True}, "y", "x"),
        ({"name": "mugs", "items": ["a"]}, {}, "mugs", "mugs"),
        ({"name": "mugs", "items": ["a"]}, {"name": "cups"}, "cups", "cups"),
        ({"output": "made/here", "items": ["a"]}, {}, "here", "made/here"),
        ({"name": "mugs", "output": "made", "items": ["a"]}, {"emulate": True}, "mugs", "made.emulated"),
    ],
)
def test_data_is_named_and_its_folder_is_below_the_current_one(tmp_path, data, arguments, name, folder):
    job = batchgen.load(data, environ={}, **arguments)
    assert (job.manifest.name, job.folder) == (name, tmp_path / folder)
    assert not job.folder.exists()


def test_a_bucket_takes_the_images_of_data_that_has_a_name(tmp_path):
    job = batchgen.load({"name": "mugs", "output": "s3://shop/mugs", "items": ["a"]}, environ={})
    assert (job.folder, job.bucket) == (tmp_path / "mugs", "s3://shop/mugs")


@pytest.mark.parametrize("arguments", [{}, {"output": "s3://shop/mugs"}])
def test_data_without_a_name_is_refused_in_one_line(arguments):
    with pytest.raises(
        batchgen.UsageError, match=r"^data has no file to be named after: give name=, .* or output=, .*"
    ):
        batchgen.load(["a"], environ={}, **arguments)


def test_a_file_has_its_own_name():
    Path("job.yaml").write_text("items: [{prompt: p}]")
    with pytest.raises(batchgen.UsageError, match=r"name= is for data"):
        batchgen.load("job.yaml", name="x", environ={})


@pytest.mark.parametrize("source", [3, b"items", {"a"}, None])
def test_anything_else_is_refused_by_its_type(source):
    with pytest.raises(batchgen.UsageError, match=f"load takes the path .* not {type(source).__name__}"):
        batchgen.load(source, name="x", environ={})


def test_problems_of_data_can_be_read_one_by_one():
    with pytest.raises(batchgen.ManifestError) as caught:
        batchgen.plan(batchgen.load(["a", {"prompt": "b", "cuont": 2}], name="n", environ={}))
    (problem,) = caught.value.problems
    assert (problem.file, problem.line, problem.field) == ("data", 0, "items[1].cuont")


def test_the_same_data_again_makes_nothing_and_other_data_only_what_is_new(make):
    assert make(["a", "b"])[1].made == 2
    assert [(out.made, out.kept) for out in (make(["a", "b"])[1], make(["a", "b", "c"])[1])] == [(0, 2), (1, 2)]


def test_the_command_line_says_that_a_job_was_made_from_data(make):
    job, _ = make(["a"])
    with pytest.raises(batchgen.UsageError, match="made by a Python program, from data and no manifest"):
        find_manifest(str(job.folder), job.folder)
