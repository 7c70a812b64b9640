"""generateContent: from the request's JSON to an order, and from a finished job to the answer's JSON."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from batchgen.emulator import google_errors as errors
from batchgen.emulator.fields import Violation, read
from batchgen.emulator.gemini_answer import Stream, compose
from batchgen.emulator.gemini_fields import RATIO_NAMES, REQUEST, SIZE_NAMES
from batchgen.emulator.models import GEMINI, Model
from batchgen.emulator.options import EmulatorOptions
from batchgen.emulator.orders import Answer, Job, Order, Refusal, clean, picture_size, sha256
from batchgen.emulator.signatures import is_ours_and_broken

_STILL = ("image/png", "image/jpeg", "image/webp")
_TAKEN_AS_IS = ("image/heic", "image/heif", "application/pdf", "video/")  # not decoded here
_DEFAULT_MODALITIES = ("TEXT", "IMAGE")  # ai.google.dev/gemini-api/docs/image-generation


@dataclass(frozen=True, slots=True, kw_only=True)
class GeminiOrder(Order):
    """modalities: upper case. search: which searches the googleSearch tool may do, empty without the tool."""

    modalities: tuple[str, ...] = _DEFAULT_MODALITIES
    include_thoughts: bool = False
    search: tuple[str, ...] = ()
    tier: str = "standard"
    stream: Stream = ""


def find_model(name: str, version: str, method: str, options: EmulatorOptions) -> Model:
    """Raises Refusal 404 for AI models that do not exist or, if asked for, are retired."""
    model = GEMINI.get(name)
    if model is None:
        raise errors.unknown_model(name, version, method)
    if model.replacement and not options.serve_retired:
        raise errors.retired_model(name, model.replacement)
    return model


def parse(body: bytes, model: Model, options: EmulatorOptions, *, stream: Stream = "") -> GeminiOrder:
    """Raises Refusal 400 in the server's wording for anything it would not take."""
    request = _read_body(body)
    contents = request.get("contents") or []
    _check_contents(contents)
    if model.signs:
        _check_signatures(contents, options)
    references, ratio_of_reference = _references(contents, model)
    config = request.get("generationConfig", {})
    ratio, size = _picture_shape(config, model, options, ratio_of_reference)
    thinking = config.get("thinkingConfig", {})
    _check_thinking(thinking.get("thinkingLevel"), model)
    last = contents[-1]
    return GeminiOrder(
        model=model,
        prompt=clean("\n".join(part["text"] for part in last["parts"] if part.get("text"))),
        ratio=ratio,
        size=size,
        label=model.mime,
        seed=config.get("seed"),
        references=references,
        turn=len(contents),
        modalities=tuple(config.get("responseModalities") or _DEFAULT_MODALITIES),
        include_thoughts=bool(thinking.get("includeThoughts")),
        search=_search(request.get("tools") or [], model),
        tier=request.get("serviceTier", "standard").lower().replace("unspecified", "standard"),
        stream=stream,
    )


def _read_body(body: bytes) -> dict[str, Any]:
    try:
        value = json.loads(body)
    except ValueError as error:
        raise errors.not_json(f"Parser error: {error}") from None
    if not isinstance(value, dict):
        raise errors.not_json("Root element must be a message.")
    violations: list[Violation] = []
    request: dict[str, Any] = read(REQUEST, value, "", violations)
    if violations:
        raise errors.bad_fields(violations)
    return request


def _bad_argument(field: str, message: str) -> Refusal:
    return errors.refusal(400, f"* GenerateContentRequest.{field}: {message}\n")


def _check_contents(contents: list[dict[str, Any]]) -> None:
    if not contents:
        raise _bad_argument("contents", "contents is not specified")
    for at, content in enumerate(contents):
        if content.get("role", "user") not in ("user", "model", "function", ""):
            raise errors.refusal(400, "Please use a valid role: user, model.")
        parts = content.setdefault("parts", [])
        if not parts:
            raise _bad_argument(f"contents[{at}].parts", "contents.parts must not be empty.")
        for number, part in enumerate(parts):
            if not set(part) - {"thought", "thoughtSignature", "partMetadata", "mediaResolution", "videoMetadata"}:
                place = f"contents[{at}].parts[{number}].data"
                raise _bad_argument(place, "required oneof field 'data' must have one initialized field")


