"""Reads answers, each in one of several ways and in a process of its own, and says by how many megabytes that has raised its peak.

Each line of stdin asks for one: `[[WAY, ADDRESS], {the environment}]`. Its process is forked from this one, which has imported
what is needed and done nothing else: its peak begins at what is in use then. The peak is VmHWM: what getrusage calls so is that
of the parent, for a process started by vfork.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import sys
import tempfile
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from batchgen.cli.main import run_command_line
from batchgen.engine.batch.result_lines import decode_line, read_lines
from batchgen.errors import ProviderError, SettingsError
from batchgen.http.base64_stream import NullSink
from batchgen.http.transport import Transport
from batchgen.profiles.catalogue import load_catalogue
from batchgen.providers.registry import provider_for
from batchgen.records import Request, Response

REQUEST = Request(method="POST", path="/", body=b"{}", timeout_s=60.0)


def peak_mb() -> int:
    return int(re.findall(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[0]) // 1024


async def send(transport: Transport, url: str) -> None:
    answer = await transport.send(
        url, REQUEST, None, on_sent=lambda: None, open_sink=NullSink, signatures=url.endswith("signatures")
    )
    provider_for(load_catalogue().resolve("gemini-3-pro-image")).read(
        Response(answer.status, answer.headers, answer.envelope())
    )


async def ask(transport: Transport, url: str) -> str:
    answer = await transport.request(url, REQUEST, None)
    return str(answer.status)


async def download(transport: Transport, url: str) -> str:
    with tempfile.TemporaryFile() as file:
        answer = await transport.download(url, REQUEST, None, file)
    return str(answer.status)


async def fetch(transport: Transport, url: str) -> None:
    await transport.download_link(url, lambda _: None, max_bytes=10_000_000, api_url=url)


def line(path: str) -> None:
    with open(path, "rb") as file:
        for found in read_lines(file, path, 16):
            decode_line(found, NullSink)


async def over_http(way: Callable[..., Awaitable[str | None]], url: str) -> str:
    with ThreadPoolExecutor(2) as threads:
        async with Transport(4, threads) as transport:
            return await way(transport, url) or ""


def measure(way: str, address: str) -> dict[str, int | str]:
    before_mb, said = peak_mb(), ""
    try:
        if way == "line":
            line(address)
        elif way in ("run", "doctor"):
            said = str(run_command_line([way, *address.split()]))
        else:
            said = asyncio.run(
                over_http({"send": send, "ask": ask, "download": download, "fetch": fetch}[way], address)
            )
    except (ProviderError, SettingsError) as error:
        said = str(error)
    return {"mb": peak_mb() - before_mb, "said": said}


def main() -> None:
    provider_for(load_catalogue().resolve("gemini-3-pro-image"))
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a command prints is no answer
    for asked in sys.stdin:
        argv, environment = json.loads(asked)
        if not (child := os.fork()):
            os.environ.clear()
            os.environ.update(environment)
            print(json.dumps(measure(*argv)), file=answers, flush=True)
            os._exit(0)
        if status := os.waitpid(child, 0)[1]:
            print(json.dumps({"ended": status}), file=answers, flush=True)


if __name__ == "__main__":
    main()
