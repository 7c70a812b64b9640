"""What an error of a Google API means. Shared by Gemini and Imagen.

The envelope is `{"error": {"code", "message", "status", "details": […]}}` (google.rpc.Status as JSON), sometimes in a
list, sometimes without details, and from the front end HTML or plain text. None of it is taken for granted. Sources:
ai.google.dev/gemini-api/docs/troubleshooting; googleapis/google/rpc/error_details.proto; bodies quoted in
github.com/google-gemini/gemini-cli#8437 and googleapis/js-genai#1322.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic import ValidationError

from batchgen.errors import (
    BadRequest,
    BillingStopped,
    DailyQuotaReached,
    FileGone,
    InputRejected,
    KeyRejected,
    ModelUnavailable,
    ProviderError,
    RateLimited,
    Refused,
    ServerFault,
    SpendRateReached,
)
from batchgen.providers.answer_body import (
    MESSAGE_MAX_CHARS,
    clean_line,
    is_markup,
    malformed_error,
    markup_text,
    parse_json,
)
from batchgen.providers.server_faults import (
    BLOCKED_BY_FILTER,
    ONE_MODEL_FORBIDDEN,
    AnswerT,
    foreign_json_error,
    hinted_delay_s,
    not_the_api_error,
    server_fault,
)
from batchgen.records import Response

# google.rpc.Code -> HTTP, for errors inside a 200 and in lines of a batch (googleapis/google/rpc/code.proto).
HTTP_OF_RPC: Mapping[int, int] = dict(
    enumerate((499, 500, 400, 504, 404, 409, 403, 429, 400, 409, 400, 501, 500, 503, 500, 401), start=1)
)
# The Interactions API spells its codes as words.
HTTP_OF_WORD: Mapping[str, int] = {"authentication": 401, "permission_denied": 403, "rate_limit": 429}
LONG_DELAY_S = 3600.0  # a hint of hours belongs to a rolling daily window; one of seconds beside a daily quota is noise

SPEND_CAP_REACHED = re.compile(
    r"spend(ing)? cap|ai\.studio/spend|prepay(ment)? credits|credits are depleted", re.IGNORECASE
)
# "You exceeded your spend-based rate limit. Your spending rate has exceeded the allowed limit for your account's billing
# history and tier." Seen in five public repositories, 2026-07-28 to 10-04.
SPEND_RATE = re.compile(r"spend-based rate limit|spending rate has exceeded", re.IGNORECASE)
LIMIT_IS_ZERO = re.compile(r"\blimit: 0(?![\d.])")
RPM_ID = re.compile(r"RequestsPerMinute")
PER_DAY = re.compile(r"per_?day", re.IGNORECASE)
BAD_KEY = re.compile(r"API[ _]key (not valid|expired|not found|invalid)|API_KEY_INVALID", re.IGNORECASE)
FILE_GONE = re.compile(
    r"\bFile \S+ or it may not exist|\bfiles?/\S+ (is )?not found|not in an ACTIVE state", re.IGNORECASE
)
FILE_NAME = re.compile(r"\bfiles?[ /]['\"]?(?!files?/)([a-z0-9][\w-]*)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class GoogleError:
    """An error answer taken apart. message: sanitized, at most 500 characters. violations: those of a QuotaFailure."""

    status: int
    message: str
    rpc_status: str = ""
    reasons: frozenset[str] = frozenset()  # ErrorInfo
    violations: tuple[Mapping[str, Any], ...] = ()
    delay_s: float | None = None
    raw_message: str = field(default="", repr=False)

    def to_error(self, kind: type[ProviderError], reason: str | None = None) -> ProviderError:
        return kind(self.message, reason=reason, retry_after_s=self.delay_s, http_status=self.status)

    def mentions(self, *words: str) -> bool:
        message = self.raw_message.lower()
        return any(word in message for word in words)


def read_error(response: Response) -> ProviderError:
    """The error of an answer with this status. Never raises."""
    status = response.status
    error = error_member(parse_json(response.body))
    if error is not None:
        return classify(parse_error(error, response))
    if (other := not_the_api_error(response)) is not None:
        return other
    said = markup_text(response.body)  # HTML and plain text come from proxies and Google's front end
    message = f"HTTP {status}: {said}" if said else f"HTTP {status} without a body"
    raw = "" if status >= 500 and is_markup(response) else said  # a proxy's page says nothing about the prompt
    return classify(GoogleError(status, clean_line(message), delay_s=hinted_delay_s(response), raw_message=raw))


def parse_answer(kind: type[AnswerT], response: Response) -> AnswerT:
    """A 2xx body as `kind`. Raises the ProviderError of any other status, and of a body that is not such an answer."""
    if not response.is_success:
        raise read_error(response)
    try:
        answer = kind.model_validate_json(response.body)
    except ValidationError as error:
        inner = error_member(parse_json(response.body))
        if inner is not None:
            raise classify(parse_error(inner, response)) from None
        raise not_the_api_error(response) or malformed_error(response.status, error) from None
    if (other := foreign_json_error(answer, response)) is not None:
        raise other
    return answer


def error_in_success(error: Any, response: Response) -> ProviderError:
    """The error for an `error` member that a gateway put into a 200."""
    return classify(parse_error(error_member({"error": error}) or {}, response))


def error_member(value: Any) -> Mapping[str, Any] | None:
    """The `error` member of an envelope, also of one inside a list (server-sent events, the OpenAI-style path)."""
    if isinstance(value, list) and value:
        value = value[0]
    if not isinstance(value, dict):
        return None
    error = value.get("error")
    if isinstance(error, str):
        return {"message": error}
    return error if isinstance(error, dict) else None


def parse_error(error: Mapping[str, Any], response: Response) -> GoogleError:
    """Take an `error` member apart. If the status is below 400, the error's own code counts."""
    details = [entry for entry in _list(error.get("details")) if isinstance(entry, dict)]
    message = _text(error.get("message"))
    extra = " ".join(dict.fromkeys(words for words in _explanations(details) if words not in message))
    status = response.status if response.status >= 400 else _http_status(error.get("code"))
    raw = f"{message} {extra}".strip()
    return GoogleError(
        status=status,
        message=clean_line(raw) or f"HTTP {status}",
        rpc_status=_text(error.get("status")),
        reasons=frozenset(_text(detail.get("reason")) for detail in _details_of_kind(details, "ErrorInfo")),
        violations=(*_entries(details, "QuotaFailure", "violations"), *_metadata_violations(details)),
        delay_s=hinted_delay_s(response, _details_of_kind(details, "RetryInfo"), message),
        raw_message=raw[: 4 * MESSAGE_MAX_CHARS],
    )


