"""Google's own protocol definitions, google-ai-generativelanguage 0.12.1, read what we send and what the emulator answers."""

from __future__ import annotations

import asyncio
import json
import subprocess
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from batchgen.emulator import EmulatorOptions, serve
from batchgen.profiles.catalogue import load_catalogue
from batchgen.providers.gemini import Gemini
from batchgen.providers.registry import provider_for
from batchgen.records import Inputs, Item, Question, ReferenceImage, Sample
from tests.support.batch_client import BatchClient, quick
from tests.support.emulator import Client
from tests.support.third_party import python_with

FOLDER = Path(__file__).parent
PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAIAAAACCAIAAAD91JpzAAAAEElEQVR4nGP4z8AARAwQCgAf7gP9i18U1AAAAABJRU5ErkJggg=="
REQUEST, RESPONSE = "GenerateContentRequest", "GenerateContentResponse"
Parse = Callable[[str, Any], str]

# What the API takes and answers (the SDKs, its documents) and these definitions do not know, by path; `*` is any index.
UNKNOWN_REQUEST = (
    "generationConfig.imageConfig.imageSize",
    "generationConfig.thinkingConfig.thinkingLevel",
    "tools.*.googleSearch.searchTypes",
    "serviceTier",
)
UNKNOWN_RESPONSE = (
    "usageMetadata.serviceTier",
    "candidates.*.groundingMetadata.imageSearchQueries",
    "candidates.*.groundingMetadata.groundingChunks.*.image",
)


@pytest.fixture(scope="module")
def parse() -> Iterator[Parse]:
    """A complaint about one message, empty when it parses."""
    command = [str(python_with(FOLDER)), str(FOLDER / "parse.py")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as parser:
        assert parser.stdin is not None and parser.stdout is not None
        give, take = parser.stdin, parser.stdout

        def ask(message: str, body: Any) -> str:
            give.write(json.dumps([message, body]) + "\n")
            give.flush()
            return str(json.loads(take.readline()))

        yield ask
        give.close()


def without(body: Any, path: str) -> Any:
    """`body` without what stands at `path`; as it is when nothing does."""
    step, _, rest = path.partition(".")
    if step == "*":
        return [without(entry, rest) for entry in body]
    if step not in body:
        return body
    if not rest:
        return {key: entry for key, entry in body.items() if key != step}
    return {**body, step: without(body[step], rest)}


def known(body: Any, unknown: tuple[str, ...]) -> Any:
    for path in unknown:
        body = without(body, path)
    return body


def request(model: str = "flash", inputs: Inputs | None = None, **fields: Any) -> dict[str, Any]:
    """What our codec sends."""
    codec = provider_for(load_catalogue().resolve(model))
    facts = {"id": "a", "prompt": "a fox", "model": codec.profile.id, "provider": "gemini", "filename": "a", **fields}
    sample = Sample(item=Item(**facts), n=1, fingerprint="f", wire="{}")
    body: dict[str, Any] = json.loads(codec.build(sample, inputs or Inputs()).body)
    return body


def everything() -> dict[str, Any]:
    return request(
        inputs=Inputs((ReferenceImage("image/png", PIXEL),)),
        system="You draw.",
        aspect_ratio="16:9",
        image_size="2K",
        modalities=("text", "image"),
        search="image",
        thinking="high",
        seed=7,
        temperature=0.5,
        safety={"HARM_CATEGORY_HARASSMENT": "BLOCK_ONLY_HIGH", "HARM_CATEGORY_CIVIC_INTEGRITY": "OFF"},
        extra={
            "serviceTier": "flex",
            "generationConfig": {
                "mediaResolution": "MEDIA_RESOLUTION_HIGH",
                "thinkingConfig": {"includeThoughts": True},
            },
        },
    )


def turn(body: dict[str, Any]) -> str:
    """What the model said, as the codec keeps it."""
    return json.dumps(Gemini.turn(json.dumps(body).encode()))


async def answer(emulator: Any, body: dict[str, Any], model: str = "gemini-nano-banana-2.1") -> dict[str, Any]:
    """The emulator's answer, whole."""
    wire = urllib.request.Request(  # noqa: S310 - loopback
        f"{emulator.base_url}/v1beta/models/{model}:generateContent",
        json.dumps(body).encode(),
        {"Content-Type": "application/json", "x-goog-api-key": "k"},
    )

    def read() -> dict[str, Any]:
        with urllib.request.urlopen(wire) as response:  # noqa: S310 - loopback
            found: dict[str, Any] = json.load(response)
        return found

    return await asyncio.to_thread(read)


@pytest.fixture
async def emulator():
    async with await serve(EmulatorOptions(latency_s=(0, 0), picture="tiny", rpm=0, batch=quick())) as server:
        yield server


def test_a_request_with_every_field_is_a_message_of_the_protocol(parse):
    assert parse(REQUEST, known(everything(), UNKNOWN_REQUEST)) == ""


@pytest.mark.parametrize("path", UNKNOWN_REQUEST)
def test_a_field_is_allowed_for_only_while_the_protocol_does_not_know_it(parse, path):
    others = tuple(other for other in UNKNOWN_REQUEST if other != path)
    assert "has no field named" in parse(REQUEST, known(everything(), others))


async def test_a_question_to_a_judge_and_its_answer_are_messages_of_the_protocol(parse, emulator):
    model = "gemini-3.1-flash-lite"
    question = Question(model=model, text="A fox [[judge:8]]", images=(ReferenceImage("image/png", PIXEL),))
    body = json.loads(provider_for(load_catalogue().resolve(model)).build_question(question).body)
    assert parse(REQUEST, body) == ""
    assert parse(RESPONSE, known(await answer(emulator, body, model), UNKNOWN_RESPONSE)) == ""


def test_a_misspelt_field_is_found(parse):
    assert "no field named" in parse(REQUEST, request(extra={"generationConfig": {"imageConfig": {"aspect": "1:1"}}}))


async def test_a_conversation_with_its_signatures_is_a_message_of_the_protocol(parse, emulator):
    first = await answer(emulator, request(prompt="Draw a cat"))
    turns = Inputs(turns=(turn(first),))
    body = request(prompt="Make it blue", history=("Draw a cat",), turn=2, inputs=turns)
    assert "thoughtSignature" in json.dumps(body["contents"][1])
    assert parse(REQUEST, body) == ""


FAULTS = ("safety", "image_safety", "prohibited", "block", "no_image", "image_other", "text_only", "empty", "max_tokens",
          "many_images", "thought_images")  # fmt: skip
THINKING = {"generationConfig": {"thinkingConfig": {"includeThoughts": True}}}


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"model": "pro", "image_size": "4K"},
        {"model": "nano-banana"},
        {"search": "web"},
        {"search": "image"},
        {"modalities": ("text", "image"), "extra": THINKING},
        {"extra": {"serviceTier": "priority"}},
        *({"prompt": f"a fox [[fault:{name}]]"} for name in FAULTS),
    ],
    ids=str,
)
async def test_an_answer_of_the_emulator_is_a_message_of_the_protocol(parse, emulator, fields):
    model = load_catalogue().resolve(fields.get("model", "flash")).id
    body = await answer(emulator, request(**fields), model)
    assert parse(RESPONSE, known(body, UNKNOWN_RESPONSE)) == ""


