"""The store: what counts as a whole picture, where files may land, and that nothing paid for is ever overwritten."""

from __future__ import annotations

import io
import os
import shutil
import stat
import struct
import sys
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from batchgen.errors import StoreError
from batchgen.records import Response
from batchgen.store.check import ImageError, ImageInfo, check_bytes, check_file, mismatch_flags
from batchgen.store.sniff import sniff
from batchgen.store.spool import SpoolFile
from batchgen.store.store import Store
from batchgen.store.unparsed import delete_answer, load_answer, save_answer, unparsed_attempts
from tests.support.images import UNSOUND, WHOLE, png_chunk, png_of


@pytest.mark.parametrize("kind", WHOLE)
def test_a_whole_picture_is_known_by_its_bytes(kind):
    assert check_bytes(WHOLE[kind]) == ImageInfo(kind.lower(), 40, 30)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", WHOLE)
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.99])
def test_a_part_of_a_picture_never_counts(kind, share):
    with pytest.raises(ImageError) as error:
        check_bytes(WHOLE[kind][: int(len(WHOLE[kind]) * share)])
    assert error.value.reason in ("truncated", "damaged")


@settings(deadline=None, max_examples=60)
@given(position=st.integers(8, len(WHOLE["PNG"]) - 1), flip=st.integers(1, 255))
def test_no_changed_byte_of_a_png_goes_unnoticed(position, flip):
    data = bytearray(WHOLE["PNG"])
    data[position] ^= flip
    with pytest.raises(ImageError):
        check_bytes(bytes(data))


@settings(deadline=None, max_examples=100)
@given(
    head=st.sampled_from([b"", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"RIFF\0\0\0\0WEBP", b"GIF89a"]),
    rest=st.binary(max_size=300),
)
def test_any_other_bytes_are_an_image_error_and_nothing_else(head, rest):
    with pytest.raises(ImageError):
        check_bytes(head + rest)


@pytest.mark.parametrize(
    "data", [b"", b"<svg xmlns='http://www.w3.org/2000/svg'/>", b"<!doctype html>", b"%PDF-1.7", b"BM1234"]
)
def test_what_is_no_picture_we_accept_says_so(data):
    assert sniff(data[:16]) is None
    with pytest.raises(ImageError) as error:
        check_bytes(data)
    assert error.value.reason == "not_an_image"


def test_a_picture_that_declares_billions_of_pixels_is_refused_before_it_is_decoded():
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", 100_000, 100_000, 8, 2, 0, 0, 0))
    with pytest.raises(ImageError) as error:
        check_bytes(png_of(header, png_chunk(b"IDAT", b"x"), png_chunk(b"IEND", b"")))
    assert error.value.reason == "too_large"


def test_a_png_without_pixels_or_without_a_header_is_damaged():
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", 4, 4, 8, 2, 0, 0, 0))
    for data in (png_of(header, png_chunk(b"IEND", b"")), png_of(png_chunk(b"IDAT", b"x"), png_chunk(b"IEND", b""))):
        with pytest.raises(ImageError) as error:
            check_bytes(data)
        assert error.value.reason == "damaged"


def test_checking_a_large_png_takes_memory_that_does_not_grow_with_it(tmp_path):
    path = tmp_path / "large.png"
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", 4, 4, 8, 2, 0, 0, 0))
    path.write_bytes(png_of(header, png_chunk(b"IDAT", bytes(20_000_000)), png_chunk(b"IEND", b"")))
    tracemalloc.start()
    check_file(str(path))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2_000_000


BEHIND = {"words": b"appended by a camera", "zeros": bytes(1_000_000), "another picture": WHOLE["PNG"]}


@pytest.mark.parametrize("behind", BEHIND)
@pytest.mark.parametrize("kind", WHOLE)
def test_a_whole_picture_with_something_behind_its_end_is_one(kind, behind):
    assert check_bytes(WHOLE[kind] + BEHIND[behind]) == ImageInfo(kind.lower(), 40, 30)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", UNSOUND)
def test_something_behind_the_end_has_the_pixels_decoded_whatever_the_format(kind):
    check_bytes(UNSOUND[kind])
    with pytest.raises(ImageError) as error:
        check_bytes(UNSOUND[kind] + b"appended")
    assert error.value.reason in ("truncated", "damaged")


