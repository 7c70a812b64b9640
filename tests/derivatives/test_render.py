"""One picture to its derivatives, in this process: pixels, colour, orientation and what is written into each file."""

from __future__ import annotations

import hashlib
import io
import json
import os
import struct
import zlib
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from PIL import Image, ImageCms

from batchgen.derivatives import containers, provenance
from batchgen.derivatives.render import render
from batchgen.derivatives.render_process import put_derivatives
from batchgen.derivatives.specification import OutputSpec, Provenance, RenderedFile, RenderRequest, outputs_of
from batchgen.records import Derivative, Post
from batchgen.store.store import Store
from tests.support.third_party import metadata, needs_exiftool

SAVED = {"png": "PNG", "jpeg": "JPEG", "webp": "WEBP"}
COPY = Derivative(name="original", format="original")
KINDS = tuple(
    Derivative(name=kind, format=kind, quality=None if kind == "png" else 90)
    for kind in ("webp", "avif", "jpeg", "png")
)
WILD = 'A <b>"fox"</b> & ünï 漢字 🎨\x00\x07 ]]> &amp; \ud800\r\nsecond line'
TAMED = 'A <b>"fox"</b> & ünï 漢字 🎨 ]]> &amp; \nsecond line'
TRAINED = provenance.SOURCE_TYPES + "trainedAlgorithmicMedia"
FACTS = Provenance(
    generator="batchgen 9", job="shop", id="fox", sample=2, run=3, attempt=4, model="gemini-x", file="", sha256="0",
    emulated=False, prompt=WILD, system="be brief", settings={"seed": 7}, references=["ab12", "cd34"],
)  # fmt: skip


class Bench:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        Store(folder).prepare()

    def make(self, data: bytes, kind: str, post: Post, **facts) -> dict[str, RenderedFile]:
        """Rows by derivative."""
        sha256 = hashlib.sha256(data).hexdigest()
        store = Store(self.folder)
        (self.folder / "source").write_bytes(data)
        found = outputs_of(post, "fox", kind, "shop")
        request = RenderRequest(
            spool=store.spool, source=str(self.folder / "source"), sha256=sha256, embed=post.embed,
            source_type=post.source_type, provenance=replace(FACTS, sha256=sha256, **facts),
            outputs=[output.spec for output in found],
        )  # fmt: skip
        names = {output.path: output.name for output in found}
        self.rows = put_derivatives(render(RenderRequest.from_json(json.loads(json.dumps(asdict(request))))), {}, store)
        assert list(Path(store.spool).iterdir()) == []
        return {names.get(row.path, "beside"): row for row in self.rows}

    def read(self, row: RenderedFile) -> bytes:
        data = (self.folder / row.path).read_bytes()
        assert (row.state, row.sha256, row.bytes) == ("made", hashlib.sha256(data).hexdigest(), len(data))
        return data

    def image(self, row: RenderedFile) -> Image.Image:
        image = Image.open(io.BytesIO(self.read(row)))
        image.load()
        return image


@pytest.fixture
def bench(tmp_path) -> Bench:
    return Bench(tmp_path)


