"""fal's queue: requests submitted, asked about, answered and cancelled, and listed by endpoint at its platform API.

What a request asks for is checked by the model that runs it, so a mistake is answered where the result is asked for, not at the submit.
Sources: fal.ai/docs/documentation/model-apis/inference/queue, …/model-apis/{errors,request-errors,faq};
fal.ai/docs/model-api-reference/image-generation-api; fal.ai/docs/platform-apis (requests by endpoint).
"""

from __future__ import annotations

import json
import time
import uuid
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from typing import Any

from aiohttp import web

from batchgen.emulator.answers import Answer, ApiError, answering, as_json, clean, timestamp
from batchgen.emulator.fal_schemas import SCHEMAS, InvalidInput, Schema, read_input
from batchgen.emulator.faults import FAL_FAULTS
from batchgen.emulator.jobs import TakenJob, TakenJobs
from batchgen.emulator.pictures import Link, Links, reference_digest, sha256
from batchgen.emulator.pipeline import Api, Endpoint, Job, Pipeline, Spec

_LIST = "/v1/models/requests/by-endpoint"  # at api.fal.ai; all else here is queue.fal.run's
_PAGE = 100
_LOCKED = "User is locked. Reason: Exhausted balance. Top up your balance at fal.ai/dashboard/billing."


@dataclass(frozen=True, slots=True)
class _Result:
    """What is answered when a result is asked for. error_type: of the platform's errors, where the model never answered."""

    status: int
    body: Any
    error_type: str = ""
    units: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class _QueueSpec(Spec):
    """invalid: the `detail` with which the model refuses what it is asked for."""

    key: str
    schema: Schema
    asked: dict[str, Any]
    links: tuple[str, ...] = ()
    invalid: list[dict[str, Any]] | None = None


def _error(status: int, detail: Any) -> ApiError:
    return ApiError(status, as_json({"detail": detail}), "application/json")


def _known_key(request: web.Request) -> str:
    """The key; one that begins with `bad` is wrong, one that begins with `nocredits` has spent all it had."""
    scheme, _, key = request.headers.get("Authorization", "").partition(" ")
    if scheme.lower() not in ("key", "bearer") or not key or key.startswith("bad"):
        raise _error(401, "Authentication is required to access this application.")
    if key.startswith("nocredits") and request.method == "POST":
        raise _error(403, _LOCKED)
    return key


def _fault_error(fault: str, _: Job[Any]) -> ApiError | None:
    match fault:
        case "429":
            return _error(429, "Too many requests. Please try again later.")
        case "credits":
            return _error(403, _LOCKED)
        case "500":
            return _error(500, "Internal Server Error")
        case "503":
            return _error(503, "Service Unavailable")
    return None


