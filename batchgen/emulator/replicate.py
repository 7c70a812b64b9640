"""Replicate's predictions: created for an official model, polled, listed, cancelled; errors in the form of RFC 9457.

Sources: sdks.replicate.com/python/resources/predictions (create, get, list, cancel);
replicate.com/docs/topics/predictions/{create-a-prediction,lifecycle,data-retention,rate-limits}; schemas of the models'
pages.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar
from urllib.parse import urlencode

from aiohttp import web

from batchgen.emulator.answers import (
    Answer,
    ApiError,
    answering,
    as_json,
    clean,
    json_object,
    origin_of,
    random_id,
    timestamp,
)
from batchgen.emulator.faults import REPLICATE_FAULTS
from batchgen.emulator.jobs import JobSpec, JobVendor, TakenJob
from batchgen.emulator.models import Model
from batchgen.emulator.pictures import reference_digest
from batchgen.emulator.pipeline import Job, with_pictures

_PREDICTIONS = "/v1/predictions"
_KEPT_S = 3600.0  # inputs, outputs and files of predictions made through the API
_FLUX_RATIOS = ("1:1", "16:9", "21:9", "3:2", "2:3", "4:5", "5:4", "3:4", "4:3", "9:16", "9:21")
_KONTEXT_RATIOS = ("match_input_image", *_FLUX_RATIOS, "2:1", "1:2")
_INVALID = "Input validation failed"


@dataclass(frozen=True, slots=True)
class _Schema:
    """One model's parameters.

    most: images of one prediction. formats: the default first. image: the field for one that is sent along, "" for
    none. is_list: whether the output is one.
    """

    ratios: tuple[str, ...] = _FLUX_RATIOS
    formats: tuple[str, ...] = ("webp", "jpg", "png")
    most: int = 4
    image: str = ""
    is_list: bool = True


_SCHEMAS: Mapping[str, _Schema] = {
    "black-forest-labs/flux-schnell": _Schema(),
    "black-forest-labs/flux-dev": _Schema(),
    "black-forest-labs/flux-kontext-pro": _Schema(_KONTEXT_RATIOS, ("png", "jpg"), 1, "input_image", False),
}


def _problem(status: int, *words: str) -> ApiError:
    """Make an error. words: title and detail; a detail alone where requests come too fast."""
    body = dict(zip(("title", "detail")[-len(words) :], words, strict=True))
    return ApiError(status, as_json({**body, "status": status}), "application/problem+json")


class Predictions(JobVendor):
    faults = REPLICATE_FAULTS
    scheme = "Bearer|Token"
    link = "replicate/{id}/out-{n}-{token}.{jpg}"
    worded = staticmethod(_problem)
    errors: ClassVar = {
        "key": (401, "Unauthenticated", "You did not pass a valid authentication token"),
        "credits": (
            402,
            "Insufficient credit",
            "You have insufficient credit to run this model. Go to https://replicate.com/account/billing#billing to purchase credit.",
        ),
        "too_large": (413, "Payload too large", "The request body is too large."),
        "429": (429, "Request was throttled. Your rate limit resets in ~{wait_s}s."),
        "500": (500, "Internal server error", "An unexpected error occurred."),
        "503": (503, "Service Unavailable", "Please try again later."),
    }

    def routes(self) -> list[web.RouteDef]:
        one = _PREDICTIONS + "/{id:[A-Za-z0-9]+}"
        return [
            web.post("/v1/models/{owner}/{name}/predictions", self.submit),
            web.get(_PREDICTIONS, answering(self._list)),
            web.get(one, answering(self._get)),
            web.post(f"{one}/cancel", answering(self._cancel)),
        ]

    def refused(self, text: str) -> ApiError:
        return _problem(422, _INVALID, text)

    def new_id(self) -> str:
        return random_id(26)

    def compose(self, job: Job[JobSpec]) -> Answer:
        digests = tuple(filter(None, map(reference_digest, job.spec.images)))
        _require(len(digests) == len(job.spec.images), "input: the image could not be loaded")
        taken, pictures = self.take(job, digests)
        return with_pictures(_shown(taken, job.origin), pictures, status=201)

    def _found(self, request: web.Request) -> TakenJob:
        job = self.find(request, request.match_info["id"])
        if job is None:
            raise _problem(404, "Prediction not found", "The requested resource could not be found.")
        return job

    def _get(self, request: web.Request) -> dict[str, Any]:
        return _shown(self._found(request), origin_of(request))

    def _cancel(self, request: web.Request) -> dict[str, Any]:
        job = self._found(request)
        if not job.is_over:
            job.cancelled_s = time.time()
        return _shown(job, origin_of(request))

    def _list(self, request: web.Request) -> dict[str, Any]:
        jobs, following = self.page(request, "created_after")
        origin, query = origin_of(request), urlencode({**request.query, "cursor": following})
        more = f"{origin}{_PREDICTIONS}?{query}" if following else None
        return {"previous": None, "next": more, "results": [_shown(job, origin) for job in jobs]}

    def parse(self, request: web.Request, body: bytes) -> JobSpec:
        """Read a request. Raises ApiError 404 for unknown models, 422 as the validator words it."""
        name = f"{request.match_info['owner']}/{request.match_info['name']}"
        if name not in _SCHEMAS:
            raise _problem(404, "Model not found", "The requested resource could not be found.")
        schema = _SCHEMAS[name]
        asked = (json_object(body) or {}).get("input")
        if not isinstance(asked, dict):
            raise _problem(422, _INVALID, "- input is required")
        prompt, count, seed = asked.get("prompt"), asked.get("num_outputs", 1), asked.get("seed")
        _require(isinstance(prompt, str), "input.prompt is required")
        fits = type(count) is int and 1 <= count <= schema.most
        _require(fits, f"input.num_outputs: must be from 1 to {schema.most}")
        _require(seed is None or type(seed) is int, "input.seed: Invalid type. Expected: integer")
        ratio = asked.get("aspect_ratio", schema.ratios[0])
        _require(ratio in schema.ratios, f"input.aspect_ratio: must be one of {', '.join(schema.ratios)}")
        kind = asked.get("output_format", schema.formats[0])
        _require(kind in schema.formats, f"input.output_format: must be one of {', '.join(schema.formats)}")
        image = asked.get(schema.image) if schema.image else None
        _require(image is None or isinstance(image, str), f"input.{schema.image}: Invalid type. Expected: string")
        return JobSpec(
            model=Model(id=name, family="flux", ratios=_FLUX_RATIOS, sizes=("1K",)),
            prompt=clean(str(prompt)),
            ratio=ratio if ratio in _FLUX_RATIOS else "1:1",
            count=count,
            mime=f"image/{kind.replace('jpg', 'jpeg')}",
            seed=seed,
            key=self.key(request),
            asked=asked,
            images=(image,) if image else (),
        )


def _require(holds: Any, problem: str) -> None:
    if not holds:
        raise _problem(422, _INVALID, f"- {problem}")


def _shown(job: TakenJob, origin: str) -> dict[str, Any]:
    status, error, output = _state(job)
    removed = job.is_removed(_KEPT_S)
    ended_s = job.cancelled_s or job.created_s + job.due_s
    address = f"{origin}{_PREDICTIONS}/{job.id}"
    return {
        "id": job.id,
        "model": job.model,
        "version": "hidden",
        "input": {} if removed else job.asked,
        "logs": "",
        "output": None if removed else output,
        "data_removed": removed,
        "error": error,
        "status": status,
        "created_at": timestamp(job.created_s),
        "started_at": timestamp(job.created_s) if status != "starting" else None,
        "completed_at": timestamp(ended_s) if job.is_over else None,
        "metrics": {"predict_time": job.due_s} if status == "succeeded" else {},
        "urls": {"get": address, "cancel": f"{address}/cancel", "web": f"https://replicate.com/p/{job.id}"},
    }


def _state(job: TakenJob) -> tuple[str, str | None, Any]:
    """The status, error and output of a prediction."""
    if job.cancelled_s:
        return "canceled", None, None
    if not job.is_over:
        return "starting" if job.waits else "processing", None, None
    match job.end:
        case "job_flagged":
            words = "The input or output was flagged as sensitive. Please try again with different inputs. (E005)"
            return "failed", words, None
        case "job_failed":
            return "failed", "Prediction interrupted; please retry (code: PA)", None
        case "job_aborted":
            return "aborted", None, None
    return "succeeded", None, list(job.links) if _SCHEMAS[job.model].is_list else job.links[0]
