"""Those that are compared, each run in a process of its own: batchgen, the vendor's SDK, a careful client, a bare loop.

    python -m tests.benchmarks.contenders ours|sdk|careful|bare '{"base_url": …, "folder": …, "images": …, "in_flight": …}'

Prints one JSON object: wall and CPU seconds of the work (imports come before it), peak memory of the whole process.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import os
import resource
import sys
import time
from collections.abc import Callable
from importlib import import_module
from typing import Any

MODEL = "gemini-nano-banana-2.1"
OUR_MODULES = (  # a run imports the later ones when it needs them
    *("cli.run", "engine.online_run", "manifest.read", "providers.gemini", "http.transport", "engine.reviewer"),
    *(
        "api",
        "engine.run",
        "engine.recovery.recover",
        "cli.run_end",
        "report.acceptance",
    ),
)
Prepared = Callable[[], dict[str, Any]]  # what is timed; answers further facts


def prompt(number: int) -> str:
    return f"A stoneware mug on oiled oak, window light, picture number {number}"


def ours(task: dict[str, Any]) -> Prepared:
    """`batchgen run MANIFEST --quiet`: plan, structural checks, fsync, ledger, results.jsonl, the quota of all processes."""
    for name in OUR_MODULES:
        import_module(f"batchgen.{name}")
    expect_bytes(task.get("image_bytes", 4096))
    from batchgen.cli.main import run_command_line

    def work() -> dict[str, Any]:
        with contextlib.redirect_stdout(io.StringIO()) as output:
            exit_code = run_command_line(["run", task["manifest"], "--quiet", "--yes", "--json"])
        exposed = json.loads(output.getvalue()).get("exposed_ms") or {}
        return {"exit_code": exit_code, "exposed_ms": exposed.get("median")}

    return work


def expect_bytes(image_bytes: int) -> None:
    """Room is asked for as large as images are here, and not as a model's usually are."""
    for module in ("planning.batchable", "engine.reconciliation"):
        import_module(f"batchgen.{module}").expected_bytes = lambda _: image_bytes


def ours_batch(task: dict[str, Any]) -> Prepared:
    """`batchgen run MANIFEST --engine batch --no-wait`: submits, or collects what is there."""
    ours(task)
    from batchgen.cli.main import run_command_line

    arguments = ["run", task["manifest"], "--quiet", "--yes", "--json", "--engine", "batch", "--no-wait"]

    def work() -> dict[str, Any]:
        with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
            return {"exit_code": run_command_line(arguments)}

    return work


def ours_ledger(task: dict[str, Any]) -> Prepared:
    """`ours`, its ledger on a server when the task names one."""
    if task["ledger"]:
        os.environ["BATCHGEN_LEDGER"] = task["ledger"]
        import_module("psycopg")
    return ours(task)


def ours_cluster(task: dict[str, Any]) -> Prepared:
    """`batchgen run MANIFEST --engine cluster --no-wait`: submits."""
    ours_ledger(task)
    from batchgen.cli.main import run_command_line

    arguments = ["run", task["manifest"], "--quiet", "--yes", "--json", "--engine", "cluster", "--no-wait"]

    def work() -> dict[str, Any]:
        with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
            return {"exit_code": run_command_line(arguments)}

    return work


def ours_references(task: dict[str, Any]) -> Prepared:
    """`ours`, counting how often a reference is opened and encoded."""
    from batchgen.references import local as local_references

    counted = {"opened": 0, "encoded": 0}
    open_regular, b64encode = local_references.open_regular, local_references.pybase64.b64encode

    def opening(real: str) -> Any:
        counted["opened"] += 1
        return open_regular(real)

    def encoding(data: bytes) -> bytes:
        counted["encoded"] += 1
        return b64encode(data)

    local_references.open_regular, local_references.pybase64.b64encode = opening, encoding
    work = ours(task)
    return lambda: work() | counted


def ours_plan(task: dict[str, Any]) -> Prepared:
    """The plan alone: manifest minus ledger, nothing sent."""
    import batchgen.api

    import_module("batchgen.manifest.read")

    def work() -> dict[str, Any]:
        plan = batchgen.api.plan(batchgen.api.load(task["manifest"]))
        return {"kept": plan.reconciliation.kept, "wanted": plan.reconciliation.wanted}

    return work


