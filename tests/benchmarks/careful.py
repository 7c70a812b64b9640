"""What a careful programmer would write in one file: aiohttp, checks, fsync, an SQLite ledger, a retry.

It goes on where it stopped, takes no broken image for a good one, and has a row for every image it keeps, written after the
image is durable. It knows no quota, no order for money that was spent on a lost answer, no second process and no other vendor.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import sqlite3
import struct
import zlib
from typing import Any

import aiohttp
import pybase64

ATTEMPTS = 5
PNG = b"\x89PNG\r\n\x1a\n"
TABLE = (
    "create table if not exists images"
    " (id text primary key, file text not null, bytes integer not null, sha256 text not null, width integer, height integer)"
)


class CarefulClient:
    """Asks for each prompt once and keeps the image: check, write, sync, rename, sync the folder, record."""

    def __init__(self, url: str, folder: str) -> None:
        self._url = url
        self._folder = folder
        self._folder_fd = os.open(folder, os.O_RDONLY)
        self._ledger = sqlite3.connect(os.path.join(folder, "ledger.sqlite"), isolation_level=None)
        self._ledger.execute("pragma journal_mode = wal")
        self._ledger.execute("pragma synchronous = full")
        self._ledger.execute(TABLE)
        self._done = {row[0] for row in self._ledger.execute("select id from images")}

    async def run(self, prompts: dict[str, str], in_flight: int) -> None:
        waiting = iter([(name, prompt) for name, prompt in prompts.items() if name not in self._done])
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=10, sock_read=300)
        connector = aiohttp.TCPConnector(limit=in_flight)
        async with aiohttp.ClientSession(
            connector=connector, timeout=timeout, headers={"x-goog-api-key": "local"}, read_bufsize=256 * 1024
        ) as session:

            async def worker() -> None:
                for name, prompt in waiting:
                    self._keep(name, await self._ask(session, prompt))

            await asyncio.gather(*(worker() for _ in range(in_flight)))
        self._ledger.close()
        os.close(self._folder_fd)

    async def _ask(self, session: aiohttp.ClientSession, prompt: str) -> bytes:
        body = {
            "contents": [{"role": "user", "parts": [{"text": prompt}]}],
            "generationConfig": {"responseModalities": ["IMAGE"]},
        }
        for attempt in range(ATTEMPTS):
            async with session.post(self._url, json=body) as response:
                if response.status == 200:
                    return find_image(json.loads(await response.read()))
                if response.status != 429 and response.status < 500:
                    raise RuntimeError(f"HTTP {response.status}: {await response.text()}")
            await asyncio.sleep(2**attempt)
        raise RuntimeError(f"no answer after {ATTEMPTS} attempts")

    def _keep(self, name: str, image: bytes) -> None:
        width, height = check_png(image)
        path = os.path.join(self._folder, f"{name}.png")
        with open(f"{path}.part", "wb") as file:
            file.write(image)
            file.flush()
            os.fsync(file.fileno())
        os.rename(f"{path}.part", path)
        os.fsync(self._folder_fd)
        row = (name, f"{name}.png", len(image), hashlib.sha256(image).hexdigest(), width, height)
        self._ledger.execute("insert into images values (?, ?, ?, ?, ?, ?)", row)


def find_image(answer: dict[str, Any]) -> bytes:
    for part in answer["candidates"][0]["content"]["parts"]:
        if "inlineData" in part:
            return pybase64.b64decode(part["inlineData"]["data"], validate=True)
    raise RuntimeError(f"no image: {answer['candidates'][0].get('finishReason')}")


def check_png(image: bytes) -> tuple[int, int]:
    """Width and height in pixels. Raises RuntimeError for a file that ends early or has a chunk with a wrong checksum."""
    if not image.startswith(PNG):
        raise RuntimeError("not a PNG")
    view, at, kind = memoryview(image), len(PNG), b""
    while at < len(image):
        (length,) = struct.unpack_from(">I", image, at)
        end = at + 8 + length
        if end + 4 > len(image):
            raise RuntimeError("the PNG ends inside a chunk")
        kind = image[at + 4 : at + 8]
        if zlib.crc32(view[at + 4 : end]) != struct.unpack_from(">I", image, end)[0]:
            raise RuntimeError(f"a wrong checksum in {kind!r}")
        at = end + 4
    if kind != b"IEND":
        raise RuntimeError("the PNG has no end")
    width, height = struct.unpack_from(">II", image, 16)
    return width, height
