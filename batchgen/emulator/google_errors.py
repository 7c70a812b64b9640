"""The error bodies of generativelanguage.googleapis.com, as its documents and public issues show them."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

from batchgen.emulator.fields import Violation
from batchgen.emulator.orders import Refusal, encoded

_RPC = "type.googleapis.com/google.rpc."
_STATUS = {
    400: "INVALID_ARGUMENT",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    408: "DEADLINE_EXCEEDED",
    429: "RESOURCE_EXHAUSTED",
    500: "INTERNAL",
    503: "UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
}
_TROUBLE = "Please retry or report in https://developers.generativeai.google/guide/troubleshooting"


def refusal(code: int, message: str, details: Sequence[Any] = (), status: str | None = None) -> Refusal:
    error: dict[str, Any] = {"code": code, "message": message, "status": status or _STATUS[code]}
    if details:
        error["details"] = list(details)
    return Refusal(code, encoded({"error": error}))


def key_invalid() -> Refusal:
    """400, not 401: ai.google.dev/gemini-api/docs/troubleshooting and every recorded body."""
    message = "API key not valid. Please pass a valid API key."
    info = {
        "@type": _RPC + "ErrorInfo",
        "reason": "API_KEY_INVALID",
        "domain": "googleapis.com",
        "metadata": {"service": "generativelanguage.googleapis.com"},
    }
    return refusal(400, message, [info, {"@type": _RPC + "LocalizedMessage", "locale": "en-US", "message": message}])


def key_leaked() -> Refusal:
    return refusal(403, "Your API key was reported as leaked. Please use another API key.")


def credits_depleted() -> Refusal:
    place = "Please go to AI Studio at https://ai.studio/projects to manage your project and billing."
    return refusal(429, f"Your prepayment credits are depleted. {place}")


def spend_cap() -> Refusal:
    place = "Please go to AI Studio at https://ai.studio/spend to manage your project spend cap."
    return refusal(429, f"Your project has exceeded its monthly spending cap. {place}")


def exhausted_bare() -> Refusal:
    return refusal(429, "Resource has been exhausted (e.g. check quota).")


def too_large(limit_bytes: int) -> Refusal:
    advice = "Please use the File API to upload files instead of using inline data."
    return refusal(400, f"Request payload size exceeds the limit: {limit_bytes} bytes. {advice}")


def bad_fields(violations: Sequence[Violation]) -> Refusal:
    found = [
        {"field": one.field, "description": one.description} if one.field else {"description": one.description}
        for one in violations
    ]
    message = "\n".join(one.description for one in violations)
    return refusal(400, message, [{"@type": _RPC + "BadRequest", "fieldViolations": found}])


def not_json(reason: str) -> Refusal:
    return bad_fields([Violation("", f"Invalid JSON payload received. {reason}")])


def bad_input_image() -> Refusal:
    return refusal(400, f"Unable to process input image. {_TROUBLE}")


def unknown_model(model: str, version: str, method: str) -> Refusal:
    advice = "Call ModelService.ListModels to see the list of available models and their supported methods."
    place = f"for API version {version}, or is not supported for {method}."
    return refusal(404, f"models/{model} is not found {place} {advice}")


def retired_model(model: str, replacement: str) -> Refusal:
    advice = f"Please update your code to use models/{replacement} for the latest features and improvements."
    return refusal(404, f"This model models/{model} is no longer available. {advice}")


def no_such_file(file_id: str) -> Refusal:
    """googleapis/python-genai#1218: one wording for all of it, and 403 rather than 404."""
    return refusal(403, f"You do not have permission to access the File {file_id} or it may not exist.")


def file_not_active(file_id: str) -> Refusal:
    """Known from public issues; the documents only say to wait for ACTIVE."""
    text = f"The File {file_id} is not in an ACTIVE state and usage is not allowed."
    return refusal(400, text, status="FAILED_PRECONDITION")


_QUOTA_HEAD = (
    "You exceeded your current quota, please check your plan and billing details. For more information on this error, "
    "head to: https://ai.google.dev/gemini-api/docs/rate-limits. To monitor your current usage, head to: "
    "https://ai.dev/usage?tab=rate-limit. "
)
_HELP = {
    "@type": _RPC + "Help",
    "links": [
        {
            "description": "Learn more about Gemini API quotas",
            "url": "https://ai.google.dev/gemini-api/docs/rate-limits",
        }
    ],
}


def over_quota(model: str, limit: int, retry_s: float, *, window: str, free_tier: bool = False) -> Refusal:
    """429 with QuotaFailure and RetryInfo; window is "Minute" or "Day". A limit of 0 is a free key's.

    Bodies: github.com/google-gemini/gemini-cli/issues/8437 (free), googleapis/js-genai/issues/1322 (paid, per day).
    There is no Retry-After header.
    """
    if free_tier:
        metric, suffix = "generate_content_free_tier_requests", "-FreeTier"
    else:
        metric, suffix = "generate_requests_per_model" + ("_per_day" if window == "Day" else ""), ""
    full_metric = f"generativelanguage.googleapis.com/{metric}"
    line = f"\n* Quota exceeded for metric: {full_metric}, limit: {limit}, model: {model}"
    windows = ["Day", "Minute"] if free_tier else [window]
    violations: list[dict[str, Any]] = [
        {
            "quotaMetric": full_metric,
            "quotaId": f"GenerateRequestsPer{one}PerProjectPerModel{suffix}",
            "quotaDimensions": {"location": "global", "model": model},
        }
        for one in windows
    ]
    if not free_tier:
        violations[0]["quotaValue"] = str(limit)
    message = _QUOTA_HEAD + line * len(windows) + f"\nPlease retry in {spoken(retry_s)}."
    delay = {"@type": _RPC + "RetryInfo", "retryDelay": f"{retry_s:.9f}".rstrip("0").rstrip(".") + "s"}
    return refusal(429, message, [_HELP, {"@type": _RPC + "QuotaFailure", "violations": violations}, delay])


def spoken(duration_s: float) -> str:
    """As the message text says it: `1h52m56.4s`, `26.66s`, `840.5ms`."""
    if duration_s < 1:
        return f"{duration_s * 1000:.6f}".rstrip("0").rstrip(".") + "ms"
    minutes, seconds = divmod(duration_s, 60)
    hours, minutes = divmod(int(minutes), 60)
    front = (f"{hours}h" if hours else "") + (f"{minutes}m" if hours or minutes else "")
    return front + f"{seconds:.9f}".rstrip("0").rstrip(".") + "s"


_OVERLOADED = (
    "The model is overloaded. Please try again later.",
    "This model is currently experiencing high demand. Spikes in demand are usually temporary. Please try again later.",
)


def overloaded() -> Refusal:
    return refusal(503, _OVERLOADED[1])


def enqueued_exhausted() -> Refusal:
    """Recorded where a batch was created (langchain4j/langchain4j#3942): neither QuotaFailure nor RetryInfo."""
    return refusal(429, _QUOTA_HEAD, [_HELP])


def no_such_entity() -> Refusal:
    return refusal(404, "Requested entity was not found.")


def server_fault(code: int, draw: random.Random) -> Refusal:
    messages = {
        408: ["Deadline expired before operation could complete."],
        500: [f"An internal error has occurred. {_TROUBLE}", "Internal error encountered."],
        503: list(_OVERLOADED),
        504: ["Deadline expired before operation could complete.", "The request timed out. Please try again."],
    }
    return refusal(code, draw.choice(messages[code]))
