"""Reads an answer in one of several ways and prints by how many megabytes that has raised this process's peak.

`memory_child WAY ADDRESS`. The peak is VmHWM: what getrusage calls so is that of the parent, for a process started by vfork.
"""

from __future__ import annotations

import asyncio
import json
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


def main(way: str, address: str) -> None:
    provider_for(load_catalogue().resolve("gemini-3-pro-image"))
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
    print(json.dumps({"mb": peak_mb() - before_mb, "said": said}), file=sys.stderr)


if __name__ == "__main__":
    main(*sys.argv[1:])
