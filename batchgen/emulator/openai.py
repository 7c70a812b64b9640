"""OpenAI's images, edits, list of models and error bodies, and the chat completions that a judge of images needs.

Paths: `/v1/images/generations` (JSON), `/v1/images/edits` (multipart), `/v1/models` and `/v1/chat/completions`, which
AIML has at the same path and in the same form. Sources: platform.openai.com/docs/api-reference/{images,chat},
/guides/{error-codes,structured-outputs} (2026-11); github.com/openai/openai-openapi.
"""

from __future__ import annotations

import base64
import binascii
import re
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from email.message import Message
from functools import partial
from typing import Any, ClassVar

from aiohttp import web

from batchgen.emulator.answers import Answer, ApiError, as_json, clean, json_object
from batchgen.emulator.faults import OPENAI_FAULTS
from batchgen.emulator.judge import Sight, judge, look_at
from batchgen.emulator.models import Model, text_tokens
from batchgen.emulator.options import EmulatorOptions
from batchgen.emulator.pictures import picture_size, sha256
from batchgen.emulator.pipeline import Api, Endpoint, Job, Pipeline, Spec, with_pictures

_TEXTS: Mapping[str, tuple[str, ...]] = {  # parameters of a few words
    "quality": ("auto", "low", "medium", "high", "xhigh", "max"),
    "background": ("auto", "opaque", "transparent"),
    "output_format": ("png", "jpeg", "webp"),
    "moderation": ("auto", "low"),
    "input_fidelity": ("high", "low"),
}
_NUMBERS = {"n": range(1, 11), "output_compression": range(101)}
_NAMES = {"model", "prompt", "size", "user", "safety_identifier", *_TEXTS, *_NUMBERS}
_GENERATIONS_ALONE, _EDITS_ALONE = {"moderation"}, {"input_fidelity"}
_STEP_PX, _LONGEST_PX, _MOST_PIXELS = 16, 3840, 3840 * 2160
_OLD_SIZES = ("1024x1024", "1536x1024", "1024x1536")
# Output tokens of 1024x1024, derived from fal.ai's prices of gpt-image-2.5; auto is taken for high.
_TOKENS = {"low": 196, "medium": 439, "auto": 1756, "high": 1756, "xhigh": 3122, "max": 7024}
_REFERENCE_TOKENS = 40  # the example of the documents has 40 for its image
_MOST_IMAGES = 16
_NEW, _OLD, _GONE = (
    ("gpt-image-2.6-sunburst", "gpt-image-2.6-flare", "gpt-image-2.5-sunburst", "gpt-image-2.5-flare", "gpt-image-2"),
    ("gpt-image-1.5", "gpt-image-1-mini", "chatgpt-image-latest"),
    ("gpt-image-1",),
)
_SUCCESSOR = _NEW[0]


def _model(name: str, replacement: str = "") -> Model:
    return Model(id=name, family="imagen", ratios=(), sizes=(), mime="image/png", replacement=replacement)


MODELS = {name: _model(name) for name in (*_NEW, "gpt-image-2-2026-04-21", *_OLD)}
MODELS |= {f"{name}-2026-09-08": _model(f"{name}-2026-09-08") for name in _NEW[2:4]}
MODELS |= {"gpt-image-1.5-2025-12-16": _model("gpt-image-1.5-2025-12-16")}
MODELS |= {name: _model(name, _SUCCESSOR) for name in _GONE}


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenAiSpec(Spec):
    """A request that was understood. asked: parameters as they were sent, without images."""

    asked: Mapping[str, Any]


_INVALID = "invalid_request_error"


def _error(
    status: int, message: str, kind: str = _INVALID, code: str | None = None, param: str | None = None
) -> ApiError:
    return ApiError(status, as_json({"error": {"message": message, "type": kind, "param": param, "code": code}}))


