"""The vendor's own SDK, google-genai 3.4.0, unchanged, makes batches on the emulator."""

from __future__ import annotations

import asyncio
import io
import json
from pathlib import Path
from typing import Any

import pytest
from google import genai
from google.genai import errors, types
from PIL import Image

from tests.support.batch_client import MODEL, line, quick

pytestmark = pytest.mark.filterwarnings(
    # google-genai 3.4.0 subclasses aiohttp's session, which aiohttp discourages by a warning; not ours to mend.
    "ignore:Inheritance class AiohttpClientSession:DeprecationWarning",
)
KEYS = ["a", "b", "c"]
DONE = {
    types.JobState.JOB_STATE_SUCCEEDED,
    types.JobState.JOB_STATE_CANCELLED,
    types.JobState.JOB_STATE_FAILED,
    types.JobState.JOB_STATE_EXPIRED,
}


def sdk(emulator: Any, version: str = "v1beta") -> genai.Client:
    return genai.Client(api_key="k", http_options={"base_url": emulator.base_url, "api_version": version})


async def upload(client: Any) -> types.File:
    data = io.BytesIO(b"".join(json.dumps(line(key)).encode() + b"\n" for key in KEYS))
    file: types.File = await client.files.upload(file=data, config={"mime_type": "jsonl", "display_name": "lines"})
    return file


async def ended(client: Any, name: str) -> types.BatchJob:
    while True:
        job: types.BatchJob = await client.batches.get(name=name)
        if job.state in DONE:
            return job
        await asyncio.sleep(0.01)


@pytest.mark.parametrize("version", ["v1", "v1beta"])
@pytest.mark.parametrize("states", ["batch", "job"])
async def test_a_batch_of_a_file_is_created_waited_for_and_downloaded(start, version, states):
    emulator = await start(batch=quick(states=states))
    async with sdk(emulator, version).aio as client:
        file = await upload(client)
        created = await client.batches.create(model=MODEL, src=file.name, config={"display_name": "chunk 1"})
        job = await ended(client, created.name)
        data = await client.files.download(file=job.dest.file_name)
        listed = [one async for one in await client.files.list()]
    facts = (job.display_name, job.model, job.state, job.end_time is not None)
    assert facts == ("chunk 1", f"models/{MODEL}", types.JobState.JOB_STATE_SUCCEEDED, True)
    lines = [json.loads(one) for one in data.splitlines()]
    assert sorted(one["key"] for one in lines) == KEYS
    candidates = [types.Candidate.model_validate(one["response"]["candidates"][0]) for one in lines]
    pictures = [Image.open(io.BytesIO(one.content.parts[-1].inline_data.data)) for one in candidates]
    assert [picture.size for picture in pictures] == [(64, 64)] * 3
    assert {one.source for one in listed if one.download_uri} == {types.FileSource.GENERATED}


async def test_results_are_streamed_to_a_file_by_the_synchronous_client(start, tmp_path):
    emulator = await start(batch=quick())
    place = tmp_path / "results.jsonl"

    def run(path: Path) -> None:
        with sdk(emulator) as client:
            file = client.files.upload(file=str(path), config={"mime_type": "application/jsonl"})
            job = client.batches.create(model=MODEL, src=file.name)
            while job.state not in DONE:
                job = client.batches.get(name=job.name)
            client.files.download(file=job.dest.file_name, destination=place)

    source = tmp_path / "lines.jsonl"
    source.write_text(json.dumps(line("a")))
    await asyncio.to_thread(run, source)
    assert [json.loads(one)["key"] for one in place.read_text().splitlines()] == ["a"]


async def test_an_inline_batch_keeps_order_and_metadata(start):
    emulator = await start(batch=quick())
    config = types.GenerateContentConfig(
        response_modalities=["IMAGE"], image_config=types.ImageConfig(aspect_ratio="16:9")
    )
    requests = [types.InlinedRequest(contents=f"A fox {key}", metadata={"key": key}, config=config) for key in KEYS] + [
        types.InlinedRequest(contents="A fox [[fault:500]]", metadata={"key": "bad"})
    ]
    async with sdk(emulator).aio as client:
        created = await client.batches.create(model=MODEL, src=requests, config={"display_name": "inline"})
        job = await ended(client, created.name)
    answers = job.dest.inlined_responses
    assert [one.metadata["key"] for one in answers] == [*KEYS, "bad"]
    assert [len(one.response.parts) for one in answers[:3]] == [1, 1, 1]
    assert answers[3].error.code == 13


async def test_batches_are_listed_over_pages_cancelled_and_deleted(start):
    emulator = await start(batch=quick(pending_s=60))
    async with sdk(emulator).aio as client:
        file = await upload(client)
        names = [(await client.batches.create(model=MODEL, src=file.name)).name for _ in range(3)]
        listed = [one async for one in await client.batches.list(config={"page_size": 2})]
        await client.batches.cancel(name=names[0])
        cancelled = await ended(client, names[0])
        await client.batches.delete(name=names[0])
        with pytest.raises(errors.ClientError, match="404"):
            await client.batches.get(name=names[0])
    assert [one.name for one in listed] == names[::-1]
    assert {one.state for one in listed} == {types.JobState.JOB_STATE_PENDING}
    assert cancelled.state == types.JobState.JOB_STATE_CANCELLED


async def test_too_many_tokens_are_a_client_error(start):
    emulator = await start(batch=quick(enqueued_tokens=1))
    async with sdk(emulator).aio as client:
        file = await upload(client)
        with pytest.raises(errors.ClientError, match="RESOURCE_EXHAUSTED") as caught:
            await client.batches.create(model=MODEL, src=file.name)
    assert caught.value.code == 429


async def test_a_file_that_was_uploaded_is_no_download(start):
    emulator = await start()
    async with sdk(emulator).aio as client:
        file = await upload(client)
        with pytest.raises(ValueError, match="Only generated files can be downloaded"):
            await client.files.download(file=file)
        with pytest.raises(errors.ClientError, match="only generated files"):
            await client.files.download(file=file.name)
