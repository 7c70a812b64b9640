"""The vendor's SDK for JavaScript, @google/genai 3.1.0, unchanged, against the emulator."""

from __future__ import annotations

import asyncio
import base64
import io
import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from batchgen.emulator import BatchOptions, EmulatorOptions, read_comment, serve
from tests.support.third_party import NODE, needs_node, node_packages

FOLDER = Path(__file__).parent
pytestmark = needs_node


@pytest.fixture(scope="session")
def packages() -> None:
    node_packages(FOLDER)


@pytest.fixture(scope="session", params=["v1", "v1beta"])
def found(packages: None, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """All that the script saw; one start of node for each version of the API."""
    photo = tmp_path_factory.mktemp("photo") / "photo.png"
    Image.new("RGB", (160, 90), "red").save(photo)

    async def ask() -> bytes:
        async with await serve(EmulatorOptions(latency_s=(0, 0), signature_bytes=200_000)) as emulator:
            command = [str(NODE), str(FOLDER / "conform.mjs"), emulator.base_url, request.param, str(photo)]
            process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
            output, _ = await process.communicate()
        assert process.returncode == 0
        return output

    seen: dict[str, Any] = json.loads(asyncio.run(ask()))
    return seen


@pytest.fixture(scope="session", params=["v1", "v1beta"])
def batches(packages: None, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What became of batches; one start of node for each version of the API."""
    folder = tmp_path_factory.mktemp("batches")
    lines = folder / "lines.jsonl"
    requests = [{"key": key, "request": {"contents": [{"parts": [{"text": key}]}]}} for key in "abc"]
    lines.write_text("\n".join(map(json.dumps, requests)))
    batch = BatchOptions(pending_s=0, running_s=0)

    async def ask() -> bytes:
        async with await serve(EmulatorOptions(picture="tiny", batch=batch)) as emulator:
            command = [str(NODE), str(FOLDER / "batches.mjs"), emulator.base_url, request.param, str(lines)]
            process = await asyncio.create_subprocess_exec(
                *command, str(folder / "results.jsonl"), stdout=asyncio.subprocess.PIPE
            )
            output, _ = await process.communicate()
        assert process.returncode == 0
        return output

    seen: dict[str, Any] = json.loads(asyncio.run(ask()))
    return seen


def size(data: str) -> tuple[int, int]:
    return Image.open(io.BytesIO(base64.b64decode(data))).size


def test_a_picture_has_the_shape_that_was_asked_for(found):
    assert size(found["drawn"]) == (1376, 768)


def test_a_chat_of_two_turns_sends_its_signatures_back(found):
    assert read_comment(base64.b64decode(found["second"]))["turn"] == 2


def test_a_chat_that_lost_its_signatures_is_refused(found):
    assert found["forgotten"] == 400


def test_a_stream_carries_the_picture(found):
    assert found["streamed"] == 1


def test_an_uploaded_file_is_used(found):
    assert (found["state"], size(found["edited"])) == ("ACTIVE", (1376, 768))


def test_files_are_listed_and_deleted(found):
    assert (found["listed"], found["deleted"]) == ([True], 403)


def test_both_searches_are_told_in_the_grounding(found):
    grounding = found["grounding"]
    assert grounding["webSearchQueries"] == ["quetzal", "about quetzal"]
    assert grounding["imageSearchQueries"] == ["quetzal"]


def test_the_models_are_listed(found):
    assert "models/gemini-nano-banana-2.1" in found["models"]


def test_a_batch_of_a_file_is_answered_and_downloaded(batches):
    assert (batches["state"], batches["keys"]) == ("JOB_STATE_SUCCEEDED", ["a", "b", "c"])


def test_inline_requests_keep_their_order_and_metadata(batches):
    assert batches["inline"] == [["a", True], ["b", True]]


def test_batches_are_listed_cancelled_and_deleted(batches):
    found = (batches["names"], batches["cancelled"], batches["gone"])
    assert found == (["inline", "chunk 1"], "JOB_STATE_CANCELLED", 404)
