"""What every place for pictures keeps, a folder and a bucket alike: one suite that each of them passes."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from batchgen.errors import StoreError
from batchgen.store.blobs import Blobs
from batchgen.store.local_folder import LocalFolder
from batchgen.store.objects import ObjectStorage
from batchgen.store.store import Store, open_store
from tests.support.bucket_bench import ADDRESS


@pytest.fixture(params=["folder", "bucket"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    if request.param == "bucket":
        request.getfixturevalue("gate")
    store = open_store(tmp_path / "job", ADDRESS if request.param == "bucket" else "")
    store.prepare()
    return store


@pytest.fixture
def blobs(store: Store) -> Blobs:
    assert isinstance(store.blobs, LocalFolder | ObjectStorage)
    return store.blobs


def spooled(store: Store, data: bytes, attempt: int = 1) -> Path:
    file = store.spool_file(attempt, 0)
    file.write(data)
    file.sync()
    return Path(file.path)


def read(blobs: Blobs, path: str) -> bytes:
    return b"".join(blobs.get(path))


def opened(store: Store, path: str) -> bytes:
    with store.open(path) as file:
        return file.read()


@pytest.mark.parametrize("path", ["a.png", "drafts/a.png", "derivatives/web/a.png"])
def test_a_new_file_is_there_with_its_size_and_its_bytes(blobs, path):
    put = blobs.put_new(path, b"picture")
    found = blobs.stat(path)
    assert put is not None and found is not None
    assert (found.bytes, found.stamp, found.path) == (7, put.stamp, path)
    with blobs.open(path) as file:
        assert (read(blobs, path), file.read()) == (b"picture", b"picture")
    assert b"".join(blobs.get(path, 3)) == b"pic"


def test_a_name_that_is_taken_is_never_written_over(blobs, store):
    blobs.put_new("a.png", b"first")
    assert blobs.put_new("a.png", b"second") is None
    assert blobs.put_new("a.png", spooled(store, b"third")) is None
    assert read(blobs, "a.png") == b"first"


def test_a_spooled_file_stays_in_the_spool_but_where_a_rename_takes_it(blobs, store):
    file = spooled(store, b"picture")
    assert blobs.put_new("a.png", file) is not None
    assert (read(blobs, "a.png"), file.exists()) == (b"picture", not blobs.properties.atomic_rename)


def test_what_is_ours_and_can_be_made_again_is_replaced_as_a_whole(blobs, store):
    blobs.put_new("derivatives/a.webp", b"first")
    blobs.replace("derivatives/a.webp", spooled(store, b"second"))
    assert read(blobs, "derivatives/a.webp") == b"second"


def test_what_is_not_there_says_so(blobs):
    assert blobs.stat("a.png") is None
    for call in (lambda: read(blobs, "a.png"), lambda: blobs.open("a.png")):
        with pytest.raises(FileNotFoundError):
            call()
    with pytest.raises((FileNotFoundError, StoreError)):
        blobs.move("a.png", "b.png")


def test_a_moved_file_is_under_its_new_name_alone(blobs):
    blobs.put_new("a.png", b"picture")
    blobs.move("a.png", "superseded/a.1.png")
    assert (blobs.stat("a.png"), read(blobs, "superseded/a.1.png")) == (None, b"picture")


def test_a_listing_has_all_and_below_a_folder_its_own(blobs):
    for path in ("a.png", "drafts/b.png", "drafts/deep/c.png"):
        blobs.put_new(path, path.encode())
    listed = {found.path: found.bytes for found in blobs.list() if not found.path.startswith(".")}
    assert listed == {"a.png": 5, "drafts/b.png": 12, "drafts/deep/c.png": 17}
    assert sorted(found.path for found in blobs.list("drafts")) == ["drafts/b.png", "drafts/deep/c.png"]


def test_a_listing_tells_of_a_file_what_asking_for_it_does(blobs):
    blobs.put_new("a.png", b"picture")
    (listed,) = (found for found in blobs.list() if found.path == "a.png")
    assert listed == blobs.stat("a.png")


def test_a_deleted_file_is_gone(blobs):
    blobs.put_new("derivatives/web/a.webp", b"x")
    blobs.delete("derivatives/web/a.webp")
    assert (blobs.stat("derivatives/web/a.webp"), list(blobs.list("derivatives"))) == (None, [])


# --- the store above them


def test_what_stands_under_a_name_makes_way_with_what_is_beside_it(store):
    for number, data in enumerate((b"first", b"second"), 1):
        moved = store.move_into_place(spooled(store, data, number).name, "a.png")
        store.write_sidecars("a.png", {".txt": data.decode()})
        store.sync("a.png")
    assert moved == ("a.png", "superseded/a.1.png")
    assert {path: opened(store, path) for path, _ in store.files()} == {
        "a.png": b"second", "a.txt": b"second", "superseded/a.1.png": b"first", "superseded/a.1.txt": b"first",
    }  # fmt: skip


def test_a_picture_in_place_is_moved_no_more_and_verified_by_its_bytes(store):
    file = store.spool_file(1, 0)
    file.write(b"picture")
    file.sync()
    assert [store.move_into_place("1.0", "a.png") for _ in range(2)] == [None, None]
    assert (store.has_file("a.png", 7), store.has_file("a.png", 8), store.stamp("1.0", "a.png") != "") == (
        True,
        False,
        True,
    )
    verdicts = [store.verify("a.png", file.sha256), store.verify("a.png", "0" * 64), store.verify("b.png", "0" * 64)]
    assert verdicts == ["right", "changed", "missing"]


def test_a_derivative_replaces_its_forerunner_and_nobody_elses_file(store):
    path, ours = "derivatives/web/a.webp", store.spool_file(1, 0)
    ours.write(b"ours")
    ours.sync()
    store.put_derivative(path, Path(ours.path), ours.sha256, "")
    store.put_derivative(path, spooled(store, b"ours too", 2), "2", ours.sha256)
    assert list(store.files()) == [] and opened(store, path) == b"ours too"
    store.put_derivative(path, spooled(store, b"and again", 3), "3", ours.sha256)
    assert opened(store, f"superseded/{path}.1") == b"ours too"
    assert (opened(store, path), list(Path(store.spool).iterdir())) == (b"and again", [])


@pytest.mark.skipif(sys.platform == "win32", reason="symbolic links")
def test_a_link_in_a_derivatives_place_is_kept_as_somebodys_own(tmp_path):
    store, path = open_store(tmp_path / "job"), "derivatives/web/a.webp"
    store.prepare()
    (tmp_path / "mine").write_bytes(b"mine")
    store.blobs.put_new(path, b"x")
    (store.folder / path).unlink()
    (store.folder / path).symlink_to(tmp_path / "mine")
    store.put_derivative(path, spooled(store, b"picture"), "1", "")
    assert (store.folder / "superseded" / f"{path}.1").is_symlink()
    assert ((tmp_path / "mine").read_bytes(), opened(store, path)) == (b"mine", b"picture")


def test_a_text_that_another_put_beside_a_picture_meanwhile_makes_way(store):
    assert store.is_empty()  # now a bucket has been listed
    store.blobs.put_new("a.txt", b"somebody's own")  # not by this store, so not known to it
    store.write_sidecars("a.png", {".txt": "ours"})
    assert (opened(store, "a.txt"), opened(store, "superseded/a.txt.1")) == (b"ours", b"somebody's own")
