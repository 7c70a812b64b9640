"""generateContent: from the request's JSON, checked and refused as the server does, to an answer like recorded ones."""

from __future__ import annotations

import base64
import functools
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from aiohttp import web

from batchgen.emulator import google
from batchgen.emulator.answers import JSON_TYPE, Answer, as_json, clean, without_none
from batchgen.emulator.faults import GEMINI_FAULTS, without_markers
from batchgen.emulator.files import Files, StoredFile
from batchgen.emulator.google_schemas import GENERATE_CONTENT, RATIO_NAMES, SIZE_NAMES, Schema
from batchgen.emulator.judge import Sight, judge, look_at, modalities, response_schema, wants_json
from batchgen.emulator.models import GEMINI, Model, text_tokens
from batchgen.emulator.options import EmulatorOptions
from batchgen.emulator.pictures import picture_size, sha256
from batchgen.emulator.pipeline import Endpoint, Job, Spec
from batchgen.emulator.signatures import is_served, make_signature

_STILL = ("image/png", "image/jpeg", "image/webp")
_TAKEN_AS_IS = ("image/heic", "image/heif", "application/pdf", "video/")  # not decoded here
# ai.google.dev/gemini-api/docs/media-resolution, Gemini 3, still images.
_REFERENCE_TOKENS = {"LOW": 280, "MEDIUM": 560, "HIGH": 1120, "ULTRA_HIGH": 2240}
_NOT_DATA = {"thought", "thoughtSignature", "partMetadata", "mediaResolution", "videoMetadata"}
FindFile = Callable[[str], StoredFile | None]  # by its URI; None for a link to elsewhere; raises ApiError
Content = dict[str, Any]
# streamGenerateContent with and without alt=sse; a line of a batch's results
Stream = Literal["", "sse", "array", "line"]


@dataclass(frozen=True, slots=True, kw_only=True)
class GeminiSpec(Spec):
    """A request that was understood.

    modalities: upper case. interim: pictures shown among the thoughts. prompt_tokens: of all text, including earlier
    turns and what the model said in them. reference_tokens: of each picture sent along; thought_tokens: on average.
    judged: the first of the pictures sent along, where JSON is asked for; schema: of that JSON. search: which searches
    the googleSearch tool may do, empty without the tool. tier: the one it is served at.
    """

    modalities: tuple[str, ...]
    include_thoughts: bool
    interim: int
    prompt_tokens: int
    reference_tokens: int
    thought_tokens: int
    search: tuple[str, ...]
    tier: str
    stream: Stream
    judged: Sight | None = None
    schema: Mapping[str, Any] = field(default_factory=dict)


def endpoint(options: EmulatorOptions, files: Files) -> Endpoint:
    def parse_request(request: web.Request, body: bytes) -> GeminiSpec:
        model, key = google.admitted(request, GEMINI, options)
        return parse(body, model, options, functools.partial(files.at_uri, key), stream=stream_of(request))

    return Endpoint(api=google.API, faults=GEMINI_FAULTS, parse=parse_request, compose=compose)


def stream_of(request: web.Request) -> Stream:
    if request.match_info["method"] != "streamGenerateContent":
        return ""
    return "sse" if request.query.get("alt") == "sse" else "array"


def parse(
    body: bytes | dict[str, Any],
    model: Model,
    options: EmulatorOptions,
    find_file: FindFile,
    *,
    stream: Stream = "",
    schema: Schema = GENERATE_CONTENT,
) -> GeminiSpec:
    """Read a request by the fields of `schema`. Raises ApiError 400 in the server's words for what it would refuse."""
    request = google.read_fields(body, schema)
    contents = _checked(request.get("contents") or [])
    pictures = [found for one in contents for part in one["parts"] if (found := _picture(part, find_file))]
    _check_signatures(contents, options.signature_bytes if model.signs else 0, find_file)
    config = request.get("generationConfig", {})
    output = config.get("imageConfig", {}).get("imageOutputOptions", {})
    ratio, size = _ratio_and_size(config, model)
    thinking = config.get("thinkingConfig", {})
    level = thinking.get("thinkingLevel", "THINKING_LEVEL_UNSPECIFIED")
    named = f" {level}" if model.thinking else ""
    thinks = level in ("THINKING_LEVEL_UNSPECIFIED", *model.thinking)
    google.require(thinks, f"Thinking level{named} is not supported for this model.")
    include_thoughts = bool(thinking.get("includeThoughts")) and bool(model.thinking)
    prompts = [_text(content) for content in contents if content.get("role", "user") in ("user", "")]
    said = [part for one in (request.get("systemInstruction", {}), *contents) for part in one.get("parts") or ()]
    resolution = config.get("mediaResolution", "").removeprefix("MEDIA_RESOLUTION_") if model.family == "3" else ""
    return GeminiSpec(
        model=model,
        prompt=prompts[-1],
        ratio=ratio or _ratio_of_last(pictures, model) or "1:1",
        size=size,
        mime=output.get("mimeType", model.mime),
        quality=output.get("compressionQuality", 86),
        seed=config.get("seed"),
        references=tuple(one[0] for one in pictures),
        turn=len(prompts),
        history=tuple(prompts[:-1]),
        modalities=modalities(config, model),
        include_thoughts=include_thoughts,
        # Up to two interim pictures (ai.google.dev, image generation); that it is one below HIGH is ours.
        interim=(2 if level == "HIGH" else 1) if include_thoughts else 0,
        prompt_tokens=sum(text_tokens(clean(part.get("text") or "")) for part in said),
        reference_tokens=_REFERENCE_TOKENS.get(resolution, model.reference_tokens),
        thought_tokens=model.thoughts_at(level),
        search=_search(request.get("tools") or [], model),
        tier=_tier(request.get("serviceTier", "standard"), options),
        stream=stream,
        judged=_judged(config, model, pictures),
        schema=response_schema(config),
    )


