"""Several processes, or stand-ins for them, that share one quota and one budget."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import batchgen
from batchgen.emulator import EmulatorOptions
from batchgen.scheduling.dispatcher import Dispatcher
from batchgen.scheduling.lane import InMemorySampleSource
from batchgen.scheduling.window import (
    LoweredRate,
    QuotaDenied,
    ReserveResult,
    Window,
)
from tests.support.fork_server import PYTHON
from tests.support.marked_key import KEY
from tests.support.paths import ROOT
from tests.support.samples import make_sample
from tests.support.stub_server import make_dispatcher

FAST = EmulatorOptions(latency_s=(0.0, 0.02), picture="tiny", rpm=0)


async def child(*arguments: object) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        PYTHON, "-m", "tests.support.quota_child", *map(str, arguments), cwd=ROOT,
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip


@dataclass
class OtherProcesses:
    """A shared log whose answers others decide; remembers what it was told."""

    answers: list[ReserveResult]
    told: list[tuple[str, int]] = field(default_factory=list)
    said: list[QuotaDenied | None] = field(default_factory=list)

    async def reserve(self, rate: int | None, usd: float = 0.0) -> ReserveResult:
        await asyncio.sleep(0.5)
        return self.answers.pop(0)

    async def wait_until_visible(self, quota_slot: int) -> None:
        self.told.append(("written", quota_slot))

    def sent(self, quota_slot: int) -> None:
        self.told.append(("sent", quota_slot))

    def record_cost(self, quota_slot: int, usd: float) -> None:
        self.told.append(("settled", quota_slot))

    def refund(self, quota_slot: int) -> None:
        self.told.append(("refund", quota_slot))

    def publish_cooldown(self, wait_s: float, lowered_rate: LoweredRate | None) -> None:
        self.told.append(("cooled", round(wait_s)))

    def publish_parking(self, why: str, hint_s: float | None) -> None:
        self.told.append(("parked", round(hint_s or 0)))

    async def current_denial(self) -> QuotaDenied | None:
        return self.said.pop(0) if self.said else None


def dispatcher_with(log: OtherProcesses, count: int = 1, **options: Any) -> Dispatcher:
    source = InMemorySampleSource([("m", make_sample(f"a{n}")) for n in range(count)])
    return make_dispatcher({"m": Window(60)}, source, **{"concurrency": 5, "shared_quotas": {"m": log}, **options})


async def real_run(tmp_path: Path, name: str, url: str, limits: str, environ: dict[str, str]):
    """A job that is not emulated, at a server on loopback."""
    manifest = tmp_path / f"{name}.yaml"
    entries = [{"id": f"i{n}", "prompt": f"{name} {n}"} for n in range(9)]
    manifest.write_text(json.dumps({"defaults": {"model": "flash"}, "limits": limits, "items": entries}))
    job = batchgen.load(manifest, environ={"BATCHGEN_GEMINI_BASE_URL": url, "GEMINI_API_KEY": KEY, **environ})
    return await batchgen.run(job)
