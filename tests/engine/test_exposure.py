"""The moment in which an answer is received and not yet durable: what happens in it, and how long it lasts."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from batchgen.emulator import EmulatorOptions, serve
from batchgen.events import SampleSucceeded
from batchgen.http.transport import Transport
from batchgen.ledger.ledger import Ledger
from batchgen.ledger.writer import Writer
from tests.benchmarks.measure import server
from tests.benchmarks.throughput import load
from tests.support.bench import LIFTED_PX, Bench, items


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/self/fd to see what was synced")
@pytest.mark.parametrize("px", [64, LIFTED_PX])
async def test_between_the_last_byte_and_the_durable_record_are_one_hand_over_two_syncs_and_one_commit(
    tmp_path, monkeypatch, px
):
    steps: list[str] = []

    def after(owner: Any, name: str, step: str) -> None:
        real = getattr(owner, name)

        def call(*args: Any, **kwargs: Any) -> Any:
            answer = real(*args, **kwargs)
            steps.append(step)
            return answer

        monkeypatch.setattr(owner, name, call)

    real_receive, real_write = Transport._receive, Ledger.attempt_succeeded

    async def receive(*args: Any) -> Any:
        answer = await real_receive(*args)
        steps.append("the last byte is in")
        return answer

    def recorded(*args: Any, **kwargs: Any) -> Any:
        answer = real_write(*args, **kwargs)
        steps.append("the record is durable")
        return answer

    monkeypatch.setattr(Transport, "_receive", receive)
    monkeypatch.setattr(Ledger, "attempt_succeeded", recorded)
    after(os, "fsync", "sync")
    after(Writer, "_commit", "commit")
    after(asyncio.get_running_loop(), "run_in_executor", "hand over")
    async with await serve(EmulatorOptions(latency_s=(0, 0), picture_px=px, rpm=0)) as emulator:
        await Bench(emulator.base_url, tmp_path).run(items("one"))
    window = steps[steps.index("the last byte is in") + 1 : steps.index("the record is durable")]
    assert sorted(window) == ["commit", "hand over", "sync", "sync"]


async def test_answers_of_a_megabyte_are_durable_soon_after_their_last_byte(tmp_path: Path):
    with server(load(40, 1_000_000, latency_s=0.1)) as url:
        bench = Bench(url, tmp_path)
        outcome = await bench.run(items(*(f"cup {n}" for n in range(40))), head="defaults: {model: flash}\nitems:\n")
    told = sorted(event.exposed_ms or 0 for event in bench.events if isinstance(event, SampleSucceeded))
    assert (len(told), outcome.exposed_ms) == (40, ((told[19] + told[20]) / 2, told[-1]))
    assert told[0] > 0
    assert told[20] < 500
