"""Reads the answer of /v1/images/generations and /v1/images/edits, at OpenAI, AIML and wherever else an API answers in
OpenAI's way: images, or an error.

Errors of AIML: `{"message", "path", "requestId", "statusCode": "429" or 429, "timestamp"}`, and since August 2026 RFC
9457's `{"title", "status", "message", "instance", "error": {"name", "message"}}`; OpenAI style: `{"error": {"message",
"type", "code"}}`. Missing credit is a 403 at AIML. Source: github.com/aimlapi/api-docs f14fa72,
docs/errors-and-messages; github.com/api-evangelist/aimlapi 79b781f, errors/aimlapi-problem-types.yml (live bodies of
2026-08-30); platform.openai.com/docs/guides/error-codes.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Annotated, Any

from pydantic import NonNegativeFloat, OnErrorOmit, ValidationError

from batchgen.errors import (
    BadRequest,
    BillingStopped,
    DailyQuotaReached,
    KeyRejected,
    ModelUnavailable,
    NoImage,
    ProviderError,
    RateLimited,
    Refused,
)
from batchgen.providers import google_errors
from batchgen.providers.answer_body import (
    LENIENT,
    AnswerModel,
    clean_line,
    decode_image,
    is_markup,
    malformed_error,
    markup_text,
    parse_json,
)
from batchgen.providers.server_faults import (
    BLOCKED_BY_FILTER,
    ONE_MODEL_FORBIDDEN,
    foreign_json_error,
    hinted_delay_s,
    not_the_api_error,
    server_fault,
)
from batchgen.records import DECODED_PREFIX, Reply, ReplyImage, Response, Usage

PROMPT_CHARS = 10_000
INLINE_PREFIXES = ("data:", DECODED_PREFIX)  # the beginnings of a `url` that is itself the image


class ImageEntry(AnswerModel):
    b64_json: str | None = None
    url: str | None = None
    mime_type: Annotated[str | None, LENIENT] = None
    content_type: Annotated[str | None, LENIENT] = None
    prompt: Annotated[str | None, LENIENT] = None
    revised_prompt: Annotated[str | None, LENIENT] = None


class SpendReport(AnswerModel):
    credits_used: Annotated[NonNegativeFloat | None, LENIENT] = None
    tokens_used: Annotated[NonNegativeFloat | None, LENIENT] = None  # the name of credits in older answers
    usd_spent: Annotated[NonNegativeFloat | None, LENIENT] = None


class Meta(AnswerModel):
    usage: SpendReport | None = None


class TokenDetails(AnswerModel):
    text_tokens: int = 0
    image_tokens: int = 0


class TokenUsage(AnswerModel):
    input_tokens: int | None = None
    output_tokens: int | None = None
    total_tokens: int | None = None
    input_tokens_details: Annotated[TokenDetails | None, LENIENT] = None
    output_tokens_details: Annotated[TokenDetails | None, LENIENT] = None


class Answer(AnswerModel):
    data: list[OnErrorOmit[ImageEntry]] | None = None
    images: list[OnErrorOmit[ImageEntry]] | None = None  # in answers of nano-banana-edit
    meta: Annotated[Meta | None, LENIENT] = None
    usage: Annotated[TokenUsage | None, LENIENT] = None
    model: Annotated[str | None, LENIENT] = None
    id: Annotated[str | None, LENIENT] = None
    output_format: Annotated[str | None, LENIENT] = None  # for OpenAI's images, which do not state it themselves


def read_reply(response: Response, error_of: Callable[[Response], ProviderError]) -> Reply:
    """The images of an answer. error_of: what an error of this API means. Raises ProviderError."""
    try:
        answer = Answer.model_validate_json(response.body)
    except ValidationError as error:
        if not response.is_success:
            raise error_of(response) from None
        raise not_the_api_error(response) or malformed_error(response.status, error) from None
    try:
        return _reply(answer, response, error_of)
    except ProviderError as error:
        error.usage = _usage(answer)
        raise


def _reply(answer: Answer, response: Response, error_of: Callable[[Response], ProviderError]) -> Reply:
    if not response.is_success:  # success is 200 in AIML's schema and 201 in its prose
        raise error_of(response)
    pictures = answer.data or answer.images or []
    mime_type = f"image/{answer.output_format}" if answer.output_format else None
    images = tuple(image for picture in pictures if (image := _image(picture, mime_type)) is not None)
    links = tuple(p.url for p in pictures if not p.b64_json and p.url and not p.url.startswith(INLINE_PREFIXES))
    if not images and not links:
        if error_words(response.body):  # an error with the status of a success
            raise error_of(response)
        raise foreign_json_error(answer, response) or NoImage("the answer holds no image", http_status=response.status)
    rewritten = _rewritten_prompts(pictures)
    return Reply(
        images=images,
        links=links,
        text="\n".join(rewritten),
        usage=_usage(answer),
        reply_id=(answer.id or response.header("x-request-id") or "")[:200],
        model_version=(answer.model or "")[:200],
        notes=tuple(f"the vendor drew from this prompt: {clean_line(text)}" for text in rewritten),
    )


def _image(entry: ImageEntry, mime_type: str | None) -> ReplyImage | None:
    inline = entry.b64_json or (entry.url if entry.url and entry.url.startswith(INLINE_PREFIXES) else None)
    return decode_image(inline, entry.mime_type or entry.content_type or mime_type) if inline else None


def _rewritten_prompts(pictures: list[ImageEntry]) -> tuple[str, ...]:
    """The prompts that were rewritten. AIML's Imagen does that unless `enhance_prompt: false` is sent, and the user
    should see what was drawn."""
    texts = dict.fromkeys(clean_line(p.revised_prompt or p.prompt or "", PROMPT_CHARS) for p in pictures)
    return tuple(text for text in texts if text)


def _usage(answer: Answer) -> Usage | None:
    """The tokens used. Output tokens without a breakdown are the images'."""
    spent = answer.meta.usage if answer.meta else None
    if spent is not None:
        return Usage(
            credits=spent.credits_used if spent.credits_used is not None else spent.tokens_used, usd=spent.usd_spent
        )
    if answer.usage is None:
        return None
    tokens = answer.usage
    read, drawn = tokens.input_tokens_details, tokens.output_tokens_details
    from_images = max(0, read.image_tokens) if read else 0
    text = max(0, drawn.text_tokens) if drawn else 0
    return Usage(
        prompt_tokens=max(0, (tokens.input_tokens or 0) - from_images),
        prompt_image_tokens=from_images,
        image_tokens=max(0, (tokens.output_tokens or 0) - text),
        text_tokens=text,
        total_tokens=tokens.total_tokens,
    )


