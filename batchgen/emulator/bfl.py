"""Black Forest Labs' tasks: taken at once, asked about at their own address, delivered by a link that lasts ten minutes.

Sources: docs.bfl.ai/quick_start/{generating_images,pricing}, /api-reference/models, /api_integration/errors; the vendor's
integration guide, github.com/black-forest-labs/skills.
"""

from __future__ import annotations

import base64
import binascii
import json
import math
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from threading import Lock
from typing import Any

from aiohttp import web

from batchgen.emulator.answers import Answer, ApiError, answering, as_json, clean
from batchgen.emulator.faults import BFL_FAULTS
from batchgen.emulator.jobs import TakenJob, TakenJobs
from batchgen.emulator.models import Model
from batchgen.emulator.pictures import Link, Links, picture_size, reference_digest, sha256
from batchgen.emulator.pipeline import Api, Endpoint, Job, Pipeline, Spec

_KEPT_S = 600.0
_MOST_ACTIVE = 24
_MOST_PIXELS, _STEP_PX, _SHORTEST_PX = 2048 * 2048, 16, 64
_MEGAPIXEL = 1024 * 1024
_RATIOS = ("1:1", "2:3", "3:2", "3:4", "4:3", "4:5", "5:4", "9:16", "16:9", "9:21", "21:9")
_COMMON = frozenset({"prompt", "seed", "safety_tolerance", "output_format", "webhook_url", "webhook_secret"})
_FLUX_3 = frozenset({"prompt", "images", "aspect_ratio", "resolution", "grounding", "safety_tolerance", "version"})
_RESOLUTIONS: Mapping[str, float | None] = {"768sq": 4.1, "1k": 4.8, "1.5k": None, "2k": 10.0, "4k": 60.7}  # in credits
_FACTOR_OF = {"768sq": 0.75, "1k": 1.0, "1.5k": 1.5, "2k": 2.0, "4k": 4.0}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Schema:
    """first, further: credits of a megapixel. fields: beside the common ones. images: fields of images sent along. active: tasks
    at once. flat: the first price is an image's, whatever its size."""

    first: float
    further: float = 0.0
    fields: frozenset[str] = frozenset({"width", "height"})
    images: int = 8
    active: int = _MOST_ACTIVE
    flat: bool = False


