"""A job whose requests go through the emulator's Batch API, and what that saw of them."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import aiohttp

import batchgen
from batchgen.emulator import BatchOptions as EmulatedBatches
from batchgen.emulator import EmulatorOptions
from batchgen.engine.outcome import Outcome
from batchgen.planning.batchable import BatchOptions, ChunkLimits
from tests.support.bench import HEAD, Bench, items
from tests.support.crash import exit_code

CHUNKS = "batchgen.ledger.chunk_writer:ChunkWriter"

BATCH = "batchgen.engine.batch"
MUGS = [f"mug number {n}" for n in range(12)]
NAMED = {f"i{n}.jpg": prompt for n, prompt in enumerate(MUGS)}
LIMITS = ("requests", "result_bytes", "tokens")
BATCHES = ("wait", "fallback_at", "poll_s", "listing_grace_s", "resend")  # the run says the rest itself


class BatchBench(Bench):
    async def submit(self, text: str, head: str = HEAD, engine: str = "batch", **options: Any) -> Outcome:
        """options: of the run, of its batches, and limits of their chunks, told apart by name."""
        self.events = []
        job = batchgen.load(self.manifest(text, head), output=self.folder / "out", emulate=True, environ={})
        limits = {name: options.pop(name) for name in LIMITS if name in options}
        own = {name: options.pop(name) for name in BATCHES if name in options}
        return await batchgen.run(
            job,
            observers=[self.events.append],
            engine=engine,
            options=batchgen.RunOptions(
                emulator_url=self.url,
                ledger=self.ledger,
                batches=BatchOptions(limits=ChunkLimits(**limits), **own),
                **options,
            ),
        )

    async def submit_online(self, text: str) -> Outcome:
        self.folder.mkdir()
        return await self.submit(text, engine="online")

    async def at_the_vendors(self, kind: str) -> dict[str, Any]:
        """The list of `batches` or `files` that the vendor would give."""
        async with (
            aiohttp.ClientSession(headers={"x-goog-api-key": "local"}) as session,
            session.get(f"{self.url}/v1beta/{kind}") as answer,
        ):
            found: dict[str, Any] = await answer.json()
            return found

    async def until_ended(self) -> None:
        """Until all batches that the vendor has are over, and wait to be collected."""
        async with asyncio.timeout(60.0):
            while not all(each.get("done") for each in (await self.at_the_vendors("batches")).get("operations", [])):
                await asyncio.sleep(0.01)

    async def created(self) -> dict[str, int]:
        """How many batches were created under each display name."""
        found: dict[str, int] = (await self.get("/_emulator/batches"))["created"]
        return found

    async def stats(self) -> dict[str, Any]:
        found: dict[str, Any] = await self.get("/_emulator/stats")
        return found


def quick(**batch: Any) -> EmulatorOptions:
    return EmulatorOptions(
        latency_s=(0.0, 0.0),
        picture="tiny",
        rpm=0,
        fault_delay_s=0.05,
        batch=EmulatedBatches(**{"pending_s": 0.0, "running_s": 0.05, **batch}),
    )


async def crash(bench: BatchBench, place: str, k: int, entries: str = items(*MUGS), requests: int = 6) -> None:
    options = json.dumps({"engine": "batch", "requests": requests, "piece_bytes": 256})
    arguments = [str(bench.manifest(entries)), str(bench.folder / "out"), bench.url, place, str(k), options]
    assert await asyncio.to_thread(exit_code, arguments) == 9


async def assert_all_are_right(bench: BatchBench, names: dict[str, str] = NAMED) -> None:
    """Every picture is one that was served for its own prompt, and nothing lies about."""
    served, pictures = await bench.served(), bench.pictures()
    assert set(pictures) == set(names)
    assert all(digest in served[names[name]] for name, digest in pictures.items())
    state = bench.folder / "out" / ".batchgen"
    assert list((state / "spool").iterdir()) == []
    assert [path.name for path in (state / "batch").glob("*") if path.suffix != ".strange"] == []
