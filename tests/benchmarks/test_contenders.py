"""The benchmark still runs: every contender turns a server's answers into as many whole files, and the careful client is one."""

from __future__ import annotations

import asyncio
import random
from importlib import import_module

import pytest

from tests.benchmarks import measure
from tests.benchmarks.careful import CarefulClient, check_png
from tests.benchmarks.contenders import OUR_MODULES
from tests.benchmarks.measure import Load, run_once, server
from tests.benchmarks.noise import noise_png

IMAGES = 12


@pytest.mark.parametrize("contender", ["ours", "ours_looking", "careful", "sdk", "bare"])
def test_a_contender_makes_every_image(contender, tmp_path, monkeypatch):
    monkeypatch.setattr(measure, "WORK", tmp_path)
    load = Load(images=IMAGES, image_bytes=2048, in_flight=5)
    with server(load) as base_url:
        run = run_once(contender, load, base_url)
    assert (run.images, run.facts.get("exit_code", 0)) == (IMAGES, 0)
    assert run.cpu_s > 0
    assert contender not in ("ours", "ours_looking") or run.facts["exposed_ms"] > 0


def test_what_is_imported_before_the_clock_starts_is_there():
    assert all(import_module(f"batchgen.{name}") for name in OUR_MODULES)


def test_the_careful_client_takes_no_broken_image_and_asks_for_none_twice(tmp_path):
    picture = noise_png(2048, random.Random(1))
    for broken in (picture[:-20], picture[:1000] + b"\0" + picture[1001:], b"<html>"):
        with pytest.raises(RuntimeError):
            check_png(broken)
    load = Load(images=IMAGES, image_bytes=2048, in_flight=5)
    with server(load) as base_url:
        url, prompts = f"{base_url}/v1beta/models/m:generateContent", {f"p{n}": "a mug" for n in range(IMAGES)}
        for _ in range(2):
            asyncio.run(CarefulClient(url, str(tmp_path)).run(prompts, 5))
        assert measure.stats(base_url)["models"]["m"]["arrivals"] == IMAGES
    assert len(list(tmp_path.glob("*.png"))) == IMAGES