_QUOTA = "You exceeded your current quota, please check your plan and billing details. For more information on this error, read the docs: https://platform.openai.com/docs/guides/error-codes/api-errors."
_WHERE = "You can find your API key at https://platform.openai.com/account/api-keys."
_LIMIT = "for limit gpt-image) in organization org-emulated on input-images per min: Limit 5, Used 5, Requested 1."
_REJECTED = (
    "Your request was rejected by the safety system. If you believe this is an error, contact us at help.openai.com and include"
    " the request ID req_{id}. safety_violations=[sexual]."
)
_UNVERIFIED = (
    "Your organization must be verified to use the model `{model}`. Please go to: "
    "https://platform.openai.com/settings/organization/general and click on Verify Organization. If you just verified, it can take"
    " up to 15 minutes for access to propagate."
)
_TOO_MANY = f"Rate limit reached for {{model}} ({_LIMIT} Please try again in {{retry_s:g}}s."
_FAILED = "The server had an error while processing your request."


class _Api(Api):
    worded = staticmethod(_error)
    errors: ClassVar = {
        "key": (401, f"Incorrect API key provided: {{key}}***. {_WHERE}", _INVALID, "invalid_api_key"),
        "credits": (429, _QUOTA, "insufficient_quota", "insufficient_quota"),
        "too_large": (413, "The request is too large."),
        "429": (429, _TOO_MANY, "input-images", "rate_limit_exceeded"),
        "429bare": (429, "Too Many Requests", "requests", "rate_limit_exceeded"),
        "hard_limit": (400, "Billing hard limit has been reached.", _INVALID, "billing_hard_limit_reached"),
        "unverified": (403, _UNVERIFIED),
        "moderation": (400, _REJECTED, "image_generation_user_error", "moderation_blocked"),
        **{status: (int(status), _FAILED, "server_error") for status in ("408", "500", "503", "504")},
    }


_API = _Api()


def generations(options: EmulatorOptions) -> Endpoint:
    return Endpoint(
        api=_API, faults=OPENAI_FAULTS, parse=lambda _, body: _parse(_json(body), {}, options), compose=_compose
    )


def routes(pipeline: Pipeline) -> list[web.RouteDef]:
    """The routes of edits, and of questions, which AIML answers in the same form. Keys, quotas and errors are shared."""

    def parse_edit(request: web.Request, body: bytes) -> OpenAiSpec:
        texts, images = read_form(request.headers.get("Content-Type", ""), body)
        return _parse(texts, images, pipeline.options, form=True)

    def parse_question(_: web.Request, body: bytes) -> ChatSpec:
        return _parse_chat(_json(body), pipeline.options)

    edits = Endpoint(api=_API, faults=OPENAI_FAULTS, parse=parse_edit, compose=_compose)
    questions = Endpoint(api=_API, faults=OPENAI_FAULTS, parse=parse_question, compose=_compose_chat)
    return [
        web.post("/v1/images/edits", partial(pipeline.handle, endpoint=edits)),
        web.post("/v1/chat/completions", partial(pipeline.handle, endpoint=questions)),
    ]


def asks_for(body: bytes) -> bool:
    """Whether a body names a model of OpenAI: AIML answers at this path too."""
    return re.search(rb'"model"\s*:\s*"(gpt-image|chatgpt-image|dall-e)', body) is not None


def _require(holds: Any, message: str, code: str | None = "invalid_value", param: str | None = None) -> None:
    if not holds:
        raise _error(400, message, code=code, param=param)


def _json(body: bytes) -> dict[str, Any]:
    found = json_object(body)
    _require(found is not None, "We could not parse the JSON body of your request.", None)
    return found or {}


def read_form(content_type: str, body: bytes) -> tuple[dict[str, str], dict[str, list[bytes]]]:
    """Read the texts and files of a form, by name. Raises ApiError 400."""
    boundary = _parameter(content_type, "boundary")
    _require(content_type.startswith("multipart/form-data") and boundary, "Expected a multipart form.", None)
    texts: dict[str, str] = {}
    files: dict[str, list[bytes]] = {}
    pieces = (b"\r\n" + body).split(b"\r\n--" + boundary.encode())
    _require(pieces[-1].startswith(b"--"), "The multipart form has no end.", None)
    for piece in pieces[1:-1]:
        head, _, data = piece.partition(b"\r\n\r\n")
        lines = [line for line in head.decode().split("\r\n") if line.lower().startswith("content-disposition:")]
        _require(lines, "A part of the form has no name.", None)
        disposition = lines[0].partition(":")[2].strip()
        name = _parameter(disposition, "name")
        if _parameter(disposition, "filename"):
            files.setdefault(name, []).append(data)
        else:
            texts[name] = data.decode()
    return texts, files


