"""A vendor that fails as a test says, and the program run against it."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from aiohttp import web
from PIL import Image

from tests.support.fork_server import PYTHON
from tests.support.marked_key import KEY


def picture() -> dict[str, Any]:
    buffer = io.BytesIO()
    Image.new("RGB", (32, 32), (9, 9, 9)).save(buffer, "PNG")
    blob = {"mimeType": "image/png", "data": base64.b64encode(buffer.getvalue()).decode()}
    usage = {"promptTokenCount": 1, "candidatesTokenCount": 1120,
             "candidatesTokensDetails": [{"modality": "IMAGE", "tokenCount": 1120}]}  # fmt: skip
    parts = {"content": {"role": "model", "parts": [{"inlineData": blob}]}, "finishReason": "STOP"}
    return {"candidates": [parts], "usageMetadata": usage}


class Vendor:
    """A server that answers as `says` does; None is a picture, a number that status, a string a web page."""

    def __init__(self) -> None:
        self.says: Callable[[int, str], int | str | None] = lambda number, prompt: None
        self.prompts: list[str] = []
        self.url = ""

    async def answer(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        prompt = body["contents"][0]["parts"][0]["text"]
        self.prompts.append(prompt)
        said = self.says(len(self.prompts), prompt)
        if said is None:
            return web.json_response(picture())
        if isinstance(said, str):
            return web.Response(text=f"<html><title>{said}</title></html>", content_type="text/html")
        if said == 0:
            assert request.transport is not None
            request.transport.abort()
        return web.json_response({"error": {"code": said, "message": f"said {said}"}}, status=said or 500)


def manifest(folder: Path, count: int, limits: str = "concurrency: 5") -> Path:
    path = folder / "job.yaml"
    items = "".join(f"  - {{id: i{n}, prompt: p{n}}}\n" for n in range(count))
    path.write_text(
        f"defaults: {{model: flash}}\nmodels: {{flash: {{rpm: 600}}}}\nlimits: {{{limits}}}\nitems:\n{items}"
    )
    return path


async def batchgen_run(vendor: Vendor, path: Path, *options: str) -> tuple[int, dict[str, Any], str]:
    environ = {**os.environ, "GEMINI_API_KEY": KEY, "BATCHGEN_GEMINI_BASE_URL": vendor.url, "NO_COLOR": "1"}
    process = await asyncio.create_subprocess_exec(
        PYTHON, "-m", "batchgen", "run", str(path), "--yes", "--json", *options,
        env=environ, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    out, err = await process.communicate()
    assert process.returncode is not None
    return process.returncode, json.loads(out), err.decode()
