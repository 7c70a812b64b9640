"""generateContent: from the request's JSON to an order, and from a finished job to the answer's JSON."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from batchgen.emulator import google_errors as errors
from batchgen.emulator.fields import Violation, read
from batchgen.emulator.files import StoredFile
from batchgen.emulator.gemini_answer import Stream, compose
from batchgen.emulator.gemini_fields import RATIO_NAMES, REQUEST, SIZE_NAMES
from batchgen.emulator.models import GEMINI, Model
from batchgen.emulator.options import EmulatorOptions
from batchgen.emulator.orders import Answer, Job, Order, Refusal, clean, picture_size, sha256
from batchgen.emulator.signatures import is_served
from batchgen.emulator.usage import text_tokens

_STILL = ("image/png", "image/jpeg", "image/webp")
_TAKEN_AS_IS = ("image/heic", "image/heif", "application/pdf", "video/")  # not decoded here
_DEFAULT_MODALITIES = ("TEXT", "IMAGE")  # ai.google.dev/gemini-api/docs/image-generation
FindFile = Callable[[str], StoredFile | None]  # by its URI; None for a link to elsewhere; raises Refusal


@dataclass(frozen=True, slots=True, kw_only=True)
class GeminiOrder(Order):
    """modalities: upper case. interim: pictures shown among the thoughts. prompt_tokens: of all text, earlier turns and
    what the model said in them included. reference_tokens: of each picture sent along; thought_tokens: on average.

    search: which searches the googleSearch tool may do, empty without the tool. tier: the one it is served at.
    """

    modalities: tuple[str, ...] = _DEFAULT_MODALITIES
    include_thoughts: bool = False
    interim: int = 0
    prompt_tokens: int = 0
    reference_tokens: int = 1120
    thought_tokens: int = 0
    search: tuple[str, ...] = ()
    tier: str = "standard"
    stream: Stream = ""


def find_model(name: str, version: str, method: str, options: EmulatorOptions) -> Model:
    """Raises Refusal 404 for AI models that do not exist or, if asked for, are retired."""
    model = GEMINI.get(name)
    if model is None or (options.models and name not in options.models):
        raise errors.unknown_model(name, version, method)
    if model.replacement and not options.serve_retired:
        raise errors.retired_model(name, model.replacement)
    return model


def parse(
    body: bytes, model: Model, options: EmulatorOptions, find_file: FindFile, *, stream: Stream = ""
) -> GeminiOrder:
    """Raises Refusal 400 in the server's wording for anything it would not take."""
    return parse_value(_read_json(body), model, options, find_file, stream=stream)


def parse_value(
    value: dict[str, Any], model: Model, options: EmulatorOptions, find_file: FindFile, *, stream: Stream
) -> GeminiOrder:
    """As `parse`, for a request that is a part of something larger."""
    request = _read_request(value)
    contents = request.get("contents") or []
    _check_contents(contents)
    references, ratio_of_reference = _references(contents, model, find_file)
    if model.signs and options.signature_bytes:
        _check_signatures(contents, options.signature_bytes, find_file)
    config = request.get("generationConfig", {})
    ratio, size = _picture_shape(config, model, options, ratio_of_reference)
    thinking = config.get("thinkingConfig", {})
    _check_thinking(thinking.get("thinkingLevel"), model)
    include_thoughts = bool(thinking.get("includeThoughts")) and bool(model.thinking)
    prompts = [_text(content) for content in contents if content.get("role", "user") in ("user", "")]
    return GeminiOrder(
        model=model,
        prompt=prompts[-1],
        ratio=ratio,
        size=size,
        label=model.mime,
        seed=config.get("seed"),
        references=references,
        turn=len(prompts),
        history=tuple(prompts[:-1]),
        modalities=tuple(config.get("responseModalities") or _DEFAULT_MODALITIES),
        include_thoughts=include_thoughts,
        # Up to two interim pictures (ai.google.dev, image generation); that it is one below HIGH is ours.
        interim=(2 if thinking.get("thinkingLevel") == "HIGH" else 1) if include_thoughts else 0,
        prompt_tokens=_prompt_tokens([request.get("systemInstruction", {}), *contents]),
        reference_tokens=_reference_tokens(config.get("mediaResolution", ""), model),
        thought_tokens=model.thoughts_at(thinking.get("thinkingLevel") or ""),
        search=_search(request.get("tools") or [], model),
        tier=_tier(request.get("serviceTier", "standard"), options),
        stream=stream,
    )


