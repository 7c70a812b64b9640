"""The Gemini API as a whole: its methods on models, and the Files and Batch APIs."""

from __future__ import annotations

from functools import partial
from typing import Any

from aiohttp import web

from batchgen.emulator import gemini, google, imagen
from batchgen.emulator.answers import answering
from batchgen.emulator.batches import Batches
from batchgen.emulator.files import Files
from batchgen.emulator.models import GEMINI, IMAGEN
from batchgen.emulator.pipeline import Pipeline


class GeminiApi:
    def __init__(self, pipeline: Pipeline) -> None:
        self._pipeline = pipeline
        self._files = Files(pipeline)
        self._contents = gemini.endpoint(pipeline.options, self._files)
        self._batches = Batches(pipeline, self._files, self._contents)

    def routes(self) -> list[web.RouteDef]:
        handle, one = self._pipeline.handle, google.VERSION + "/models/{model:[^:/]+}"
        predictions = imagen.endpoint(self._pipeline.options)
        return [
            web.get(one, answering(self._model, google.HEADERS)),
            web.post(one + ":{method:generateContent|streamGenerateContent}", partial(handle, endpoint=self._contents)),
            web.post(one + ":{method:predict}", partial(handle, endpoint=predictions)),
            *self._batches.routes(),
            web.post(one + ":{method}", answering(self._other_method, google.HEADERS)),
            *self._files.routes(),
        ]

    def models(self, request: web.Request) -> dict[str, Any]:
        """Answer `GET /models`. Raises ApiError."""
        google.known_key(request)
        return google.page_of("models", list(self._entries().values()), request.query, default=50, most=1000)

    async def clear(self) -> None:
        await self._batches.clear()
        self._files.clear()

    async def close(self) -> None:
        await self._batches.close()
        self._files.clear()

    def _model(self, request: web.Request) -> dict[str, Any]:
        google.known_key(request)
        found = self._entries().get(f"models/{request.match_info['model']}")
        if found is None:
            raise google.unknown_model(request)
        return found

    def _entries(self) -> dict[str, dict[str, Any]]:
        options = self._pipeline.options
        entries = google.listed(GEMINI, ["generateContent", "countTokens", "batchGenerateContent"], options)
        return {one["name"]: one for one in entries + google.listed(IMAGEN, ["predict"], options)}

    def _other_method(self, request: web.Request) -> None:
        raise google.unknown_model(request)