def command(task: dict[str, Any]) -> Prepared:
    """Any command of ours, with what it imports. What it prints goes nowhere."""

    def work() -> dict[str, Any]:
        from batchgen.cli.main import run_command_line

        with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere), contextlib.redirect_stderr(nowhere):
            return {"exit_code": run_command_line(task["argv"])}

    return work


def sdk(task: dict[str, Any]) -> Prepared:
    """A plain loop over google-genai: a semaphore, a call, a file. Nothing is checked, synced or recorded."""
    from google import genai
    from google.genai import types

    options = types.HttpOptions(base_url=task["base_url"], api_version="v1beta")
    config = types.GenerateContentConfig(response_modalities=["IMAGE"])

    async def loop() -> None:
        client = genai.Client(api_key="local", http_options=options)
        places = asyncio.Semaphore(task["in_flight"])

        async def one(number: int) -> None:
            async with places:
                answer = await client.aio.models.generate_content(model=MODEL, contents=prompt(number), config=config)
                for part in answer.parts or ():
                    if part.inline_data is not None and part.inline_data.data is not None:
                        write(task["folder"], number, part.inline_data.data)

        await asyncio.gather(*map(one, range(task["images"])))
        await client.aio.aclose()

    return lambda: asyncio.run(loop()) or {}


def bare(task: dict[str, Any]) -> Prepared:
    """The least that turns answers into files: aiohttp, json, pybase64, a file. Nothing is checked, synced or recorded."""
    import aiohttp
    import pybase64

    url = f"{task['base_url']}/v1beta/models/{MODEL}:generateContent"
    connector_limit = task["in_flight"]

    async def loop() -> None:
        numbers = iter(range(task["images"]))
        async with aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=connector_limit),
            headers={"x-goog-api-key": "local"},
            read_bufsize=256 * 1024,
        ) as session:

            async def worker() -> None:
                for number in numbers:
                    body = {
                        "contents": [{"role": "user", "parts": [{"text": prompt(number)}]}],
                        "generationConfig": {"responseModalities": ["IMAGE"]},
                    }
                    async with session.post(url, json=body) as response:
                        answer = json.loads(await response.read())
                    for part in answer["candidates"][0]["content"]["parts"]:
                        picture = pybase64.b64decode(part["inlineData"]["data"], validate=True)
                        write(task["folder"], number, picture)

            await asyncio.gather(*(worker() for _ in range(connector_limit)))

    return lambda: asyncio.run(loop()) or {}


def careful(task: dict[str, Any]) -> Prepared:
    """One file that checks, syncs and records: see careful.py."""
    from tests.benchmarks.careful import CarefulClient

    async def work() -> None:
        client = CarefulClient(f"{task['base_url']}/v1beta/models/{MODEL}:generateContent", task["folder"])
        await client.run({f"p{number:07}": prompt(number) for number in range(task["images"])}, task["in_flight"])

    return lambda: asyncio.run(work()) or {}


def write(folder: str, number: int, data: bytes) -> None:
    with open(os.path.join(folder, f"p{number:07}.png"), "wb") as file:
        file.write(data)


def cpu_s() -> float:
    """Of this process, and of those it has started and seen end."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in used)


def peak_bytes() -> int:
    """Of this program. ru_maxrss would count what the parent had when it forked (getrusage(2) keeps it over exec)."""
    try:
        with open("/proc/self/status", encoding="ascii") as status:
            line = next(line for line in status if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    except OSError:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024


CONTENDERS = {
    "ours": ours,
    "ours_looking": ours,
    "ours_batch": ours_batch,
    "ours_ledger": ours_ledger,
    "ours_cluster": ours_cluster,
    "ours_references": ours_references,
    "ours_plan": ours_plan,
    "command": command,
    "sdk": sdk,
    "careful": careful,
    "bare": bare,
}


def main() -> None:
    work = CONTENDERS[sys.argv[1]](json.loads(sys.argv[2]))
    import_cpu_s = cpu_s()
    started_s = time.perf_counter()
    facts = work()
    wall_s = time.perf_counter() - started_s
    facts |= {
        "wall_s": wall_s,
        "cpu_s": cpu_s() - import_cpu_s,
        "import_cpu_s": import_cpu_s,
        "rss_mb": peak_bytes() / 1e6,
    }
    print(json.dumps(facts))


if __name__ == "__main__":
    main()
