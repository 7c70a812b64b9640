"""Case 14: a night in whose middle the API is down for minutes, in four ways: nothing is lost and little is sent."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

from aiohttp import web

from tests.benchmarks.case import Case, Target
from tests.benchmarks.measure import fresh_folder
from tests.support.outage_vendor import Vendor, batchgen_run, manifest

ITEMS, RPM, OUTAGE_S = 60, 600, 180.0
BEGINS_AT = 30  # requests
KINDS: dict[str, int | str | None] = {"503": 503, "refused": None, "page": "Sign in", "500": 500}


def outage(quick: bool) -> Case:
    case = Case(
        "outage", f"14. {ITEMS} items at {RPM} a minute, the API down for {OUTAGE_S / 60:.0f} min in the middle"
    )
    if quick:
        case.notes.append("skipped: it takes minutes")
        return case
    for kind, facts in zip(KINDS, asyncio.run(_all()), strict=True):
        case.targets.append(Target(f"{kind}: made of {ITEMS}", "exactly", ITEMS, facts["made"]))
        case.targets.append(
            Target(f"{kind}: requests in any minute, once it was found", "at most", 4, facts["per_minute"])
        )
        most = facts["during"] if kind == "500" else 0
        case.targets.append(Target(f"{kind}: requests counted as maybe billed", "at most", most, facts["maybe"]))
        case.extra[kind] = facts
    return case


async def _all() -> list[dict[str, Any]]:
    """At the same time: an outage leaves the machine idle."""
    return await asyncio.gather(*(_one(kind, said, fresh_folder(f"outage-{kind}")) for kind, said in KINDS.items()))


async def _one(kind: str, said: int | str | None, folder: Path) -> dict[str, Any]:
    vendor, began_s, times = Vendor(), [0.0], list[float]()
    app = web.Application()
    app.router.add_post("/{rest:.*}", vendor.answer)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = runner.addresses[0][1]
    vendor.url = f"http://127.0.0.1:{port}"

    def says(number: int, _: str) -> int | str | None:
        now_s = time.monotonic()
        times.append(now_s)
        if number == BEGINS_AT:
            began_s[0] = now_s
            if kind == "refused":
                back.append(asyncio.create_task(_away(runner, site, port)))
        down = began_s[0] and now_s - began_s[0] < OUTAGE_S
        return said if down else None

    back: list[asyncio.Task[None]] = []
    vendor.says = says
    code, facts, _ = await batchgen_run(vendor, manifest(folder, ITEMS))
    for task in back:
        await task
    await runner.cleanup()
    during = [at - began_s[0] for at in times if 0 <= at - began_s[0] < OUTAGE_S]
    probes = [at for at in during if at > 2.0]  # what was in flight, and what gave the evidence, came at once
    return {
        "made": facts["images"]["made"], "exit_code": code, "maybe": facts["usd"]["maybe_billed_requests"],
        "during": len(during), "requests": facts["requests"], "seconds": facts["seconds"], "outages": facts["outages"],
        "per_minute": max((sum(start <= at < start + 60.0 for at in probes) for start in probes), default=0),
    }  # fmt: skip


async def _away(runner: web.AppRunner, site: web.TCPSite, port: int) -> None:
    await site.stop()
    await asyncio.sleep(OUTAGE_S)
    await web.TCPSite(runner, "127.0.0.1", port).start()
