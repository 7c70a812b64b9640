"""`batchgen export` as data sets: each form read back by the rules of whoever reads it, and nothing half where it stops."""

from __future__ import annotations

import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any, TypedDict

import pytest
from pyarrow import parquet

from batchgen.cli import export_dataset
from batchgen.cli.export import Row, _clean, cell, row
from batchgen.records import Result

ITEMS = {"mug-test": "A mug", "v1.2": "Dots", "v1": "The start of another's key", "lost": "[[fault:safety]]"}
DIES = """
import os, signal, sys
from pathlib import Path
from batchgen.cli.export import Row
from batchgen.cli.export_dataset import write_imagefolder, write_parquet, write_webdataset
from batchgen.store.store import Store

def rows():
    yield {"key": "a", "file": "a.png", "bytes": 1, "sha256": sys.argv[2], "prompt": "p"}
    os.kill(os.getpid(), signal.SIGKILL)

store = Store(Path("."))
write = {
    "parquet": lambda: write_parquet("out", rows(), Row),
    "webdataset": lambda: write_webdataset("out", rows(), store, 1),
    "imagefolder": lambda: write_imagefolder("out", rows(), store),
}[sys.argv[1]]
write()
"""


@pytest.fixture
def job(batchgen, write, tmp_path) -> str:
    manifest = str(write(ITEMS, "defaults: {count: 2}\n"))
    assert batchgen("run", manifest, "--emulate", "-q").code == 3
    return manifest


def lines(batchgen, job) -> list[dict]:
    return [json.loads(line) for line in batchgen("export", job).out.splitlines()]


def samples_in(shards: Path) -> dict[str, dict[str, bytes]]:
    """As webdataset groups them: what stands together and is called the same up to the first dot."""
    found: dict[str, dict[str, bytes]] = {}
    last = ""
    for shard in sorted(shards.iterdir()):
        with tarfile.open(shard) as tar:
            for member in tar:
                key, ending = re.fullmatch(r"((?:.*/|)[^.]+)[.]([^/]*)", member.name).groups()
                assert key == last or key not in found
                last = key
                found.setdefault(key, {})[ending] = tar.extractfile(member).read()
    return found


def test_parquet_holds_the_rows_that_the_json_lines_hold(batchgen, job, tmp_path, monkeypatch):
    monkeypatch.setattr(export_dataset, "ROW_GROUP", 3)
    answer = batchgen("export", job, "--format", "parquet", "--to", "rows.parquet")
    assert (answer.code, answer.out, answer.err) == (0, "", "8 rows written to rows.parquet\n")
    assert parquet.read_table("rows.parquet").to_pylist() == lines(batchgen, job)
    assert parquet.ParquetFile("rows.parquet").num_row_groups == 3  # so many rows are in memory at once


def test_the_columns_of_a_parquet_file_are_the_same_whatever_its_rows_hold(tmp_path):
    target = str(tmp_path / "rows.parquet")
    export_dataset.write_parquet(target, [row(Result(id="a", n=1, state="wanted", model="m"))], Row)
    found = {field.name: str(field.type) for field in parquet.read_schema(target)}
    assert list(found) == list(Row.__annotations__)
    assert (found["usd"], found["bytes"], found["file"], found["tags"]) == (
        "double", "int64", "string", "list<element: string>",
    )  # fmt: skip


class JudgedBy(TypedDict):
    name: str
    score: float | None


class JudgedRow(TypedDict):
    accepted: bool | None
    verdicts: list[JudgedBy]
    details: list[dict[str, Any]]


def test_a_column_of_objects_is_one_of_structures_or_of_json_where_they_declare_no_keys(tmp_path):
    rows = [
        {"accepted": None, "verdicts": [], "details": []},
        {"accepted": True, "verdicts": [{"name": "blank", "score": 1.5}], "details": [{"box": [1, 2]}]},
    ]
    target = str(tmp_path / "rows.parquet")
    export_dataset.write_parquet(target, rows, JudgedRow)
    assert parquet.read_table(target).to_pylist() == [
        {**row, "details": details} for row, details in zip(rows, ("[]", '[{"box": [1, 2]}]'), strict=True)
    ]
    assert cell([{"box": [1, 2]}, "x"]) == '{"box": [1, 2]} x'


def test_webdataset_groups_each_image_with_its_row_and_its_prompt(batchgen, job, tmp_path):
    answer = batchgen("export", job, "--format", "webdataset", "--to", "shards")
    assert (answer.code, answer.err) == (0, "6 images written to shards\n")
    samples = samples_in(tmp_path / "shards")
    assert set(samples) == {"mug-test", "mug-test%232", "v1%2E2", "v1%2E2%232", "v1", "v1%232"}
    for sample in samples.values():
        assert set(sample) == {"jpg", "json", "txt"}
        found = json.loads(sample["json"])
        assert (found["prompt"], found["sha256"]) == (
            sample["txt"].decode(), hashlib.sha256(sample["jpg"]).hexdigest(),
        )  # fmt: skip
        assert found in lines(batchgen, job)