@pytest.mark.parametrize("path", UNKNOWN_RESPONSE)
async def test_a_field_of_an_answer_is_allowed_for_only_while_the_protocol_does_not_know_it(parse, emulator, path):
    body = await answer(emulator, request(search="image"))
    others = tuple(other for other in UNKNOWN_RESPONSE if other != path)
    assert "has no field named" in parse(RESPONSE, known(body, others))


@pytest.fixture
async def batches(emulator):
    async with aiohttp.ClientSession() as session:
        yield BatchClient(Client(session), emulator)


async def test_a_line_of_a_batch_and_its_answer_are_messages_of_the_protocol(parse, batches):
    asked = request(prompt="a fox", aspect_ratio="16:9")
    (answered,) = await batches.lines_of(await batches.run([{"key": "a", "request": asked}]))
    assert (parse(REQUEST, asked), parse(RESPONSE, known(answered["response"], UNKNOWN_RESPONSE))) == ("", "")


async def test_a_line_that_failed_has_a_status_of_the_protocol(parse, batches):
    fox = {"contents": [{"parts": [{"text": "a fox [[fault:500]]"}]}]}
    ended = await batches.run([{"key": "a", "request": fox}])
    (answered,) = await batches.lines_of(ended)
    assert parse("File", {"error": answered["error"]}) == ""  # File.error is a google.rpc.Status


async def test_files_are_messages_of_the_protocol(parse, batches):
    results = (await batches.run([{"key": "a", "request": request()}]))["response"]["responsesFile"]
    _, generated = await batches.get(results)
    _, uploaded = await batches.get(await batches.upload(b"{}"))
    assert (parse("File", generated), parse("File", uploaded)) == ("", "")