def _parameter(header: str, name: str) -> str:
    """A parameter of a header such as `form-data; name="image"`."""
    message = Message()
    message["Content-Type"] = header
    return str(message.get_param(name) or "")


def _parse(
    given: Mapping[str, Any], images: Mapping[str, list[bytes]], options: EmulatorOptions, *, form: bool = False
) -> OpenAiSpec:
    """Read a request for images. Raises ApiError."""
    asked = {name: value for name, value in given.items() if value is not None}
    allowed = _NAMES - (_GENERATIONS_ALONE if form else _EDITS_ALONE)
    unknown = sorted(set(asked) - allowed) + sorted(set(images) - {"image", "image[]", "mask"})
    _require(not unknown, f"Unknown parameter: '{''.join(unknown[:1])}'.", "unknown_parameter")
    name, prompt = str(asked.get("model")), str(asked.get("prompt", ""))
    if name not in MODELS or not options.offers(name, is_retired=MODELS[name].replacement):
        raise _error(404, f"The model '{name}' does not exist or you do not have access to it.", code="model_not_found")
    _require(0 < len(prompt) <= 32_000, "Invalid value: 'prompt'.")
    for key, words in _TEXTS.items():
        supported = f"Supported values are: {', '.join(words)}."
        _require(asked.get(key, words[0]) in words, f"Invalid value: '{key}'. {supported}")
    numbers = {key: _number(asked, key, form=form) for key in _NUMBERS if key in asked}
    format_ = asked.get("output_format", "png")
    see_through = asked.get("background") == "transparent" and format_ == "jpeg"
    _require(not see_through, "Transparent background is not supported for JPEG output format.")
    compressed = numbers.get("output_compression", 100) < 100 and format_ == "png"
    _require(not compressed, "Compression is not supported for PNG.")
    return OpenAiSpec(
        model=MODELS[name],
        prompt=clean(prompt),
        size=_size(name, asked.get("size", "auto")),
        count=numbers.get("n", 1),
        mime=f"image/{format_}",
        quality=max(1, min(95, numbers.get("output_compression", 86))),
        references=_references(images) if form else (),
        asked=asked,
    )


def _number(asked: Mapping[str, Any], name: str, *, form: bool) -> int:
    """Read a number, which is text in a form and a number in JSON."""
    value = asked[name]
    if form and isinstance(value, str) and value.isdecimal():
        value = int(value)
    _require(type(value) is int and value in _NUMBERS[name], f"Invalid value for '{name}'.", "integer_out_of_range")
    return int(value)


def _size(model: str, size: Any) -> str:
    if size == "auto":
        return "1024x1024"
    match = re.fullmatch(r"([1-9]\d{1,4})x([1-9]\d{1,4})", size) if isinstance(size, str) else None
    _require(match, f"Invalid value: '{size}'. Expected WIDTHxHEIGHT or auto.")
    width, height = map(int, size.split("x"))
    if MODELS[model].replacement or model.startswith((*_OLD, "gpt-image-1")):
        supported = f"Supported values are: {', '.join(_OLD_SIZES)}, and 'auto'."
        _require(size in _OLD_SIZES, f"Invalid value: '{size}'. {supported}")
    _require(width % _STEP_PX == 0 == height % _STEP_PX, "Width and height must be divisible by 16.")
    _require(max(width, height) <= 3 * min(width, height), "The aspect ratio must be between 1:3 and 3:1.")
    fits = max(width, height) <= _LONGEST_PX and width * height <= _MOST_PIXELS
    _require(fits, "The resolution exceeds the maximum of 3840x2160.")
    return str(size)


