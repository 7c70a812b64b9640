"""openai-python, as it is installed from its lock: it uses the emulator unchanged, and the codec writes what it writes."""

from __future__ import annotations

import asyncio
import base64
import email
import json
from email.message import Message
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from batchgen.emulator import EmulatorOptions, serve
from batchgen.profiles.catalogue import load_catalogue
from batchgen.providers.registry import provider_for
from batchgen.records import Inputs, Item, ReferenceImage, Request, Sample
from tests.support.third_party import python_with

FOLDER = Path(__file__).parent
FIELDS = {"quality": "high", "background": "opaque", "output_format": "webp"}
EXTRA = {"output_compression": 80}


@pytest.fixture(scope="session")
def sdk() -> Path:
    """An interpreter with the SDK."""
    return python_with(FOLDER)


async def told(python: Path, script: str, url: str) -> bytes:
    process = await asyncio.create_subprocess_exec(
        str(python), str(FOLDER / script), url, stdout=asyncio.subprocess.PIPE
    )
    output, _ = await process.communicate()
    assert process.returncode == 0
    return output


async def test_it_uses_the_emulator_unchanged(sdk):
    async with await serve(EmulatorOptions(latency_s=(0, 0), rpm=0)) as emulator:
        found = json.loads(await told(sdk, "make_images.py", emulator.base_url))
    assert found == {
        "made": [[1536, 1024]] * 2,
        "output_tokens": 2 * 294,
        "webp": ["webp", "WEBP"],
        "edited": [[1024, 1024]],
        "image_tokens": [120, 40],
        "listed": True,
        "refusals": [
            ["BadRequestError", 400, "moderation_blocked"],
            ["RateLimitError", 429, "rate_limit_exceeded"],
            ["RateLimitError", 429, "insufficient_quota"],
            ["BadRequestError", 400, "billing_hard_limit_reached"],
            ["PermissionDeniedError", 403, None],
            ["InternalServerError", 500, None],
            ["NotFoundError", 404, "model_not_found"],
            ["BadRequestError", 400, "invalid_value"],
        ],
    }


async def recorded(python: Path) -> list[tuple[str, str, bytes]]:
    """(path, Content-Type, body) of each request of `record_requests.py`."""
    requests: list[tuple[str, str, bytes]] = []

    async def take(request: web.Request) -> web.Response:
        requests.append((request.path, request.headers["Content-Type"], await request.read()))
        return web.json_response({"error": {"message": "recorded"}}, status=400)

    app = web.Application()
    app.router.add_post("/{path:.*}", take)
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        host, port = runner.addresses[0][:2]
        await told(python, "record_requests.py", f"http://{host}:{port}")
    finally:
        await runner.cleanup()
    return requests


def ours(references: int = 0, images: int = 1, **fields: Any) -> Request:
    model = "gpt-image-2.6-sunburst"
    item = Item(id="a", filename="a", provider="openai", model=model, **fields)
    pictures = [
        ReferenceImage("image/png", base64.b64encode(b"image %d" % n).decode()) for n in range(1, references + 1)
    ]
    sample = Sample(item=item, n=1, fingerprint="f", wire="{}", images=images)
    return provider_for(load_catalogue().resolve(model)).build(sample, Inputs(tuple(pictures)))


def parts(content_type: str, body: bytes) -> list[tuple[str, str, str, bytes]]:
    """(name, filename, type, content) of each part of a form; texts by name, as their order means nothing."""
    form = email.message_from_bytes(f"Content-Type: {content_type}\r\n\r\n".encode() + body)
    found = [_part(part) for part in form.get_payload()]
    return sorted(part for part in found if not part[1]) + [part for part in found if part[1]]


def _part(part: Message) -> tuple[str, str, str, bytes]:
    name = part.get_param("name", header="content-disposition")
    kind = part["Content-Type"] or ""
    return str(name), part.get_filename() or "", kind, bytes(part.get_payload(decode=True))


async def test_our_requests_are_what_it_sends(sdk):
    made, edited, single = await recorded(sdk)
    generation = ours(images=2, prompt="A fox", aspect_ratio="16:9", **FIELDS, extra={**EXTRA, "moderation": "low"})
    edit = ours(3, images=2, prompt="In snow", aspect_ratio="1:1", mask=True, **FIELDS, extra=EXTRA)
    alone = ours(1, prompt="In snow")
    assert (generation.path, generation.headers["Content-Type"]) == made[:2]
    assert json.loads(generation.body) == json.loads(made[2])
    for request, (path, content_type, body) in ((edit, edited), (alone, single)):
        assert request.path == path
        assert parts(request.headers["Content-Type"], request.body) == parts(content_type, body)
        assert [part[0] for part in parts(content_type, body)][-1] in ("mask", "image")
