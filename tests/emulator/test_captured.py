"""Requests captured from the vendor's SDKs, replayed as they were."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

FOLDER = Path(__file__).parent / "captured"
CAPTURED = {path.stem: json.loads(path.read_text()) for path in sorted(FOLDER.glob("*.json"))}


@pytest.mark.parametrize("name", CAPTURED)
async def test_a_captured_request_gets_the_documented_status(start, client, name):
    emulator = await start()
    captured: dict[str, Any] = CAPTURED[name]
    url = emulator.base_url + captured["path"]
    async with client.session.post(url, json=captured["json"], headers=captured["headers"]) as response:
        assert response.status == captured["expected_status"], await response.text()