def _judged(config: dict[str, Any], model: Model, pictures: Sequence[_Picture]) -> Sight | None:
    """The image to be judged, None where no JSON is asked for. Raises ApiError 400."""
    if not wants_json(config, model):
        return None
    name, _, found = pictures[0] if pictures else ("", "", None)
    return look_at(name, found.path if isinstance(found, StoredFile) else found)


def _text(content: Content) -> str:
    return clean("\n".join(part["text"] for part in content["parts"] if part.get("text")))


def require(holds: Any, field: str, message: str) -> None:
    google.require(holds, f"* GenerateContentRequest.{field}: {message}\n")


def _checked(contents: list[Content]) -> list[Content]:
    """Check turns and parts. Raises ApiError 400."""
    require(contents, "contents", "contents is not specified")
    for at, content in enumerate(contents):
        role = content.get("role", "user")
        google.require(role in ("user", "model", "function", ""), "Please use a valid role: user, model.")
        parts = content.setdefault("parts", [])
        require(parts, f"contents[{at}].parts", "contents.parts must not be empty.")
        for number, part in enumerate(parts):
            where = f"contents[{at}].parts[{number}].data"
            require(set(part) - _NOT_DATA, where, "required oneof field 'data' must have one initialized field")
    ends = "Please ensure that multiturn requests end with a user turn or a function response."
    google.require(contents[-1].get("role") != "model", ends)  # known from public issues
    return contents


def _check_signatures(contents: list[Content], length_bytes: int, find_file: FindFile) -> None:
    """Check that model turns come back as they were sent: pictures, and the first part after the thoughts, signed.

    length_bytes: of signatures, 0 where there are none. Source: ai.google.dev/gemini-api/docs/thought-signatures and
    the body in langchain-ai/langchain-google#1431. That wording is known for pictures only. We refuse a text that lost
    its signature likewise, and a signature on a part that it did not come on, which is stricter than anything
    documented.
    """
    page = "https://ai.google.dev/gemini-api/docs/thought-signatures#model-behavior"
    for position, content in enumerate(contents if length_bytes else (), 1):
        visible = [(number, part) for number, part in enumerate(content["parts"], 1) if not part.get("thought")]
        for number, part in visible if content.get("role") == "model" else ():
            signature = part.get("thoughtSignature")
            kind = "Image" if "inlineData" in part or "fileData" in part else "Text"
            where = f"in content position {position}, part position {number}"
            text = f"{kind} part is missing a thought_signature {where}. Please refer to {page} for more details."
            google.require(signature or (kind == "Text" and number != visible[0][0]), text)
            if signature:
                served = is_served(signature, _signed_content(part, find_file), length_bytes)
                google.require(served, "Thought signature is not valid.")


def _signed_content(part: dict[str, Any], find_file: FindFile) -> bytes:
    """The content that is signed: a text itself, a picture by its hash, whichever way it comes back."""
    found = _picture(part, find_file)
    return found[0].encode() if found else str(part.get("text", "")).encode("utf-8", "replace")


_Picture = tuple[str, str, bytes | StoredFile | None]  # its hash, MIME type and bytes


def _picture(part: dict[str, Any], find_file: FindFile) -> _Picture | None:
    """The image in this part, None for a part without one.

    A link to another host is never fetched: its hash is that of the link, and it has no bytes."""
    if "fileData" in part:
        uri, mime = part["fileData"].get("fileUri", ""), part["fileData"].get("mimeType", "")
        stored = find_file(uri)
        return (stored.sha256, mime or stored.mime, stored) if stored else (sha256(uri.encode()), mime, None)
    if "inlineData" in part:
        data = part["inlineData"].get("data", b"")
        return sha256(data), part["inlineData"].get("mimeType", ""), data
    return None


