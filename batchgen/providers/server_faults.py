"""What a status means by itself, how long a server asks to wait, and what is not an answer of the API at all. For all
codecs."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from email.utils import parsedate_to_datetime
from typing import Any, TypeVar
from urllib.parse import urlsplit

from pydantic import BaseModel, ValidationError

from batchgen.errors import (
    BadRequest,
    BillingStopped,
    KeyRejected,
    ModelUnavailable,
    NotJson,
    NotTheApi,
    ProviderError,
    RateLimited,
    ServerFault,
    ServerFaultMaybeBilled,
    TierRefused,
)
from batchgen.providers.answer_body import AnswerModel, clean_line, is_markup, malformed_error, markup_text
from batchgen.records import Response

# Known to come from before the model: 501 and 505 (RFC 9110, 15.6), 503 of an overloaded server, and those of
# Cloudflare that say that the origin was not reached. 520 and 524 are not included: the origin had the request. Source:
# developers.cloudflare.com/support/troubleshooting/http-status-codes; Wei-Shaw/sub2api#4326.
NEVER_BILLED_STATUSES = frozenset({501, 503, 505, 521, 522, 523, 525, 526, 530})
# Statuses for which a proxy or a login page sends a page of its own, while the API sends JSON: 407 and 511 by
# definition (RFC 9110, 15.5.8; RFC 6585, 6). 404 and 413 are not included: Google's own front end answers those with
# pages.
PROXY_STATUSES = frozenset({401, 403, 407, 511})
# How gateways report, as a fault of the server, that the vendor's filter blocked an image.
BLOCKED_BY_FILTER = re.compile(
    r"(content|prompt|image|output)\b.{0,40}\b(blocked|prohibited|violat|flagged)|blocked (by|due to|because of)\b.{0,60}"
    r"(safety|policy|policies|filter|moderation)|PROHIBITED_CONTENT|IMAGE_SAFETY|content[_ ]policy|moderation[_ ]blocked",
    re.IGNORECASE | re.DOTALL,
)
NAMES_SERVICE_TIER = re.compile(r"service.?tier", re.IGNORECASE)

# A 403 about one AI model for a key that is valid for others: OpenAI's "Your organization must be verified to use the
# model", "does not have access to model", Google's "Permission denied on resource model".
ONE_MODEL_FORBIDDEN = re.compile(
    r"organization must be verified|(not|n't) have (access to|permission to (use|access))\b.{0,40}\bmodel|"
    r"\bmodel\b.{0,80}\b(not (allowed|permitted|enabled)|no access)|permission denied on resource model",
    re.IGNORECASE | re.DOTALL,
)
DURATION = re.compile(r"(\d{1,9}(?:\.\d{1,9})?)s", re.ASCII)  # google.protobuf.Duration as JSON
# "Please retry in 1h52m56.409571576s.", "… in 26.660s.", "… in 750ms."; OpenAI and gateways: "Please try again in 2s."
DELAY_IN_MESSAGE = re.compile(
    r"(?:retry|try again) in (?:(\d{1,4})h)?(?:(\d{1,6})m)?(?:(\d{1,9}(?:\.\d+)?)(ms|s))?(?![\w])", re.ASCII
)
AnswerT = TypeVar("AnswerT", bound=AnswerModel)
DELAY_MAX_S = 172_800.0  # two days; no quota of these APIs lasts longer, so more is nonsense


def not_the_api_error(response: Response) -> NotTheApi | None:
    """The error if something other than the API has answered: a page, a redirect, a proxy. None of it is billed."""
    status, body = response.status, response.body
    if 300 <= status < 400:
        to = urlsplit(response.header("location") or "").netloc
        message = f"HTTP {status}: a redirect{f' to {clean_line(to)}' if to else ''}, which is not followed"
        return NotTheApi(message, reason="redirect", http_status=status)
    if (response.is_success or status in PROXY_STATUSES) and is_markup(response):
        return NotTheApi(f"a web page (HTTP {status}): {markup_text(body)}", http_status=status)
    if status in (407, 511):
        return NotTheApi(f"HTTP {status}: {markup_text(body) or 'a proxy or login page'}", http_status=status)
    return None


def foreign_json_error(answer: BaseModel, response: Response) -> NotJson | None:
    """The error if the JSON object of a 2xx has fields, but none that the API's answers have. Whatever answered may
    have made an image, so it counts as maybe billed."""
    if answer.model_fields_set or response.body.strip() == b"{}":
        return None
    return NotJson("JSON that is not an answer of this API", reason="not_the_api", http_status=response.status)


def read_answer(kind: type[AnswerT], response: Response, error_of: Callable[[Response], ProviderError]) -> AnswerT:
    """A 2xx body as `kind`. Raises the error of any other status, and of a body that is not such an answer."""
    if not response.is_success:
        raise error_of(response)
    try:
        return kind.model_validate_json(response.body)
    except ValidationError as error:
        raise not_the_api_error(response) or malformed_error(response.status, error) from None


def status_error(status: int, message: str, retry_after_s: float | None) -> ProviderError:
    """The error of a status as most APIs mean it: 401 is about the key, 402 the credit, 403 and 404 the model, 429 the
    rate; else see `server_fault`."""
    kinds = {401: KeyRejected, 402: BillingStopped, 403: ModelUnavailable, 404: ModelUnavailable, 429: RateLimited}
    if (kind := kinds.get(status)) is None:
        return server_fault(status, message, retry_after_s)
    reason = "model_forbidden" if status == 403 else None
    return kind(message, reason=reason, retry_after_s=retry_after_s, http_status=status)


def server_fault(status: int, message: str, retry_after_s: float | None) -> ProviderError:
    """The error of a 5xx or of a 4xx about time, else a BadRequest. Every 5xx except `NEVER_BILLED_STATUSES` may have
    been billed."""
    if status == 503 and "deadline" not in message.lower():
        return ServerFault(message, reason="overloaded", retry_after_s=retry_after_s, http_status=status)
    if status in (408, 503, 504):  # a 503 with "Deadline expired before operation could complete.": work was done
        return ServerFaultMaybeBilled(message, reason="deadline", retry_after_s=retry_after_s, http_status=status)
    if status == 499 or status >= 500:
        kind = ServerFault if status in NEVER_BILLED_STATUSES else ServerFaultMaybeBilled
        return kind(message, retry_after_s=retry_after_s, http_status=status)
    reason = None if 400 <= status < 500 and status != 405 else "unexpected_status"
    return BadRequest(message, reason=reason, retry_after_s=retry_after_s, http_status=status)


def tier_refusal(error: ProviderError, tier: str | None) -> TierRefused | None:
    """The refusal of a service tier that an error amounts to, if a tier other than standard was requested.

    Lack of capacity for flex and priority is a 503, or a 429 without a quota, and the vendor does not serve them as
    standard by itself; a 400 that names the tier is permanent. Source: ai.google.dev/gemini-api/docs/flex-inference and
    priority-inference. An error that may have been billed, or that names a quota, is not such a refusal.
    """
    if tier not in ("flex", "priority") or error.maybe_billed:
        return None
    permanent = isinstance(error, BadRequest) and bool(NAMES_SERVICE_TIER.search(error.message))
    overloaded = isinstance(error, ServerFault) and error.reason == "overloaded"
    bare = isinstance(error, RateLimited) and error.rpm is None and error.retry_after_s is None
    if not (permanent or overloaded or bare):
        return None
    message = clean_line(f"the service tier {tier} was refused: {error.message}")
    refused = TierRefused(message, http_status=error.http_status)
    refused.permanent = permanent
    return refused


def hinted_delay_s(
    response: Response, retry_infos: Sequence[Mapping[str, Any]] = (), message: str = ""
) -> float | None:
    """The seconds that the server asks to wait, None if it does not or asks for nonsense.

    RetryInfo comes first: Google sends no Retry-After, but a proxy may (RFC 9110, 10.2.3).
    """
    for info in retry_infos:
        delay_s = _duration_s(info.get("retryDelay", info.get("retry_delay")))
        if delay_s is not None:
            return delay_s
    delay_s = _message_delay_s(message)
    return delay_s if delay_s is not None else _retry_after_s(response)


def _plausible(delay_s: float) -> float | None:
    return delay_s if 0 <= delay_s <= DELAY_MAX_S else None


def _duration_s(value: Any) -> float | None:
    if isinstance(value, dict):  # the proto's own shape, from clients that print it like that
        seconds = value.get("seconds", 0)
        return _duration_s(f"{seconds}s") if isinstance(seconds, (int, str)) else None
    match = DURATION.fullmatch(value) if isinstance(value, str) else None
    return _plausible(float(match.group(1))) if match else None


def _message_delay_s(message: str) -> float | None:
    match = DELAY_IN_MESSAGE.search(message)
    if match is None or not any(match.groups()):
        return None
    hours, minutes, amount, unit = match.groups()
    seconds = float(amount or 0) / (1000 if unit == "ms" else 1)
    return _plausible(int(hours or 0) * 3600 + int(minutes or 0) * 60 + seconds)


def _retry_after_s(response: Response) -> float | None:
    value = (response.header("retry-after") or "").strip()
    if re.fullmatch(r"\d{1,9}(\.\d{1,9})?", value, re.ASCII):
        return _plausible(float(value))
    try:  # measured against the server's own clock
        until = parsedate_to_datetime(value)
        return _plausible((until - parsedate_to_datetime(response.header("date") or "")).total_seconds())
    except (ValueError, TypeError, OverflowError):
        return None