def _read_json(body: bytes) -> dict[str, Any]:
    try:
        value = json.loads(body)
    except ValueError as error:
        raise errors.not_json(f"Parser error: {error}") from None
    if not isinstance(value, dict):
        raise errors.not_json("Root element must be a message.")
    return value


def _read_request(value: dict[str, Any]) -> dict[str, Any]:
    violations: list[Violation] = []
    request: dict[str, Any] = read(REQUEST, value, "", violations)
    if violations:
        raise errors.bad_fields(violations)
    return request


def _text(content: dict[str, Any]) -> str:
    return clean("\n".join(part["text"] for part in content["parts"] if part.get("text")))


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
    if contents[-1].get("role") == "model":  # known from public issues
        raise errors.refusal(400, "Please ensure that multiturn requests end with a user turn or a function response.")


def _check_signatures(contents: list[dict[str, Any]], length_bytes: int, find_file: FindFile) -> None:
    """Model turns come back as they were sent: pictures and the first part after the thoughts signed. From 1 on.

    Source: ai.google.dev/gemini-api/docs/thought-signatures and the body in langchain-ai/langchain-google#1431. That
    wording is known of pictures only; a text that lost its signature is refused likewise, and a signature on a part it
    did not come on is, which is stricter than anything documented.
    """
    for position, content in enumerate(contents, 1):
        if content.get("role") != "model":
            continue
        spoken = [(number, part) for number, part in enumerate(content["parts"], 1) if not part.get("thought")]
        for number, part in spoken:
            signature = part.get("thoughtSignature")
            image = "inlineData" in part or "fileData" in part
            if not signature and (image or number == spoken[0][0]):
                page = "https://ai.google.dev/gemini-api/docs/thought-signatures#model-behavior"
                place = f"in content position {position}, part position {number}"
                kind = "Image" if image else "Text"
                text = f"{kind} part is missing a thought_signature {place}. Please refer to {page} for more details."
                raise errors.refusal(400, text)
            if signature and not is_served(signature, _signed_content(part, find_file), length_bytes):
                raise errors.refusal(400, "Thought signature is not valid.")


def _signed_content(part: dict[str, Any], find_file: FindFile) -> bytes:
    """What `gemini_answer` signs: a text itself, a picture by its hash, whichever way it comes back."""
    if "inlineData" in part:
        return sha256(part["inlineData"].get("data", b"")).encode()
    if "fileData" in part:
        stored = find_file(part["fileData"].get("fileUri", ""))
        return stored.sha256.encode() if stored else b""
    return str(part.get("text", "")).encode("utf-8", "replace")


def _references(
    contents: list[dict[str, Any]], model: Model, find_file: FindFile
) -> tuple[tuple[str, ...], str | None]:
    """Hashes of all pictures sent along, and the ratio nearest to the last one's. A file counts as its bytes do."""
    hashes: list[str] = []
    ratio = None
    for content in contents:
        for part in content["parts"]:
            if "fileData" in part:
                given = part["fileData"]
                stored = find_file(given.get("fileUri", ""))
                if stored is None:  # a link to elsewhere is taken by its name and never fetched
                    hashes.append(sha256(given.get("fileUri", "").encode()))
                    continue
                size = _checked(given.get("mimeType") or stored.mime, stored.pixels)
                hashes.append(stored.sha256)
                ratio = model.nearest_ratio(*size) if size else ratio
            elif "inlineData" in part:
                mime, data = part["inlineData"].get("mimeType", ""), part["inlineData"].get("data", b"")
                size = _checked(mime, picture_size(data) if mime in _STILL else None)
                hashes.append(sha256(data))
                ratio = model.nearest_ratio(*size) if size else ratio
    return tuple(hashes), ratio


