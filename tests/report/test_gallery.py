"""The gallery's page as a file: what is in it, what can never be in it, and thumbnails that hostile pictures do not stop."""

from __future__ import annotations

import hashlib
import json
import re
import struct
import zlib
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from batchgen.cli.main import run_command_line
from batchgen.report.gallery import THUMBNAILS_PER_SCRIPT, link_base, render_gallery, script_json
from batchgen.report.gallery_data import PageView, SampleView
from batchgen.report.thumbnails import THUMBNAIL_SIDE_PX, Thumbnails, shrink
from batchgen.store.store import Store
from tests.support.gallery_job import make_job

KEY = "AIza-not-a-key-but-looks-like-one"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_job(tmp_path_factory.mktemp("gallery"))


def facts_of(path: Path) -> Any:
    found = re.search(r'<script type="application/json" id="facts">(.*?)</script>', path.read_text(), re.DOTALL)
    assert found is not None
    return json.loads(found[1])


def page_of(job: str, message: str) -> PageView:
    sample = SampleView(
        id="mug", n=1, place=0, state="failed", model="m", settings=0, at=0, message=message, pictures=()
    )
    return PageView(job=job, at=0.0, key="k", samples=[sample])


def report(folder: Path, *argv: str) -> Any:
    assert run_command_line(["report", str(folder), *argv]) == 0
    return facts_of(folder / "report.html")


def test_every_sample_is_there_in_the_manifests_order_with_its_pictures_and_attempts(folder):
    facts = report(folder)
    ids = [(sample["id"], sample["n"]) for sample in facts["samples"]]
    assert ids[:6] == [("mug", 1), ("poster", 1), ("poster", 2), ("poster", 3), ("markup", 1), ("refused", 1)]
    assert ids[-2:] == [("lamp", 1), ("chair", 1)]
    by_id = {sample["id"]: sample for sample in facts["samples"] if sample["n"] == 1}
    assert [picture["kind"] for picture in by_id["mug"]["pictures"]] == ["image", "earlier"]
    assert by_id["mug"]["pictures"][1]["path"].startswith("superseded/")
    assert len(by_id["mug"]["attempts"]) == 2
    assert by_id["refused"]["state"] == "refused"
    assert by_id["refused"]["message"]
    assert facts["emulated"] is True
    assert [night["id"] for night in facts["nights"]] == [1, 2]


def test_sources_beside_a_picture_are_shown_and_a_broken_file_is_not(folder):
    (folder / "mug.sources.json").write_text(
        json.dumps({"queries": ["mugs"], "sources": [{"uri": "https://a.b/", "x": 1}]})
    )
    (folder / "poster.sources.json").write_text("[[[")
    by_id = {(sample["id"], sample["n"]): sample for sample in report(folder)["samples"]}
    assert by_id["mug", 1]["sources"] == {"queries": ["mugs"], "sources": [{"uri": "https://a.b/"}]}
    assert "sources" not in by_id["poster", 1]


