"""Images that are not what was asked for, each by a marker of its prompt, for the checks of whoever looks at them."""

from __future__ import annotations

import base64
import io

import pytest
from PIL import Image, ImageChops

from batchgen.emulator.pictures import Picture, render
from tests.emulator.test_gemini import image_of


async def drawn(client, emulator, prompt):
    _, answer = await client.draw(emulator, prompt)
    return image_of(answer).convert("RGB")


def differ(one, other, box=None):
    return ImageChops.difference(one.crop(box), other.crop(box)).getbbox() is not None


def rendered(title, flaw=""):
    """With one gradient for all, so that only what is drawn on it differs."""
    facts = {"prompt": "p", "model": "m", "caption": "c", "mime": "image/png", "n": 1}
    return Image.open(io.BytesIO(render(Picture(title=title, flaw=flaw, pixels=(512, 512), **facts))))


async def test_a_blank_image_has_one_colour(start, client):
    found = await drawn(client, await start(picture="full"), "A mug [[image:blank]]")
    assert [high - low for low, high in found.getextrema()] == [0, 0, 0]


async def test_twins_of_two_prompts_have_the_same_pixels(start, client):
    emulator = await start(picture="full")
    one, other = [await drawn(client, emulator, f"{what} [[image:twin]]") for what in ("A mug", "A cup")]
    assert not differ(one, other)


async def test_the_second_image_of_a_prompt_may_be_good(start, client):
    emulator = await start(picture="full")
    prompts = ["A mug [[image:blank,good]]", "A mug [[image:blank,good]] with its handle", "A cup [[image:blank,good]]"]
    found = [await drawn(client, emulator, prompt) for prompt in prompts]
    assert [image.getextrema()[0][0] == image.getextrema()[0][1] for image in found] == [True, False, True]


async def test_each_sample_of_one_request_is_an_image_of_its_own(start, client):
    emulator = await start(picture="full")
    body = {"model": "gpt-image-2", "prompt": "A mug [[image:blank,good]]", "n": 2}
    _, answer = await client.post(f"{emulator.base_url}/v1/images/generations", body)
    images = [Image.open(io.BytesIO(base64.b64decode(one["b64_json"]))).convert("RGB") for one in answer["data"]]
    assert [len(image.getcolors(1 << 24) or ()) == 1 for image in images] == [True, False]


def test_the_lower_half_is_grey_when_only_half_is_drawn():
    found = rendered("A mug", "half")
    assert found.crop((0, 256, 512, 512)).getcolors() == [(512 * 256, (128, 128, 128))]
    assert not differ(found, rendered("A mug"), (0, 0, 512, 256))


def test_a_misspelt_image_has_another_text_by_one_letter():
    assert not differ(rendered("SALE today", "misspelt"), rendered("SALE toay"))
    assert differ(rendered("SALE today", "misspelt"), rendered("SALE today"))


@pytest.mark.parametrize("count", [1, 4, 9])
def test_as_many_discs_are_drawn_as_are_counted(count):
    with_discs, without = rendered("", f"count={count}"), rendered(" ")
    changed = ImageChops.difference(with_discs, without).convert("L").point(lambda value: 255 if value > 20 else 0)
    assert changed.histogram()[255] == pytest.approx(count * 3.14159 * (512 / 12) ** 2, rel=0.1)


async def test_the_text_asked_for_stands_in_place_of_the_prompt(start, client):
    emulator = await start(picture="full")
    one, other = [await drawn(client, emulator, f"A sign [[image:text=SALE 5{sign}%]]") for sign in "0O"]
    assert differ(one, other)


@pytest.mark.parametrize("marker", ["[[image:green]]", "[[image:]]", "[[image:blank,]]"])
async def test_a_marker_that_means_nothing_is_said(start, client, marker):
    status, answer = await client.draw(await start(), f"A mug {marker}")
    assert (status, answer["error"]["message"]) == (400, f"emulator: {marker} means nothing here")
