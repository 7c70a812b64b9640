"""OpenAI's `/v1/chat/completions`, as far as a judge of images needs it: one question with images, one answer in JSON. AIML has the
same path and the same form.

Source: platform.openai.com/docs/api-reference/chat and /guides/structured-outputs (2026-11); github.com/openai/openai-openapi.
"""

from __future__ import annotations

import base64
import binascii
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from aiohttp import web

from batchgen.emulator import openai
from batchgen.emulator.answers import Answer, ApiError, as_json, clean, json_object
from batchgen.emulator.faults import OPENAI_FAULTS
from batchgen.emulator.judge import Sight, judge, look_at
from batchgen.emulator.models import Model, text_tokens
from batchgen.emulator.options import EmulatorOptions
from batchgen.emulator.pictures import picture_size, sha256
from batchgen.emulator.pipeline import Endpoint, Job, Pipeline, Spec

_NAMES = {"model", "messages", "response_format", "temperature", "user", "store", "max_completion_tokens"}
_REASONING = ("gpt-5.4-mini", "gpt-5.4-nano", "gpt-5.6-luna")  # which take no temperature
_OTHERS = ("gpt-4o", "openai/gpt-4o", "google/gemini-2.5-flash")  # the last two are AIML's
MODELS = {name: Model(id=name, family="imagen", ratios=(), sizes=(), writes=True) for name in (*_REASONING, *_OTHERS)}
_IMAGE_TOKENS = 765  # of 1024x1024 at high detail, by the example of /guides/images-vision


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatSpec(Spec):
    """judged: the first image sent along. schema: of the JSON wanted."""

    judged: Sight
    schema: Mapping[str, Any]


def routes(pipeline: Pipeline) -> list[web.RouteDef]:
    """Keys, quotas and their words are those of images."""

    def parse(request: web.Request, body: bytes) -> ChatSpec:
        return _parse(body, pipeline.options)

    api = openai.generations(pipeline.options).api
    questions = Endpoint(api=api, faults=OPENAI_FAULTS, parse=parse, compose=_compose)
    return [web.post("/v1/chat/completions", partial(pipeline.handle, endpoint=questions))]


def _error(status: int, message: str, param: str | None = None, code: str | None = None) -> ApiError:
    error = {"message": message, "type": "invalid_request_error", "param": param, "code": code}
    return ApiError(status, as_json({"error": error}))


def _require(holds: Any, message: str, param: str | None = None, code: str | None = None) -> None:
    if not holds:
        raise _error(400, message, param, code)


def _parse(body: bytes, options: EmulatorOptions) -> ChatSpec:
    """Raises ApiError."""
    asked = json_object(body)
    if asked is None:
        raise _error(400, "We could not parse the JSON body of your request.")
    unknown = sorted(set(asked) - _NAMES)
    _require(not unknown, f"Unknown parameter: '{''.join(unknown[:1])}'.", code="unknown_parameter")
    name = str(asked.get("model"))
    if name not in MODELS or not options.offers(name):
        raise _error(404, f"The model `{name}` does not exist or you do not have access to it.", code="model_not_found")
    takes = name not in _REASONING or asked.get("temperature", 1) == 1
    problem = (
        "Unsupported value: 'temperature' does not support 0 with this model. Only the default (1) value is supported."
    )
    _require(takes, problem, "temperature", "unsupported_value")
    parts = [part for message in asked.get("messages") or () for part in _parts(message)]
    _require(parts, "Invalid type for 'messages': expected an array of objects.", "messages", "invalid_type")
    images = [_image(part) for part in parts if part.get("type") == "image_url"]
    return ChatSpec(
        model=MODELS[name],
        prompt=clean("\n".join(str(part["text"]) for part in parts if part.get("type") == "text")),
        references=tuple(map(sha256, images)),
        judged=look_at(sha256(images[0]), images[0]) if images else Sight(name=""),
        schema=_schema(asked.get("response_format") or {}),
    )


def _parts(message: dict[str, Any]) -> list[dict[str, Any]]:
    content = message.get("content")
    return content if isinstance(content, list) else [{"type": "text", "text": content or ""}]


def _image(part: dict[str, Any]) -> bytes:
    """Raises ApiError 400. Links are not followed here."""
    head, _, data = str(part["image_url"].get("url", "")).partition(";base64,")
    try:
        image = base64.b64decode(data, validate=True) if head.startswith("data:image/") else b""
    except binascii.Error:
        image = b""
    _require(picture_size(image), "You uploaded an unsupported image.", code="invalid_image_format")
    return image


def _schema(wanted: Mapping[str, Any]) -> Mapping[str, Any]:
    """What strict mode asks of a schema: every field required, and no others. Raises ApiError 400."""
    form = wanted.get("json_schema") or {}
    found: Mapping[str, Any] = form.get("schema") or {}
    _require(not found or form.get("name"), "Missing required parameter: 'response_format.json_schema.name'.")
    where = f"Invalid schema for response_format '{form.get('name')}': In context=(),"
    closed = found.get("additionalProperties") is False
    _require(
        not form.get("strict") or closed, f"{where} 'additionalProperties' is required to be supplied and to be false."
    )
    all_required = set(found.get("properties", ())) == set(found.get("required", ()))
    _require(
        not form.get("strict") or all_required,
        f"{where} 'required' is required to be supplied and to be an array including every key in properties.",
    )
    return found


def _compose(job: Job[ChatSpec]) -> Answer:
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
