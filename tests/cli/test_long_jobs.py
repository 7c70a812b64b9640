"""Memory of what looks at a job does not grow with the job: two lengths, and what each thousand items more take."""

from __future__ import annotations

import hashlib
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pytest

from batchgen.cli.export_dataset import write_webdataset
from batchgen.cli.main import run_command_line
from batchgen.report import gallery_pages
from batchgen.store.store import Store
from tests.benchmarks.long_job import COMMANDS, build

SHORT, LONG = 1_000, 2_000
MAX_BYTES_MORE = 60_000  # for a thousand items; a list of their names would take more
MAX_BYTES_MORE_OF_PAGES = (
    200_000  # what the interpreter keeps between two pages differs that much; rows would take 5 MB
)


@pytest.fixture(scope="module")
def manifests(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Path]]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gallery_pages, "PAGE_SAMPLES", SHORT // 4)
        patch.setattr(gallery_pages, "CHUNK", SHORT // 4)
        yield [build(tmp_path_factory.mktemp(f"long-{items}"), items, 10) for items in (SHORT, LONG)]


def peak_bytes(command: str, manifest: Path) -> int:
    """Above what was there before."""
    tracemalloc.start()
    try:
        given = [word.format(manifest=manifest, folder=manifest.parent) for word in COMMANDS[command]]
        assert run_command_line(given) == 0
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("command", COMMANDS)
def test_memory_does_not_grow_with_the_items(command, manifests, tmp_path):
    short, long = manifests
    run_command_line([word.format(manifest=short, folder=tmp_path) for word in COMMANDS[command]])  # imports
    allowed = MAX_BYTES_MORE_OF_PAGES if command == "report" else MAX_BYTES_MORE
    assert peak_bytes(command, long) - peak_bytes(command, short) <= allowed


def test_a_shard_does_not_keep_the_members_that_it_has(tmp_path):
    image = b"no image, and long enough to count" * 100
    (tmp_path / "mug.png").write_bytes(image)
    sha256 = hashlib.sha256(image).hexdigest()

    def peak(images: int) -> int:
        rows = ({"key": f"mug-{n}", "file": "mug.png", "sha256": sha256, "prompt": "A mug"} for n in range(images))
        tracemalloc.start()
        try:
            assert write_webdataset(str(tmp_path / str(images)), rows, Store(tmp_path), 10**9) == images
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    peak(10)
    assert peak(400) - peak(200) <= MAX_BYTES_MORE // 2


def test_the_first_file_of_a_long_folder_is_there_without_the_names_of_the_others(tmp_path):
    for number in range(3_000):
        (tmp_path / f"picture-of-a-long-job-{number:07}.png").touch()
    tracemalloc.start()
    try:
        assert next(Store(tmp_path).all_files()).bytes == 0
        assert tracemalloc.get_traced_memory()[1] < MAX_BYTES_MORE
    finally:
        tracemalloc.stop()
