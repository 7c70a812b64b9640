"""References: pictures beside the manifest and nothing else, hashed and encoded once."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import os
import shutil

import pytest

from batchgen.errors import UsageError
from batchgen.references import local as references_module
from batchgen.references.local import BadReferenceError, References
from batchgen.store.sniff import picture_type

PNG = b"\x89PNG\r\n\x1a\n" + b"\x00" * 24
JPEG = b"\xff\xd8\xff\xe0" + b"\x00" * 24


@pytest.fixture
def pictures(tmp_path):
    for name in ("b.png", "a.png", "sub/c.png"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(PNG + name.encode())
    return References(tmp_path)


def why(references, name):
    with pytest.raises(BadReferenceError) as caught:
        references.find(name)
    return str(caught.value)


def test_a_picture_is_found_by_its_path_beside_the_manifest(pictures):
    (found,) = pictures.find("sub/c.png")
    assert (found.path, found.mime_type) == (os.path.join(pictures.folder, "sub", "c.png"), "image/png")


def test_a_glob_is_expanded_in_order_of_name(pictures):
    assert [os.path.relpath(found.path, pictures.folder) for found in pictures.find("**/*.png")] == [
        "a.png", "b.png", "sub/c.png",
    ]  # fmt: skip


def test_a_glob_without_a_match_is_refused(pictures):
    assert "matches no file" in why(pictures, "*.jpg")


def test_a_file_whose_name_looks_like_a_glob_is_that_file(pictures, tmp_path):
    (tmp_path / "x[1].png").write_bytes(PNG)
    assert len(pictures.find("x[1].png")) == 1


def test_too_many_matches_are_refused(pictures, tmp_path):
    for n in range(101):
        (tmp_path / f"n{n}.png").write_bytes(PNG)
    assert "more than 100 files" in why(pictures, "n*.png")


@pytest.mark.parametrize("name", ["../x.png", "/etc/hostname", "sub/../../x.png", "../*.png", "/etc/*", "a\x00.png"])
def test_a_path_out_of_the_folder_is_refused(pictures, name):
    (pictures_parent := os.path.dirname(pictures.folder))
    with open(os.path.join(pictures_parent, "x.png"), "wb") as file:
        file.write(PNG)
    assert "folder" in why(pictures, name) or "NUL" in why(pictures, name)


def test_a_way_up_is_refused_even_when_it_comes_back(pictures):
    assert "must stay inside" in why(pictures, "sub/../a.png")


def test_a_link_out_of_the_folder_is_refused(pictures, tmp_path, tmp_path_factory):
    outside = tmp_path_factory.mktemp("outside") / "key.png"
    outside.write_bytes(PNG)
    os.symlink(outside, tmp_path / "link.png")
    assert "link out of the manifest's folder" in why(pictures, "link.png")


def test_a_link_inside_the_folder_is_the_file_itself(pictures, tmp_path):
    os.symlink(tmp_path / "a.png", tmp_path / "link.png")
    assert pictures.find("link.png")[0].path == pictures.find("a.png")[0].path


def test_a_pipe_is_refused_and_not_waited_for(pictures, tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    assert "not a regular file" in why(pictures, "pipe.png")


def test_a_device_is_refused(tmp_path):
    assert "not a regular file" in why(References("/dev"), "null")


def test_a_folder_is_refused(pictures):
    assert "is a folder" in why(pictures, "sub")


def test_a_private_key_with_a_pictures_name_is_refused(pictures, tmp_path):
    (tmp_path / "key.png").write_text("-----BEGIN OPENSSH PRIVATE KEY-----\n")
    assert "is not an image" in why(pictures, "key.png")


def test_a_file_beyond_the_limit_is_refused(tmp_path):
    (tmp_path / "big.png").write_bytes(PNG + b"x" * 1000)
    assert "a reference at most 0.001 MB" in why(References(tmp_path, file_max_bytes=1000), "big.png")


@pytest.mark.parametrize(
    ("head", "mime_type"),
    [
        (PNG, "image/png"),
        (JPEG, "image/jpeg"),
        (b"RIFF\x10\x00\x00\x00WEBPVP8 ", "image/webp"),
        (b"\x00\x00\x00\x18ftypheic", "image/heic"),
        (b"\x00\x00\x00\x18ftypmif1", "image/heif"),
        (b"GIF89a", "image/gif"),
        (b"<svg xmlns=", None),
        (b"%PDF-1.7", None),
        (b"", None),
    ],
)
def test_the_first_bytes_say_what_a_picture_is(head, mime_type):
    assert picture_type(head) == mime_type


def test_a_digest_is_the_sha256_of_the_file(pictures):
    (found,) = pictures.find("a.png")
    assert pictures.digest(found.path) == hashlib.sha256(PNG + b"a.png").hexdigest()


def test_a_picture_is_loaded_as_base64(pictures):
    loaded = pictures.load(pictures.find("a.png")[0].path)
    assert (loaded.mime_type, base64.b64decode(loaded.base64)) == ("image/png", PNG + b"a.png")


async def test_a_picture_is_encoded_once_and_shared(pictures):
    path = pictures.find("a.png")[0].path
    assert await pictures.load_async(path) is await pictures.load_async(path)


def test_what_is_kept_in_memory_is_bounded(tmp_path):
    references = References(tmp_path, cache_max_bytes=100)
    for name in "abc":
        (tmp_path / name).write_bytes(PNG)  # 32 bytes, 44 in base64
    first, *others = [references.load(references.find(name)[0].path) for name in "abc"]
    assert references.load(os.path.join(references.folder, "c")) is others[1]
    assert references.load(os.path.join(references.folder, "a")) is not first


def test_a_picture_that_changed_after_it_was_hashed_is_not_sent(pictures, tmp_path):
    path = pictures.find("a.png")[0].path
    pictures.digest(path)
    (tmp_path / "a.png").write_bytes(PNG + b"other")
    with pytest.raises(UsageError, match="changed while the run was going"):
        pictures.load(path)


def test_a_picture_replaced_by_a_link_out_is_not_sent(pictures, tmp_path, tmp_path_factory):
    path = pictures.find("a.png")[0].path
    outside = tmp_path_factory.mktemp("outside") / "key.png"
    outside.write_bytes(PNG)
    os.remove(path)
    os.symlink(outside, path)
    with pytest.raises(UsageError, match="link out"):
        pictures.load(path)


def test_a_picture_that_is_gone_is_a_clear_error(pictures):
    path = pictures.find("a.png")[0].path
    os.remove(path)
    with pytest.raises(UsageError, match="no such file"):
        pictures.digest(path)


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("http://example.com/a.png", "give an https:// link"),
        ("ftp://b/a.png", "give an https:// link"),
        ("https:///a.png", "names no host"),
        ("https://example.com/a b.png", "holds a space"),
        ("https://example.com/" + "a" * 2000, "is longer than 2,000 characters"),
        ("https://[::1/a.png", "has a malformed host"),
        ("https://me:secret@example.com/a.png", "carries a user name or password"),
    ],
)
def test_links_that_cannot_be_fetched_are_refused(folder, name, why):
    assert why in folder.complaint(f"items: [{{prompt: p, references: ['{name}']}}]")


def test_a_password_in_a_link_is_not_repeated(folder):
    complaint = folder.complaint("items: [{prompt: p, references: ['https://me:hunter2@example.com/a.png']}]")
    assert ("//…@example.com" in complaint, "hunter2" in complaint) == (True, False)


def test_an_https_link_is_a_reference_and_its_text_is_what_is_hashed(one, pictures):
    link = "https://example.com/a.png?size=2"
    assert one(references=[link]).references == (link,)
    assert pictures.digest(link) == link


def test_the_same_picture_named_twice_is_sent_once(folder, one):
    folder.write(PNG, "a.png")
    assert len(one(references=["a.png", "./a.png", "*.png"]).references) == 1


def test_too_many_references_for_the_model_are_refused(folder):
    for n in range(15):
        folder.write(PNG + bytes([n]), f"n{n}.png")
    assert "takes at most 14 reference images, not 15" in folder.complaint(
        "items: [{prompt: p, references: ['n*.png']}]"
    )


def test_a_kind_of_picture_that_nothing_converts_is_refused_for_a_model_that_does_not_take_it(folder):
    folder.write(b"\x00\x00\x00\x18ftypheic" + b"\x00" * 20, "a.heic")
    models = "models: {gemini-nano-banana-2.1: {reference_mime_types: [image/png]}}\n"
    assert "is image/heic; gemini-nano-banana-2.1 takes png" in folder.complaint(
        models + "items: [{prompt: p, references: [a.heic]}]"
    )


def test_a_gif_is_taken_for_it_is_converted(folder, one):
    folder.write(b"GIF89a" + b"\x00" * 20, "a.gif")
    assert len(one(references=["a.gif"]).references) == 1


LARGE = "references: ['*.png']"


@pytest.fixture
def two_large(folder):
    for name in "ab":
        folder.write(PNG + name.encode() + b"x" * 10_000_000, f"{name}.png")
    yield folder
    shutil.rmtree(folder.path)


def test_references_too_large_for_one_request_are_refused_where_they_cannot_be_uploaded(two_large):
    complaint = two_large.complaint(f"items: [{{prompt: p, model: google/gemini-3-pro-image-edit, {LARGE}}}]")
    assert "the images make 26.7 MB in a request" in complaint


def test_references_too_large_for_one_request_are_taken_where_they_are_uploaded(two_large, one):
    assert len(one(references=["*.png"]).references) == 2


async def test_a_picture_that_many_need_at_once_is_opened_and_encoded_once(pictures, monkeypatch):
    opened = []
    regular = references_module.open_regular
    monkeypatch.setattr(references_module, "open_regular", lambda real: opened.append(real) or regular(real))
    path = os.path.join(pictures.folder, "a.png")
    loaded = await asyncio.gather(*(pictures.load_async(path) for _ in range(50)))
    assert (len(opened), {id(each) for each in loaded}) == (1, {id(loaded[0])})
