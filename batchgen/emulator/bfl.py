"""Black Forest Labs' tasks: taken at once, polled at their own address, delivered by a link that lasts ten minutes.

Sources: docs.bfl.ai/quick_start/{generating_images,pricing}, /api-reference/models, /api_integration/errors; the
vendor's integration guide, github.com/black-forest-labs/skills.
"""

from __future__ import annotations

import base64
import binascii
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from aiohttp import web

from batchgen.emulator.answers import Answer, ApiError, answering, as_json, clean, json_object
from batchgen.emulator.faults import BFL_FAULTS
from batchgen.emulator.jobs import JobSpec, JobVendor, TakenJob, detailed
from batchgen.emulator.models import Model
from batchgen.emulator.pictures import picture_size, reference_digest, sha256
from batchgen.emulator.pipeline import Job, with_pictures

_KEPT_S = 600.0
_MOST_ACTIVE = 24
_MOST_PIXELS, _STEP_PX, _SHORTEST_PX = 2048 * 2048, 16, 64
_MEGAPIXEL = 1024 * 1024
_RATIOS = ("1:1", "2:3", "3:2", "3:4", "4:3", "4:5", "5:4", "9:16", "16:9", "9:21", "21:9")
_FLUX = Model(id="", family="flux", ratios=_RATIOS, sizes=("1K",))
_COMMON = frozenset({"prompt", "seed", "safety_tolerance", "output_format", "webhook_url", "webhook_secret"})
_FLUX_3 = frozenset({"prompt", "images", "aspect_ratio", "resolution", "grounding", "safety_tolerance", "version"})
_RESOLUTIONS: Mapping[str, float | None] = {"768sq": 4.1, "1k": 4.8, "1.5k": None, "2k": 10.0, "4k": 60.7}  # in credits
_FACTOR_OF = {"768sq": 0.75, "1k": 1.0, "1.5k": 1.5, "2k": 2.0, "4k": 4.0}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Schema:
    """One model's parameters and prices.

    first, further: credits of a megapixel. fields: beside the common ones. images: fields of images sent along. active:
    tasks at once. flat: the first price is that of an image, whatever its size.
    """

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
class _TaskSpec(JobSpec):
    """A task that was understood. resolution: only FLUX 3 has one."""

    resolution: str = ""


def _invalid(name: str, kind: str, message: str) -> ApiError:
    return detailed(422, [{"type": kind, "loc": ["body", name], "msg": message}])


class Tasks(JobVendor):
    faults = BFL_FAULTS
    link = "bfl/{id}/sample.{jpeg}"
    errors: ClassVar = {
        "key": (403, "Not authenticated - Invalid Authentication"),
        "credits": (402, "Insufficient credits"),
        "too_large": (413, "Request Entity Too Large"),
        "429": (429, "Too many requests: the limit of active tasks is reached. Please try again later."),
        "500": (500, "Internal Server Error"),
        "503": (503, "Service Unavailable"),
    }

    def routes(self) -> list[web.RouteDef]:
        return [
            web.post("/v1/{model:flux-[a-z0-9.-]+}", self.submit),
            web.get("/v1/get_result", answering(self._get)),
        ]

    def sent_key(self, request: web.Request) -> str:
        return request.headers.get("x-key", "")

    def refused(self, text: str) -> ApiError:
        return _invalid("prompt", "value_error", text)

    def has_room(self, taken: TakenJob) -> bool:
        active = [job.model for job in self.newest_first(taken.key) if not job.is_over]
        return len(active) < _MOST_ACTIVE and active.count(taken.model) < _SCHEMAS[taken.model].active

    def parse(self, request: web.Request, body: bytes) -> _TaskSpec:
        """Read a task. Raises ApiError 404 for unknown models, 422 as FastAPI words it."""
        name, key = request.match_info["model"], self.key(request)
        if name not in _SCHEMAS:
            raise detailed(404, "Not Found")
        return _spec(name, key, body)

    def compose(self, job: Job[_TaskSpec]) -> Answer:
        """Take a task. Raises ApiError 429 beyond the active tasks."""
        spec = job.spec
        digests, megapixels_in = _references(spec.images)
        taken, pictures = self.take(job, digests)
        width, height = spec.model.pixels(spec.ratio, spec.size)
        megapixels_out = width * height / _MEGAPIXEL
        body = {
            "id": taken.id,
            "polling_url": f"{job.origin}/v1/get_result?id={taken.id}",
            "cost": _credits(spec, megapixels_in, megapixels_out),
            "input_mp": round(megapixels_in, 2),
            "output_mp": round(megapixels_out, 2),
        }
        return with_pictures(body, pictures)

    def _get(self, request: web.Request) -> Answer:
        number = request.query.get("id", "")
        job = self.find(request, number)
        status, sample = _state(job)
        shown: dict[str, Any] = {"id": number, "status": status, **dict.fromkeys(("progress", "details", "result"))}
        if job is not None and sample:
            facts = {"sample": sample, "prompt": job.asked["prompt"], "seed": job.asked.get("seed", 0)}
            times = {"start_time": job.created_s, "end_time": job.created_s + job.due_s, "duration": job.due_s}
            shown |= {"progress": 1.0, "result": {**facts, **times}}
        if status.endswith("Moderated"):
            shown["details"] = {"Moderation Reasons": ["Safety Filter"]}
        return Answer(body=as_json(shown), status=404 if status == "Task not found" else 200)