class Queue:
    def __init__(self, pipeline: Pipeline, links: Links) -> None:
        self._pipeline = pipeline
        self._links = links
        self._jobs = TakenJobs()
        api = Api(
            key=_known_key,
            too_large=lambda _: _error(413, "Request body is too large."),
            over_quota=lambda *_: _error(429, "Too many requests. Please try again later."),
            error=_fault_error,
            refused=lambda text: _error(422, [{"loc": ["body"], "msg": text, "type": "value_error"}]),
            headers={},
        )
        self._endpoint = Endpoint(api=api, faults=FAL_FAULTS, parse=_parse, compose=self._compose, takes_jobs=True)

    def routes(self) -> list[web.RouteDef]:
        one = "/{app:fal-ai/[^/]+}/requests/{id}"
        return [
            web.get(_LIST, answering(self._list, {})),
            web.get(f"{one}/status", answering(self._status, {})),
            web.get(one, answering(self._result, {})),
            web.put(f"{one}/cancel", answering(self._cancel, {})),
            web.post("/{endpoint:fal-ai/.+}", partial(self._pipeline.handle, endpoint=self._endpoint)),
        ]

    def clear(self) -> None:
        self._jobs.clear()

    def _compose(self, job: Job[_QueueSpec]) -> Answer:
        """Draws at once and hands out when the request's time has passed. What fails or is refused costs nothing here."""
        spec, number = job.spec, str(uuid.uuid4())
        digests = tuple(map(reference_digest, spec.links))
        failure = _failure(job, unreadable=None in digests)
        pictures = list[bytes]()
        if failure is None:
            job = replace(job, spec=replace(spec, references=tuple(filter(None, digests))))
            pictures = [job.paint(n) for n in range(spec.count)]
        links = tuple(self._keep(job, data) for data in pictures)
        taken = TakenJob(
            id=number,
            key=spec.key,
            model=spec.model.id,
            asked=spec.asked,
            created_s=time.time(),
            due_s=job.draw.uniform(*job.options.latency_of(spec.model.id)),
            end="",
            links=links,
            result=failure or _success(job, links, pictures),
        )
        self._jobs.add(taken)
        body = as_json({**_shown(taken, job.origin), "status": "IN_QUEUE", "queue_position": 0})
        return Answer(
            body=body,
            content_type="application/json",
            headers={"x-fal-request-id": number},
            billed_images=len(pictures),
            sha256=tuple(map(sha256, pictures)),
        )

    def _keep(self, job: Job[_QueueSpec], data: bytes) -> str:
        name = f"fal/{uuid.uuid4().hex}.{job.spec.mime.removeprefix('image/')}"
        self._links.add(name, Link(data, job.spec.mime))
        return f"{job.origin}/cdn/generations/{name}"

    def _found(self, request: web.Request) -> TakenJob:
        job = self._jobs.find(request.match_info["id"], _known_key(request))
        if job is None or _app(job.model) != request.match_info["app"]:
            raise ApiError(404, as_json({"status": "NOT_FOUND"}), "application/json")
        return job

    def _status(self, request: web.Request) -> Answer:
        job = self._found(request)
        shown, result = _shown(job, _origin(request)), _result_of(job)
        if job.is_over:
            shown |= {"status": "COMPLETED", "metrics": {"inference_time": job.due_s}}
            if result.error_type:
                shown |= {"error": result.body["detail"], "error_type": result.error_type}
        elif time.time() - job.created_s < job.due_s / 2:
            shown |= {"status": "IN_QUEUE", "queue_position": 0}
        else:
            shown |= {"status": "IN_PROGRESS"}
        return Answer(body=as_json(shown), status=200 if job.is_over else 202, content_type="application/json")

    def _result(self, request: web.Request) -> Answer:
        job = self._found(request)
        if not job.is_over:
            raise _error(400, "Request is still in progress")
        result = _result_of(job)
        headers = {"x-fal-request-id": job.id}
        if result.error_type:
            headers["X-Fal-Error-Type"] = result.error_type
        if result.units:
            headers["X-Fal-Billable-Units"] = f"{result.units:g}"
        return Answer(body=as_json(result.body), status=result.status, content_type="application/json", headers=headers)

    def _cancel(self, request: web.Request) -> Answer:
        job = self._found(request)
        if job.is_over:
            raise ApiError(400, as_json({"status": "ALREADY_COMPLETED"}), "application/json")
        job.cancelled_s = time.time()
        return Answer(body=as_json({"status": "CANCELLATION_REQUESTED"}), status=202, content_type="application/json")

    def _list(self, request: web.Request) -> dict[str, Any]:
        """Newest first, at most a hundred a page; the cursor is a count here."""
        key, query = _known_key(request), request.query
        since, until = _seconds(query.get("start", ""), 0.0), _seconds(query.get("end", ""), float("inf"))
        jobs = [
            job
            for job in self._jobs.newest_first(key)
            if job.model == query.get("endpoint_id") and since <= job.created_s <= until
        ]
        start, limit = int(query.get("cursor") or 0), min(int(query.get("limit") or _PAGE), _PAGE)
        following = start + limit
        more = len(jobs) > following
        items = [_listed(job, payloads="payloads" in query.get("expand", "")) for job in jobs[start:following]]
        return {"items": items, "has_more": more, "next_cursor": str(following) if more else None}


def _parse(request: web.Request, body: bytes) -> _QueueSpec:
    """Raises ApiError 404 for models there are not."""
    name = request.match_info["endpoint"]
    schema = SCHEMAS.get(name)
    if schema is None:
        raise _error(404, f"Application '{name.removeprefix('fal-ai/')}' not found")
    try:
        asked = json.loads(body)
    except ValueError:
        asked = None
    if not isinstance(asked, dict):
        raise _error(422, [{"loc": ["body"], "msg": "Input should be a valid dictionary", "type": "dict_type"}])
    spec = _QueueSpec(
        model=schema.model,
        prompt=clean(str(asked.get("prompt", ""))),
        key=_known_key(request),
        schema=schema,
        asked=asked,
    )
    try:
        found = read_input(schema, asked)
    except InvalidInput as error:
        return replace(spec, invalid=error.detail)
    return replace(
        spec,
        ratio=found.ratio,
        size=found.size,
        count=found.count,
        mime=found.mime,
        seed=found.seed,
        links=found.links,
    )


