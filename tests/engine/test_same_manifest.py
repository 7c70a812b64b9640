"""One manifest, unchanged but for its model, at each provider that there is."""

from __future__ import annotations

import json

import pytest

import batchgen
from batchgen.emulator import EmulatorOptions, serve
from batchgen.profiles.catalogue import load_catalogue
from batchgen.providers.registry import BUILT_IN

pytestmark = pytest.mark.usefixtures("forked_renders")
MODELS = [
    "flash",
    "imagen",
    "vertex-flash",
    "vertex/imagen-4.0-generate-001",
    "aiml-imagen-4",
    "gpt-image-2.6",
    "replicate-flux-schnell",
    "flux-2",
    "fal-flux-schnell",
]
ITEMS = [
    {"id": "fox-{{ place | slug }}", "prompt": "A fox {{ place }}", "matrix": {"place": ["in snow", "by a lake"]}},
    {"id": "hare", "prompt": "A hare", "aspect_ratio": "16:9", "count": 2},
]
POST = [{"name": "small", "format": "webp", "width": 64}]


def test_each_provider_has_a_model_here():
    catalogue = load_catalogue()
    assert {catalogue.resolve(model).provider for model in MODELS} == set(BUILT_IN)


@pytest.mark.parametrize("model", MODELS)
async def test_it_makes_the_same_images_and_a_second_run_asks_for_nothing(tmp_path, model):
    manifest = tmp_path / "job.yaml"
    manifest.write_text(json.dumps({"defaults": {"model": model}, "post": POST, "items": ITEMS}))
    async with await serve(EmulatorOptions(latency_s=(0.0, 0.02), picture="tiny", rpm=0)) as emulator:
        options = batchgen.RunOptions(emulator_url=emulator.base_url)
        job = batchgen.load(manifest, output=tmp_path / "out", emulate=True, environ={})
        assert (await batchgen.run(job, options=options)).exit_code == 0
        asked = emulator.stats.requests
        assert (await batchgen.run(job, options=options)).exit_code == 0
        assert emulator.stats.requests == asked
    lines = [json.loads(line) for line in (tmp_path / "out" / "results.jsonl").read_text().splitlines()]
    assert [(line["id"], line["state"], len(line["files"])) for line in lines] == [
        ("fox-in-snow", "succeeded", 1),
        ("fox-by-a-lake", "succeeded", 1),
        ("hare", "succeeded", 2),
    ]
    assert len(list((tmp_path / "out").rglob("*.webp"))) == 4