def _check_signatures(contents: list[dict[str, Any]], options: EmulatorOptions) -> None:
    """Model turns come back as they were sent. Positions count from 1.

    Source: ai.google.dev/gemini-api/docs/thought-signatures and the body in langchain-ai/langchain-google#1431.
    """
    for position, content in enumerate(contents, 1):
        if content.get("role") != "model":
            continue
        for number, part in enumerate(content["parts"], 1):
            signature = part.get("thoughtSignature")
            if "inlineData" in part and not part.get("thought") and not signature:
                page = "https://ai.google.dev/gemini-api/docs/thought-signatures#model-behavior"
                place = f"in content position {position}, part position {number}"
                text = f"Image part is missing a thought_signature {place}. Please refer to {page} for more details."
                raise errors.refusal(400, text)
            if signature and is_ours_and_broken(signature, options.signature_bytes):
                raise errors.refusal(400, "Thought signature is not valid.")


def _references(contents: list[dict[str, Any]], model: Model) -> tuple[tuple[str, ...], str | None]:
    """Hashes of all pictures sent along, and the ratio nearest to the last one's."""
    hashes: list[str] = []
    ratio = None
    for content in contents:
        for part in content["parts"]:
            if "fileData" in part:
                hashes.append(sha256(part["fileData"].get("fileUri", "").encode()))
            elif "inlineData" in part:
                mime, data = part["inlineData"].get("mimeType", ""), part["inlineData"].get("data", b"")
                size = _checked(mime, data)
                hashes.append(sha256(data))
                ratio = model.nearest_ratio(*size) if size else ratio
    return tuple(hashes), ratio


def _checked(mime: str, data: bytes) -> tuple[int, int] | None:
    """The pixel size where the emulator can decode the format. Raises Refusal for what is not a picture."""
    if mime.startswith(_TAKEN_AS_IS):
        return None
    if mime not in _STILL:
        raise errors.refusal(400, f"Unsupported MIME type: {mime}")
    size = picture_size(data)
    if size is None:
        raise errors.bad_input_image()
    return size


def _picture_shape(
    config: dict[str, Any], model: Model, options: EmulatorOptions, ratio_of_reference: str | None
) -> tuple[str, str]:
    """Ratio and size. An unknown size is 1K without a word (firebase/genkit#4891); a bad ratio is a 400."""
    image = config.get("imageConfig", {})
    wanted = config.get("responseFormat", {}).get("image", {})
    ratio = image.get("aspectRatio") or RATIO_NAMES.get(wanted.get("aspectRatio", ""))
    size = image.get("imageSize") or SIZE_NAMES.get(wanted.get("imageSize", ""), "1K")
    if ratio and ratio not in model.ratios:
        names = ", ".join(f"'{one}'" for one in model.ratios)
        field = "generation_config.image_config.aspect_ratio"
        raise _bad_argument(field, f"aspect_ratio must be one of {names}")
    if size == "512" and model.id == "gemini-nano-banana-2.1":
        if not options.serve_512:
            field = "generation_config.image_config.image_size"
            raise _bad_argument(field, "image_size must be one of '1K', '2K', '4K'")
        return ratio or ratio_of_reference or "1:1", "512"
    return ratio or ratio_of_reference or "1:1", size if size in model.sizes else "1K"


def _check_thinking(level: str | None, model: Model) -> None:
    if level in (None, "THINKING_LEVEL_UNSPECIFIED") or level in model.thinking:
        return
    if not model.thinking:
        raise errors.refusal(400, "Thinking level is not supported for this model.")
    raise errors.refusal(400, f"Thinking level {level} is not supported for this model.")


def _search(tools: list[dict[str, Any]], model: Model) -> tuple[str, ...]:
    """Without searchTypes it is the web; with only imageSearch it is images only (ai.google.dev, Google Search)."""
    asked = next((tool["googleSearch"] for tool in tools if "googleSearch" in tool), None)
    if asked is None:
        return ()
    if not model.search:
        raise errors.refusal(400, "Search Grounding is not supported.")
    types = asked.get("searchTypes", {})
    wanted = [kind for kind, name in (("web", "webSearch"), ("image", "imageSearch")) if name in types] or ["web"]
    return tuple(kind for kind in wanted if kind in model.search) or ("web",)


def listing(options: EmulatorOptions) -> list[dict[str, Any]]:
    """The entries of `GET /models` that generate content."""
    methods = ["generateContent", "countTokens", "batchGenerateContent"]
    return [describe(model, methods) for model in GEMINI.values() if options.serve_retired or not model.replacement]


def describe(model: Model, methods: list[str]) -> dict[str, Any]:
    return {
        "name": f"models/{model.id}",
        "version": "001",
        "displayName": model.id.replace("-", " ").title(),
        "description": "Emulated",
        "inputTokenLimit": 131_072,
        "outputTokenLimit": 32_768,
        "supportedGenerationMethods": methods,
    }


def answer(job: Job[GeminiOrder]) -> Answer:
    order = job.order
    return compose(
        job,
        modalities=order.modalities,
        include_thoughts=order.include_thoughts,
        search=order.search,
        tier=order.tier,
        stream=order.stream,
    )
