"""AIML's way of answering, from manifest to ledger: credits, dollars, rewritten prompts, edits of other items' pictures."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import io
import json
import os
import sqlite3

import pytest
from aiohttp import web
from PIL import Image

import batchgen
from batchgen.cli.export import row
from batchgen.emulator import EmulatorOptions, read_comment, serve
from batchgen.engine import http_attempt
from batchgen.ledger.reader import Reader
from batchgen.ledger.schema import ledger_path
from tests.support.http_server import serving
from tests.support.images import UNSOUND, WHOLE

FAST = EmulatorOptions(latency_s=(0.0, 0.0), picture="tiny", rpm=0)


@pytest.fixture
async def run(tmp_path):
    async with await serve(FAST) as emulator:

        async def run_items(items, exit_code=0):
            (tmp_path / "job.yaml").write_text(f"items:\n{items}")
            job = batchgen.load(tmp_path / "job.yaml", output=tmp_path / "out", emulate=True, environ={})
            options = batchgen.RunOptions(emulator_url=emulator.base_url)
            outcome = await batchgen.run(job, options=options)
            assert outcome.exit_code == exit_code
            lines = (tmp_path / "out" / "results.jsonl").read_text().splitlines()
            return {line["id"]: line for line in map(json.loads, lines)}

        yield run_items


async def test_what_the_vendor_says_was_spent_is_in_ledger_and_results(run, tmp_path):
    lines = await run("  - {id: a, prompt: A fox, model: google/nano-banana-pro, count: 2}\n")
    with contextlib.closing(sqlite3.connect(ledger_path(tmp_path / "out"))) as ledger:
        usage, usd, source = ledger.execute("SELECT usage, usd, usd_source FROM attempt").fetchone()
    assert (json.loads(usage), usd, source) == ({"credits": 168_000.0, "usd": 0.084}, 0.084, "vendor")
    assert (lines["a"]["usd"], lines["a"]["usd_source"]) == (0.084, "vendor")


async def test_an_edit_sends_a_file_and_the_picture_of_another_item_whole(run, tmp_path):
    Image.new("RGB", (64, 48), "red").save(tmp_path / "photo.png")
    lines = await run(
        "  - {id: mug, prompt: A mug, model: google/nano-banana-pro}\n"
        "  - {id: edit, prompt: In snow, model: google/nano-banana-edit, references: [photo.png, '@mug']}\n"
    )
    sent = [hashlib.sha256((tmp_path / "photo.png").read_bytes()).hexdigest(), *lines["mug"]["sha256"]]
    edited = (tmp_path / "out" / lines["edit"]["files"][0]).read_bytes()
    assert read_comment(edited)["references"] == sent


async def test_the_prompt_as_the_vendor_rewrote_it_is_in_ledger_results_and_export(run, tmp_path):
    lines = await run("  - {id: a, prompt: A fox, model: google/imagen-4.0-generate-001, count: 2}\n")
    rewritten = "A fox A richly detailed scene in soft light."
    with Reader.open(tmp_path / "out") as reader:
        exported = [row(result)["text"] for result in reader.results_by_item(["succeeded"])]
    assert (lines["a"]["text"], exported) == (rewritten, [rewritten, rewritten])


async def test_a_prompt_that_shall_not_be_rewritten_is_not(run):
    lines = await run(
        "  - {id: a, prompt: A fox, model: google/imagen-4.0-generate-001, extra: {enhance_prompt: false}}\n"
    )
    assert lines["a"]["text"] == ""


async def test_what_an_answer_with_a_link_said_outlives_a_download_that_failed(run, monkeypatch):
    monkeypatch.setattr(http_attempt, "DOWNLOAD_TRIES", 1)
    item = "  - {id: a, prompt: 'A fox [[fault:link404*1]]', model: google/imagen-4.0-generate-001}\n"
    first = await run(item, exit_code=4)
    assert first["a"]["state"] == "failed"
    second = await run(item)
    assert (second["a"]["state"], second["a"]["usd"], second["a"]["usd_source"]) == ("succeeded", 0.042, "vendor")
    assert second["a"]["text"].endswith("in soft light.")


async def test_links_that_an_older_version_wrote_are_fetched(run, monkeypatch, tmp_path):
    monkeypatch.setattr(http_attempt, "DOWNLOAD_TRIES", 1)
    item = "  - {id: a, prompt: 'A fox [[fault:link404*1]]', model: google/nano-banana-pro}\n"
    await run(item, exit_code=4)
    with contextlib.closing(sqlite3.connect(ledger_path(tmp_path / "out"))) as ledger:
        ledger.execute("UPDATE attempt SET links = json_extract(links, '$.links')")
        ledger.commit()
    lines = await run(item)
    assert (lines["a"]["state"], lines["a"]["usd"]) == ("succeeded", None)


async def run_answered(tmp_path, entry):
    """The outcome of one request that is answered with this picture."""

    async def answer(_: web.Request) -> web.Response:
        return web.json_response({"data": [entry]})

    (tmp_path / "job.yaml").write_text("items: [{id: a, prompt: A fox, model: google/nano-banana-pro}]\n")
    async with serving(answer) as url:
        job = batchgen.load(tmp_path / "job.yaml", output=tmp_path / "out", emulate=True, environ={})
        return await batchgen.run(job, options=batchgen.RunOptions(emulator_url=url))


async def test_a_large_picture_in_a_data_url_is_a_picture_and_no_link(tmp_path):
    made = io.BytesIO()
    Image.frombytes("RGB", (512, 512), os.urandom(512 * 512 * 3)).save(made, "PNG")
    url = f"data:image/png;base64,{base64.b64encode(made.getvalue()).decode()}"
    outcome = await run_answered(tmp_path, {"url": url})
    assert outcome.exit_code == 0
    assert (tmp_path / "out" / "a.png").read_bytes() == made.getvalue()


@pytest.mark.parametrize(("picture", "code"), [(WHOLE["PNG"], 0), (UNSOUND["PNG"], 4)], ids=["whole", "unsound"])
async def test_a_png_with_something_behind_its_end_counts_when_its_pixels_can_be_decoded(tmp_path, picture, code):
    outcome = await run_answered(tmp_path, {"b64_json": base64.b64encode(picture + b"appended").decode()})
    assert outcome.exit_code == code
    if code == 0:
        assert (tmp_path / "out" / "a.png").read_bytes() == picture + b"appended"
