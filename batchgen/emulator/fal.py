"""fal's queue: requests submitted, polled, answered and cancelled, and listed by endpoint at its platform API.

The model that runs a request checks it, so a mistake is reported where the result is fetched, not at the submission.
Sources: fal.ai/docs/documentation/model-apis/inference/queue, …/model-apis/{errors,request-errors,faq};
fal.ai/docs/model-api-reference/image-generation-api; fal.ai/docs/platform-apis (requests by endpoint);
fal.ai/models/fal-ai/flux-1/{schnell,dev}/llms.txt; fal.ai/models/fal-ai/nano-banana-2/llms.txt and …/edit/llms.txt.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from aiohttp import web

from batchgen.emulator.answers import Answer, ApiError, answering, as_json, clean, json_object, origin_of, timestamp
from batchgen.emulator.faults import FAL_FAULTS
from batchgen.emulator.jobs import JobSpec, JobVendor, TakenJob, detailed
from batchgen.emulator.models import FOURTEEN, TEN, Model
from batchgen.emulator.pictures import reference_digest
from batchgen.emulator.pipeline import Job, with_pictures

_LIST = "/v1/models/requests/by-endpoint"  # at api.fal.ai; all else here is queue.fal.run's
_WORDS = {  # of `image_size`
    "square_hd": (1024, 1024),
    "square": (512, 512),
    "portrait_4_3": (768, 1024),
    "portrait_16_9": (576, 1024),
    "landscape_4_3": (1024, 768),
    "landscape_16_9": (1024, 576),
}
_LONGEST_PX = 14142
_MOST = 4  # images of one request at most


@dataclass(frozen=True, slots=True)
class _Schema:
    """One model's parameters.

    formats: the default first. by_megapixel: whether it is sized in pixels and billed by them; others have a ratio and
    a resolution. edits: whether images to edit are required.
    """

    model: Model
    formats: tuple[str, ...]
    by_megapixel: bool = False
    edits: bool = False


class _InvalidInput(Exception):
    """A request that the model refuses. detail: in the model's words."""

    def __init__(self, field: str, said: str, kind: str, value: Any) -> None:
        super().__init__(said)
        self.detail = [_detail(field, said, kind, value)]


def _flux(name: str) -> tuple[str, _Schema]:
    model = Model(id=name, family="flux", ratios=("1:1",), sizes=("1K",))
    return name, _Schema(model, ("jpeg", "png"), by_megapixel=True)


def _banana(name: str, ratios: tuple[str, ...], sizes: tuple[str, ...]) -> tuple[str, _Schema]:
    model = Model(id=name, family="3", ratios=ratios, sizes=sizes)
    return name, _Schema(model, ("png", "jpeg", "webp"), edits=name.endswith("/edit"))


_SCHEMAS: Mapping[str, _Schema] = dict(
    [
        *map(_flux, ("fal-ai/flux/schnell", "fal-ai/flux/dev", "fal-ai/flux-pro/v1.1")),
        _banana("fal-ai/nano-banana-2", FOURTEEN, ("0.5K", "1K", "2K", "4K")),
        _banana("fal-ai/nano-banana-2/edit", FOURTEEN, ("0.5K", "1K", "2K", "4K")),
        _banana("fal-ai/nano-banana-pro", TEN, ("1K", "2K", "4K")),
        _banana("fal-ai/nano-banana-pro/edit", TEN, ("1K", "2K", "4K")),
    ]
)


@dataclass(frozen=True, slots=True)
class _Result:
    """The answer to a request for a result. error_type: of the platform's errors, where the model never answered."""

    status: int
    body: Any
    error_type: str = ""
    units: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class _QueueSpec(JobSpec):
    """A request that was taken. invalid: the `detail` with which the model refuses it."""

    schema: _Schema
    invalid: list[dict[str, Any]] | None = None


