"""Jobs through the Batch API of the emulator, over real HTTP: the same pictures, promises and ledger, at half the price."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

import batchgen
from batchgen.batching import BatchOptions
from batchgen.emulator import EmulatorOptions, serve
from batchgen.emulator.batch_options import BatchOptions as EmulatedBatches
from tests.test_run import HEAD, Bench, items


class BatchBench(Bench):
    async def submit(self, text: str, head: str = HEAD, engine: str = "batch", wait: bool = True, **options: Any) -> Any:
        self.events = []
        job = batchgen.load(self.manifest(text, head), output=self.folder / "out", emulate=True, environ={})
        batches = BatchOptions(wait=wait, **{k: options.pop(k) for k in list(options) if k in BatchOptions.__slots__})
        return await batchgen.run(
            job, observers=[self.events.append], engine=engine,
            options=batchgen.RunOptions(emulator_url=self.url, batches=batches, **options),
        )  # fmt: skip


def quick(**batch: Any) -> EmulatorOptions:
    return EmulatorOptions(latency_s=(0.0, 0.02), picture="tiny", rpm=0, fault_delay_s=0.05, batch=EmulatedBatches(**batch))


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[BatchBench]:
    async with await serve(quick()) as emulator:
        yield BatchBench(emulator.base_url, tmp_path)


async def test_a_batch_makes_the_pictures_that_were_served_for_its_prompts(bench):
    outcome = await bench.submit(items(*(f"mug number {n}" for n in range(12))))
    assert (outcome.exit_code, outcome.made, outcome.left) == (0, 12, 0)
    served = await bench.served()
    assert {name: {digest} for name, digest in bench.pictures().items()} == {
        f"i{n}.jpg": served[f"mug number {n}"] for n in range(12)
    }
