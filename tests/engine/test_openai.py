"""OpenAI's images, from manifest to ledger: sizes, formats, edits as a form, what is billed, refusals, limits and a used-up account."""

from __future__ import annotations

import hashlib
import io
import json

import pytest
from PIL import Image

import batchgen
from batchgen.emulator import EmulatorOptions, read_comment, serve

MODEL = "gpt-image-2.6-sunburst"
FAST = {"latency_s": (0.0, 0.0), "picture": "full", "rpm": 0, "fault_delay_s": 0.01}


@pytest.fixture
async def emulator():
    async with await serve(EmulatorOptions(**FAST)) as running:
        yield running


@pytest.fixture
def run(tmp_path, emulator):
    async def run_items(*items, exit_code=0):
        rows = [{"model": MODEL, "prompt": "A fox", **item} for item in items]
        manifest = {"models": {MODEL: {"rpm": 6000}}, "items": rows}
        (tmp_path / "job.yaml").write_text(json.dumps(manifest))
        job = batchgen.load(tmp_path / "job.yaml", output=tmp_path / "out", emulate=True, environ={})
        outcome = await batchgen.run(job, options=batchgen.RunOptions(emulator_url=emulator.base_url))
        assert outcome.exit_code == exit_code
        lines = (tmp_path / "out" / "results.jsonl").read_text().splitlines()
        return {line["id"]: line for line in map(json.loads, lines)}

    return run_items


async def test_several_images_of_a_size_are_one_request_and_cost_what_the_answer_says(run, emulator, tmp_path):
    line = (await run({"id": "a", "aspect_ratio": "16:9", "count": 2, "quality": "low"}))["a"]
    assert emulator.stats.requests == 1
    sizes = [Image.open(io.BytesIO((tmp_path / "out" / file).read_bytes())).size for file in line["files"]]
    assert sizes == [(1360, 768)] * 2
    tokens = 196 * 1360 * 768 // 1024**2 * 2
    assert (line["usd_source"], line["usd"]) == ("usage", pytest.approx((2 * 5 + tokens * 30) / 1e6))


@pytest.mark.parametrize(("format_", "ending"), [("webp", ".webp"), ("jpeg", ".jpg")])
async def test_the_format_that_is_asked_for_is_the_files(run, tmp_path, format_, ending):
    line = (await run({"id": "a", "output_format": format_, "extra": {"output_compression": 70}}))["a"]
    (file,) = line["files"]
    image = Image.open(io.BytesIO((tmp_path / "out" / file).read_bytes()))
    assert (file.endswith(ending), image.format) == (True, format_.upper())


async def test_an_edit_sends_files_images_of_other_items_and_a_mask_whole(run, tmp_path):
    Image.new("RGBA", (1024, 1024), (0, 0, 0, 0)).save(tmp_path / "mask.png")
    Image.new("RGB", (64, 48), "red").save(tmp_path / "photo.jpg")
    edit = {"id": "edit", "prompt": "In snow", "references": ["@mug", "photo.jpg"], "mask": "mask.png"}
    lines = await run({"id": "mug", "image_size": "1K"}, edit)
    photo, mask = (hashlib.sha256((tmp_path / name).read_bytes()).hexdigest() for name in ("photo.jpg", "mask.png"))
    edited = (tmp_path / "out" / lines["edit"]["files"][0]).read_bytes()
    assert Image.open(io.BytesIO(edited)).format == "PNG"
    assert read_comment(edited)["references"] == [*lines["mug"]["sha256"], photo, mask]
    tokens = 1756 * 30 + 3 * 40 * 8 + 2 * 5
    assert lines["edit"]["usd"] == pytest.approx(tokens / 1e6)


async def test_a_rejected_prompt_is_refused_once_and_the_others_are_made(run, emulator):
    lines = await run({"id": "no", "prompt": "A fox [[fault:moderation]]"}, {"id": "yes"}, exit_code=3)
    assert (lines["no"]["state"], lines["no"]["reason"], lines["yes"]["state"]) == (
        "refused", "content_policy", "succeeded",
    )  # fmt: skip
    assert emulator.stats.requests == 2


async def test_a_rate_limit_is_waited_out(run, emulator):
    lines = await run({"id": "a", "prompt": "A fox [[fault:429bare*2]]"})
    assert (lines["a"]["state"], emulator.stats.requests) == ("succeeded", 3)


@pytest.mark.parametrize("fault", ["credits", "hard_limit"])
async def test_a_used_up_account_stops_the_run(run, fault):
    await run({"id": "a", "prompt": f"A fox [[fault:{fault}]]"}, exit_code=5)


async def test_an_organization_that_is_not_verified_stops_the_model_alone(run):
    other = {"id": "b", "model": "gpt-image-1.5"}
    lines = await run({"id": "a", "prompt": "A fox [[fault:unverified]]"}, other, exit_code=4)
    assert (lines["b"]["state"], lines.get("a", {}).get("state")) == ("succeeded", "failed")