def _failure(job: Job[_QueueSpec], *, unreadable: bool) -> _Result | None:
    """How a request ends without a picture."""
    prompt = job.spec.prompt
    match job.fault:
        case "job_flagged":
            said = "The content could not be processed because it contained material flagged by a content checker."
            return _Result(422, {"detail": [_detail("prompt", said, "content_policy_violation", prompt)]})
        case "job_no_media":
            said = "The model did not generate the expected output: unsafe content."
            return _Result(422, {"detail": [_detail("prompt", said, "no_media_generated", prompt)]})
        case "job_failed":
            return _Result(500, {"detail": [_detail("", "Internal server error", "internal_server_error", prompt)]})
        case "job_aborted":
            said = "Runner did not start within the allowed time"
            return _Result(504, {"detail": said, "error_type": "startup_timeout"}, "startup_timeout")
    if job.spec.invalid:
        return _Result(422, {"detail": job.spec.invalid})
    if unreadable:
        said = "Failed to load the image. Please ensure the image file is not corrupted and is in a supported format."
        return _Result(422, {"detail": [_detail("image_urls", said, "image_load_error", "")]})
    return None


def _detail(field: str, said: str, kind: str, asked: str) -> dict[str, Any]:
    place = ["body", field] if field else ["body"]
    return {"loc": place, "msg": said, "type": kind, "url": f"https://docs.fal.ai/errors#{kind}", "input": asked}


def _success(job: Job[_QueueSpec], links: tuple[str, ...], pictures: list[bytes]) -> _Result:
    spec = job.spec
    width, height = spec.model.pixels(spec.ratio, spec.size)
    images = [
        {"url": link, "content_type": spec.mime, "file_name": link.rpartition("/")[2], "file_size": len(data)}
        for link, data in zip(links, pictures, strict=True)
    ]
    if not spec.schema.by_megapixel:
        return _Result(200, {"images": images, "description": ""}, units=len(images))
    body = {
        "images": [{**image, "width": width, "height": height} for image in images],
        "timings": {"inference": 0.5},
        "seed": job.spec.seed if job.spec.seed is not None else job.draw.randrange(2**31),
        "has_nsfw_concepts": [job.fault == "job_black"] * len(images),
        "prompt": spec.prompt,
    }
    return _Result(200, body, units=len(images) * -(-width * height // 2**20))


def _result_of(job: TakenJob) -> _Result:
    if job.cancelled_s:
        return _Result(499, {"detail": "Client cancelled", "error_type": "client_cancelled"}, "client_cancelled")
    result: _Result = job.result
    return result


def _shown(job: TakenJob, origin: str) -> dict[str, Any]:
    """What every answer about a request says; its addresses leave out what stands behind the app's name."""
    address = f"{origin}/{_app(job.model)}/requests/{job.id}"
    return {
        "request_id": job.id,
        "response_url": address,
        "status_url": f"{address}/status",
        "cancel_url": f"{address}/cancel",
        "logs": None,
        "metrics": {},
    }


def _app(endpoint: str) -> str:
    return "/".join(endpoint.split("/")[:2])


def _listed(job: TakenJob, *, payloads: bool) -> dict[str, Any]:
    result = _result_of(job)
    item = {
        "request_id": job.id,
        "endpoint_id": job.model,
        "sent_at": timestamp(job.created_s),
        "started_at": timestamp(job.created_s),
        "ended_at": timestamp(job.created_s + job.due_s) if job.is_over else None,
        "status_code": result.status if job.is_over else None,
        "duration": job.due_s if job.is_over else None,
    }
    return item | ({"json_input": job.asked, "json_output": result.body if job.is_over else None} if payloads else {})


def _origin(request: web.Request) -> str:
    return f"{request.scheme}://{request.host}"


def _seconds(text: str, default: float) -> float:
    try:
        return datetime.fromisoformat(text).timestamp()
    except ValueError:
        return default
