"""Our own codecs before the kit that judges those of packages, each with our emulator for its vendor."""

from __future__ import annotations

import asyncio
import http.client
import threading
from collections.abc import Mapping
from typing import Any, ClassVar

import pytest

from batchgen.emulator import EmulatorOptions, serve
from batchgen.providers.registry import BUILT_IN
from batchgen.records import Request, Response
from batchgen.testing import CodecKit
from tests.support.fork_server import PYTHON

OPTIONS = EmulatorOptions(latency_s=(0.0, 0.02), picture="tiny", rpm=0)


class OurEmulator:
    """Passes requests on to ours, which has a thread of its own."""

    address = ""

    def __init__(self, base_url: str) -> None:
        self.answer(Request(method="POST", path="/_emulator/reset", body=b""))  # jobs of another test are not listed

    def answer(self, request: Request) -> Response:
        connection = http.client.HTTPConnection(self.address, timeout=30)
        headers = {"Content-Type": "application/json", **request.headers}
        connection.request(request.method, request.path, request.body, headers)
        with connection.getresponse() as said:
            kept = {name: value for name, value in said.headers.items() if name.lower() == "content-type"}
            body = said.read()
        connection.close()
        return Response(said.status, kept, body)


@pytest.fixture(scope="module", autouse=True)
def _our_emulator():
    loop, ready, stop = asyncio.new_event_loop(), threading.Event(), asyncio.Event()

    async def stay() -> None:
        async with await serve(OPTIONS) as emulator:
            OurEmulator.address = emulator.base_url.removeprefix("http://")
            ready.set()
            await stop.wait()

    thread = threading.Thread(target=loop.run_until_complete, args=(stay(),))
    thread.start()
    ready.wait()
    yield
    loop.call_soon_threadsafe(stop.set)
    thread.join()
    loop.close()


class OurKit(CodecKit):
    emulator = OurEmulator
    python = PYTHON


class TestGemini(OurKit):
    model = "pro"
    judge = "gemini-3.1-flash-lite"


class TestImagen(OurKit):
    model = "imagen"
    facts: ClassVar[Mapping[str, Any]] = {"status": "live"}  # the vendor has shut it down; gateways have not


class TestAimlApi(OurKit):
    model = "aiml-imagen-4"
    judge = "google/gemini-2.5-flash"


class TestAimlApiWithFields(OurKit):
    model = "aiml-imagen-4"
    judge = "openai/gpt-4o"
    facts: ClassVar[Mapping[str, Any]] = {"wire": {"fields": {"aspect_ratio": "ratio"}}}


class TestVertex(OurKit):
    model = "vertex/gemini-3-pro-image"
    judge = "vertex/gemini-3.1-flash-lite"


class TestVertexImagen(OurKit):
    model = "vertex/imagen-4.0-generate-001"
    facts: ClassVar[Mapping[str, Any]] = {"status": "live"}


class TestOpenAi(OurKit):
    model = "gpt-image-2.6"
    judge = "gpt-5.4-nano"


class TestReplicate(OurKit):
    model = "replicate-flux-schnell"

    @pytest.fixture(autouse=True)
    def _quick_questions(self, monkeypatch):
        monkeypatch.setattr("batchgen.providers.replicate.POLL_AFTER_S", 0.05)


class TestBfl(OurKit):
    model = "bfl/flux-2-pro"
    stranger = "bfl/any"

    @pytest.fixture(autouse=True)
    def _quick_questions(self, monkeypatch):
        monkeypatch.setattr("batchgen.providers.bfl.POLL_AFTER_S", 0.05)


class TestFal(OurKit):
    model = "fal/fal-ai/flux/schnell"

    @pytest.fixture(autouse=True)
    def _quick_questions(self, monkeypatch):
        monkeypatch.setattr("batchgen.providers.fal.POLL_AFTER_S", 0.05)


def test_each_codec_of_ours_is_judged():
    judged = {kit().profile.provider for kit in OurKit.__subclasses__()}
    assert judged == set(BUILT_IN)