def picture(size=(64, 48), mode="RGB") -> Image.Image:
    image = Image.linear_gradient("L").resize(size).convert(mode)
    image.paste(Image.new(mode, (size[0] // 2, size[1] // 2), "#ff0000" if mode != "L" else 200), (0, 0))
    return image


def saved(image: Image.Image, kind: str, **options) -> bytes:
    out = io.BytesIO()
    image.save(out, SAVED[kind], **options)
    return out.getvalue()


def near(pixel, wanted, by=24):
    return all(abs(a - b) <= by for a, b in zip(pixel, wanted, strict=True))


@pytest.mark.parametrize("kind", SAVED)
def test_every_format_is_made_of_every_format(bench, kind):
    rows = bench.make(saved(picture(), kind), kind, Post(derivatives=KINDS))
    for name, row in rows.items():
        image = bench.image(row)
        assert (image.format, image.size, near(image.convert("RGB").getpixel((4, 4)), (255, 0, 0))) == (
            name.upper(),
            (64, 48),
            True,
        )


def test_a_width_that_is_too_large_is_left_out_and_said(bench):
    post = Post(derivatives=(Derivative(name="w", format="webp", widths=(32, 640), quality=80),))
    data = saved(picture(), "png")
    bench.make(data, "png", post)
    assert [(row.path, row.state, row.message) for row in bench.rows] == [
        ("derivatives/w-32/fox.webp", "made", ""),
        ("derivatives/w-640/fox.webp", "skipped", "the image is 64 pixels wide"),
    ]
    assert not (bench.folder / "derivatives" / "w-640").exists()


def test_a_crop_keeps_the_part_that_was_asked_for(bench):
    east = Derivative(name="east", format="png", crop=(1, 1), gravity="east")
    rows = bench.make(
        saved(picture((60, 20)), "png"), "png", Post(derivatives=(east, replace(east, name="west", gravity="west")))
    )
    assert {name: (bench.image(row).size, bench.image(row).getpixel((2, 2)) == (255, 0, 0)) for name, row in rows.items()} == {
        "east": ((20, 20), False), "west": ((20, 20), True),
    }  # fmt: skip


def test_the_orientation_that_a_camera_noted_is_applied_and_said_no_more(bench):
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "kept"  # turned by a quarter; ImageDescription
    exif.get_ifd(0x8769)[0xA002] = 64
    rows = bench.make(saved(picture(), "jpeg", exif=exif, quality=95), "jpeg", Post(derivatives=KINDS))
    for row in rows.values():
        image = bench.image(row)
        assert (image.size, near(image.convert("RGB").getpixel((44, 4)), (255, 0, 0))) == ((48, 64), True)
        found = image.getexif()
        assert (found.get(0x0112, 1), found[0x010E], found.get_ifd(0x8769)[0xA002]) == (1, "kept", 48)


def test_a_colour_profile_goes_along_and_one_that_does_not_fit_does_not(bench):
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    rows = bench.make(saved(picture(), "png", icc_profile=srgb), "png", Post(derivatives=KINDS))
    assert all(bench.image(row).info["icc_profile"] == srgb for row in rows.values())
    rows = bench.make(saved(picture(mode="L"), "png", icc_profile=srgb), "png", Post(derivatives=KINDS))
    assert {name: "icc_profile" in bench.image(row).info for name, row in rows.items()} == {
        "webp": True, "avif": True, "jpeg": False, "png": False,
    }  # fmt: skip


def test_what_is_transparent_stays_so_and_gets_a_background_in_a_jpeg(bench):
    image = picture(mode="RGBA")
    image.putalpha(Image.new("L", image.size, 0))
    jpeg = Derivative(name="jpeg", format="jpeg", quality=90, background="#00ff00")
    rows = bench.make(
        saved(image, "png"), "png", Post(derivatives=(*(kind for kind in KINDS if kind.name != "jpeg"), jpeg))
    )
    assert near(bench.image(rows.pop("jpeg")).getpixel((9, 9)), (0, 255, 0))
    assert all(bench.image(row).convert("RGBA").getpixel((9, 9))[3] == 0 for row in rows.values())


@pytest.mark.parametrize(
    ("mode", "kind"), [("CMYK", "jpeg"), ("P", "png"), ("LA", "png"), ("1", "png"), ("I;16", "png")]
)
def test_rare_kinds_of_pixels_are_taken(bench, mode, kind):
    image = Image.new("I;16", (9, 9), 40_000) if mode == "I;16" else Image.new("RGB", (9, 9), "white").convert(mode)
    rows = bench.make(saved(image, kind), kind, Post(derivatives=KINDS))
    wanted = (40_000 // 257,) * 3 if mode == "I;16" else (255,) * 3
    assert all(near(bench.image(row).convert("RGB").getpixel((4, 4)), wanted, 3) for row in rows.values())


def test_a_picture_that_is_not_the_ledgers_or_cannot_be_decoded_fails_in_words(bench):
    data = saved(picture(), "png")
    (bench.folder / "source").write_bytes(data)
    broken = data[:60] + b"\x00" * 40 + data[100:]
    rows = bench.make(broken, "png", Post(derivatives=KINDS))
    assert {row.state for row in rows.values()} == {"failed"}
    assert all(row.message for row in rows.values())


def test_a_folder_that_stands_in_the_way_leaves_nothing_in_the_spool(bench, tmp_path):
    (tmp_path / "derivatives" / "png" / "fox.png").mkdir(parents=True)
    rows = bench.make(saved(picture(), "png"), "png", Post(derivatives=KINDS))  # it looks into the spool
    assert (rows["png"].state, rows["webp"].state) == ("failed", "made")


def test_a_link_that_stands_in_the_way_is_not_followed(bench, tmp_path):
    (tmp_path / "derivatives" / "png").mkdir(parents=True)
    (tmp_path / "mine").write_text("mine")
    (tmp_path / "derivatives" / "png" / "fox.png").symlink_to(tmp_path / "mine")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "derivatives" / "webp").symlink_to(tmp_path / "elsewhere")
    rows = bench.make(saved(picture(), "png"), "png", Post(derivatives=KINDS))
    bench.read(rows["png"])
    assert ((tmp_path / "mine").read_text(), list((tmp_path / "elsewhere").iterdir())) == ("mine", [])
    assert (rows["webp"].state, "remove it" in rows["webp"].message) == ("failed", True)


def test_a_file_is_synced_before_it_has_its_name_and_the_name_before_anybody_hears_of_it(bench, monkeypatch):
    bench.make(saved(picture(), "png"), "png", Post(derivatives=KINDS[:1]))  # so that its folder is there
    steps: list[str] = []
    for name in ("fsync", "replace"):
        real = getattr(os, name)
        monkeypatch.setattr(os, name, lambda *args, name=name, real=real: (real(*args), steps.append(name))[0])
    monkeypatch.setattr(
        "batchgen.store.local_folder.sync_folder", lambda folder: steps.append(f"names of {Path(folder).name}")
    )
    bench.make(saved(picture(), "png"), "png", Post(derivatives=KINDS[:1]))
    assert steps == ["fsync", "replace", "names of webp"]


# --- what is written into them


def pixels_as_stored(data: bytes, kind: str) -> bytes:
    """The compressed picture, byte for byte."""
    if kind == "png":
        at, found = 8, b""
        while at < len(data):
            length, name = struct.unpack_from(">I4s", data, at)
            found += data[at : at + 12 + length] if name in (b"IHDR", b"IDAT", b"PLTE", b"tRNS") else b""
            at += 12 + length
        return found
    if kind == "jpeg":
        return (
            b"".join(data[part.start : part.end] for part in containers.parts(data, kind) if part.kind[0] < 0xE0)
            + data[data.index(b"\xff\xda") :]
        )
    return b"".join(part.body for part in containers.parts(data, kind) if part.kind in (b"VP8 ", b"VP8L", b"ALPH"))


@pytest.mark.parametrize("embed", ["none", "ids", "full"])
@pytest.mark.parametrize(("kind", "options"), [
    ("png", {}), ("jpeg", {"quality": 80}), ("jpeg", {"progressive": True}), ("webp", {"quality": 80}), ("webp", {"lossless": True}),
])  # fmt: skip
def test_a_copy_of_the_original_gets_its_provenance_without_being_encoded_anew(bench, kind, options, embed):
    for mode in ("RGB",) if kind == "jpeg" else ("RGB", "RGBA"):
        data = saved(picture((65, 49), mode), kind, **options)
        row = bench.make(data, kind, Post(derivatives=(COPY,), embed=embed))["original"]
        copied = bench.read(row)
        assert pixels_as_stored(copied, kind) == pixels_as_stored(data, kind) != b""
        assert bench.image(row).tobytes() == Image.open(io.BytesIO(data)).tobytes()
        assert provenance.has_source_type(containers.read_xmp(copied, kind))
        again = bench.read(bench.make(copied, kind, Post(derivatives=(COPY,)))["original"])
        assert again == copied  # it says already what has to be said


@pytest.mark.parametrize("kind", SAVED)
def test_what_follows_the_picture_in_its_file_is_copied_too(bench, kind):
    data = saved(picture(), kind) + b"\x00\x00\xff\xfftrailer"
    copied = bench.read(bench.make(data, kind, Post(derivatives=(COPY,), embed="ids"))["original"])
    assert (copied.endswith(b"\x00\x00\xff\xfftrailer"), b"gemini-x" in copied) == (True, True)


@needs_exiftool
@pytest.mark.parametrize("kind", SAVED)
def test_exiftool_reads_in_every_format_what_was_written(bench, kind):
    rows = bench.make(saved(picture(), kind), kind, Post(derivatives=(*KINDS, COPY), embed="full"))
    for found in metadata(*(bench.folder / row.path for row in rows.values())):
        assert (found["ExifTool:Validate"], found["XMP-iptcExt:DigitalSourceType"]) == ("OK", TRAINED)
        ours = {
            name.removeprefix("XMP-batchgen:"): value
            for name, value in found.items()
            if name.startswith("XMP-batchgen:")
        }
        assert {name: ours[name] for name in ("Job", "Item", "Sample", "Run", "Attempt", "Model", "System", "References")} == {
            "Job": "shop", "Item": "fox", "Sample": 2, "Run": 3, "Attempt": 4, "Model": "gemini-x", "System": "be brief",
            "References": ["ab12", "cd34"],
        }  # fmt: skip
        assert (ours["Prompt"], json.loads(ours["Settings"])) == (TAMED, {"seed": 7})
        assert found["XMP-iptcExt:AIPromptInformation"] == TAMED
        if found["SourceFile"].endswith(".png"):
            assert json.loads(found["PNG:Batchgen"])["Prompt"] == TAMED


@needs_exiftool
def test_ids_tell_no_prompt_and_none_tells_only_that_it_was_generated(bench):
    data = saved(picture(), "jpeg")
    for embed, told in [("ids", 8), ("none", 0)]:
        rows = bench.make(data, "jpeg", Post(derivatives=(*KINDS, COPY), embed=embed))
        for found in metadata(*(bench.folder / row.path for row in rows.values())):
            assert found["XMP-iptcExt:DigitalSourceType"] == TRAINED
            assert sum(name.startswith("XMP-batchgen:") for name in found) == told
        assert all(b"second line" not in bench.read(row) for row in rows.values())


@needs_exiftool
def test_an_emulated_picture_is_called_so_in_every_file(bench):
    for embed in ("none", "ids"):
        rows = bench.make(
            saved(picture(), "jpeg"), "jpeg", Post(derivatives=(*KINDS, COPY), embed=embed), emulated=True
        )
        for found in metadata(*(bench.folder / row.path for row in rows.values())):
            assert found["XMP-batchgen:Emulated"] is True or found["XMP-batchgen:Emulated"] == "True"
            assert embed == "none" or "EMULATED" in found["XMP-iptcExt:AISystemUsed"]


THEIRS = (
    '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
    '<rdf:Description rdf:about="" xmlns:dc="http://purl.org/dc/elements/1.1/" dc:format="image/x"'
    ' xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/" {}/></rdf:RDF></x:xmpmeta>'
)
COMPOSITE = provenance.SOURCE_TYPES + "compositeWithTrainedAlgorithmicMedia"


@needs_exiftool
@pytest.mark.parametrize("kind", SAVED)
def test_what_the_original_says_of_itself_stays_and_wins(bench, kind):
    theirs = THEIRS.format(f'Iptc4xmpExt:DigitalSourceType="{COMPOSITE}"').encode()
    data = containers.with_metadata(saved(picture(), kind), kind, theirs, {})
    rows = bench.make(data, kind, Post(derivatives=(*KINDS, COPY), embed="ids"))
    for found in metadata(*(bench.folder / row.path for row in rows.values())):
        assert (found["XMP-iptcExt:DigitalSourceType"], found["XMP-dc:Format"]) == (COMPOSITE, "image/x")
        assert (found["XMP-batchgen:Item"], found["ExifTool:Validate"]) == ("fox", "OK")


@pytest.mark.parametrize("theirs", [
    b"", b"no xml", b"<a/>", b"\xff\xfe\x00", THEIRS.format("").encode() + b"<", b"<x:xmpmeta",
    b'<!DOCTYPE a [<!ENTITY b "bbbb">]>' + THEIRS.format('dc:title="&b;"').encode(),
])  # fmt: skip
def test_a_packet_that_cannot_be_trusted_is_replaced(theirs):
    made = provenance.packet(FACTS, "ids", "trainedAlgorithmicMedia", theirs, keeps_c2pa=False)
    assert (provenance.has_source_type(made), b"bbbb" in made) == (True, False)


def test_settings_without_end_are_cut_too(bench):
    rows = bench.make(
        saved(picture(), "jpeg"), "jpeg", Post(derivatives=KINDS, embed="full"), settings={"history": ["&" * 90_000]}
    )
    assert {row.state for row in rows.values()} == {"made"}


def test_nothing_more_is_made_for_a_run_that_is_dead(bench):
    data = saved(picture(), "png")
    bench.make(data, "png", Post())
    task = RenderRequest(
        spool="", source=str(bench.folder / "source"), sha256=hashlib.sha256(data).hexdigest(), embed="none",
        source_type="", provenance=FACTS, outputs=[OutputSpec(path="a.png", format="png")],
    )  # fmt: skip
    assert render(task, lambda: False) == []


def test_a_prompt_without_end_is_cut_to_what_every_format_takes(bench):
    rows = bench.make(
        saved(picture(), "jpeg"),
        "jpeg",
        Post(derivatives=(*KINDS, COPY), embed="full", sidecar=True),
        prompt="漢&" * 50_000,
    )
    assert {row.state for row in rows.values()} == {"made"}
    xmp = containers.read_xmp(bench.read(rows["original"]), "jpeg")
    assert 30_000 < len(xmp) <= provenance.PACKET_MAX_BYTES
    assert json.loads(bench.read(rows["sidecar"]))["prompt"] == "漢&" * 50_000


def c2pa(kind: str) -> bytes:
    """A picture with what a C2PA manifest looks like from outside."""
    data, manifest = saved(picture(), kind), b"\x00\x00\x00\x30jumb\x00\x00\x00\x28jumdc2pa" + b"signed" * 4
    if kind == "png":
        chunk = b"caBX" + manifest
        return data[:33] + struct.pack(">I", len(manifest)) + chunk + struct.pack(">I", zlib.crc32(chunk)) + data[33:]
    if kind == "jpeg":
        body = b"JP\x00\x01\x00\x00\x00\x01" + manifest
        return data[:2] + b"\xff\xeb" + struct.pack(">H", len(body) + 2) + body + data[2:]
    with_xmp = containers.with_metadata(data, kind, b"<a/>", {})
    body = with_xmp[8:] + struct.pack("<4sI", b"C2PA", len(manifest)) + manifest
    return b"RIFF" + struct.pack("<I", len(body)) + body


@needs_exiftool
@pytest.mark.parametrize("kind", SAVED)
def test_a_signed_original_is_copied_bit_by_bit_and_derivatives_say_what_they_lost(bench, kind):
    data = c2pa(kind)
    rows = bench.make(data, kind, Post(derivatives=(*KINDS, COPY), embed="ids"))
    assert bench.read(rows.pop("original")) == data
    beside = rows.pop("beside")
    assert beside.path == "derivatives/original/fox.xmp"
    (told,) = metadata(bench.folder / beside.path)
    assert (told["XMP-batchgen:Item"], "XMP-batchgen:OriginC2PA" in told) == ("fox", False)
    sha256 = hashlib.sha256(data).hexdigest()
    for found in metadata(*(bench.folder / row.path for row in rows.values())):
        assert found["XMP-batchgen:OriginC2PA"] == provenance.C2PA_LOST
        assert found["XMP-xmpMM:DerivedFromDocumentID"] == f"urn:sha256:{sha256}"


def test_a_gif_is_copied_and_its_metadata_stand_beside_it(bench):
    out = io.BytesIO()
    picture().save(out, "GIF")
    rows = bench.make(out.getvalue(), "gif", Post(derivatives=(COPY, KINDS[0]), embed="ids"))
    assert bench.read(rows["original"]) == out.getvalue()
    assert b"gemini-x" in bench.read(rows["beside"])
    assert bench.image(rows["webp"]).size == (64, 48)