def _references(images: Mapping[str, list[bytes]]) -> tuple[str, ...]:
    """The hashes of the images, and the mask's after them. Raises ApiError 400."""
    sent = [*images.get("image", []), *images.get("image[]", [])]
    masks = images.get("mask", [])
    _require(0 < len(sent) <= _MOST_IMAGES, f"Expected 1 to {_MOST_IMAGES} images, got {len(sent)}.")
    _require(len(images.get("image", [])) <= 1, "Duplicate parameter: 'image'. Use 'image[]' for several.", None)
    sizes = [picture_size(image) for image in (*sent, *masks)]
    _require(all(sizes), "Invalid image file or mode for image, please check your image file.", "invalid_image_file")
    _require(len(masks) <= 1 and all(mask.startswith(b"\x89PNG") for mask in masks), "Invalid mask image format.")
    _require(not masks or sizes[-1] == sizes[0], "Invalid mask image size: it must be the image's.")
    return tuple(map(sha256, (*sent, *masks)))


def _compose(job: Job[OpenAiSpec]) -> Answer:
    spec = job.spec
    if job.fault in ("no_image", "empty"):
        return Answer(body=as_json({"created": 1_764_400_000, "data": []}))
    pictures = [job.paint(index) for index in range(spec.count)]
    width, height = spec.model.pixels(spec.ratio, spec.size)
    tokens = _TOKENS[spec.asked.get("quality", "auto")] * width * height // 1024**2 * spec.count
    text, seen = text_tokens(spec.prompt), _REFERENCE_TOKENS * len(spec.references)
    body = {
        "created": 1_764_400_000,
        "background": spec.asked.get("background", "opaque"),
        "output_format": job.mime.removeprefix("image/"),
        "quality": spec.asked.get("quality", "high"),
        "size": spec.size,
        "data": [{"b64_json": job.in_base64(data)} for data in pictures],
        "usage": {
            "input_tokens": text + seen,
            "input_tokens_details": {"text_tokens": text, "image_tokens": seen},
            "output_tokens": tokens,
            "output_tokens_details": {"image_tokens": tokens, "text_tokens": 0},
            "total_tokens": text + seen + tokens,
        },
    }
    headers = {"x-request-id": f"req_{uuid.uuid4().hex}", "openai-version": "2020-10-01"}
    return with_pictures(body, pictures, headers=headers)


def listing(request: web.Request, options: EmulatorOptions) -> dict[str, Any]:
    """Answer `GET /v1/models`, which lists chat models too."""
    _API.key(request)
    names = [name for name, model in MODELS.items() if options.offers(name, is_retired=model.replacement)]
    entries = [
        {"id": name, "object": "model", "created": 1_764_400_000, "owned_by": "system", "shutdown_date": None}
        for name in (*names, "gpt-5.4-nano", "gpt-5.4-mini")
    ]
    return {"object": "list", "data": entries}


# Questions about images: one with images, and one answer in JSON.

_CHAT_NAMES = {"model", "messages", "response_format", "temperature", "user", "store", "max_completion_tokens"}
_REASONING = ("gpt-5.4-mini", "gpt-5.4-nano", "gpt-5.6-luna")  # these take no temperature
_OTHERS = ("gpt-4o", "openai/gpt-4o", "google/gemini-2.5-flash")  # the last two are AIML's
_CHAT_MODELS = {
    name: Model(id=name, family="imagen", ratios=(), sizes=(), writes=True) for name in (*_REASONING, *_OTHERS)
}
_IMAGE_TOKENS = 765  # of 1024x1024 at high detail, by the example of /guides/images-vision


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatSpec(Spec):
    """A question that was understood. judged: the first image sent along. schema: of the JSON wanted."""

    judged: Sight
    schema: Mapping[str, Any]