_ENDS = {"job_flagged": "Request Moderated", "job_filtered": "Content Moderated", "job_failed": "Error"}


def _state(job: TakenJob | None) -> tuple[str, str]:
    """The status of a task, and the link of one that is ready."""
    if job is None or job.is_removed(_KEPT_S):
        return "Task not found", ""
    if not job.is_over:
        return "Pending", ""
    return (_ENDS[job.end], "") if job.end in _ENDS else ("Ready", job.links[0])


def _credits(spec: _TaskSpec, megapixels_in: float, megapixels_out: float) -> float | None:
    schema = _SCHEMAS[spec.model.id]
    if spec.resolution:
        return _RESOLUTIONS[spec.resolution]
    if schema.flat:
        return schema.first
    further = max(0, math.ceil(megapixels_out) - 1) + math.ceil(megapixels_in)
    return round(schema.first + further * schema.further, 4)


def _spec(name: str, key: str, body: bytes) -> _TaskSpec:
    asked = json_object(body)
    if asked is None:
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
    listed = isinstance(images, list) and len(images) <= 10 and all(isinstance(image, str) for image in images)
    _require(listed, "images", "Input should be a list of at most 10 images")
    resolution = asked.get("resolution", "1k") if name == "flux-3-image" else ""
    _require(not resolution or resolution in _RESOLUTIONS, "resolution", "Input should be one of the resolutions")
    ratio = asked.get("aspect_ratio") or "1:1"
    _require(ratio in _RATIOS, "aspect_ratio", "Value error, the aspect ratio is not supported")
    return _TaskSpec(
        model=replace(_FLUX, id=name),
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
    """A size such as `1360x768`; a side that is not given has 1024 pixels."""
    sides = [asked.get(name) or 1024 for name in ("width", "height")]
    for name, side in zip(("width", "height"), sides, strict=True):
        _require(type(side) is int and side % _STEP_PX == 0, name, "Input should be a multiple of 16")
        _require(side >= _SHORTEST_PX, name, "Input should be greater than or equal to 64")
    _require(sides[0] * sides[1] <= _MOST_PIXELS, "width", "Value error, the image would have more than 4 megapixels")
    return f"{sides[0]}x{sides[1]}"


def _scaled(ratio: str, resolution: str) -> str:
    """The size for a ratio at a resolution.

    What FLUX 3 makes of a ratio is not documented anywhere: FLUX.1's pixels, times the resolution, is an assumption.
    """
    width, height = _FLUX.pixels(ratio, "1K")
    factor = _FACTOR_OF[resolution]
    return f"{int(width * factor)}x{int(height * factor)}"


def _references(images: tuple[str, ...]) -> tuple[tuple[str, ...], float]:
    """The hashes and megapixels of images sent along, as links or base64.

    Raises ApiError 422. Blocks: for worker threads.
    """
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
