"""generateContent: from the request's JSON to what is asked for, in the server's own checks and wordings."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from aiohttp import web

from batchgen.emulator import google
from batchgen.emulator.answers import ApiError, clean
from batchgen.emulator.faults import GEMINI_FAULTS
from batchgen.emulator.files import Files, StoredFile
from batchgen.emulator.gemini_response import GeminiSpec, Stream, compose, is_served, text_tokens
from batchgen.emulator.google_schemas import GENERATE_CONTENT, RATIO_NAMES, SIZE_NAMES
from batchgen.emulator.models import GEMINI, Model
from batchgen.emulator.options import EmulatorOptions
from batchgen.emulator.pictures import picture_size, sha256
from batchgen.emulator.pipeline import Endpoint

_STILL = ("image/png", "image/jpeg", "image/webp")
_TAKEN_AS_IS = ("image/heic", "image/heif", "application/pdf", "video/")  # not decoded here
_DEFAULT_MODALITIES = ("TEXT", "IMAGE")  # ai.google.dev/gemini-api/docs/image-generation
# ai.google.dev/gemini-api/docs/media-resolution, Gemini 3, still images.
_REFERENCE_TOKENS = {"LOW": 280, "MEDIUM": 560, "HIGH": 1120, "ULTRA_HIGH": 2240}
_NOT_DATA = {"thought", "thoughtSignature", "partMetadata", "mediaResolution", "videoMetadata"}
FindFile = Callable[[str], StoredFile | None]  # by its URI; None for a link to elsewhere; raises ApiError
Content = dict[str, Any]


def endpoint(options: EmulatorOptions, files: Files) -> Endpoint:
    def parse_request(request: web.Request, body: bytes) -> GeminiSpec:
        model, key = google.admitted(request, GEMINI, options)
        stream: Stream = ""
        if request.match_info["method"] == "streamGenerateContent":
            stream = "sse" if request.query.get("alt") == "sse" else "array"
        return parse(body, model, options, partial(files.at_uri, key), stream=stream)

    return Endpoint(api=google.API, faults=GEMINI_FAULTS, parse=parse_request, compose=compose)


def parse(
    body: bytes | dict[str, Any], model: Model, options: EmulatorOptions, find_file: FindFile, *, stream: Stream = ""
) -> GeminiSpec:
    """Raises ApiError 400 in the server's wording for anything it would not take."""
    request = google.read_fields(body, GENERATE_CONTENT)
    contents = request.get("contents") or []
    _check_contents(contents)
    references, ratio_of_reference = _references(contents, model, find_file)
    if model.signs and options.signature_bytes:
        _check_signatures(contents, options.signature_bytes, find_file)
    config = request.get("generationConfig", {})
    ratio, size = _ratio_and_size(config, model, options)
    thinking = config.get("thinkingConfig", {})
    level = thinking.get("thinkingLevel", "THINKING_LEVEL_UNSPECIFIED")
    if level not in ("THINKING_LEVEL_UNSPECIFIED", *model.thinking):
        named = f" {level}" if model.thinking else ""
        raise google.error(400, f"Thinking level{named} is not supported for this model.")
    include_thoughts = bool(thinking.get("includeThoughts")) and bool(model.thinking)
    prompts = [_text(content) for content in contents if content.get("role", "user") in ("user", "")]
    said = [part for one in (request.get("systemInstruction", {}), *contents) for part in one.get("parts") or ()]
    resolution = config.get("mediaResolution", "").removeprefix("MEDIA_RESOLUTION_") if model.family == "3" else ""
    return GeminiSpec(
        model=model,
        prompt=prompts[-1],
        ratio=ratio or ratio_of_reference or "1:1",
        size=size,
        mime=model.mime,
        seed=config.get("seed"),
        references=references,
        turn=len(prompts),
        history=tuple(prompts[:-1]),
        modalities=tuple(config.get("responseModalities") or _DEFAULT_MODALITIES),
        include_thoughts=include_thoughts,
        # Up to two interim pictures (ai.google.dev, image generation); that it is one below HIGH is ours.
        interim=(2 if level == "HIGH" else 1) if include_thoughts else 0,
        prompt_tokens=sum(text_tokens(clean(part.get("text") or "")) for part in said),
        reference_tokens=_REFERENCE_TOKENS.get(resolution, model.reference_tokens),
        thought_tokens=model.thoughts_at(level),
        search=_search(request.get("tools") or [], model),
        tier=_tier(request.get("serviceTier", "standard"), options),
        stream=stream,
    )


def _text(content: Content) -> str:
    return clean("\n".join(part["text"] for part in content["parts"] if part.get("text")))


def bad_argument(field: str, message: str) -> ApiError:
    return google.error(400, f"* GenerateContentRequest.{field}: {message}\n")


def _check_contents(contents: list[Content]) -> None:
    if not contents:
        raise bad_argument("contents", "contents is not specified")
    for at, content in enumerate(contents):
        if content.get("role", "user") not in ("user", "model", "function", ""):
            raise google.error(400, "Please use a valid role: user, model.")
        parts = content.setdefault("parts", [])
        if not parts:
            raise bad_argument(f"contents[{at}].parts", "contents.parts must not be empty.")
        for number, part in enumerate(parts):
            if not set(part) - _NOT_DATA:
                where = f"contents[{at}].parts[{number}].data"
                raise bad_argument(where, "required oneof field 'data' must have one initialized field")
    if contents[-1].get("role") == "model":  # known from public issues
        raise google.error(400, "Please ensure that multiturn requests end with a user turn or a function response.")