@pytest.mark.parametrize("pixels", [(100_000, 100_000), (2**31 - 1, 2**31 - 1)])
def test_a_bomb_with_something_behind_its_end_is_refused_before_it_is_decoded(pixels):
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", *pixels, 8, 2, 0, 0, 0))
    with pytest.raises(ImageError) as error:
        check_bytes(png_of(header, png_chunk(b"IDAT", b"x"), png_chunk(b"IEND", b"")) + b"appended")
    assert error.value.reason == "too_large"


def animation(kind: str) -> bytes:
    buffer = io.BytesIO()
    frames = [Image.effect_noise((40, 30), 50).convert("RGB") for _ in range(3)]
    frames[0].save(buffer, kind, save_all=True, append_images=frames[1:])
    return buffer.getvalue()


@pytest.mark.parametrize("kind", ["GIF", "WEBP"])
@pytest.mark.parametrize("missing_bytes", [1, 2, 20, 1000])
def test_an_animation_that_ends_within_a_later_frame_is_truncated(kind, missing_bytes):
    whole = animation(kind)
    assert check_bytes(whole).format == kind.lower()
    with pytest.raises(ImageError) as error:
        check_bytes(whole[:-missing_bytes])
    assert error.value.reason == "truncated"


@pytest.mark.parametrize(
    ("size", "ratio", "expected", "flags"),
    [
        ((1024, 1024), "1:1", (1024, 1024), ()),
        ((1408, 768), "16:9", (1376, 768), ()),
        ((1024, 1024), "16:9", (1376, 768), ("ratio",)),
        ((1024, 1024), "1:1", (2048, 2048), ("size",)),
        ((1280, 896), "4:3", (1280, 896), ()),  # the vendor's own pixels are not quite 4:3
        ((384, 3072), "1:8", (352, 2928), ()),  # as the page prints it, and as it was measured
        ((1000, 1000), None, None, ()),
        ((1000, 500), "1:1", None, ("ratio",)),
    ],
)
def test_a_picture_of_other_pixels_than_asked_for_is_flagged(size, ratio, expected, flags):
    assert mismatch_flags(ImageInfo("png", *size), ratio, expected) == flags


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store(tmp_path / "job")
    store.prepare()
    return store


def test_a_folder_that_goes_is_told_from_a_disk_that_refuses(store, tmp_path):
    assert store.emergency_spool.is_same_folder()
    (tmp_path / "job").rename(tmp_path / "away")
    assert not store.emergency_spool.is_same_folder()
    (tmp_path / "job").mkdir()
    assert not store.emergency_spool.is_same_folder()


def spool(store: Store, attempt: int, data: bytes) -> str:
    file = store.spool_file(attempt, 0)
    file.write(data)
    file.sync()
    return file.name


def test_what_stands_under_a_name_makes_way_and_is_never_overwritten(store):
    for number, data in enumerate([b"first", b"second", b"third"]):
        store.move_into_place(spool(store, number, data), "a.png")
    kept = sorted(path.read_bytes() for path in (store.folder / "superseded").iterdir())
    assert (store.folder / "a.png").read_bytes() == b"third"
    assert kept == [b"first", b"second"]


def test_placing_a_picture_that_has_its_name_already_moves_nothing(store):
    name = spool(store, 1, b"picture")
    assert [store.move_into_place(name, "a.png") for _ in range(2)] == [None, None]
    assert ((store.folder / "a.png").read_bytes(), (store.folder / "superseded").exists()) == (b"picture", False)


@pytest.mark.skipif(sys.platform == "win32", reason="symbolic links")
def test_a_link_planted_at_a_pictures_name_is_not_followed(store, tmp_path):
    outside = tmp_path / "precious"
    outside.write_bytes(b"precious")
    (store.folder / "a.png").symlink_to(outside)
    store.move_into_place(spool(store, 1, b"picture"), "a.png")
    assert outside.read_bytes() == b"precious"
    assert not (store.folder / "a.png").is_symlink()


