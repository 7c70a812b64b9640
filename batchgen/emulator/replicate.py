"""Replicate's predictions: created for an official model, asked about, listed, cancelled; errors as RFC 9457 has them.

Sources: sdks.replicate.com/python/resources/predictions (create, get, list, cancel);
replicate.com/docs/topics/predictions/{create-a-prediction,lifecycle,data-retention,rate-limits}; schemas of the models' pages.
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from typing import Any
from urllib.parse import urlencode

from aiohttp import web

from batchgen.emulator.answers import Answer, ApiError, answering, as_json, clean, random_id, timestamp
from batchgen.emulator.faults import REPLICATE_FAULTS
from batchgen.emulator.jobs import TakenJob, TakenJobs
from batchgen.emulator.models import Model
from batchgen.emulator.pictures import Link, Links, reference_digest, sha256
from batchgen.emulator.pipeline import Api, Endpoint, Job, Pipeline, Spec

_PREDICTIONS = "/v1/predictions"
_PAGE = 100
_KEPT_S = 3600.0  # inputs, outputs and files of predictions made through the API
_FLUX_RATIOS = ("1:1", "16:9", "21:9", "3:2", "2:3", "4:5", "5:4", "3:4", "4:3", "9:16", "9:21")
_KONTEXT_RATIOS = ("match_input_image", *_FLUX_RATIOS, "2:1", "1:2")
_ENDINGS = {"image/webp": "webp", "image/png": "png", "image/jpeg": "jpg"}
_FORMATS = {"webp": "image/webp", "png": "image/png", "jpg": "image/jpeg"}


@dataclass(frozen=True, slots=True)
class _Schema:
    """most: images of one prediction. formats: the default first. image: the field for one that is sent along, "" for none.
    is_list: whether the output is one."""

    model: Model
    ratios: tuple[str, ...]
    formats: tuple[str, ...] = ("webp", "jpg", "png")
    most: int = 4
    image: str = ""
    is_list: bool = True


def _model(name: str) -> Model:
    return Model(id=name, family="flux", ratios=_FLUX_RATIOS, sizes=("1K",))


_SCHEMAS: Mapping[str, _Schema] = {
    "black-forest-labs/flux-schnell": _Schema(_model("black-forest-labs/flux-schnell"), _FLUX_RATIOS),
    "black-forest-labs/flux-dev": _Schema(_model("black-forest-labs/flux-dev"), _FLUX_RATIOS),
    "black-forest-labs/flux-kontext-pro": _Schema(
        _model("black-forest-labs/flux-kontext-pro"), _KONTEXT_RATIOS, ("png", "jpg"), 1, "input_image", False
    ),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class _PredictionSpec(Spec):
    key: str
    asked: dict[str, Any]
    links: tuple[str, ...]


def _error(status: int, title: str, detail: str) -> ApiError:
    return ApiError(status, as_json({"title": title, "detail": detail, "status": status}), "application/problem+json")


def _known_key(request: web.Request) -> str:
    """The token; one that begins with `bad` is wrong, one that begins with `nocredits` has no credit."""
    scheme, _, key = request.headers.get("Authorization", "").partition(" ")
    if scheme not in ("Bearer", "Token") or not key or key.startswith("bad"):
        raise _error(401, "Unauthenticated", "You did not pass a valid authentication token")
    if key.startswith("nocredits") and request.method == "POST":
        raise _no_credit()
    return key


def _no_credit() -> ApiError:
    where = "Go to https://replicate.com/account/billing#billing to purchase credit."
    return _error(402, "Insufficient credit", f"You have insufficient credit to run this model. {where}")


def _throttled(seconds: float = 1.0) -> ApiError:
    detail = f"Request was throttled. Your rate limit resets in ~{max(1, round(seconds))}s."
    return ApiError(429, as_json({"detail": detail, "status": 429}), "application/problem+json")


def _fault_error(fault: str, _: Job[Any]) -> ApiError | None:
    match fault:
        case "429":
            return _throttled()
        case "credits":
            return _no_credit()
        case "500":
            return _error(500, "Internal server error", "An unexpected error occurred.")
        case "503":
            return _error(503, "Service Unavailable", "Please try again later.")
    return None


class Predictions:
    def __init__(self, pipeline: Pipeline, links: Links) -> None:
        self._pipeline = pipeline
        self._links = links
        self._jobs = TakenJobs()
        api = Api(
            key=_known_key,
            too_large=lambda _: _error(413, "Payload too large", "The request body is too large."),
            over_quota=lambda _, over: _throttled(over.retry_s),
            error=_fault_error,
            refused=lambda text: _error(422, "Input validation failed", text),
            headers={},
        )
        self._endpoint = Endpoint(
            api=api, faults=REPLICATE_FAULTS, parse=_parse, compose=self._compose, takes_jobs=True
        )

    def routes(self) -> list[web.RouteDef]:
        one = _PREDICTIONS + "/{id:[A-Za-z0-9]+}"
        return [
            web.post("/v1/models/{owner}/{name}/predictions", partial(self._pipeline.handle, endpoint=self._endpoint)),
            web.get(_PREDICTIONS, answering(self._list, {})),
            web.get(one, answering(self._get, {})),
            web.post(f"{one}/cancel", answering(self._cancel, {})),
        ]

    def clear(self) -> None:
        self._jobs.clear()

    def _compose(self, job: Job[_PredictionSpec]) -> Answer:
        """Draws at once and hands out when the prediction's time has passed. What fails or is refused costs nothing here."""
        spec = job.spec
        digests = tuple(map(reference_digest, spec.links))
        if None in digests:
            raise _error(422, "Input validation failed", "- input: the image could not be loaded")
        job = replace(job, spec=replace(spec, references=tuple(filter(None, digests))))
        end = job.fault if (job.fault or "").startswith("job_") else ""
        pictures = [] if end and end != "job_removed" else [job.paint(n) for n in range(spec.count)]
        number = random_id(26)
        links = []
        for n, data in enumerate(pictures):
            name = f"replicate/{number}/out-{n}-{uuid.uuid4()}.{_ENDINGS[spec.mime]}"
            self._links.add(name, Link(data, spec.mime))
            links.append(f"{job.origin}/cdn/generations/{name}")
        taken = TakenJob(
            id=number,
            key=spec.key,
            model=spec.model.id,
            asked=spec.asked,
            created_s=time.time(),
            due_s=job.draw.uniform(*job.options.latency_of(spec.model.id)),
            end=end or "",
            links=tuple(links),
        )
        self._jobs.add(taken)
        body = as_json(_shown(taken, job.origin))
        return Answer(body=body, status=201, billed_images=len(pictures), sha256=tuple(map(sha256, pictures)))

    def _found(self, request: web.Request) -> TakenJob:
        job = self._jobs.find(request.match_info["id"], _known_key(request))
        if job is None:
            raise _error(404, "Prediction not found", "The requested resource could not be found.")
        return job

    def _get(self, request: web.Request) -> dict[str, Any]:
        return _shown(self._found(request), _origin(request))

    def _cancel(self, request: web.Request) -> dict[str, Any]:
        job = self._found(request)
        if not job.is_over:
            job.cancelled_s = time.time()
        return _shown(job, _origin(request))

    def _list(self, request: web.Request) -> dict[str, Any]:
        """Newest first, a hundred a page; the cursor is a count here."""
        key, query = _known_key(request), dict(request.query)
        after = _seconds(query.get("created_after", ""))
        jobs = [job for job in self._jobs.newest_first(key) if job.created_s >= after]
        start = int(query.get("cursor") or 0)
        following = start + _PAGE
        more = f"{_origin(request)}{_PREDICTIONS}?{urlencode({**query, 'cursor': following})}"
        page = [_shown(job, _origin(request)) for job in jobs[start:following]]
        return {"previous": None, "next": more if len(jobs) > following else None, "results": page}


