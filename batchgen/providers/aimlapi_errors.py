"""What an error of AIML or of an OpenAI-style endpoint means for us.

AIML: `{"message", "path", "requestId", "statusCode": "429" or 429, "timestamp"}`, and since August 2026 RFC 9457's
`{"title", "status", "message", "instance", "error": {"name", "message"}}`; OpenAI style: `{"error": {"message", "type",
"code"}}`. A missing credit is a 403 at AIML.
Source: github.com/aimlapi/api-docs f14fa72, docs/errors-and-messages; github.com/api-evangelist/aimlapi 79b781f,
errors/aimlapi-problem-types.yml (live bodies of 2026-08-30); platform.openai.com/docs/guides/error-codes.
"""

from __future__ import annotations

import re
from typing import Any

from batchgen.errors import (
    BadRequest,
    BillingStopped,
    DailyQuotaReached,
    KeyRejected,
    ModelUnavailable,
    ProviderError,
    RateLimited,
    Refused,
)
from batchgen.providers import google_errors
from batchgen.providers.answer_body import clean_line, is_markup, markup_text, parse_json
from batchgen.providers.server_faults import (
    BLOCKED_BY_FILTER,
    ONE_MODEL_FORBIDDEN,
    hinted_delay_s,
    not_the_api_error,
    server_fault,
)
from batchgen.records import Response

HOUR_S = 3600.0
OUT_OF_CREDITS = re.compile(
    r"run out of credits|insufficient[_ ](quota|credits|balance|funds)|top up|billing[_ ](hard[_ ]limit|not[_ ]active)"
    r"|billing (is |has been )?(disabled|inactive)|enable billing|account is not active",
    re.IGNORECASE,
)
# "…check your plan and billing details … limit: 10 … retry in 8.2s": Google's refusal as a gateway passes it on.
GOOGLE_MESSAGE = re.compile(
    r"quota exceeded for metric|generativelanguage\.googleapis\.com|ai\.google\.dev", re.IGNORECASE
)
HOURLY = re.compile(r"free-tier limit|limit for the hour", re.IGNORECASE)
CONTENT_POLICY = re.compile(r"content[_ ]policy|moderation|safety (system|filter)|flagged|nsfw", re.IGNORECASE)
NO_MODEL = re.compile(r"model_not_found|model .{0,80}(does not exist|not found)", re.IGNORECASE)
MAINTENANCE = re.compile(r"under maintenance", re.IGNORECASE)


def read_error(response: Response) -> ProviderError:
    """The error an answer amounts to. A status below 400 gives way to the body's own. Never raises."""
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
    """What an error body says, codes included; empty when it is none of the known shapes."""
    value = parse_json(body)
    if not isinstance(value, dict):
        return ""
    inner = value.get("error")
    source = inner if isinstance(inner, dict) else value
    said = [inner, source.get("message"), value.get("message"), value.get("detail")]  # the last as RFC 9457 has it
    if source is value and not any(isinstance(text, str) for text in said):
        return ""
    words = [*said, source.get("code"), source.get("type"), source.get("meta")]
    return " · ".join(dict.fromkeys(word for word in words if isinstance(word, str) and word))


def _status(value: Any) -> int | None:
    """statusCode comes as a number and as a string."""
    code = value.get("statusCode") if isinstance(value, dict) else None
    text = str(code)[:4]
    return int(text) if re.fullmatch(r"[45]\d\d", text, re.ASCII) else None


def _error_class(status: int, said: str) -> tuple[type[ProviderError] | None, str | None]:
    """Class and reason, (None, None) where the status alone decides."""
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