def _ratio_of_last(pictures: Sequence[_Picture], model: Model) -> str | None:
    """The ratio nearest to that of the last picture sent along."""
    sizes = [_size(mime, picture) for _, mime, picture in pictures if picture is not None]
    known = [size for size in sizes if size]
    return model.nearest_ratio(*known[-1]) if known else None


def _size(mime: str, picture: bytes | StoredFile) -> tuple[int, int] | None:
    """The size in pixels, where the emulator can decode the format. Raises ApiError for anything but a picture."""
    if mime.startswith(_TAKEN_AS_IS):
        return None
    google.require(mime in _STILL, f"Unsupported MIME type: {mime}")
    size = picture.pixels if isinstance(picture, StoredFile) else picture_size(picture)
    google.require(size, f"Unable to process input image. {google.TROUBLESHOOTING}")
    return size


def _ratio_and_size(config: dict[str, Any], model: Model) -> tuple[str | None, str]:
    """The ratio, None without one, and the size. gemini-nano-banana-2.1 refuses 512 (public reports disagree).

    A bad ratio is a 400, while an unknown size becomes 1K silently (firebase/genkit#4891).
    """
    image = config.get("imageConfig", {})
    wanted = config.get("responseFormat", {}).get("image", {})
    ratio = image.get("aspectRatio") or RATIO_NAMES.get(wanted.get("aspectRatio", ""))
    size = image.get("imageSize") or SIZE_NAMES.get(wanted.get("imageSize", ""), "1K")
    field, names = "generation_config.image_config", ", ".join(f"'{one}'" for one in model.ratios)
    require(not ratio or ratio in model.ratios, f"{field}.aspect_ratio", f"aspect_ratio must be one of {names}")
    refused = size == "512" and model.id == "gemini-nano-banana-2.1"
    require(not refused, f"{field}.image_size", "image_size must be one of '1K', '2K', '4K'")
    return ratio, size if size in model.sizes else "1K"


def _tier(asked: str, options: EmulatorOptions) -> str:
    """The tier at which a request is served. Raises ApiError.

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
    """The searches of the googleSearch tool: web without searchTypes; images alone with imageSearch (ai.google.dev)."""
    asked = next((tool["googleSearch"] for tool in tools if "googleSearch" in tool), None)
    if asked is None:
        return ()
    google.require(model.search, "Search Grounding is not supported.")
    types = asked.get("searchTypes", {})
    wanted = [kind for kind in ("web", "image") if f"{kind}Search" in types] or ["web"]
    supported = set(wanted) <= set(model.search)  # what happens otherwise is not documented
    google.require(supported, "Image Search Grounding is not supported.")
    return tuple(wanted)


_BLOCKED_RATING = {"category": "HARM_CATEGORY_HATE_SPEECH", "probability": "LOW", "blocked": True}


def compose(job: Job[GeminiSpec]) -> Answer:
    spec = job.spec
    digest = hashlib.sha256(json.dumps([spec.prompt, spec.model.id, job.n, job.attempt]).encode()).digest()
    candidate = _Candidate(job)
    response: dict[str, Any] = {}
    if job.fault == "block":
        response["promptFeedback"] = {"blockReason": "PROHIBITED_CONTENT"}
    else:
        response["candidates"] = [{**candidate.filled(), "index": 0}]
    response["usageMetadata"] = _usage(candidate, digest)
    response["modelVersion"] = spec.model.id
    response["responseId"] = base64.urlsafe_b64encode(digest[:17]).decode().rstrip("=")
    body = as_json([response] if spec.stream == "array" else response, compact=spec.stream == "line")
    if spec.stream == "sse":
        body = b"data: " + json.dumps(response, ensure_ascii=False).encode("utf-8", "replace") + b"\r\n\r\n"
    return Answer(
        body=body,
        content_type="text/event-stream" if spec.stream == "sse" else JSON_TYPE,
        billed_images=candidate.billed,
        sha256=tuple(candidate.hashes),
        headers={"x-gemini-service-tier": spec.tier},
    )


@dataclass(slots=True)
class _Candidate:
    """The one candidate of an answer, as it is built. hashes: of all its pictures, billed or not."""

    job: Job[GeminiSpec]
    hashes: list[str] = field(default_factory=list)
    text: str = ""
    billed: int = 0

    def filled(self) -> dict[str, Any]:
        spec, fault = self.job.spec, self.job.fault
        if fault in google.REFUSALS:
            reason, message = google.REFUSALS[fault]
            return without_none(
                content={"role": "model"} if fault == "prohibited" else {},
                finishReason=reason,
                finishMessage=message or None,
                safetyRatings=[_BLOCKED_RATING] if fault == "safety" else None,
            )
        body: dict[str, Any] = {"content": {"parts": list(self._parts()), "role": "model"}, "finishReason": "STOP"}
        if spec.search and self.billed:
            body["groundingMetadata"] = _grounding(without_markers(spec.prompt)[:100], spec.search)
        return body

    def _parts(self) -> Iterator[dict[str, Any]]:
        spec, fault = self.job.spec, self.job.fault
        if spec.include_thoughts:
            yield {"text": "**Planning the picture**\n\nComposition, light, then type.", "thought": True}
        if spec.judged is not None:
            yield self._text(judge(spec.prompt, spec.judged, spec.schema, self.job.places, self.job.attempt))
            return
        if "IMAGE" not in spec.modalities or fault == "text_only":
            yield self._text("I can describe that picture, but there is none in this answer.")
            return
        # Interim pictures are not billed and carry no signature.
        for index in range(2 if fault == "thought_images" else spec.interim):
            yield self._image(1 + index) | {"thought": True}
        if "TEXT" in spec.modalities:
            turn = f"Turn {spec.turn}, drawn on those before. " if spec.turn > 1 else ""
            yield self._text(f"{turn}Here is the picture you asked for.")
        # Several pictures in one candidate are each billed; the last one is final.
        for index in (1, 2, 0) if fault == "many_images" else (0,):
            yield self._signed(self._image(index), self.hashes[-1])
            self.billed += 1

    def _text(self, text: str) -> dict[str, Any]:
        self.text = text
        return self._signed({"text": text}, text)

    def _image(self, index: int) -> dict[str, Any]:
        data = self.job.paint(index)
        self.hashes.append(sha256(data))
        return {"inlineData": {"mimeType": self.job.mime, "data": self.job.in_base64(data)}}

    def _signed(self, part: dict[str, Any], content: str) -> dict[str, Any]:
        """Sign a part. content: the text, or the picture's hash."""
        if self.job.spec.model.signs and self.job.options.signature_bytes:
            part["thoughtSignature"] = make_signature(content.encode(), self.job.options.signature_bytes)
        return part


