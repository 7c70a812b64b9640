"""A vendor that answers with links, on loopback: what it was asked for, and what its content host does about each picture."""

from __future__ import annotations

import asyncio
import base64
import io
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import web
from PIL import Image

USD = 0.04  # of one picture, as the answers say
EVERY = range(10)
Gift = Callable[[bytes], web.StreamResponse]  # what a link answers in place of its picture


def _answer(status: int = 200, kind: str = "image/png", **rest: Any) -> Gift:
    return lambda data: web.Response(status=status, content_type=kind, **rest)


BAD: dict[str, Gift] = {
    "a web page": _answer(kind="text/html", body=b"<!DOCTYPE html><html><title>Sign in</title></html>"),
    "JSON": _answer(kind="application/json", body=b'{"error": "not yet"}'),
    "nothing": _answer(body=b""),
    "half a picture": lambda data: web.Response(body=data[: len(data) // 2]),
    "a damaged picture": lambda data: web.Response(body=data[:60] + bytes([data[60] ^ 1]) + data[61:]),
    "a redirect into a private network": _answer(302, headers={"Location": "http://10.0.0.1/a.png"}),
    "a redirect to nowhere": _answer(302),
    **{str(status): _answer(status) for status in (202, 403, 404, 410, 429, 500, 503)},
}


class Vendor:
    """Answers as AIML does, one link a picture. requests: how often pictures were asked for, fetched: how often each was
    looked for since `goes_bad`.

    inline: how many pictures of an answer come in the answer itself. previews: whether each has one beside it. hangs:
    links are not answered at all, nor are they when `resets`, which closes the connection.
    """

    def __init__(self) -> None:
        self.url = ""
        self.requests: list[int] = []  # pictures asked for by each
        self.fetched: Counter[str] = Counter()
        self.inline = 0
        self.previews = False
        self.hangs = self.resets = self.refuses = False  # refuses: to make any picture
        self._pictures: dict[str, bytes] = {}
        self._bad: tuple[Gift | None, Iterable[int], int | None, Iterable[int]] = (None, EVERY, None, EVERY)

    def goes_bad(
        self, kind: str, places: Iterable[int] = EVERY, times: int | None = None, of: Iterable[int] = EVERY
    ) -> None:
        """From now on links give this in place of the picture: those at these places of their answers, so many times each.

        of: the links of these answers alone, counted from 1.
        """
        self._bad = BAD[kind], places, times, of
        self.fetched.clear()

    def is_well(self) -> None:
        self._bad, self.hangs, self.resets, self.refuses = (None, EVERY, None, EVERY), False, False, False
        self.fetched.clear()

    def served(self) -> set[bytes]:
        """Every picture that was asked for."""
        return set(self._pictures.values())

    async def generate(self, request: web.Request) -> web.Response:
        count = int((await request.json()).get("num_images", 1))
        if self.refuses:
            return web.json_response({"message": "Body validation error!", "statusCode": 400}, status=400)
        self.requests.append(count)
        entries: list[dict[str, str]] = []
        for place in range(count):
            name = f"{len(self.requests)}-{place}.png"
            data = self._pictures[name] = picture(len(self._pictures) + 1)
            inline = place < self.inline
            link = f"{self.url}/cdn/{name}?signature=secret"
            entries.append({"b64_json": base64.b64encode(data).decode()} if inline else {"url": link})
            if self.previews:
                entries[-1] = {"preview": base64.b64encode(bytes(100_000)).decode(), **entries[-1]}
        return web.json_response({"data": entries, "meta": {"usage": {"usd_spent": USD * count}}})

    async def serve(self, request: web.Request) -> web.StreamResponse:
        name = request.match_info["name"]
        self.fetched[name] += 1
        if self.hangs:
            await asyncio.sleep(30)
        if self.resets and request.transport is not None:
            request.transport.abort()
        gift, places, times, of = self._bad
        answer, place = map(int, name.removesuffix(".png").split("-"))
        wanted = answer in of and place in places and (times is None or self.fetched[name] <= times)
        if gift is not None and wanted:
            return gift(self._pictures[name])
        return web.Response(body=self._pictures[name], content_type="image/png")


def picture(number: int) -> bytes:
    """Unlike that of any other number."""
    held = io.BytesIO()
    Image.effect_mandelbrot((64, 64), (-2.0, -1.5 - number / 50, 1.0, 1.5), 40).save(held, "PNG")
    return held.getvalue()


@asynccontextmanager
async def vendor() -> AsyncIterator[Vendor]:
    shop, app = Vendor(), web.Application()
    app.router.add_post("/v1/images/generations", shop.generate)
    app.router.add_get("/cdn/{name}", shop.serve)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    shop.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield shop
    finally:
        await runner.cleanup()
