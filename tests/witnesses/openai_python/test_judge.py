"""openai-python, as it is installed from its lock, asks how good an image is: of the emulator, and as our codec asks."""

from __future__ import annotations

import asyncio
import base64
import json
from pathlib import Path
from typing import Any

from aiohttp import web

from batchgen.emulator import EmulatorOptions, serve
from batchgen.emulator.pictures import draw
from batchgen.profiles.catalogue import load_catalogue
from batchgen.providers.judgement import ANSWER_SCHEMA
from batchgen.providers.registry import provider_for
from batchgen.records import Question, ReferenceImage
from tests.support.http_server import serving
from tests.witnesses.openai_python.test_sdk import FOLDER, sdk

__all__ = ["sdk"]

IMAGE = draw("A mug", model="m", pixels=(64, 64))
ANSWER = {
    "choices": [{"message": {"content": "{}"}}],
    "usage": {"prompt_tokens": 1, "completion_tokens": 1, "completion_tokens_details": {"reasoning_tokens": 0}},
}


async def asked(python: Path, url: str) -> Any:
    pipes = {"stdin": asyncio.subprocess.PIPE, "stdout": asyncio.subprocess.PIPE}
    script = str(FOLDER / "ask_judge.py")
    process = await asyncio.create_subprocess_exec(str(python), script, url, json.dumps(ANSWER_SCHEMA), **pipes)
    output, _ = await process.communicate(IMAGE)
    assert process.returncode == 0
    return json.loads(output)


async def test_it_reads_the_emulators_judgement(sdk):
    async with await serve(EmulatorOptions(latency_s=(0, 0), rpm=0)) as emulator:
        found = await asked(sdk, emulator.base_url)
    assert found["said"] == {"remark": "no handle", "score": 3}
    assert found["tokens"][1] > found["tokens"][2] == 64


async def test_our_question_is_the_request_that_it_sends(sdk):
    seen = []

    async def record(request: web.Request) -> web.Response:
        seen.append((request.method, request.path, await request.json()))
        return web.json_response(ANSWER)

    async with serving(record) as url:
        await asked(sdk, url)
    image = ReferenceImage("image/png", base64.b64encode(IMAGE).decode())
    question = Question(model="m", text="A mug [[judge:3]][[judge:remark=no handle]]", images=(image,))
    ours = provider_for(load_catalogue().resolve("gpt-5.4-nano")).build_question(question)
    assert seen == [(ours.method, ours.path, json.loads(ours.body))]
