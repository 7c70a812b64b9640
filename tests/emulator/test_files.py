"""The Files API: uploads in pieces, what a file says of itself, who may use it and for how long."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import io
import time
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from PIL import Image
from yarl import URL

MODEL = "gemini-nano-banana-2.1"
PIECE = 256


def picture(width: int = 160, height: int = 90) -> bytes:
    stream = io.BytesIO()
    Image.effect_noise((width, height), 60).save(stream, "PNG")
    return stream.getvalue()


def bytes_in(folder: Path) -> list[bytes]:
    return [path.read_bytes() for path in folder.rglob("*") if path.is_file()]


async def command(client: Any, url: str, data: bytes = b"", **headers: str) -> tuple[int, Any, dict[str, str]]:
    sent = {"X-Goog-Upload-Command": "upload, finalize", "X-Goog-Upload-Offset": "0"}
    sent |= {f"X-Goog-Upload-{name.replace('_', '-')}": value for name, value in headers.items()}
    async with client.session.post(url, data=data, headers=sent) as response:
        body = await response.json() if await response.read() else None
        return response.status, body, dict(response.headers)


async def begin(
    client: Any, emulator: Any, size_bytes: int, key: str = "k", mime: str = "image/png", **file: str
) -> Any:
    headers = {
        "x-goog-api-key": key,
        "X-Goog-Upload-Protocol": "resumable",
        "X-Goog-Upload-Command": "start",
        "X-Goog-Upload-Header-Content-Length": str(size_bytes),
        "X-Goog-Upload-Header-Content-Type": mime,
    }
    async with client.session.post(
        f"{emulator.base_url}/upload/v1beta/files", json={"file": file}, headers=headers
    ) as response:
        assert response.status == 200, await response.text()
        return response.headers["X-Goog-Upload-URL"]


async def upload(client: Any, emulator: Any, data: bytes, **more: str) -> dict[str, Any]:
    url = await begin(client, emulator, len(data), **more)
    status, body, headers = await command(client, url, data)
    assert (status, headers["X-Goog-Upload-Status"]) == (200, "final"), body
    file: dict[str, Any] = body["file"]
    return file


async def draw_with(client: Any, emulator: Any, uri: str, mime: str = "image/png") -> tuple[int, Any]:
    parts = [{"fileData": {"fileUri": uri, "mimeType": mime}}, {"text": "A hat"}]
    return await client.post(
        f"{emulator.base_url}/v1beta/models/{MODEL}:generateContent", {"contents": [{"parts": parts}]}
    )


def pixels_of(answer: Any) -> tuple[int, int]:
    data = answer["candidates"][0]["content"]["parts"][-1]["inlineData"]["data"]
    return Image.open(io.BytesIO(base64.b64decode(data))).size


async def test_an_uploaded_file_says_what_it_is(start, client):
    emulator = await start()
    data = picture()
    file = await upload(client, emulator, data, displayName="a fox")
    hashed = base64.b64encode(hashlib.sha256(data).hexdigest().encode()).decode()
    wanted = {
        "displayName": "a fox",
        "mimeType": "image/png",
        "sizeBytes": str(len(data)),
        "sha256Hash": hashed,
        "state": "ACTIVE",
        "uri": f"{emulator.base_url}/v1beta/{file['name']}",
    }
    assert {name: file[name] for name in wanted} == wanted


async def test_a_file_lives_for_48_hours(start, client):
    emulator = await start()
    file = await upload(client, emulator, picture())
    created, expires = (
        time.mktime(time.strptime(file[name][:19], "%Y-%m-%dT%H:%M:%S")) for name in ("createTime", "expirationTime")
    )
    assert expires - created == 48 * 3600


async def test_a_picture_follows_the_shape_of_an_uploaded_reference(start, client):
    emulator = await start(picture="full")
    file = await upload(client, emulator, picture(160, 90))
    status, answer = await draw_with(client, emulator, file["uri"])
    assert (status, pixels_of(answer)) == (200, (1376, 768))


async def test_a_file_and_the_same_bytes_inline_paint_the_same(start, client):
    data = picture()
    one, other = await start(), await start()
    file = await upload(client, one, data)
    _, by_file = await draw_with(client, one, file["uri"])
    inline = {"inlineData": {"mimeType": "image/png", "data": base64.b64encode(data).decode()}}
    body = {"contents": [{"parts": [inline, {"text": "A hat"}]}]}
    _, by_bytes = await client.post(f"{other.base_url}/v1beta/models/{MODEL}:generateContent", body)
    assert by_file["candidates"] == by_bytes["candidates"]


async def test_an_upload_in_pieces_arrives_whole(start, client):
    emulator = await start(upload_granularity_bytes=PIECE)
    data = picture()
    url = await begin(client, emulator, len(data))
    for offset in range(0, len(data), PIECE):
        piece, last = data[offset : offset + PIECE], offset + PIECE >= len(data)
        word = "upload, finalize" if last else "upload"
        status, body, headers = await command(client, url, piece, Command=word, Offset=str(offset))
        assert (status, headers["X-Goog-Upload-Status"]) == (200, "final" if last else "active"), body
    assert (await draw_with(client, emulator, body["file"]["uri"]))[0] == 200


async def test_an_upload_that_was_cut_goes_on_from_what_arrived(start, client):
    emulator = await start()
    data = picture()
    url = await begin(client, emulator, len(data), displayName="fox [[fault:reset*1]]")
    with pytest.raises(aiohttp.ClientConnectionError):
        await command(client, url, data)
    _, _, headers = await command(client, url, Command="query")
    received = int(headers["X-Goog-Upload-Size-Received"])
    assert (headers["X-Goog-Upload-Status"], received) == ("active", len(data) // 2)
    status, body, _ = await command(client, url, data[received:], Offset=str(received))
    assert (status, body["file"]["sizeBytes"]) == (200, str(len(data)))


async def test_a_piece_at_the_wrong_place_is_refused(start, client):
    emulator = await start()
    url = await begin(client, emulator, 10)
    assert (await command(client, url, b"x" * 10, Offset="1"))[0] == 400


async def test_a_piece_of_a_size_that_is_not_offered_is_refused(start, client):
    emulator = await start()
    url = await begin(client, emulator, 100)
    assert (await command(client, url, b"x" * 10, Command="upload"))[0] == 400


async def test_an_upload_that_ends_too_early_is_refused(start, client):
    emulator = await start()
    url = await begin(client, emulator, 100)
    assert (await command(client, url, b"x" * 10))[0] == 400


async def test_an_upload_needs_a_key_to_begin(start, client):
    emulator = await start()
    status, answer = await client.post(
        f"{emulator.base_url}/upload/v1beta/files", {}, **{"X-Goog-Upload-Command": "start", "x-goog-api-key": "bad"}
    )
    assert (status, answer["error"]["details"][0]["reason"]) == (400, "API_KEY_INVALID")


async def test_a_file_of_another_key_may_not_be_used(start, client):
    emulator = await start()
    file = await upload(client, emulator, picture(), key="other")
    status, answer = await draw_with(client, emulator, file["uri"])
    identifier = file["name"].removeprefix("files/")
    expected = f"You do not have permission to access the File {identifier} or it may not exist."
    assert (status, answer["error"]["message"], answer["error"]["status"]) == (403, expected, "PERMISSION_DENIED")


async def test_a_file_that_expired_may_not_be_used(start, client):
    emulator = await start(file_life_s=0.0)
    file = await upload(client, emulator, picture())
    assert (await draw_with(client, emulator, file["uri"]))[0] == 403
    assert (await client.get(f"{emulator.base_url}/v1beta/{file['name']}"))[0] == 403


async def test_a_file_that_is_still_processed_may_not_be_used(start, client):
    emulator = await start(file_processing_s=600.0)
    file = await upload(client, emulator, picture())
    status, answer = await draw_with(client, emulator, file["uri"])
    assert (file["state"], status, answer["error"]["status"]) == ("PROCESSING", 400, "FAILED_PRECONDITION")


async def test_a_file_becomes_active(start, client):
    emulator = await start(file_processing_s=0.05)
    file = await upload(client, emulator, picture())
    while file["state"] != "ACTIVE":
        await asyncio.sleep(0.01)
        _, file = await client.get(f"{emulator.base_url}/v1beta/{file['name']}")
    assert (await draw_with(client, emulator, file["uri"]))[0] == 200


async def test_a_file_that_failed_says_so(start, client):
    emulator = await start()
    file = await upload(client, emulator, picture(), displayName="[[fault:failed]]")
    assert (file["state"], (await draw_with(client, emulator, file["uri"]))[0]) == ("FAILED", 400)


async def test_a_file_that_is_no_picture_cannot_be_processed(start, client):
    emulator = await start()
    file = await upload(client, emulator, b"not a picture")
    status, answer = await draw_with(client, emulator, file["uri"])
    assert (status, answer["error"]["message"][:30]) == (400, "Unable to process input image.")


async def test_a_deleted_file_is_gone(start, client):
    emulator = await start()
    file = await upload(client, emulator, picture())
    async with client.session.delete(
        f"{emulator.base_url}/v1beta/{file['name']}", headers={"x-goog-api-key": "k"}
    ) as response:
        assert (response.status, await response.json()) == (200, {})
    assert (await client.get(f"{emulator.base_url}/v1beta/{file['name']}"))[0] == 403


async def test_files_are_listed_page_by_page(start, client):
    emulator = await start()
    names = [(await upload(client, emulator, picture(), displayName=str(n)))["name"] for n in range(3)]
    await upload(client, emulator, picture(), key="other")
    _, first = await client.get(f"{emulator.base_url}/v1beta/files?pageSize=2")
    _, second = await client.get(f"{emulator.base_url}/v1beta/files?pageSize=2&pageToken={first['nextPageToken']}")
    found = [file["name"] for file in first["files"] + second["files"]]
    assert (sorted(found), "nextPageToken" in second) == (sorted(names), False)


async def test_uploads_and_their_bytes_are_counted(start, client):
    emulator = await start()
    data = picture()
    await upload(client, emulator, data)
    _, found = await client.get(f"{emulator.base_url}/_emulator/stats")
    assert (found["uploads"], found["uploaded_bytes"], found["requests"]) == (1, len(data), 0)


async def test_uploaded_bytes_lie_on_disk_and_go_with_the_emulator(start, client, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    emulator = await start()
    data = picture()
    await upload(client, emulator, data)
    assert bytes_in(tmp_path) == [data]
    await emulator.close()
    assert list(tmp_path.iterdir()) == []


async def test_a_client_that_dies_while_it_uploads_can_go_on_and_the_log_is_quiet(start, client, caplog):
    emulator = await start()
    data = picture()
    url = URL(await begin(client, emulator, len(data)))
    _, writer = await asyncio.open_connection(url.host, url.port)
    head = f"POST {url.raw_path_qs} HTTP/1.1\r\nHost: {url.host}:{url.port}\r\nContent-Length: {len(data)}\r\n"
    head += "X-Goog-Upload-Command: upload, finalize\r\nX-Goog-Upload-Offset: 0\r\n\r\n"
    writer.write(head.encode() + data[:1000])
    await writer.drain()
    received = 0
    while received < 1000:
        received = int((await command(client, str(url), Command="query"))[2]["X-Goog-Upload-Size-Received"])
    writer.close()
    await writer.wait_closed()
    status, body, _ = await command(client, str(url), data[received:], Offset=str(received))
    complaints = [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]
    assert (status, body["file"]["sizeBytes"], complaints) == (200, str(len(data)), [])