def _parse_chat(asked: Mapping[str, Any], options: EmulatorOptions) -> ChatSpec:
    """Read a question. Raises ApiError."""
    unknown = sorted(set(asked) - _CHAT_NAMES)
    _require(not unknown, f"Unknown parameter: '{''.join(unknown[:1])}'.", "unknown_parameter")
    name = str(asked.get("model"))
    if name not in _CHAT_MODELS or not options.offers(name):
        raise _error(404, f"The model `{name}` does not exist or you do not have access to it.", code="model_not_found")
    takes = name not in _REASONING or asked.get("temperature", 1) == 1
    problem = (
        "Unsupported value: 'temperature' does not support 0 with this model. Only the default (1) value is supported."
    )
    _require(takes, problem, "unsupported_value", "temperature")
    parts = [part for message in asked.get("messages") or () for part in _parts(message)]
    _require(parts, "Invalid type for 'messages': expected an array of objects.", "invalid_type", "messages")
    images = [_image(part) for part in parts if part.get("type") == "image_url"]
    return ChatSpec(
        model=_CHAT_MODELS[name],
        prompt=clean("\n".join(str(part["text"]) for part in parts if part.get("type") == "text")),
        references=tuple(map(sha256, images)),
        judged=look_at(sha256(images[0]), images[0]) if images else Sight(name=""),
        schema=_schema(asked.get("response_format") or {}),
    )


def _parts(message: dict[str, Any]) -> list[dict[str, Any]]:
    content = message.get("content")
    return content if isinstance(content, list) else [{"type": "text", "text": content or ""}]


def _image(part: dict[str, Any]) -> bytes:
    """The image of a part, which must be a data URL: links are not followed here. Raises ApiError 400."""
    head, _, data = str(part["image_url"].get("url", "")).partition(";base64,")
    try:
        image = base64.b64decode(data, validate=True) if head.startswith("data:image/") else b""
    except binascii.Error:
        image = b""
    _require(picture_size(image), "You uploaded an unsupported image.", "invalid_image_format")
    return image


def _schema(wanted: Mapping[str, Any]) -> Mapping[str, Any]:
    """The schema of the JSON wanted; strict mode asks that every field is required. Raises ApiError 400."""
    form = wanted.get("json_schema") or {}
    found: Mapping[str, Any] = form.get("schema") or {}
    _require(not found or form.get("name"), "Missing required parameter: 'response_format.json_schema.name'.", None)
    where = f"Invalid schema for response_format '{form.get('name')}': In context=(),"
    closed = not form.get("strict") or found.get("additionalProperties") is False
    problem = "'additionalProperties' is required to be supplied and to be false."
    _require(closed, f"{where} {problem}", None)
    complete = not form.get("strict") or set(found.get("properties", ())) == set(found.get("required", ()))
    problem = "'required' is required to be supplied and to be an array including every key in properties."
    _require(complete, f"{where} {problem}", None)
    return found


def _compose_chat(job: Job[ChatSpec]) -> Answer:
    spec, text, refusal = job.spec, None, None
    if job.fault == "no_image":
        refusal = "I'm sorry, I can't help with that."
    else:
        text = judge(spec.prompt, spec.judged, spec.schema, job.places, job.attempt)
    message: dict[str, Any] = {"role": "assistant", "content": text, "refusal": refusal, "annotations": []}
    read = text_tokens(spec.prompt) + _IMAGE_TOKENS * len(spec.references)
    wrote, thought = text_tokens(text or refusal or ""), 64 if spec.model.id in _REASONING else 0
    body = {
        "id": f"chatcmpl-{uuid.uuid4().hex[:29]}",
        "object": "chat.completion",
        "created": 1_764_400_000,
        "model": spec.model.id,
        "choices": [] if job.fault == "empty" else [{"index": 0, "message": message, "finish_reason": "stop"}],
        "usage": {
            "prompt_tokens": read,
            "completion_tokens": wrote + thought,
            "total_tokens": read + wrote + thought,
            "completion_tokens_details": {"reasoning_tokens": thought},
        },
    }
    return Answer(body=as_json(body), headers={"x-request-id": f"req_{uuid.uuid4().hex}"})