def _checked(mime: str, size: tuple[int, int] | None) -> tuple[int, int] | None:
    """The pixel size where the emulator can decode the format. Raises Refusal for what is not a picture."""
    if mime.startswith(_TAKEN_AS_IS):
        return None
    if mime not in _STILL:
        raise errors.refusal(400, f"Unsupported MIME type: {mime}")
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


# ai.google.dev/gemini-api/docs/media-resolution, Gemini 3, still images.
_REFERENCE_TOKENS = {"LOW": 280, "MEDIUM": 560, "HIGH": 1120, "ULTRA_HIGH": 2240}


def _reference_tokens(resolution: str, model: Model) -> int:
    if model.family == "2.5":
        return model.reference_tokens
    return _REFERENCE_TOKENS.get(resolution.removeprefix("MEDIA_RESOLUTION_"), model.reference_tokens)


def _prompt_tokens(contents: list[dict[str, Any]]) -> int:
    parts = (part for content in contents for part in content.get("parts") or ())
    return sum(text_tokens(clean(part["text"])) for part in parts if part.get("text"))


def _tier(asked: str, options: EmulatorOptions) -> str:
    """The tier it is served at. Raises Refusal.

    Source: ai.google.dev/gemini-api/docs/flex-inference (503 or 429 without capacity) and priority-inference (served as
    standard beyond its limits, for higher billing tiers only; the wording of that refusal is ours).
    """
    tier = asked.lower().removeprefix("service_tier_").replace("unspecified", "standard")
    match options.tiers.get(tier):
        case 200:
            return "standard"
        case 400:
            raise errors.refusal(400, f"Service tier {tier} is not available for this project.")
        case 429:
            raise errors.exhausted_bare()
        case 503:
            raise errors.overloaded()
    return tier


def _search(tools: list[dict[str, Any]], model: Model) -> tuple[str, ...]:
    """Without searchTypes it is the web; with only imageSearch it is images only (ai.google.dev, Google Search)."""
    asked = next((tool["googleSearch"] for tool in tools if "googleSearch" in tool), None)
    if asked is None:
        return ()
    if not model.search:
        raise errors.refusal(400, "Search Grounding is not supported.")
    types = asked.get("searchTypes", {})
    wanted = [kind for kind, name in (("web", "webSearch"), ("image", "imageSearch")) if name in types] or ["web"]
    if not set(wanted) <= set(model.search):  # not documented what happens then
        raise errors.refusal(400, "Image Search Grounding is not supported.")
    return tuple(wanted)


def listing(options: EmulatorOptions) -> list[dict[str, Any]]:
    """The entries of `GET /models` that generate content."""
    methods = ["generateContent", "countTokens", "batchGenerateContent"]
    return [describe(model, methods) for model in GEMINI.values() if is_offered(model, options)]


def is_offered(model: Model, options: EmulatorOptions) -> bool:
    allowed = not options.models or model.id in options.models
    return allowed and (options.serve_retired or not model.replacement)


def describe(model: Model, methods: list[str]) -> dict[str, Any]:
    return {
        "name": f"models/{model.id}",
        "version": "001",
        "displayName": model.id.replace("-", " ").title(),
        "description": "Emulated",
        "inputTokenLimit": 131_072,
        "outputTokenLimit": 32_768,
        "supportedGenerationMethods": methods,
        **({"thinking": True} if model.thinking else {}),
    }


def answer(job: Job[GeminiOrder]) -> Answer:
    order = job.order
    return compose(
        job,
        modalities=order.modalities,
        include_thoughts=order.include_thoughts,
        interim=order.interim,
        prompt_tokens=order.prompt_tokens,
        reference_tokens=order.reference_tokens,
        thought_tokens=order.thought_tokens,
        search=order.search,
        tier=order.tier,
        stream=order.stream,
    )
