"""Imagen's predict: from the request's JSON to what is asked for, and from a finished job to predictions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from batchgen.emulator import google
from batchgen.emulator.google_schemas import PREDICT
from batchgen.emulator.jobs import Answer, Job, Spec, as_json, clean, sha256
from batchgen.emulator.models import Model

_PEOPLE = ("DONT_ALLOW", "ALLOW_ADULT", "ALLOW_ALL")
_RAI_REASON = (
    "Unable to show generated images. All images were filtered out because they violated Google's Responsible AI "
    "practices. Try rephrasing the prompt. Support codes: 29310472"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ImagenSpec(Spec):
    rai_reason: bool
    safety_attributes: bool


def parse(body: bytes, model: Model) -> ImagenSpec:
    """Raises ApiError 400 for anything the server would not take."""
    request = google.read_fields(google.load_json(body), PREDICT)
    instances = request.get("instances") or [{}]
    prompt = clean(instances[0].get("prompt") or "")
    if not prompt:
        raise google.error(400, "Image generation failed with the following error: The prompt is empty.")
    given = request.get("parameters", {})
    _check(given, model)
    output = given.get("outputOptions", {})
    size = given.get("sampleImageSize", "1K").upper()  # Google's own notebook writes "1k"
    return ImagenSpec(
        model=model,
        prompt=prompt,
        ratio=given.get("aspectRatio") or "1:1",
        size=size if size in model.sizes else "1K",
        count=given.get("sampleCount") or 1,
        mime=output.get("mimeType", "image/png"),
        quality=output.get("compressionQuality", 75),
        rai_reason=given.get("includeRaiReason", False),
        safety_attributes=given.get("includeSafetyAttributes", False),
    )


def _check(given: dict[str, Any], model: Model) -> None:
    if not 1 <= given.get("sampleCount", 1) <= 4:
        raise google.error(400, "sampleCount must be between 1 and 4 (inclusive).")
    ratio = given.get("aspectRatio", "1:1")
    if ratio not in model.ratios:
        names = ", ".join(model.ratios)
        raise google.error(400, f"aspectRatio {ratio} is not supported. Supported values: {names}.")
    people = given.get("personGeneration", "allow_adult")
    if people.upper() not in _PEOPLE:
        raise google.error(400, f"personGeneration {people} is not supported.")
    mime = given.get("outputOptions", {}).get("mimeType", "image/png")
    if mime not in ("image/png", "image/jpeg"):
        raise google.error(400, f"outputOptions.mimeType {mime} is not supported.")


def compose(job: Job[ImagenSpec]) -> Answer:
    """Filtered pictures are dropped without a word unless includeRaiReason is set; all filtered is `{}`."""
    spec = job.spec
    if job.fault == "rai_all":
        return Answer(body=as_json({}))
    predictions: list[dict[str, Any]] = []
    hashes: list[str] = []
    for index in range(spec.count):
        if job.fault == "rai_filtered" and index == spec.count - 1:
            if spec.rai_reason:
                predictions.append({"raiFilteredReason": _RAI_REASON})
            continue
        data = job.paint(index)
        hashes.append(sha256(data))
        predictions.append({"mimeType": job.mime, "bytesBase64Encoded": job.in_base64(data)})
    if spec.safety_attributes:
        attributes = {"categories": ["Violence", "Porn"], "scores": [0.1, 0.1]}
        predictions.append({"safetyAttributes": attributes, "contentType": "Positive Prompt"})
    body = as_json({"predictions": predictions} if predictions else {})
    return Answer(body=body, billed_images=len(hashes), sha256=tuple(hashes))