# Errors.

HOUR_S = 3600.0
OUT_OF_CREDITS = re.compile(
    r"run out of credits|insufficient[_ ](quota|credits|balance|funds)|top up|billing[_ ](hard[_ ]limit|not[_ ]active)"
    r"|billing (is |has been )?(disabled|inactive)|enable billing|account is not active",
    re.IGNORECASE,
)
# "…check your plan and billing details … limit: 10 … retry in 8.2s": Google's refusal, passed on by a gateway.
GOOGLE_MESSAGE = re.compile(
    r"quota exceeded for metric|generativelanguage\.googleapis\.com|ai\.google\.dev", re.IGNORECASE
)
HOURLY = re.compile(r"free-tier limit|limit for the hour", re.IGNORECASE)
CONTENT_POLICY = re.compile(r"content[_ ]policy|moderation|safety (system|filter)|flagged|nsfw", re.IGNORECASE)
NO_MODEL = re.compile(r"model_not_found|model .{0,80}(does not exist|not found)", re.IGNORECASE)
MAINTENANCE = re.compile(r"under maintenance", re.IGNORECASE)


def read_error(response: Response) -> ProviderError:
    """The error of an answer. If its status is below 400, the status in the body counts. Never raises."""
    status, words = response.status, error_words(response.body)
    if not words and (other := not_the_api_error(response)) is not None:
        return other
    said = words or markup_text(response.body)
    if status < 400:
        status = _status(parse_json(response.body)) or status
    message = clean_line(said) or f"HTTP {status} without a body"
    delay_s = hinted_delay_s(response, message=message)
    if status == 429 and GOOGLE_MESSAGE.search(said):
        return google_errors.classify(google_errors.GoogleError(status, message, delay_s=delay_s, raw_message=said))
    is_proxy_page = status >= 500 and is_markup(response)  # whose page says nothing about the prompt
    kind, reason = (None, None) if is_proxy_page else _error_class(status, said)
    if kind is None:
        return server_fault(status, message, delay_s)
    if reason == "hourly_quota":
        delay_s = max(delay_s or 0.0, HOUR_S)
    return kind(message, reason=reason, retry_after_s=delay_s, http_status=status)


def error_words(body: bytes) -> str:
    """What an error body says, codes included; empty if it has none of the known shapes."""
    value = parse_json(body)
    if not isinstance(value, dict):
        return ""
    inner = value.get("error")
    source = inner if isinstance(inner, dict) else value
    said = [inner, source.get("message"), value.get("message"), value.get("detail")]  # the last one from RFC 9457
    if source is value and not any(isinstance(text, str) for text in said):
        return ""
    words = [*said, source.get("code"), source.get("type"), source.get("meta")]
    return " · ".join(dict.fromkeys(word for word in words if isinstance(word, str) and word))


def _status(value: Any) -> int | None:
    """The status in a body: statusCode comes as a number and as a string."""
    code = value.get("statusCode") if isinstance(value, dict) else None
    text = str(code)[:4]
    return int(text) if re.fullmatch(r"[45]\d\d", text, re.ASCII) else None


def _error_class(status: int, said: str) -> tuple[type[ProviderError] | None, str | None]:
    """The class and reason of an error, (None, None) if the status alone decides."""
    if status == 402 or (status in (400, 403, 429) and OUT_OF_CREDITS.search(said)):
        return BillingStopped, None
    if (status in (400, 403, 422) and CONTENT_POLICY.search(said)) or (
        status >= 500 and BLOCKED_BY_FILTER.search(said)
    ):
        return Refused, "content_policy"
    if status == 403 and ONE_MODEL_FORBIDDEN.search(said):
        return ModelUnavailable, "model_forbidden"
    if status in (401, 403):
        return KeyRejected, None
    if status == 404 or (status == 400 and NO_MODEL.search(said)):
        return ModelUnavailable, None
    if status == 413:
        return BadRequest, "request_too_large"
    if status == 429:
        return (DailyQuotaReached, "hourly_quota") if HOURLY.search(said) else (RateLimited, None)
    if status >= 500 and MAINTENANCE.search(said):
        return ModelUnavailable, "maintenance"
    return None, None