@pytest.mark.skipif(sys.platform == "win32", reason="symbolic links")
@pytest.mark.parametrize("name", ["superseded", "drafts", ".batchgen"])
def test_a_link_planted_where_we_keep_a_folder_is_refused(tmp_path, name):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    store = Store(tmp_path / "job")
    store.folder.mkdir()
    (store.folder / name).symlink_to(elsewhere)
    with pytest.raises(StoreError, match="remove it"):
        store.prepare()
        (store.folder / "a.png").write_bytes(b"old")
        store.move_into_place(spool(store, 1, b"new"), "a.png" if name == "superseded" else "drafts/a.png")
    assert list(elsewhere.iterdir()) == []


def test_a_spool_file_is_never_written_over_another(store):
    spool(store, 1, b"first")
    with pytest.raises(StoreError):
        store.spool_file(1, 0)


@pytest.mark.parametrize("how", ["deleted", "moved", "the job folder as well"])
def test_a_spool_file_whose_folder_goes_while_it_is_written_keeps_its_bytes_under_another_name(
    store, tmp_path, monkeypatch, how
):
    (tmp_path / "temp").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temp"))
    store.reserve_space()
    file = store.spool_file(7, 0)
    file.write(b"half of it, ")
    if how == "deleted":
        shutil.rmtree(store.folder / ".batchgen")
    else:
        (store.folder / ".batchgen" if how == "moved" else store.folder).rename(tmp_path / "away")
    file.write(b"and the other half")
    file.sync()
    assert Path(file.path).read_bytes() == b"half of it, and the other half"
    assert file.is_stranded == (how == "the job folder as well")
    assert file.is_stranded == file.path.startswith(str(tmp_path / "temp"))


@pytest.mark.skipif(os.name == "nt", reason="what is open cannot be deleted there")
def test_a_file_that_is_deleted_from_the_spool_before_it_is_placed_comes_back(store):
    store.reserve_space()
    file = store.spool_file(7, 0)
    file.write(b"paid for")
    file.sync(keep_open=True)
    shutil.rmtree(store.folder / ".batchgen")
    assert file.deleted
    file.sync(keep_open=True)
    file.close()
    assert (Path(store.spooled("7.0")).read_bytes(), file.is_stranded) == (b"paid for", False)


def test_a_spool_file_knows_the_hash_and_size_of_what_it_holds(store):
    file = SpoolFile(store.spool, "x")
    file.write(b"ab")
    file.write(b"c")
    file.sync()
    assert (file.bytes, file.sha256) == (3, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad")


@pytest.mark.skipif(sys.platform == "win32", reason="modes")
def test_nothing_is_writable_by_others_whatever_the_umask(tmp_path):
    before = os.umask(0)
    try:
        store = Store(tmp_path / "open")
        store.prepare()
        store.move_into_place(spool(store, 1, b"x"), "a.png")
    finally:
        os.umask(before)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in [store.folder, *store.folder.iterdir()]}
    assert all(not mode & 0o022 for mode in modes.values())
    assert not modes["a.png"] & 0o111


@pytest.mark.skipif(sys.platform == "win32" or os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written_says_what_to_do_before_anything_is_sent(tmp_path):
    (tmp_path / "job").mkdir(mode=0o500)
    with pytest.raises(StoreError, match="permission"):
        Store(tmp_path / "job").prepare()


def test_a_file_where_the_folder_should_be_says_so(tmp_path):
    (tmp_path / "job").write_text("not a folder")
    with pytest.raises(StoreError, match="job"):
        Store(tmp_path / "job").prepare()


def test_a_kept_answer_holds_no_cookie_and_comes_back_as_it_was(tmp_path):
    store = Store(tmp_path)
    store.prepare()
    file = store.spool_file(7, 0)
    file.write(b"picture")
    save_answer(store, 7, Response(200, {"Set-Cookie": "session=1", "Date": "today"}, b'{"a": 1}'), [file], {"n": 1})
    response = load_answer(store.root, 7).response
    assert (response.status, response.headers, response.body) == (200, {"Date": "today"}, b'{"a": 1}')
    assert Path(response.files[0]).read_bytes() == b"picture"
    assert unparsed_attempts(store.root) == [7]
    delete_answer(store.root, 7)
    assert unparsed_attempts(store.root) == []
