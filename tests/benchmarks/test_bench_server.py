"""The measuring server itself: what it serves is a whole picture, and its quota is the one it is asked for."""

from __future__ import annotations

import base64
import io
import json
import random

import pytest
from PIL import Image

from tests.benchmarks.noise import gemini_answer, noise_png
from tests.benchmarks.server import Desk


@pytest.mark.parametrize("size_bytes", [400, 2048, 100_001, 300_000])
def test_a_noise_picture_has_exactly_the_bytes_that_were_asked_for(size_bytes: int) -> None:
    assert len(noise_png(size_bytes, random.Random(1))) == size_bytes


def test_a_noise_picture_is_whole() -> None:
    with Image.open(io.BytesIO(noise_png(150_000, random.Random(1)))) as image:
        image.load()


def test_the_answer_carries_the_picture() -> None:
    picture = noise_png(2048, random.Random(1))
    part = json.loads(gemini_answer(picture))["candidates"][0]["content"]["parts"][0]
    assert base64.b64decode(part["inlineData"]["data"]) == picture


def test_a_window_refuses_what_is_beyond_its_limit() -> None:
    desk = Desk({"pro": 2}, 60.0)
    assert [desk.arrive("pro", now_s) for now_s in (0.0, 10.0, 20.0)] == [None, None, 40.0]


def test_a_window_slides() -> None:
    desk = Desk({"pro": 2}, 60.0)
    assert [desk.arrive("pro", now_s) for now_s in (0.0, 10.0, 60.0)] == [None, None, None]


def test_a_refused_request_counts_as_an_arrival_in_its_minute() -> None:
    desk = Desk({"pro": 1}, 60.0)
    for now_s in (0.0, 1.0, 2.0):
        desk.arrive("pro", now_s)
    assert desk.seen["pro"].most_in_window == 3


def test_an_ai_model_without_a_limit_is_never_refused() -> None:
    desk = Desk({"pro": 1}, 60.0)
    assert {desk.arrive("flash", 0.0) for _ in range(100)} == {None}
