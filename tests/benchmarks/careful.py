"""What a careful programmer would write in one file: aiohttp, checks, fsync, an SQLite ledger, a retry.

It goes on where it stopped, notes each request before it is sent, takes no broken image for a good one, has a row for every image
that it keeps, written after the image is durable, and does none of this on the event loop. It knows no quota, no price, no
second process and no other vendor, and uses a connection for many requests.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import sqlite3
import struct
import threading
import time
import zlib
from typing import Any

import aiohttp
import pybase64

ATTEMPTS = 5
PNG = b"\x89PNG\r\n\x1a\n"
TABLE = (
    "create table if not exists images (id text primary key, asked_at real not null, file text, bytes integer, sha256 text,"
    " width integer, height integer)"
)


class CarefulClient:
    """Asks for each prompt once and keeps the image: check, write, sync, rename, sync the folder, record."""

    def __init__(self, url: str, folder: str) -> None:
        self._url = url
        self._folder = folder
        self._folder_fd = os.open(folder, os.O_RDONLY)
        self._ledger = sqlite3.connect(
            os.path.join(folder, "ledger.sqlite"), isolation_level=None, check_same_thread=False
        )
        self._ledger.execute("pragma journal_mode = wal")
        self._ledger.execute("pragma synchronous = full")
        self._ledger.execute(TABLE)
        self._lock = threading.Lock()
        self._done = {row[0] for row in self._ledger.execute("select id from images where file is not null")}

    async def run(self, prompts: dict[str, str], in_flight: int) -> None:
        waiting = iter([(name, prompt) for name, prompt in prompts.items() if name not in self._done])
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=10, sock_read=300)
        connector = aiohttp.TCPConnector(limit=in_flight)
        async with aiohttp.ClientSession(
            connector=connector, timeout=timeout, headers={"x-goog-api-key": "local"}, read_bufsize=256 * 1024
        ) as session:

            async def worker() -> None:
                for name, prompt in waiting:
                    await asyncio.to_thread(self._note_request, name)
                    answer = await self._ask(session, prompt)
                    await asyncio.to_thread(self._keep, name, answer)

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
                    return await response.read()
                if response.status != 429 and response.status < 500:
                    raise RuntimeError(f"HTTP {response.status}: {await response.text()}")
            await asyncio.sleep(2**attempt)
        raise RuntimeError(f"no answer after {ATTEMPTS} attempts")

    def _note_request(self, name: str) -> None:
        with self._lock:
            self._ledger.execute("insert or replace into images (id, asked_at) values (?, ?)", (name, time.time()))

    def _keep(self, name: str, answer: bytes) -> None:
        image = find_image(json.loads(answer))
        width, height = check_png(image)
        path = os.path.join(self._folder, f"{name}.png")
        with open(f"{path}.part", "wb") as file:
            file.write(image)
            file.flush()
            os.fsync(file.fileno())
        os.rename(f"{path}.part", path)
        os.fsync(self._folder_fd)
        row = (f"{name}.png", len(image), hashlib.sha256(image).hexdigest(), width, height, name)
        with self._lock:
            self._ledger.execute(
                "update images set file = ?, bytes = ?, sha256 = ?, width = ?, height = ? where id = ?", row
            )


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