def test_the_second_report_makes_no_thumbnail_again(folder, capsys):
    report(folder)
    capsys.readouterr()
    assert run_command_line(["report", str(folder), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["made"] == 0
    assert told["thumbnails"] == 8
    assert told["bytes"] == (folder / "report.html").stat().st_size


def test_a_page_elsewhere_links_to_the_pictures_where_they_are(folder, tmp_path):
    assert run_command_line(["report", str(folder), "--to", str(tmp_path / "p.html")]) == 0
    way = facts_of(tmp_path / "p.html")["base"]
    assert (tmp_path / way / "mug.jpg").resolve() == (folder / "mug.jpg").resolve()
    assert link_base(tmp_path / "p.html", tmp_path / "a b#c") == "a%20b%23c/"


def test_a_page_that_cannot_be_written_leaves_nothing_behind(folder, tmp_path, capsys):
    (tmp_path / "there").mkdir()
    assert run_command_line(["report", str(folder), "--to", str(tmp_path / "no" / "p.html")]) == 5
    assert [path.name for path in tmp_path.rglob("*.part")] == []


def test_the_page_allows_itself_its_own_style_and_script_and_nothing_else(folder):
    report(folder)
    text = (folder / "report.html").read_text()
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', text)
    assert policy is not None
    assert policy[1].startswith("default-src 'none'; img-src data: 'self' file:; ")
    assert "unsafe" not in policy[1]
    assert not re.search(r"""(src|href)=["']?(https?:|//)""", text)


def test_nothing_in_the_data_can_end_its_script_element():
    text = script_json({"prompt": "</script><!--<script>\u2028 &amp; \ud800"})
    assert "<" not in text
    assert ">" not in text
    assert json.loads(text)["prompt"] == "</script><!--<script>\u2028 &amp; \ud800"


def test_a_key_that_a_vendor_quotes_is_in_no_page():
    text = "".join(render_gallery(page_of(KEY, f"bad key {KEY}"), [], [KEY]))
    assert KEY not in text
    assert text.count("[redacted]") == 3  # title, name and message


def test_a_secret_that_json_writes_in_another_way_is_in_no_page_either():
    secret = 'https://hooks.example/?a=b&c="d\\e'
    text = "".join(render_gallery(page_of("shop", f"no answer from {secret}"), [], [secret]))
    assert '"no answer from [redacted]"' in text


def test_thumbnails_are_read_as_they_are_written():
    taken: list[int] = []

    def thumbnails() -> Any:
        for number in range(3 * THUMBNAILS_PER_SCRIPT):
            taken.append(number)
            yield b"x"

    pieces = list(render_gallery(page_of("j", ""), [b"x"] * (THUMBNAILS_PER_SCRIPT + 1), []))
    first, script, second = (
        next(number for number, piece in enumerate(pieces) if piece.startswith(start))
        for start in (
            '<script type="text/plain" id="thumbnails-0"',
            "<script>",
            '<script type="text/plain" id="thumbnails-1"',
        )
    )
    assert first < script < second  # what is shown first is there before the script runs
    pieces = render_gallery(page_of("j", ""), thumbnails(), [])
    next(piece for piece in pieces if 'id="thumbnails-1"' in piece)
    assert len(taken) <= 2 * THUMBNAILS_PER_SCRIPT


@pytest.mark.parametrize(
    ("mode", "kind"), [("RGB", "JPEG"), ("RGBA", "PNG"), ("P", "PNG"), ("I;16", "PNG"), ("CMYK", "JPEG"), ("L", "PNG")]
)
def test_every_kind_of_picture_becomes_a_small_one(tmp_path, mode, kind):
    path = tmp_path / "picture"
    Image.new(mode, (900, 300)).save(path, kind)
    assert 0 < len(shrink(path)) < 20_000
    path.write_bytes(shrink(path))
    with Image.open(path) as image:
        assert image.width == THUMBNAIL_SIDE_PX


def test_a_photograph_is_small_as_a_person_sees_it(tmp_path):
    """Upright, of its own grey, and in the formats that only references have."""
    turned = Image.Exif()
    turned[0x112] = 6
    Image.new("RGB", (900, 300)).save(tmp_path / "turned.jpg", exif=turned)
    Image.new("I;16", (900, 300), 32639).save(tmp_path / "grey.png")
    Image.new("RGB", (900, 300), (127, 127, 127)).save(tmp_path / "a.avif")
    small = [Image.open(BytesIO(shrink(tmp_path / name))) for name in ("turned.jpg", "grey.png", "a.avif")]
    assert [image.width < image.height for image in small] == [True, False, False]
    assert all(abs(image.convert("L").getpixel((9, 9)) - 127) < 4 for image in small[1:])


def bomb() -> bytes:
    """A PNG of a few bytes that declares 40,000 by 40,000 pixels."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    head = struct.pack(">IIBBBBB", 40_000, 40_000, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"\0" * 1000)) + chunk(b"IEND", b"")
    )


def test_bombs_torn_files_links_and_missing_files_have_no_thumbnail_and_stop_nothing(tmp_path):
    (tmp_path / "bomb.png").write_bytes(bomb())
    Image.new("RGB", (300, 300), "red").save(tmp_path / "good.png")
    (tmp_path / "torn.png").write_bytes((tmp_path / "good.png").read_bytes()[:60])
    (tmp_path / "link.png").symlink_to(tmp_path / "good.png")
    names = ["bomb.png", "torn.png", "link.png", "missing.png", "good.png"]
    small = list(
        Thumbnails(tmp_path, Store(tmp_path)).all((name, hashlib.sha256(name.encode()).hexdigest()) for name in names)
    )
    assert [bool(data) for data in small] == [False, False, False, False, True]


def test_many_thumbnails_keep_their_order_and_only_a_few_wait(tmp_path):
    for number in range(60):
        Image.new("RGB", (8, 8), (number, 0, 0)).save(tmp_path / f"{number}.png")
    asked: list[int] = []

    def pictures() -> Any:
        for number in range(60):
            asked.append(number)
            yield f"{number}.png", f"{number:064}"

    thumbnails = Thumbnails(tmp_path, Store(tmp_path), threads=2)
    answers = thumbnails.all(pictures())
    first = next(answers)
    assert len(asked) <= 10
    assert [first, *answers] == [shrink(tmp_path / f"{number}.png") for number in range(60)]
    assert thumbnails.made == 60
