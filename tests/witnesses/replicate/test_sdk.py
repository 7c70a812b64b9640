"""replicate 1.0.7, the vendor's SDK, against the emulator, unchanged; and what it sends, as the golden requests have it."""

from __future__ import annotations

import asyncio
import base64
import json
from pathlib import Path

import pytest

from batchgen.emulator import EmulatorOptions, serve
from tests.support.provider_requests import PIXEL
from tests.support.third_party import python_with

FOLDER = Path(__file__).parent
PNG = b"\x89PNG".hex()


@pytest.fixture(scope="session")
def sdk() -> Path:
    """An interpreter with the SDK."""
    return python_with(FOLDER)


async def test_the_sdk_creates_waits_lists_cancels_and_reads_errors(sdk):
    async with await serve(EmulatorOptions(latency_s=(0.3, 0.4), picture="tiny")) as emulator:
        arguments = [str(sdk), str(FOLDER / "predict.py"), emulator.base_url, base64.b64decode(PIXEL).hex()]
        process = await asyncio.create_subprocess_exec(*arguments, stdout=asyncio.subprocess.PIPE)
        output, _ = await process.communicate()
        billed = emulator.stats.billed_images
    assert json.loads(output) == {
        "images": [PNG, PNG],
        "edited": PNG,
        "first": "starting",
        "last": ["succeeded", 1, "black-forest-labs/flux-schnell"],
        "listed": ["a hare", "in snow", "a fox"],
        "cancelled": "canceled",
        "flagged": ["failed", "(E005)"],
        "invalid": [422, "Input validation failed"],
        "unknown": [404, "Prediction not found"],
        "credit": [402, "Insufficient credit"],
    }
    assert billed == 5  # a fox twice, in snow, a hare, and the one that was cancelled when it had started