def _parse(request: web.Request, body: bytes) -> _PredictionSpec:
    """Raises ApiError 404 for models there are not, 422 as the validator words it."""
    name = f"{request.match_info['owner']}/{request.match_info['name']}"
    if name not in _SCHEMAS:
        raise _error(404, "Model not found", "The requested resource could not be found.")
    schema = _SCHEMAS[name]
    try:
        asked = json.loads(body)["input"]
    except (ValueError, KeyError, TypeError):
        asked = None
    _require(isinstance(asked, dict), "input is required")
    prompt, count, seed = asked.get("prompt"), asked.get("num_outputs", 1), asked.get("seed")
    _require(isinstance(prompt, str), "input.prompt is required")
    _require(type(count) is int and 1 <= count <= schema.most, f"input.num_outputs: must be from 1 to {schema.most}")
    _require(seed is None or type(seed) is int, "input.seed: Invalid type. Expected: integer")
    ratio = asked.get("aspect_ratio", schema.ratios[0])
    _require(ratio in schema.ratios, f"input.aspect_ratio: must be one of {', '.join(schema.ratios)}")
    kind = asked.get("output_format", schema.formats[0])
    _require(kind in schema.formats, f"input.output_format: must be one of {', '.join(schema.formats)}")
    image = asked.get(schema.image) if schema.image else None
    _require(image is None or isinstance(image, str), f"input.{schema.image}: Invalid type. Expected: string")
    return _PredictionSpec(
        model=schema.model,
        prompt=clean(prompt),
        ratio=ratio if ratio in _FLUX_RATIOS else "1:1",
        count=count,
        mime=_FORMATS[kind],
        seed=seed,
        key=_known_key(request),
        asked=asked,
        links=(image,) if image else (),
    )


def _require(holds: Any, problem: str) -> None:
    if not holds:
        raise _error(422, "Input validation failed", f"- {problem}")


def _shown(job: TakenJob, origin: str) -> dict[str, Any]:
    age_s = time.time() - job.created_s
    status, error, output = _state(job)
    removed = job.is_over and (job.end == "job_removed" or age_s - job.due_s > _KEPT_S)
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
    """Status, error and output."""
    if job.cancelled_s:
        return "canceled", None, None
    if not job.is_over:
        return "starting" if time.time() - job.created_s < job.due_s / 2 else "processing", None, None
    match job.end:
        case "job_flagged":
            words = "The input or output was flagged as sensitive. Please try again with different inputs. (E005)"
            return "failed", words, None
        case "job_failed":
            return "failed", "Prediction interrupted; please retry (code: PA)", None
        case "job_aborted":
            return "aborted", None, None
    return "succeeded", None, list(job.links) if _SCHEMAS[job.model].is_list else job.links[0]


def _origin(request: web.Request) -> str:
    return f"{request.scheme}://{request.host}"


def _seconds(text: str) -> float:
    try:
        return datetime.fromisoformat(text).timestamp()
    except ValueError:
        return 0.0