def _grounding(query: str, search: Sequence[str]) -> dict[str, Any]:
    """Make grounding metadata, as recorded for the web and as ai.google.dev describes image search.

    There are two queries for one question, as in the example of ai.google.dev/gemini-api/docs/google-search; each is
    billed.
    """
    site = {"title": "example.com", "uri": "https://example.com/emulated"}
    image = {"sourceUri": "https://example.com/emulated-gallery", "imageUri": "https://example.com/emulated.jpg"}
    image |= {"title": "Emulated picture", "domain": "example.com"}
    return without_none(
        webSearchQueries=[query, f"about {query}"] if "web" in search else None,
        imageSearchQueries=[query] if "image" in search else None,
        groundingChunks=[{kind: chunk} for kind, chunk in (("web", site), ("image", image)) if kind in search],
        searchEntryPoint={"renderedContent": '<div class="container">Emulated search suggestions</div>'},
    )


def _usage(candidate: _Candidate, digest: bytes) -> dict[str, Any]:
    """Make usageMetadata, in the proportions of recorded answers. total = prompt + candidates + thoughts + tool use.

    Thoughts vary as much as the two recorded ones of 3-pro. Recorded answers of Gemini 3 have 88 to 630 candidate
    tokens more than the details add up to; they are billed as text. Answers without a picture have no
    candidatesTokensDetails (recorded), refusals no candidates.
    """
    spec, images = candidate.job.spec, candidate.billed
    thoughts = round(spec.thought_tokens * (0.7 + 0.6 * digest[0] / 255)) if candidate.job.fault != "block" else 0
    overhead = 88 + digest[1] * (630 - 88) // 255 if images and spec.model.signs else 0
    tool = 61 if spec.search and images else 0
    references = [_tokens("IMAGE", len(spec.references) * spec.reference_tokens)] if spec.references else []
    prompt = [_tokens("TEXT", spec.prompt_tokens), *references]
    image_tokens = images * spec.model.tokens.get(spec.size, 1120)
    candidates = image_tokens + text_tokens(candidate.text) + overhead
    prompt_tokens = sum(one["tokenCount"] for one in prompt)
    return without_none(
        promptTokenCount=prompt_tokens,
        candidatesTokenCount=candidates or None,
        totalTokenCount=prompt_tokens + candidates + thoughts + tool,
        promptTokensDetails=prompt,
        candidatesTokensDetails=[_tokens("IMAGE", image_tokens)] if images else None,
        toolUsePromptTokenCount=tool or None,
        toolUsePromptTokensDetails=[_tokens("TEXT", tool)] if tool else None,
        thoughtsTokenCount=thoughts or None,
        serviceTier=spec.tier,
    )


def _tokens(modality: str, count: int) -> dict[str, Any]:
    return {"modality": modality, "tokenCount": count}
