"""google-genai 1.75.0, the last line of SDKs that speak Imagen's predict to this API, against the emulator."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from batchgen.emulator import BatchOptions, EmulatorOptions, serve
from tests.support.third_party import python_with

FOLDER = Path(__file__).parent

OPTIONS = EmulatorOptions(latency_s=(0, 0), batch=BatchOptions(pending_s=0, running_s=0))


@pytest.fixture(scope="session")
def old_sdk() -> Path:
    """An interpreter with the old SDK."""
    return python_with(FOLDER)


async def ask(python: Path, *prompts: str, script: str = "generate_images.py") -> dict[str, Any]:
    async with await serve(OPTIONS) as emulator:
        command = [str(python), str(FOLDER / script), emulator.base_url, *prompts]
        process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
        output, _ = await process.communicate()
    found: dict[str, Any] = json.loads(output)
    return found


async def test_the_old_sdk_gets_both_pictures_in_the_documented_size_or_reads_why_they_were_filtered(old_sdk):
    some, every = "a fox [[fault:rai_filtered]]", "a fox [[fault:rai_all]]"
    found = await ask(old_sdk, "a fox", some, every)  # one interpreter for all: it takes most of a second to import
    assert found["a fox"] == [[1408, 768], [1408, 768]]
    picture, reason = found[some]
    assert (picture, "Responsible AI" in reason) == ([1408, 768], True)
    assert found[every] == []


async def test_the_old_sdk_holds_a_chat_of_three_turns_and_uses_an_uploaded_file(old_sdk):
    assert await ask(old_sdk, script="converse_and_upload.py") == {
        "turns": [[[1024, 1024]]] * 3,
        "edited": [[1376, 768]],
        "listed": True,
        "gone": 403,
    }


async def test_the_old_sdk_runs_batches(old_sdk):
    assert await ask(old_sdk, script="run_batches.py") == {
        "state": "JOB_STATE_SUCCEEDED",
        "keys": ["a", "b", "c"],
        "pictures": [True, True],
        "names": ["inline", "chunk 1"],
        "cancelled": "JOB_STATE_CANCELLED",
        "gone": 404,
    }