_KONTEXT = frozenset({"aspect_ratio", "prompt_upsampling"})
_SCHEMAS: Mapping[str, _Schema] = {
    "flux-2-max": _Schema(first=7, further=3),
    "flux-2-pro": _Schema(first=3, further=1.5),
    "flux-2-pro-preview": _Schema(first=3, further=1.5),
    "flux-2-flex": _Schema(first=6, further=6, fields=frozenset({"width", "height", "steps", "guidance"})),
    "flux-2-klein-4b": _Schema(first=1.4, further=0.1, images=4),
    "flux-2-klein-9b": _Schema(first=1.5, further=0.2, images=4),
    "flux-2-klein-9b-preview": _Schema(first=1.5, further=0.2, images=4),
    "flux-kontext-pro": _Schema(first=4, fields=_KONTEXT, images=4, flat=True),
    "flux-kontext-max": _Schema(first=8, fields=_KONTEXT, images=4, flat=True, active=6),
    "flux-3-image": _Schema(first=4.8, flat=True),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class _TaskSpec(Spec):
    """images: as they were sent. resolution: FLUX 3's."""

    key: str
    asked: dict[str, Any]
    images: tuple[str, ...]
    resolution: str = ""


def _error(status: int, detail: Any) -> ApiError:
    return ApiError(status, as_json({"detail": detail}), "application/json")


def _invalid(name: str, kind: str, message: str) -> ApiError:
    return _error(422, [{"type": kind, "loc": ["body", name], "msg": message}])


def _known_key(request: web.Request) -> str:
    """The key; one that begins with `bad` is wrong, one that begins with `nocredits` has no credits."""
    key = request.headers.get("x-key", "")
    if not key or key.startswith("bad"):
        raise _error(403, "Not authenticated - Invalid Authentication")
    if key.startswith("nocredits") and request.method == "POST":
        raise _no_credits()
    return key


def _no_credits() -> ApiError:
    return _error(402, "Insufficient credits")


def _too_many() -> ApiError:
    return _error(429, "Too many requests: the limit of active tasks is reached. Please try again later.")


def _fault_error(fault: str, _: Job[Any]) -> ApiError | None:
    match fault:
        case "429":
            return _too_many()
        case "credits":
            return _no_credits()
        case "500" | "503":
            return _error(int(fault), "Internal Server Error" if fault == "500" else "Service Unavailable")
    return None


class Tasks:
    def __init__(self, pipeline: Pipeline, links: Links) -> None:
        self._pipeline = pipeline
        self._links = links
        self._jobs = TakenJobs()
        self._taking = Lock()  # of worker threads, so that no two take the last place
        api = Api(
            key=_known_key,
            too_large=lambda _: _error(413, "Request Entity Too Large"),
            over_quota=lambda _, over: _too_many(),
            error=_fault_error,
            refused=lambda text: _invalid("prompt", "value_error", text),
            headers={},
        )
        self._endpoint = Endpoint(api=api, faults=BFL_FAULTS, parse=self._parse, compose=self._compose, takes_jobs=True)

    def routes(self) -> list[web.RouteDef]:
        taking = partial(self._pipeline.handle, endpoint=self._endpoint)
        return [
            web.post("/v1/{model:flux-[a-z0-9.-]+}", taking),
            web.get("/v1/get_result", answering(self._get, {})),
        ]

    def clear(self) -> None:
        self._jobs.clear()

    def _parse(self, request: web.Request, body: bytes) -> _TaskSpec:
        """Raises ApiError 404 for models there are not, 422 as FastAPI words it."""
        name, key = request.match_info["model"], _known_key(request)
        if name not in _SCHEMAS:
            raise _error(404, "Not Found")
        return _spec(name, key, body)

    def _compose(self, job: Job[_TaskSpec]) -> Answer:
        """Draws at once and hands out when the task's time has passed. What fails or is refused costs nothing here. Raises ApiError
        429 beyond the active tasks."""
        spec = job.spec
        digests, megapixels_in = _references(spec.images)
        job = replace(job, spec=replace(spec, references=digests))
        end = job.fault if (job.fault or "").startswith("job_") else ""
        pictures = [] if end and end != "job_removed" else [job.paint()]
        number, cluster_link = str(uuid.uuid4()), ""
        for data in pictures:
            name = f"bfl/{number}/sample.{spec.mime.removeprefix('image/')}"
            self._links.add(name, Link(data, spec.mime))
            cluster_link = f"{job.origin}/cdn/generations/{name}"
        taken = TakenJob(
            id=number,
            key=spec.key,
            model=spec.model.id,
            asked=spec.asked,
            created_s=time.time(),
            due_s=job.draw.uniform(*job.options.latency_of(spec.model.id)),
            end=end or "",
            links=(cluster_link,) if cluster_link else (),
        )
        self._take(taken)
        width, height = spec.model.pixels(spec.ratio, spec.size)
        megapixels_out = width * height / _MEGAPIXEL
        body = {
            "id": number,
            "polling_url": f"{job.origin}/v1/get_result?id={number}",
            "cost": _credits(spec, megapixels_in, megapixels_out),
            "input_mp": round(megapixels_in, 2),
            "output_mp": round(megapixels_out, 2),
        }
        return Answer(body=as_json(body), billed_images=len(pictures), sha256=tuple(map(sha256, pictures)))

    def _take(self, taken: TakenJob) -> None:
        with self._taking:
            active = [job.model for job in self._jobs.newest_first(taken.key) if not job.is_over]
            if len(active) >= _MOST_ACTIVE or active.count(taken.model) >= _SCHEMAS[taken.model].active:
                raise _too_many()
            self._jobs.add(taken)

    def _get(self, request: web.Request) -> Answer:
        number = request.query.get("id", "")
        job = self._jobs.find(number, _known_key(request))
        status, sample = _state(job)
        shown: dict[str, Any] = {"id": number, "status": status, **dict.fromkeys(("progress", "details", "result"))}
        if job is not None and sample:
            facts = {"sample": sample, "prompt": job.asked["prompt"], "seed": job.asked.get("seed", 0)}
            times = {"start_time": job.created_s, "end_time": job.created_s + job.due_s, "duration": job.due_s}
            shown |= {"progress": 1.0, "result": {**facts, **times}}
        if status.endswith("Moderated"):
            shown["details"] = {"Moderation Reasons": ["Safety Filter"]}
        return Answer(body=as_json(shown), status=404 if status == "Task not found" else 200)


def _state(job: TakenJob | None) -> tuple[str, str]:
    """The status, and the link of one that is ready."""
    if job is None or (job.is_over and (job.end == "job_removed" or time.time() - job.created_s - job.due_s > _KEPT_S)):
        return "Task not found", ""
    if not job.is_over:
        return "Pending", ""
    match job.end:
        case "job_flagged":
            return "Request Moderated", ""
        case "job_filtered":
            return "Content Moderated", ""
        case "job_failed":
            return "Error", ""
    return "Ready", job.links[0]


def _credits(spec: _TaskSpec, megapixels_in: float, megapixels_out: float) -> float | None:
    schema = _SCHEMAS[spec.model.id]
    if spec.resolution:
        return _RESOLUTIONS[spec.resolution]
    if schema.flat:
        return schema.first
    further = max(0, math.ceil(megapixels_out) - 1) + math.ceil(megapixels_in)
    return round(schema.first + further * schema.further, 4)


def _spec(name: str, key: str, body: bytes) -> _TaskSpec:
    try:
        asked = json.loads(body)
    except ValueError:
        asked = None
    if not isinstance(asked, dict):
        raise _invalid("", "json_invalid", "JSON decode error")
    schema = _SCHEMAS[name]
    fields = [f"input_image{f'_{n}' if n > 1 else ''}" for n in range(1, schema.images + 1)]
    allowed = _FLUX_3 if name == "flux-3-image" else _COMMON | schema.fields | set(fields)
    if unknown := sorted(set(asked) - allowed):
        raise _invalid(unknown[0], "extra_forbidden", "Extra inputs are not permitted")
    if not isinstance(asked.get("prompt"), str):
        raise _invalid("prompt", "missing", "Field required")
    seed, kind = asked.get("seed"), asked.get("output_format", "jpeg" if name.startswith("flux-2") else "png")
    _require(seed is None or type(seed) is int, "seed", "Input should be a valid integer")
    _require(kind in ("jpeg", "png"), "output_format", "Input should be 'jpeg' or 'png'")
    images = asked.get("images") or [] if name == "flux-3-image" else [asked[one] for one in fields if asked.get(one)]
    _require(
        isinstance(images, list) and len(images) <= 10 and all(isinstance(image, str) for image in images),
        "images",
        "Input should be a list of at most 10 images",
    )
    resolution = asked.get("resolution", "1k") if name == "flux-3-image" else ""
    _require(not resolution or resolution in _RESOLUTIONS, "resolution", "Input should be one of the resolutions")
    ratio = asked.get("aspect_ratio") or "1:1"
    _require(ratio in _RATIOS, "aspect_ratio", "Value error, the aspect ratio is not supported")
    return _TaskSpec(
        model=Model(id=name, family="flux", ratios=_RATIOS, sizes=("1K",)),
        prompt=clean(asked["prompt"]),
        ratio=ratio,
        size=_scaled(ratio, resolution) if resolution else _size(asked) if "width" in schema.fields else "1K",
        mime=f"image/{kind}",
        seed=seed,
        key=key,
        asked=asked,
        images=tuple(images),
        resolution=resolution,
    )


def _require(holds: bool, name: str, message: str) -> None:
    if not holds:
        raise _invalid(name, "value_error", message)


def _size(asked: Mapping[str, Any]) -> str:
    """`1360x768`; a side that is not given has 1024 pixels."""
    sides = [asked.get(name) or 1024 for name in ("width", "height")]
    for name, side in zip(("width", "height"), sides, strict=True):
        _require(type(side) is int and side % _STEP_PX == 0, name, "Input should be a multiple of 16")
        _require(side >= _SHORTEST_PX, name, "Input should be greater than or equal to 64")
    _require(sides[0] * sides[1] <= _MOST_PIXELS, "width", "Value error, the image would have more than 4 megapixels")
    return f"{sides[0]}x{sides[1]}"


def _scaled(ratio: str, resolution: str) -> str:
    """What FLUX 3 makes of a ratio is documented nowhere: FLUX.1's pixels, times the resolution."""
    width, height = Model(id="", family="flux", ratios=_RATIOS, sizes=("1K",)).pixels(ratio, "1K")
    factor = _FACTOR_OF[resolution]
    return f"{int(width * factor)}x{int(height * factor)}"


def _references(images: tuple[str, ...]) -> tuple[tuple[str, ...], float]:
    """Hashes and megapixels of images sent along, as links or base64. Raises ApiError 422. Blocks: for worker threads."""
    digests, megapixels = [], 0.0
    for n, image in enumerate(images, 1):
        if image.startswith(("https://", "http://")):
            digest, pixels = reference_digest(image), (1024, 1024)
        else:
            try:
                data = base64.b64decode(image, validate=True)
            except binascii.Error:
                data = b""
            digest, pixels = sha256(data), picture_size(data) or (0, 0)
        if digest is None or not pixels[0]:
            raise _invalid(f"input_image_{n}", "value_error", "Value error, Invalid image")
        digests.append(digest)
        megapixels += pixels[0] * pixels[1] / _MEGAPIXEL
    return tuple(digests), megapixels