def _entries(details: list[dict[str, Any]], kind: str, *names: str) -> Iterator[Mapping[str, Any]]:
    for detail in _details_of_kind(details, kind):
        for name in names:
            yield from (entry for entry in _list(detail.get(name)) if isinstance(entry, dict))


def _explanations(details: list[dict[str, Any]]) -> Iterator[str]:
    """What the details say beyond the message: the field, the quota, and the reason that is only in DebugInfo."""
    for entry in _entries(details, "BadRequest", "fieldViolations", "field_violations"):
        yield _text(entry.get("description"))
    for entry in _entries(details, "QuotaFailure", "violations"):
        yield _text(entry.get("description"))
    for detail in _details_of_kind(details, "DebugInfo"):
        yield _text(detail.get("detail"))


def _metadata_violations(details: list[dict[str, Any]]) -> Iterator[Mapping[str, Any]]:
    """Quotas that only ErrorInfo names, in the shape of violations. Source: FirebaseExtended/vertexai-sdk-test-data."""
    for detail in _details_of_kind(details, "ErrorInfo"):
        metadata = detail.get("metadata")
        if isinstance(metadata, dict) and "quota_limit" in metadata:
            names = {"quotaId": "quota_limit", "quotaValue": "quota_limit_value", "quotaMetric": "quota_metric"}
            yield {ours: metadata.get(theirs) for ours, theirs in names.items()}


def classify(error: GoogleError) -> ProviderError:
    """Classify an error by the table of ai.google.dev/gemini-api/docs/troubleshooting, and what it leaves out."""
    if error.status == 429:
        return _quota_error(error)
    if error.status in (400, 412):
        return _bad_request_error(error)
    if error.status == 401:
        return error.to_error(KeyRejected)
    if error.status == 402:
        return error.to_error(BillingStopped)
    if error.status == 403:
        return _forbidden_error(error)
    if error.status == 404:
        return _file_gone(error) or error.to_error(ModelUnavailable)
    if error.status == 413:
        return error.to_error(BadRequest, "request_too_large")
    if error.status >= 500 and BLOCKED_BY_FILTER.search(error.raw_message):  # how a gateway reports a blocked prompt
        return error.to_error(Refused, "content_policy")
    return server_fault(error.status, error.message, error.delay_s)