def test_a_shard_ends_before_it_grows_too_large_and_the_same_job_makes_the_same_bytes(batchgen, job, tmp_path):
    sizes = [found["bytes"] for found in lines(batchgen, job) if found["file"]]
    argv = ("export", job, "--format", "webdataset", "--shard-size", f"{max(sizes) * 2 / 1000:.3f}KB", "--to")
    batchgen(*argv, "one"), batchgen(*argv, "two")
    one, two = ({path.name: path.read_bytes() for path in (tmp_path / name).iterdir()} for name in ("one", "two"))
    assert one == two
    assert sorted(one) == ["shard-000000.tar", "shard-000001.tar", "shard-000002.tar"]
    assert len(samples_in(tmp_path / "one")) == 6


def test_imagefolder_names_the_file_of_each_row_and_links_to_the_original(batchgen, job, tmp_path):
    assert batchgen("export", job, "--format", "imagefolder", "--to", "images").code == 0
    folder = tmp_path / "images" / "train"  # else the name of mug-test.jpg made it the only image of a test split
    found = [json.loads(line) for line in (folder / "metadata.jsonl").read_text().splitlines()]
    assert {one["file_name"] for one in found} | {"metadata.jsonl"} == {path.name for path in folder.iterdir()}
    assert [one["key"] for one in found] == ["mug-test", "mug-test#2", "v1.2", "v1.2#2", "v1", "v1#2"]
    for one in found:
        image = folder / one["file_name"]
        assert hashlib.sha256(image.read_bytes()).hexdigest() == one["sha256"]
        assert image.samefile(tmp_path / "job.emulated" / one["file"])


def test_where_the_disk_allows_no_link_the_image_is_copied(batchgen, job, tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", refuse)
    assert batchgen("export", job, "--format", "imagefolder", "--to", "images").code == 0
    copy, original = tmp_path / "images" / "train" / "v1.jpg", tmp_path / "job.emulated" / "v1.jpg"
    assert copy.read_bytes() == original.read_bytes()
    assert not copy.samefile(original)


@pytest.mark.parametrize("form", ["webdataset", "imagefolder"])
def test_an_image_that_is_not_what_the_ledger_knows_ends_it_and_leaves_nothing(batchgen, job, tmp_path, form):
    image = tmp_path / "job.emulated" / "v1.jpg"
    image.write_bytes(image.read_bytes() + b"!")
    before = set(tmp_path.iterdir())
    changed = batchgen("export", job, "--format", form, "--to", "out")
    image.unlink()
    missing = batchgen("export", job, "--format", form, "--to", "out")
    assert (changed.code, "v1.jpg: the image is not as the ledger has it: `batchgen verify`" in changed.err) == (
        5,
        True,
    )
    assert (missing.code, "v1.jpg: the image is missing" in missing.err) == (5, True)
    assert set(tmp_path.iterdir()) == before


@pytest.mark.parametrize("form", ["parquet", "webdataset", "imagefolder"])
def test_a_kill_leaves_nothing_under_the_name_that_was_asked_for(tmp_path, form):
    (tmp_path / "a.png").write_bytes(b"x")
    argv = [sys.executable, "-c", DIES, form, hashlib.sha256(b"x").hexdigest()]
    env = {**os.environ, "PYTHONPATH": str(Path(export_dataset.__file__).parents[2])}
    died = subprocess.run(argv, cwd=tmp_path, env=env, capture_output=True, text=True)
    assert died.returncode == -signal.SIGKILL, died.stderr
    assert not (tmp_path / "out").exists()
    assert [path.suffix for path in tmp_path.glob("out*")] == [".part"]


@pytest.mark.parametrize(
    ("argv", "why"),
    [
        (("--format", "parquet"), "--format parquet writes a file: name it with --to"),
        (("--format", "imagefolder"), "--format imagefolder writes a folder: name it with --to"),
        (("--to", "."), "--to .: is a folder: name a file, such as ./images.jsonl"),
        (("--format", "webdataset", "--to", "."), "--to .: is there already: name a new folder, or remove it first"),
        (("--format", "csv", "--shard-size", "1GB"), "--shard-size is for --format webdataset"),
        (("--format", "webdataset", "--to", "x", "--shard-size", "1"), "'1' is not a valid size (try 500MB or 2GB)"),
    ],
)
def test_what_cannot_be_written_is_said_first(batchgen, job, argv, why):
    answer = batchgen("export", job, *argv)
    assert (answer.code, why in answer.err) == (2, True), answer.err


def test_without_the_library_parquet_says_what_to_install(batchgen, job, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    answer = batchgen("export", job, "--format", "parquet", "--to", "rows.parquet")
    assert (answer.code, "pip install 'batchgen[parquet]'" in answer.err) == (2, True)
    assert not (tmp_path / "rows.parquet").exists()


def test_no_key_and_nothing_that_is_no_utf8_goes_into_a_data_set():
    found = row(Result(id="a", n=1, state="failed", model="m", message="key 0123456789 \ud800", prompt="ok"))
    assert _clean(found, ["0123456789"])["message"] == "key [redacted] ?"