class Queue(JobVendor):
    faults = FAL_FAULTS
    scheme = "(?i:key|bearer)"
    link = "fal/{token.hex}.{jpeg}"
    errors: ClassVar = {
        "key": (401, "Authentication is required to access this application."),
        "credits": (403, "User is locked. Reason: Exhausted balance. Top up your balance at fal.ai/dashboard/billing."),
        "too_large": (413, "Request body is too large."),
        "429": (429, "Too many requests. Please try again later."),
        "500": (500, "Internal Server Error"),
        "503": (503, "Service Unavailable"),
    }

    def routes(self) -> list[web.RouteDef]:
        one = "/{app:fal-ai/[^/]+}/requests/{id}"
        return [
            web.get(_LIST, answering(self._list)),
            web.get(f"{one}/status", answering(self._status)),
            web.get(one, answering(self._result)),
            web.put(f"{one}/cancel", answering(self._cancel)),
            web.post("/{endpoint:fal-ai/.+}", self.submit),
        ]

    def refused(self, text: str) -> ApiError:
        return detailed(422, [{"loc": ["body"], "msg": text, "type": "value_error"}])

    def parse(self, request: web.Request, body: bytes) -> _QueueSpec:
        """Read a request. Raises ApiError 404 for unknown models."""
        name = request.match_info["endpoint"]
        schema = _SCHEMAS.get(name)
        if schema is None:
            raise detailed(404, f"Application '{name.removeprefix('fal-ai/')}' not found")
        asked = json_object(body)
        if asked is None:
            raise detailed(422, [{"loc": ["body"], "msg": "Input should be a valid dictionary", "type": "dict_type"}])
        prompt, key = clean(str(asked.get("prompt", ""))), self.key(request)
        spec = _QueueSpec(model=schema.model, prompt=prompt, key=key, schema=schema, asked=asked)
        try:
            return replace(spec, **_read_input(schema, asked))
        except _InvalidInput as error:
            return replace(spec, invalid=error.detail)

    def compose(self, job: Job[_QueueSpec]) -> Answer:
        digests = tuple(map(reference_digest, job.spec.images))
        failure = _failure(job, unreadable=None in digests)
        taken, pictures = self.take(
            job,
            tuple(filter(None, digests)),
            failed=failure is not None,
            result=lambda *drawn: failure or _success(job, *drawn),
        )
        body = {**_shown(taken, job.origin), "status": "IN_QUEUE", "queue_position": 0}
        headers = {"x-fal-request-id": taken.id}
        return with_pictures(body, pictures, content_type="application/json", headers=headers)

    def _found(self, request: web.Request) -> TakenJob:
        job = self.find(request, request.match_info["id"])
        if job is None or _app(job.model) != request.match_info["app"]:
            raise ApiError(404, as_json({"status": "NOT_FOUND"}), "application/json")
        return job

    def _status(self, request: web.Request) -> Answer:
        job = self._found(request)
        shown, result = _shown(job, origin_of(request)), _result_of(job)
        if job.is_over:
            shown |= {"status": "COMPLETED", "metrics": {"inference_time": job.due_s}}
            if result.error_type:
                shown |= {"error": result.body["detail"], "error_type": result.error_type}
        elif job.waits:
            shown |= {"status": "IN_QUEUE", "queue_position": 0}
        else:
            shown |= {"status": "IN_PROGRESS"}
        return Answer(body=as_json(shown), status=200 if job.is_over else 202, content_type="application/json")

    def _result(self, request: web.Request) -> Answer:
        job = self._found(request)
        if not job.is_over:
            raise detailed(400, "Request is still in progress")
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
        query = request.query
        model, most = query.get("endpoint_id"), int(query.get("limit") or 100)
        jobs, following = self.page(request, "start", "end", model, most)
        items = [_listed(job, payloads="payloads" in query.get("expand", "")) for job in jobs]
        return {"items": items, "has_more": bool(following), "next_cursor": str(following) if following else None}


def _failure(job: Job[_QueueSpec], *, unreadable: bool) -> _Result | None:
    """The result of a request that ends without a picture; None if it ends with one."""
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


def _detail(field: str, said: str, kind: str, asked: Any) -> dict[str, Any]:
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
    """The part that all answers about a request share; its addresses leave out what follows the app's name."""
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


def _read_input(schema: _Schema, asked: Mapping[str, Any]) -> dict[str, Any]:
    """Read a request beyond its prompt. Raises _InvalidInput."""
    prompt, count, seed = asked.get("prompt"), asked.get("num_images", 1), asked.get("seed")
    if not isinstance(prompt, str):
        raise _InvalidInput("prompt", "Field required", "missing", dict(asked))
    if type(count) is not int or not 1 <= count <= _MOST:
        raise _InvalidInput("num_images", f"Input should be from 1 to {_MOST}", "less_than_equal", count)
    if seed is not None and type(seed) is not int:
        raise _InvalidInput("seed", "Input should be a valid integer", "int_type", seed)
    kind = _one_of(asked, "output_format", schema.formats)
    links = asked.get("image_urls", []) if schema.edits else []
    if not isinstance(links, list) or not all(isinstance(link, str) for link in links):
        raise _InvalidInput("image_urls", "Input should be a valid list of text", "list_type", links)
    if schema.edits and not links:
        raise _InvalidInput("image_urls", "Field required", "missing", dict(asked))
    if schema.by_megapixel:
        ratio, size = "1:1", _pixels(asked.get("image_size", "landscape_4_3"))
    else:
        usual = ("auto", *schema.model.ratios) if schema.edits else ("1:1", "auto", *schema.model.ratios)
        ratio = _one_of(asked, "aspect_ratio", usual)
        ratio = "1:1" if ratio == "auto" else ratio
        size = _one_of(asked, "resolution", ("1K", *schema.model.sizes)).replace("0.5K", "512")
    return {
        "ratio": ratio,
        "size": size,
        "count": count,
        "mime": f"image/{kind}",
        "seed": seed,
        "images": tuple(links),
    }


def _one_of(asked: Mapping[str, Any], field: str, words: tuple[str, ...]) -> str:
    """Read one of some words, of which the first is the default."""
    value = asked.get(field, words[0])
    if value not in words:
        raise _InvalidInput(field, f"Input should be {', '.join(map(repr, words))}", "enum", value)
    return str(value)


def _pixels(value: Any) -> str:
    if isinstance(value, str) and value in _WORDS:
        width, height = _WORDS[value]
        return f"{width}x{height}"
    sides = (value.get("width", 512), value.get("height", 512)) if isinstance(value, dict) else ()
    if len(sides) == 2 and all(type(side) is int and 1 <= side <= _LONGEST_PX for side in sides):
        return f"{sides[0]}x{sides[1]}"
    said = f"Input should be {', '.join(map(repr, _WORDS))} or a width and a height up to {_LONGEST_PX}"
    raise _InvalidInput("image_size", said, "enum", value)
