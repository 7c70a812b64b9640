"""Imagen's predict: from the request's JSON to an order, and from a finished job to predictions."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from batchgen.emulator import google_errors as errors
from batchgen.emulator.fields import BOOL, FLOAT, INT, STRING, Anything, Message, Repeated, Violation, read
from batchgen.emulator.gemini import describe, is_offered
from batchgen.emulator.models import IMAGEN, Model
from batchgen.emulator.options import EmulatorOptions
from batchgen.emulator.orders import Answer, Job, Order, clean, encoded, in_base64, label_of, paint, sha256

# ai.google.dev/gemini-api/docs/imagen and requests of google-genai 1.75.0. negativePrompt, seed, addWatermark,
# enhancePrompt and storageUri belong to Vertex AI: the SDK refuses them for this API, and so does this server.
_PARAMETERS = Message(
    {
        "sampleCount": INT,
        "aspectRatio": STRING,
        "sampleImageSize": STRING,
        "guidanceScale": FLOAT,
        "safetySetting": STRING,
        "personGeneration": STRING,
        "includeSafetyAttributes": BOOL,
        "includeRaiReason": BOOL,
        "language": STRING,
        "outputOptions": Message({"mimeType": STRING, "compressionQuality": INT}),
    }
)
_REQUEST = Message({"instances": Repeated(Message({"prompt": STRING, "image": Anything()})), "parameters": _PARAMETERS})
_PEOPLE = ("DONT_ALLOW", "ALLOW_ADULT", "ALLOW_ALL")
_RAI_REASON = (
    "Unable to show generated images. All images were filtered out because they violated Google's Responsible AI "
    "practices. Try rephrasing the prompt. Support codes: 29310472"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ImagenOrder(Order):
    rai_reason: bool = False
    safety_attributes: bool = False


def find_model(name: str, version: str, method: str, options: EmulatorOptions) -> Model:
    """Raises Refusal 404 for AI models that do not exist or, if asked for, are retired."""
    model = IMAGEN.get(name)
    if model is None or (options.models and name not in options.models):
        raise errors.unknown_model(name, version, method)
    if model.replacement and not options.serve_retired:
        raise errors.retired_model(name, model.replacement)
    return model


def parse(body: bytes, model: Model) -> ImagenOrder:
    """Raises Refusal 400 for anything the server would not take."""
    request = _read_body(body)
    instances = request.get("instances") or [{}]
    prompt = clean(instances[0].get("prompt") or "")
    if not prompt:
        raise errors.refusal(400, "Image generation failed with the following error: The prompt is empty.")
    given = request.get("parameters", {})
    _check(given, model)
    output = given.get("outputOptions", {})
    size = given.get("sampleImageSize", "1K").upper()  # Google's own notebook writes "1k"
    return ImagenOrder(
        model=model,
        prompt=prompt,
        ratio=given.get("aspectRatio") or "1:1",
        size=size if size in model.sizes else "1K",
        count=given.get("sampleCount") or 1,
        label=output.get("mimeType", "image/png"),
        quality=output.get("compressionQuality", 75),
        rai_reason=given.get("includeRaiReason", False),
        safety_attributes=given.get("includeSafetyAttributes", False),
    )


def _read_body(body: bytes) -> dict[str, Any]:
    try:
        value = json.loads(body)
    except ValueError as error:
        raise errors.not_json(f"Parser error: {error}") from None
    violations: list[Violation] = []
    request: dict[str, Any] = read(_REQUEST, value, "", violations)
    if violations:
        raise errors.bad_fields(violations)
    return request


def _check(given: dict[str, Any], model: Model) -> None:
    if not 1 <= given.get("sampleCount", 1) <= 4:
        raise errors.refusal(400, "sampleCount must be between 1 and 4 (inclusive).")
    ratio = given.get("aspectRatio", "1:1")
    if ratio not in model.ratios:
        names = ", ".join(model.ratios)
        raise errors.refusal(400, f"aspectRatio {ratio} is not supported. Supported values: {names}.")
    people = given.get("personGeneration", "allow_adult")
    if people.upper() not in _PEOPLE:
        raise errors.refusal(400, f"personGeneration {people} is not supported.")
    mime = given.get("outputOptions", {}).get("mimeType", "image/png")
    if mime not in ("image/png", "image/jpeg"):
        raise errors.refusal(400, f"outputOptions.mimeType {mime} is not supported.")


def answer(job: Job[ImagenOrder]) -> Answer:
    """Filtered pictures are dropped without a word unless includeRaiReason is set; all filtered is `{}`."""
    order = job.order
    if job.fault == "rai_all":
        return Answer(body=encoded({}))
    predictions: list[dict[str, Any]] = []
    hashes: list[str] = []
    for index in range(order.count):
        if job.fault == "rai_filtered" and index == order.count - 1:
            if order.rai_reason:
                predictions.append({"raiFilteredReason": _RAI_REASON})
            continue
        data = paint(job, index)
        hashes.append(sha256(data))
        predictions.append({"mimeType": label_of(job), "bytesBase64Encoded": in_base64(job, data)})
    if order.safety_attributes:
        attributes = {"categories": ["Violence", "Porn"], "scores": [0.1, 0.1]}
        predictions.append({"safetyAttributes": attributes, "contentType": "Positive Prompt"})
    body = encoded({"predictions": predictions} if predictions else {})
    return Answer(body=body, billed_images=len(hashes), sha256=tuple(hashes))


def listing(options: EmulatorOptions) -> list[dict[str, Any]]:
    """The entries of `GET /models` that predict."""
    return [describe(model, ["predict"]) for model in IMAGEN.values() if is_offered(model, options)]
