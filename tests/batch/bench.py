"""A job whose requests go through the emulator's Batch API, and what that saw of them."""

from __future__ import annotations

from typing import Any

import aiohttp

import batchgen
from batchgen.emulator import EmulatorOptions
from batchgen.emulator.batch_options import BatchOptions as EmulatedBatches
from batchgen.engine.outcome import Outcome
from batchgen.planning.batchable import BatchOptions, ChunkLimits
from tests.test_run import HEAD, Bench

LIMITS = ("requests", "result_bytes", "tokens")
BATCHES = ("wait", "fallback_at", "look_s", "sure_s", "resend")  # the run says the rest itself


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
