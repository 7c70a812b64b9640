"""What tests of the Batch API say over plain HTTP: upload lines, create, wait until it ends, download."""

from __future__ import annotations

import asyncio
import io
import json
from typing import Any

from batchgen.emulator import BatchOptions

MODEL = "gemini-nano-banana-2.1"
QUICK = {"pending_s": 0.0, "running_s": 0.0}
KEY = {"x-goog-api-key": "k"}


def quick(**options: Any) -> BatchOptions:
    return BatchOptions(**{**QUICK, **options})


def line(key: str, prompt: str = "A red fox") -> dict[str, Any]:
    return {"key": key, "request": {"contents": [{"parts": [{"text": prompt}]}]}}


class BatchClient:
    """One key's view of one emulator."""

    def __init__(self, client: Any, emulator: Any, version: str = "v1beta") -> None:
        self.session = client.session
        self.client = client
        self.emulator = emulator
        self.base = f"{emulator.base_url}/{version}"
        self.version = version

    async def begin(self, size_bytes: int, display_name: str) -> str:
        """The address of the upload."""
        headers = {
            **KEY,
            "X-Goog-Upload-Protocol": "resumable",
            "X-Goog-Upload-Command": "start",
            "X-Goog-Upload-Header-Content-Length": str(size_bytes),
            "X-Goog-Upload-Header-Content-Type": "application/jsonl",
        }
        start = f"{self.emulator.base_url}/upload/{self.version}/files"
        async with self.session.post(start, json={"file": {"displayName": display_name}}, headers=headers) as response:
            return str(response.headers["X-Goog-Upload-URL"])

    async def finish(self, url: str, data: bytes) -> str:
        """The file's name."""
        headers = {"X-Goog-Upload-Command": "upload, finalize", "X-Goog-Upload-Offset": "0"}
        async with self.session.post(url, data=io.BytesIO(data), headers=headers) as response:
            name: str = (await response.json())["file"]["name"]
            return name

    async def upload(self, data: bytes, display_name: str = "lines") -> str:
        return await self.finish(await self.begin(len(data), display_name), data)

    async def create(
        self, lines: list[dict[str, Any]] | bytes, display_name: str = "chunk", **more: Any
    ) -> tuple[int, Any]:
        data = lines if isinstance(lines, bytes) else b"".join(json.dumps(one).encode() + b"\n" for one in lines)
        return await self.send(
            {"inputConfig": {"fileName": await self.upload(data)}, "displayName": display_name, **more}
        )

    async def send(self, batch: dict[str, Any], model: str = MODEL) -> tuple[int, Any]:
        status, body = await self.client.post(f"{self.base}/models/{model}:batchGenerateContent", {"batch": batch})
        return status, body

    async def get(self, name: str) -> tuple[int, Any]:
        status, body = await self.client.get(f"{self.base}/{name}")
        return status, body

    async def call(self, method: str, path: str, **headers: str) -> tuple[int, Any]:
        async with self.session.request(method, f"{self.base}/{path}", headers={**KEY, **headers}) as response:
            return response.status, await response.json()

    async def wait(self, name: str) -> Any:
        """The operation once it is done. Gives up where a batch that broke would hang the tests."""
        async with asyncio.timeout(60):
            while True:
                status, body = await self.get(name)
                assert status == 200, body
                if body.get("done"):
                    return body
                await asyncio.sleep(0.005)

    async def run(self, lines: list[dict[str, Any]] | bytes, display_name: str = "chunk") -> Any:
        status, body = await self.create(lines, display_name)
        assert status == 200, body
        return await self.wait(body["name"])

    async def download(self, name: str, **headers: str) -> tuple[int, bytes, Any]:
        url = f"{self.emulator.base_url}/download/{self.version}/{name}:download?alt=media"
        async with self.session.get(url, headers={**KEY, **headers}) as response:
            return response.status, await response.read(), response.headers

    async def lines_of(self, operation: Any) -> list[Any]:
        status, data, _ = await self.download(operation["metadata"]["output"]["responsesFile"])
        assert status == 200, data
        return [json.loads(one) for one in data.splitlines()]

    async def counted(self) -> Any:
        return (await self.client.get(f"{self.emulator.base_url}/_emulator/batches"))[1]
