"""Checks of real files in a real worker process: what each verdict says, and that nothing a check does costs an image."""

from __future__ import annotations

import asyncio
import hashlib
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from PIL import Image, ImageDraw, ImageFont

from batchgen.derivatives.render_process import RenderProcess
from batchgen.item import DEFAULT_CHECKS, Check
from batchgen.records import Verdict
from batchgen.review.check_type import Asked
from batchgen.review.checks import CHECKS, basis_of
from batchgen.review.run_checks import CheckTask, run_checks
from batchgen.review.twins import TwinIndex
from tests.support.derivatives import needs_proc, workers
from tests.support.packages import forget, install
from tests.support.paths import ROOT

BLANK, TWIN = DEFAULT_CHECKS


def sha256_of(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


class Desk:
    """Where images are checked: one process, one index."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.process = RenderProcess()
        self.twins = TwinIndex()

    def save(self, name: str, image: Image.Image, **options) -> Path:
        path = self.folder / name
        image.save(path, **options)
        return path

    async def check(self, path: Path, *found: Check, **facts) -> dict[str, Verdict]:
        task = {"path": str(path), "sha256": sha256_of(path), "item_id": path.stem, "n": 1, **facts}
        verdicts = await run_checks(self.process, CheckTask(checks=found or DEFAULT_CHECKS, **task), self.twins)
        assert [verdict.name for verdict in verdicts] == [check.name for check in found or DEFAULT_CHECKS]
        return {verdict.name: verdict for verdict in verdicts}


def install_check(monkeypatch: pytest.MonkeyPatch, folder: Path, name: str, code: str) -> None:
    """A package with a check that does this and then finds nothing."""
    text = (
        "import os\n"
        "from batchgen.review.check_type import CheckType, Finding\n"
        f"CHECK = CheckType(name='{name}', description='Of a test.', examine='{name}:examine')\n"
        f"def examine(image, options, asked):\n    {code}\n    return Finding(score=len(image.data))\n"
    )
    install(monkeypatch, folder / "packages", name, {f"{CHECKS}:{name}": f"{name}:CHECK"}, {f"{name}.py": text})


@pytest.fixture(autouse=True)
def no_package_stays() -> Iterator[None]:
    yield
    forget()


@pytest.fixture
async def desk(tmp_path) -> AsyncIterator[Desk]:
    desk = Desk(tmp_path)
    yield desk
    await desk.process.close()


async def there(path: Path) -> None:
    while path.name not in os.listdir(path.parent):
        await asyncio.sleep(0.01)


def scene(colour: str = "firebrick", at: int = 60) -> Image.Image:
    image = Image.linear_gradient("L").resize((400, 300)).convert("RGB")
    draw = ImageDraw.Draw(image)
    draw.ellipse((at, 80, at + 120, 240), fill=colour)
    draw.rectangle((260, 40, 330, 260), fill="navy")
    return image


async def test_a_good_image_is_accepted_by_each_check_with_what_was_measured(desk):
    verdicts = await desk.check(desk.save("fox.png", scene()), attempt=7)
    blank = verdicts["blank"]
    assert [(each.ruling, each.reason, each.by, each.attempt) for each in verdicts.values()] == [
        ("accept", "", "check", 7)
    ] * 2
    assert blank.score is not None and blank.score > 100
    assert (blank.item_id, blank.n, blank.basis, blank.usd) == ("fox", 1, basis_of(BLANK), 0.0)
    assert len(verdicts["twin"].details["hash"]) == 16


async def test_a_blank_image_warns_or_is_rejected_as_the_manifest_says(desk):
    path = desk.save("black.png", Image.new("RGB", (640, 480), "#101820"))
    assert (await desk.check(path))["blank"].ruling == "warn"
    found = (await desk.check(path, Check(name="blank", rejects=True)))["blank"]
    assert (found.ruling, found.reason, found.message) == (
        "reject", "blank", "the whole image is of one colour, #101820",
    )  # fmt: skip


async def test_two_blank_images_are_blank_and_no_twins(desk):
    for name in ("a.png", "b.png"):
        found = await desk.check(desk.save(name, Image.new("RGB", (64, 64), "white")))
    assert (found["twin"].ruling, found["twin"].details) == ("accept", {})


async def test_the_same_image_again_compressed_and_smaller_is_a_twin_and_in_another_colour_is_not(desk):
    await desk.check(desk.save("a.png", scene()))
    again = await desk.check(desk.save("b.jpg", scene().resize((320, 240)), quality=70))
    other = await desk.check(desk.save("c.png", scene("seagreen")))
    assert (again["twin"].reason, again["twin"].details["twin"]) == ("twin", "a")
    assert other["twin"].reason == ""


async def test_a_copy_of_its_reference_is_found_and_a_small_edit_of_it_is_none(desk):
    reference = desk.save("photo.jpg", scene(), quality=92)
    unreadable = desk.folder / "reference.heic"
    unreadable.write_bytes(b"no image that Pillow knows")
    references = [str(unreadable), str(reference)]
    copied = await desk.check(desk.save("a.png", scene().resize((800, 600))), references=references)
    edited = scene()
    ImageDraw.Draw(edited).rectangle((20, 20, 44, 44), fill=(60, 60, 60))
    changed = await desk.check(desk.save("b.png", edited), references=references)
    assert (copied["twin"].reason, copied["twin"].details["reference"]) == ("copy_of_reference", str(reference))
    assert changed["twin"].reason != "copy_of_reference"


async def test_a_transparent_image_is_blank_and_one_whose_form_is_in_its_transparency_is_not(desk):
    image = Image.new("RGBA", (200, 200), (0, 0, 0, 0))
    assert (await desk.check(desk.save("a.png", image)))["blank"].message == "the whole image is transparent"
    ImageDraw.Draw(image).ellipse((50, 50, 150, 150), fill=(128, 128, 128, 255))
    assert (await desk.check(desk.save("b.png", image)))["blank"].ruling == "accept"


@pytest.mark.parametrize("content", [b"", b"\x89PNG\r\n\x1a\nand no more", b"\xff\xd8\xff\xe0\x00\x10JFIF"])
async def test_what_cannot_be_decoded_warns_with_words_and_the_next_image_is_checked(desk, content):
    path = desk.folder / "broken.png"
    path.write_bytes(content)
    for verdict in (await desk.check(path, Check(name="blank", rejects=True), TWIN)).values():
        assert (verdict.ruling, verdict.reason, verdict.basis) == ("warn", "check_failed", "")
        assert verdict.message
    assert (await desk.check(desk.save("fox.png", scene())))["blank"].ruling == "accept"


async def test_a_file_that_is_gone_or_another_than_the_ledger_knows_is_said(desk):
    path = desk.save("fox.png", scene())
    other = await desk.check(path, BLANK, sha256="0" * 64)
    gone = await run_checks(
        desk.process, CheckTask(path=f"{path}.gone", sha256="", item_id="a", n=1, checks=[BLANK]), desk.twins
    )
    assert other["blank"].message == "the file is not as the ledger has it: batchgen verify"
    assert gone[0].message == "the image cannot be read: No such file or directory"


@needs_proc
async def test_a_check_that_kills_its_process_fails_alone_and_the_others_are_heard(desk, monkeypatch):
    install_check(monkeypatch, desk.folder, "deadly", "os.kill(os.getpid(), 9)")
    found = await desk.check(desk.save("fox.png", scene()), BLANK, Check(name="deadly", rejects=True), TWIN)
    assert [found[name].ruling for name in ("blank", "deadly", "twin")] == ["accept", "warn", "accept"]
    assert (found["deadly"].reason, found["deadly"].message) == (
        "check_failed", "the process of the check was killed (out of memory?)",
    )  # fmt: skip


@needs_proc
async def test_what_a_check_prints_is_no_answer(desk, monkeypatch):
    install_check(monkeypatch, desk.folder, "loud", "print('[]'); os.write(1, b'[]\\n')")
    assert (await desk.check(desk.save("fox.png", scene()), Check(name="loud")))["loud"].ruling == "accept"


@needs_proc
async def test_one_process_looks_at_all_images_and_is_replaced_when_it_was_killed(desk):
    path = desk.save("fox.png", scene())
    await desk.check(path)
    (first,) = workers(os.getpid())
    await desk.check(path)
    assert workers(os.getpid()) == [first]
    os.kill(first, signal.SIGKILL)
    assert (await desk.check(path))["blank"].ruling == "accept"


def test_the_default_checks_import_no_more_than_pillow_needs():
    heavy = ["aiohttp", "pydantic", "yaml", "jinja2", "asyncio", "numpy", "batchgen.http", "PIL.ImageCms"]
    code = (
        "import sys, batchgen.derivatives.worker, batchgen.review.examine, batchgen.review.pixels;"
        f"print([name for name in {heavy} if name in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert run.stdout.strip() == "[]"


@needs_proc
async def test_a_check_that_nobody_waits_for_any_more_does_not_answer_the_next(desk, monkeypatch):
    started = desk.folder / "started"
    install_check(monkeypatch, desk.folder, "slow", f"import time; open({str(started)!r}, 'w'); time.sleep(60)")
    path = desk.save("fox.png", scene())
    waiting = asyncio.create_task(desk.check(path, Check(name="slow")))
    await there(started)
    waiting.cancel()
    await asyncio.wait({waiting})
    assert waiting.cancelled()
    assert workers(os.getpid()) == []
    assert (await desk.check(path))["blank"].ruling == "accept"


async def test_other_checks_say_what_was_measured_and_where(desk):
    path = desk.save("fox.png", scene())
    found = await desk.check(
        path,
        Check(name="sharp", rejects=True, options=(("least", 99.9),)),
        Check(name="size"),
        Check(name="background", options=(("kind", "transparent"),)),
        Check(name="faces", options=(("count", 2),)),
        Check(name="text", options=(("text", "SALE"),)),
        Check(name="unsafe"),
        asked=Asked(aspect_ratio="1:1"),
    )
    assert {name: (each.ruling, each.reason) for name, each in found.items()} == {
        "sharp": ("reject", "blurred"),
        "size": ("warn", "ratio"),
        "background": ("warn", "background"),
        "faces": ("warn", "faces"),
        "text": ("warn", "text"),
        "unsafe": ("accept", ""),
    }
    assert found["size"].message == "has 400 x 300 pixels where 1:1 was asked for"
    assert found["background"].message == "nothing is transparent along its edges"
    assert found["faces"].message == "shows 0 faces where 2 should be"


async def test_boxes_of_text_lie_in_parts_of_the_image(desk):
    image = Image.new("RGB", (800, 400), "white")
    ImageDraw.Draw(image).text((200, 100), "SALE 50%", font=ImageFont.load_default(80), fill="black")
    check = Check(name="text", options=(("text", "SALE 50%"),))
    found = (await desk.check(desk.save("sale.png", image), check))["text"]
    (box,) = found.details["boxes"]
    assert (found.ruling, box[4]) == ("accept", "SALE 50%")
    assert [abs(part - wanted) < 0.05 for part, wanted in zip(box, (0.25, 0.27, 0.45, 0.2), strict=False)] == [True] * 4


def test_checks_with_models_need_no_network():
    code = (
        "import socket\n"
        "def refuse(*_): raise SystemExit('asked the network')\n"
        "socket.socket.connect = socket.getaddrinfo = socket.create_connection = refuse\n"
        "import hashlib, sys\n"
        "from batchgen.review.examine import answer\n"
        "path = sys.argv[1]\n"
        "sha256 = hashlib.sha256(open(path, 'rb').read()).hexdigest()\n"
        "checks = [['text', {'text': 'x'}], ['faces', {'count': 0}], ['unsafe', {}]]\n"
        "asked = {'prompt': '', 'aspect_ratio': None, 'expected': None}\n"
        "request = {'path': path, 'sha256': sha256, 'references': [], 'checks': checks, 'asked': asked}\n"
        "print([found['reason'] for found in answer(request, lambda: True)])\n"
    )
    photo = ROOT / "jobs" / "photos" / "NL-101.jpg"
    run = subprocess.run([sys.executable, "-c", code, str(photo)], capture_output=True, text=True, cwd=ROOT)
    assert (run.stdout.strip(), run.returncode) == ("['text', '', '']", 0), run.stderr