def _quota_error(error: GoogleError) -> ProviderError:
    """The error for a 429. The quota's id decides, not the delay: a daily quota may come with a hint of seconds.

    Of several violations at once, a limit of zero outweighs a day, and a day outweighs a minute.
    """
    if SPEND_RATE.search(error.raw_message):
        return error.to_error(SpendRateReached)
    if SPEND_CAP_REACHED.search(error.raw_message):
        return error.to_error(BillingStopped)
    if "MODEL_CAPACITY_EXHAUSTED" in error.reasons:  # the vendor's shortage, not the user's quota
        return error.to_error(ServerFault, "overloaded")
    limits = [_text(violation.get("quotaValue", violation.get("quota_value"))) for violation in error.violations]
    if "0" in limits or LIMIT_IS_ZERO.search(error.raw_message):
        return error.to_error(ModelUnavailable, "no_quota")
    names = " ".join(
        _text(violation.get(name))
        for violation in error.violations
        for name in ("quotaId", "quota_id", "quotaMetric", "quota_metric")
    )
    # Gateways drop the details; the message still names the metrics.
    names = names.strip() or " ".join(re.findall(r"metric: (\S+)", error.raw_message))
    if "file_storage_bytes" in names:
        return error.to_error(ModelUnavailable, "file_storage_full")
    if PER_DAY.search(names):
        delay_s = error.delay_s if (error.delay_s or 0.0) >= LONG_DELAY_S else None
        return DailyQuotaReached(error.message, retry_after_s=delay_s, http_status=error.status)
    limited = RateLimited(error.message, retry_after_s=error.delay_s, http_status=error.status)
    limited.rpm = _rpm(error)
    return limited


def _rpm(error: GoogleError) -> int | None:
    """The requests per minute that a violation states; the smallest of several."""
    values = [
        _text(violation.get("quotaValue", violation.get("quota_value")))
        for violation in error.violations
        if RPM_ID.search(_text(violation.get("quotaId", violation.get("quota_id"))))
    ]
    return min((int(value) for value in values if value.isascii() and value.isdecimal()), default=None)


def _bad_request_error(error: GoogleError) -> ProviderError:
    """The error for a 400. A wrong key is INVALID_ARGUMENT here, not 401."""
    if "API_KEY_INVALID" in error.reasons or BAD_KEY.search(error.raw_message):
        return error.to_error(KeyRejected)
    if error.mentions("location is not supported"):
        return error.to_error(KeyRejected, "location_unsupported")
    if error.mentions("only accessible to billed users"):
        return error.to_error(ModelUnavailable, "billed_users_only")
    if error.rpc_status == "FAILED_PRECONDITION" and error.mentions("billing", "free tier"):
        return error.to_error(BillingStopped)
    if error.mentions("unable to process input image"):
        return error.to_error(InputRejected)
    if error.mentions("payload size exceeds"):
        return error.to_error(BadRequest, "request_too_large")
    if error.mentions("missing a thought_signature"):
        return error.to_error(BadRequest, "missing_thought_signature")
    if error.mentions("responsible ai practices"):  # how Imagen refuses a prompt
        return error.to_error(Refused, "prompt_blocked")
    return _file_gone(error) or error.to_error(BadRequest)


def _forbidden_error(error: GoogleError) -> ProviderError:
    if (gone := _file_gone(error)) is not None:
        return gone
    if "BILLING_DISABLED" in error.reasons:
        return error.to_error(BillingStopped)
    if ONE_MODEL_FORBIDDEN.search(error.raw_message):
        return error.to_error(ModelUnavailable, "model_forbidden")
    return error.to_error(KeyRejected)


def _file_gone(error: GoogleError) -> FileGone | None:
    if not FILE_GONE.search(error.raw_message):
        return None
    files = tuple(dict.fromkeys(FILE_NAME.findall(error.raw_message)))
    return FileGone(error.message, files=files, retry_after_s=error.delay_s, http_status=error.status)


def _details_of_kind(details: list[dict[str, Any]], name: str) -> list[dict[str, Any]]:
    return [detail for detail in details if _text(detail.get("@type")).endswith(f".{name}")]


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _text(value: Any) -> str:
    return value if isinstance(value, str) else "" if value is None else str(value)[: 4 * MESSAGE_MAX_CHARS]


def _http_status(code: Any) -> int:
    if isinstance(code, str):
        return int(code) if code.isascii() and code.isdecimal() and len(code) == 3 else HTTP_OF_WORD.get(code, 500)
    if not isinstance(code, int) or isinstance(code, bool):
        return 500
    return code if 400 <= code < 600 else HTTP_OF_RPC.get(code, 500)
