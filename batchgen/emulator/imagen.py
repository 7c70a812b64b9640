"""Imagen's predict: from the request's JSON, and from a finished job to predictions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from aiohttp import web

from batchgen.emulator import google
from batchgen.emulator.answers import Answer, as_json, clean
from batchgen.emulator.faults import IMAGEN_FAULTS
from batchgen.emulator.google_schemas import PREDICT, Schema
from batchgen.emulator.models import IMAGEN, Model
from batchgen.emulator.options import EmulatorOptions
from batchgen.emulator.pipeline import Endpoint, Job, Spec, with_pictures

_RAI_REASON = (
    "Unable to show generated images. All images were filtered out because they violated Google's Responsible AI "
    "practices. Try rephrasing the prompt. Support codes: 29310472"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ImagenSpec(Spec):
    rai_reason: bool
    safety_attributes: bool


def endpoint(options: EmulatorOptions) -> Endpoint:
    def parse(request: web.Request, body: bytes) -> ImagenSpec:
        return parse_prediction(body, google.admitted(request, IMAGEN, options)[0])

    return Endpoint(api=google.API, faults=IMAGEN_FAULTS, parse=parse, compose=compose)


def parse_prediction(body: bytes, model: Model, schema: Schema = PREDICT) -> ImagenSpec:
    """Read a request. Raises ApiError 400 for anything the server would not take."""
    request = google.read_fields(body, schema)
    instances = request.get("instances") or [{}]
    prompt = clean(instances[0].get("prompt") or "")
    google.require(prompt, "Image generation failed with the following error: The prompt is empty.")
    given = request.get("parameters", {})
    output = given.get("outputOptions", {})
    mime, ratio = output.get("mimeType", "image/png"), given.get("aspectRatio", "1:1")
    people = given.get("personGeneration", "allow_adult")
    allowed = ("DONT_ALLOW", "ALLOW_ADULT", "ALLOW_ALL")
    google.require(1 <= given.get("sampleCount", 1) <= 4, "sampleCount must be between 1 and 4 (inclusive).")
    supported = f"Supported values: {', '.join(model.ratios)}."
    google.require(ratio in model.ratios, f"aspectRatio {ratio} is not supported. {supported}")
    google.require(people.upper() in allowed, f"personGeneration {people} is not supported.")
    google.require(mime in ("image/png", "image/jpeg"), f"outputOptions.mimeType {mime} is not supported.")
    size = given.get("sampleImageSize", "1K").upper()  # Google's own notebook writes "1k"
    return ImagenSpec(
        model=model,
        prompt=prompt,
        ratio=ratio,
        size=size if size in model.sizes else "1K",
        count=given.get("sampleCount", 1),
        mime=mime,
        quality=output.get("compressionQuality", 75),
        seed=given.get("seed"),
        rai_reason=given.get("includeRaiReason", False),
        safety_attributes=given.get("includeSafetyAttributes", False),
    )


def compose(job: Job[ImagenSpec]) -> Answer:
    """Make the answer. Filtered pictures are dropped silently unless includeRaiReason is set; all filtered is `{}`."""
    spec = job.spec
    if job.fault == "rai_all":
        return Answer(body=as_json({}))
    filtered = job.fault == "rai_filtered"
    pictures = [job.paint(index) for index in range(spec.count - filtered)]
    predictions = [{"mimeType": job.mime, "bytesBase64Encoded": job.in_base64(data)} for data in pictures]
    if filtered and spec.rai_reason:
        predictions.append({"raiFilteredReason": _RAI_REASON})
    if spec.safety_attributes:
        attributes: Any = {"categories": ["Violence", "Porn"], "scores": [0.1, 0.1]}
        predictions.append({"safetyAttributes": attributes, "contentType": "Positive Prompt"})
    return with_pictures({"predictions": predictions} if predictions else {}, pictures)
