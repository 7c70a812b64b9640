"""fal-client 1.0.3, the vendor's SDK, against the emulator, unchanged. It speaks nothing but https."""

from __future__ import annotations

import asyncio
import base64
import json
from pathlib import Path

import pytest

from batchgen.emulator import EmulatorOptions, serve
from tests.support.https import authority
from tests.support.provider_requests import PIXEL
from tests.support.third_party import python_with

FOLDER = Path(__file__).parent
PNG = b"\x89PNG".hex()


@pytest.fixture(scope="session")
def sdk() -> Path:
    """An interpreter with the SDK."""
    return python_with(FOLDER)


async def test_the_sdk_submits_waits_cancels_and_reads_errors(sdk, tmp_path):
    trusted = authority(tmp_path)
    options = EmulatorOptions(latency_s=(0.3, 0.4), picture="tiny")
    async with await serve(options, tls=trusted.server) as emulator:
        host = emulator.base_url.removeprefix("https://")
        arguments = [
            str(sdk),
            str(FOLDER / "submit.py"),
            host,
            str(trusted.ca),
            base64.b64decode(PIXEL).hex(),
        ]
        process = await asyncio.create_subprocess_exec(*arguments, stdout=asyncio.subprocess.PIPE)
        output, _ = await process.communicate()
        billed = emulator.stats.billed_images
    assert json.loads(output) == {
        "images": [[PNG, 1344, 768], [PNG, 1344, 768]],
        "seen": ["Queued", "InProgress", "Completed"],
        "edited": PNG,
        "again": PNG,
        "cancelled": "client_cancelled",
        "too_late": 400,
        "failed": [504, "Runner did not start within the allowed time"],
        "failure": ["startup_timeout", "Runner did not start within the allowed time"],
        "flagged": [422, "content_policy_violation"],
        "invalid": [422, "less_than_equal"],
        "unknown": [404, "Application 'nothing' not found"],
        "lost": 404,
        "locked": [403, "User is locked. Reason: Exhausted balance. Top up your balance at fal.ai/dashboard/billing."],
    }
    assert billed == 4  # a fox twice, in snow, and the one that was cancelled when it had started