def _check_signatures(contents: list[Content], length_bytes: int, find_file: FindFile) -> None:
    """Model turns come back as they were sent: pictures and the first part after the thoughts signed. From 1 on.

    Source: ai.google.dev/gemini-api/docs/thought-signatures and the body in langchain-ai/langchain-google#1431. That
    wording is known of pictures only; a text that lost its signature is refused likewise, and a signature on a part it
    did not come on is, which is stricter than anything documented.
    """
    for position, content in enumerate(contents, 1):
        if content.get("role") != "model":
            continue
        visible = [(number, part) for number, part in enumerate(content["parts"], 1) if not part.get("thought")]
        for number, part in visible:
            signature = part.get("thoughtSignature")
            image = "inlineData" in part or "fileData" in part
            if not signature and (image or number == visible[0][0]):
                page = "https://ai.google.dev/gemini-api/docs/thought-signatures#model-behavior"
                where = f"in content position {position}, part position {number}"
                kind = "Image" if image else "Text"
                text = f"{kind} part is missing a thought_signature {where}. Please refer to {page} for more details."
                raise google.error(400, text)
            if signature and not is_served(signature, _signed_content(part, find_file), length_bytes):
                raise google.error(400, "Thought signature is not valid.")


def _signed_content(part: dict[str, Any], find_file: FindFile) -> bytes:
    """What `gemini_response` signs: a text itself, a picture by its hash, whichever way it comes back."""
    if "inlineData" in part:
        return sha256(part["inlineData"].get("data", b"")).encode()
    if "fileData" in part:
        stored = find_file(part["fileData"].get("fileUri", ""))
        return stored.sha256.encode() if stored else b""
    return str(part.get("text", "")).encode("utf-8", "replace")


def _references(contents: list[Content], model: Model, find_file: FindFile) -> tuple[tuple[str, ...], str | None]:
    """Hashes of all pictures sent along, and the ratio nearest to the last one's. A file counts as its bytes do."""
    hashes: list[str] = []
    ratio = None
    for part in (part for content in contents for part in content["parts"]):
        if "fileData" in part:
            mime, uri = part["fileData"].get("mimeType"), part["fileData"].get("fileUri", "")
            stored = find_file(uri)
            if stored is None:  # a link to elsewhere is taken by its name and never fetched
                hashes.append(sha256(uri.encode()))
                continue
            size = _checked(mime or stored.mime, stored.pixels)
            hashes.append(stored.sha256)
        elif "inlineData" in part:
            mime, data = part["inlineData"].get("mimeType", ""), part["inlineData"].get("data", b"")
            size = _checked(mime, picture_size(data) if mime in _STILL else None)
            hashes.append(sha256(data))
        else:
            continue
        ratio = model.nearest_ratio(*size) if size else ratio
    return tuple(hashes), ratio


def _checked(mime: str, size: tuple[int, int] | None) -> tuple[int, int] | None:
    """The pixel size where the emulator can decode the format. Raises ApiError for what is not a picture."""
    if mime.startswith(_TAKEN_AS_IS):
        return None
    if mime not in _STILL:
        raise google.error(400, f"Unsupported MIME type: {mime}")
    if size is None:
        raise google.error(400, f"Unable to process input image. {google.TROUBLESHOOTING}")
    return size


def _ratio_and_size(config: dict[str, Any], model: Model, options: EmulatorOptions) -> tuple[str | None, str]:
    """None without a ratio. An unknown size is 1K without a word (firebase/genkit#4891); a bad ratio is a 400."""
    image = config.get("imageConfig", {})
    wanted = config.get("responseFormat", {}).get("image", {})
    ratio = image.get("aspectRatio") or RATIO_NAMES.get(wanted.get("aspectRatio", ""))
    size = image.get("imageSize") or SIZE_NAMES.get(wanted.get("imageSize", ""), "1K")
    field = "generation_config.image_config"
    if ratio and ratio not in model.ratios:
        names = ", ".join(f"'{one}'" for one in model.ratios)
        raise bad_argument(f"{field}.aspect_ratio", f"aspect_ratio must be one of {names}")
    if size == "512" and model.id == "gemini-nano-banana-2.1":
        if not options.serve_512:
            raise bad_argument(f"{field}.image_size", "image_size must be one of '1K', '2K', '4K'")
        return ratio, "512"
    return ratio, size if size in model.sizes else "1K"


def _tier(asked: str, options: EmulatorOptions) -> str:
    """The tier it is served at. Raises ApiError.

    Source: ai.google.dev/gemini-api/docs/flex-inference (503 or 429 without capacity) and priority-inference (served as
    standard beyond its limits, for higher billing tiers only; the wording of that error is ours).
    """
    tier = asked.lower().removeprefix("service_tier_").replace("unspecified", "standard")
    refusals = {400: f"Service tier {tier} is not available for this project."}
    refusals |= {429: google.EXHAUSTED, 503: google.OVERLOADED}
    status = options.tiers.get(tier)
    if status in refusals:
        raise google.error(status, refusals[status])
    return "standard" if status == 200 else tier


def _search(tools: list[dict[str, Any]], model: Model) -> tuple[str, ...]:
    """Without searchTypes it is the web; with only imageSearch it is images only (ai.google.dev, Google Search)."""
    asked = next((tool["googleSearch"] for tool in tools if "googleSearch" in tool), None)
    if asked is None:
        return ()
    if not model.search:
        raise google.error(400, "Search Grounding is not supported.")
    types = asked.get("searchTypes", {})
    wanted = [kind for kind in ("web", "image") if f"{kind}Search" in types] or ["web"]
    if not set(wanted) <= set(model.search):  # not documented what happens then
        raise google.error(400, "Image Search Grounding is not supported.")
    return tuple(wanted)
