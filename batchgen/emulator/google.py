"""What all of Google's methods share: keys, AI models, error bodies and pages of lists."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from enum import IntEnum
from typing import Any

from aiohttp import web

from batchgen.emulator.accounting import QuotaExceeded
from batchgen.emulator.answers import ApiError, Cut, as_json, without_none
from batchgen.emulator.faults import BATCH_KNOWN, CALL_FAULTS, CallFaults, unknown_marker
from batchgen.emulator.google_schemas import Schema, Violation, read, violation
from batchgen.emulator.models import Model
from batchgen.emulator.options import EmulatorOptions
from batchgen.emulator.pipeline import Api, Job

VERSION = "/{version:v1(?:beta)?}"
HEADERS = {"Vary": "Origin, X-Origin, Referer", "Server-Timing": "gfet4t7; dur=1"}
TROUBLESHOOTING = "Please retry or report in https://developers.generativeai.google/guide/troubleshooting"
_RPC = "type.googleapis.com/google.rpc."
_STATUS = {400: "INVALID_ARGUMENT", 403: "PERMISSION_DENIED", 404: "NOT_FOUND", 429: "RESOURCE_EXHAUSTED"}
_STATUS |= {408: "DEADLINE_EXCEEDED", 500: "INTERNAL", 503: "UNAVAILABLE", 504: "DEADLINE_EXCEEDED"}
_Code = IntEnum(  # google.rpc.Code
    "_Code",
    "CANCELLED UNKNOWN INVALID_ARGUMENT DEADLINE_EXCEEDED NOT_FOUND ALREADY_EXISTS PERMISSION_DENIED "
    "RESOURCE_EXHAUSTED FAILED_PRECONDITION ABORTED OUT_OF_RANGE UNIMPLEMENTED INTERNAL UNAVAILABLE",
)
_DAY_HINT_S = 6776.409571576  # of a recorded per-day answer: "Please retry in 1h52m56.409571576s."
_FREE_HINT_S = 26.66


# Errors: bodies of generativelanguage.googleapis.com as its documents and public issues show them.


def error(code: int, message: str, details: Sequence[Any] = (), status: str | None = None) -> ApiError:
    found = without_none(code=code, message=message, status=status or _STATUS[code], details=list(details) or None)
    return ApiError(code, as_json({"error": found}))


def require(holds: Any, message: str, status: str = "INVALID_ARGUMENT") -> None:
    """Raise ApiError 400 unless the condition holds."""
    if not holds:
        raise error(400, message, status=status)


def rpc_status(code: str, message: str) -> dict[str, Any]:
    """A google.rpc.Status, whose codes are not those of HTTP."""
    return {"code": _Code[code].value, "message": message}


def error_info(reason: str, service: str, consumer: str | None = None) -> dict[str, Any]:
    metadata = without_none(service=service, consumer=consumer)
    return {"@type": _RPC + "ErrorInfo", "reason": reason, "domain": "googleapis.com", "metadata": metadata}


def bad_fields(*violations: Violation) -> ApiError:
    message = "\n".join(one["description"] for one in violations)
    return error(400, message, [{"@type": _RPC + "BadRequest", "fieldViolations": violations}])


def unknown_model(request: web.Request) -> ApiError:
    """An error for an AI model that the path names, or for a method that it does not have."""
    path = request.match_info
    advice = "Call ModelService.ListModels to see the list of available models and their supported methods."
    which = f"for API version {path['version']}, or is not supported for {path.get('method', 'getModel')}."
    return error(404, f"models/{path['model']} is not found {which} {advice}")


def no_such_entity() -> ApiError:
    return error(404, "Requested entity was not found.")


_RATE_LIMITS = "https://ai.google.dev/gemini-api/docs/rate-limits"
_QUOTA_HEAD = (
    "You exceeded your current quota, please check your plan and billing details. For more information on this error, "
    f"head to: {_RATE_LIMITS}. To monitor your current usage, head to: https://ai.dev/usage?tab=rate-limit. "
)
_HELP = {
    "@type": _RPC + "Help",
    "links": [{"description": "Learn more about Gemini API quotas", "url": _RATE_LIMITS}],
}


def enqueued_exhausted() -> ApiError:
    """An error for too much enqueued, with neither QuotaFailure nor RetryInfo.

    Recorded where a batch was created (langchain4j/langchain4j#3942).
    """
    return error(429, _QUOTA_HEAD, [_HELP])


def over_quota(model: str, limit: int, retry_s: float, *, window: str = "Minute") -> ApiError:
    """A 429 with QuotaFailure and RetryInfo; window is "Minute" or "Day". A limit of 0 is that of a free key.

    Bodies: github.com/google-gemini/gemini-cli/issues/8437 (free), googleapis/js-genai/issues/1322 (paid, per day).
    There is no Retry-After header.
    """
    metric = "generate_requests_per_model" + ("_per_day" if window == "Day" else "")
    full_metric = f"generativelanguage.googleapis.com/{metric if limit else 'generate_content_free_tier_requests'}"
    line = f"\n* Quota exceeded for metric: {full_metric}, limit: {limit}, model: {model}"
    violations: list[dict[str, Any]] = [
        {
            "quotaMetric": full_metric,
            "quotaId": f"GenerateRequestsPer{one}PerProjectPerModel{'' if limit else '-FreeTier'}",
            "quotaDimensions": {"location": "global", "model": model},
            **({"quotaValue": str(limit)} if limit else {}),
        }
        for one in ([window] if limit else ["Day", "Minute"])
    ]
    message = _QUOTA_HEAD + line * len(violations) + f"\nPlease retry in {go_duration(retry_s)}."
    delay = {"@type": _RPC + "RetryInfo", "retryDelay": f"{_number(retry_s)}s"}
    return error(429, message, [_HELP, {"@type": _RPC + "QuotaFailure", "violations": violations}, delay])


def go_duration(duration_s: float) -> str:
    """Write a duration as the message text does: `1h52m56.4s`, `26.66s`, `840.5ms`."""
    if duration_s < 1:
        return f"{_number(duration_s * 1000, 6)}ms"
    minutes, seconds = divmod(duration_s, 60)
    hours, minutes = divmod(int(minutes), 60)
    front = (f"{hours}h" if hours else "") + (f"{minutes}m" if hours or minutes else "")
    return f"{front}{_number(seconds)}s"


def _number(value: float, decimals: int = 9) -> str:
    return f"{value:.{decimals}f}".rstrip("0").rstrip(".")


EXHAUSTED = "Resource has been exhausted (e.g. check quota)."
OVERLOADED = (
    "This model is currently experiencing high demand. Spikes in demand are usually temporary. Please try again later."
)
_SPEND_CAP = "Please go to AI Studio at https://ai.studio/spend to manage your project spend cap."
_TOO_LATE = "Deadline expired before operation could complete."
_MESSAGES = {  # by fault; one of them is drawn
    "429spend": (f"Your project has exceeded its monthly spending cap. {_SPEND_CAP}",),
    "429bare": (EXHAUSTED,),
    "408": (_TOO_LATE,),
    "500": (f"An internal error has occurred. {TROUBLESHOOTING}", "Internal error encountered."),
    "503": ("The model is overloaded. Please try again later.", OVERLOADED),
    "504": (_TOO_LATE, "The request timed out. Please try again."),
}


def _drawn(fault: str, draw: random.Random) -> ApiError:
    return error(int(fault[:3]), draw.choice(_MESSAGES[fault]))


def call_fault(faults: CallFaults, method: str, subject: str = "", display_name: str = "") -> str | None:
    """The fault that the caller handles itself: `lost`, `half`, `empty`, `cut` or None.

    The others raise ApiError or Cut.
    """
    if problem := unknown_marker(display_name, BATCH_KNOWN, "the Batch API"):
        raise error(400, problem)
    name = faults.take(CALL_FAULTS[method], subject, display_name)
    kind = name.partition("_")[2] if name else None
    match kind:
        case "reset":
            raise Cut
        case "429":
            raise enqueued_exhausted()
        case "404":
            raise no_such_entity()
        case "html":
            raise ApiError(200, b"<!DOCTYPE html>\n<title>Sign in</title>\n<p>Sign in to go on.\n", "text/html")
        case "500" | "503":
            raise _drawn(kind, random.Random(0))
    return kind


_CODE = "Support code: 42876398."
_NOT_SHOWN = "Unable to show the generated image"
# finishReason and finishMessage of candidates without a picture. Sources: bodies in BerriAI/litellm#20357 and public
# relay documents; the enum is that of google-genai 3.4.0.
REFUSALS: dict[str, tuple[str, str]] = {
    "safety": ("SAFETY", ""),
    "image_safety": (
        "IMAGE_SAFETY",
        f"{_NOT_SHOWN}. The prompt could not be submitted as it contains sensitive words that violate Google's "
        f"Responsible AI practices. {_CODE}",
    ),
    "prohibited": (
        "IMAGE_PROHIBITED_CONTENT",
        f"{_NOT_SHOWN} due to interests of third-party content providers. Please edit your prompt. {_CODE}",
    ),
    "no_image": ("NO_IMAGE", f"{_NOT_SHOWN}. The model did not generate one."),
    "image_other": (
        "IMAGE_OTHER",
        f"{_NOT_SHOWN}. The model could not generate the image based on the prompt provided. "
        "You will not be charged for this request. Try rephrasing the prompt.",
    ),
    "max_tokens": ("MAX_TOKENS", ""),
    "empty": ("STOP", ""),
    "missing_signature": ("MISSING_THOUGHT_SIGNATURE", ""),  # in the enum; nothing public says when
}


# Keys: what a test can choose by the first letters of its key.


def known_key(request: web.Request) -> str:
    """The key from the header or the query, as both are documented. Listing models and keeping files cost nothing.

    400 for a bad key, not 401: ai.google.dev/gemini-api/docs/troubleshooting and every recorded body.
    """
    key = request.headers.get("x-goog-api-key") or request.query.get("key", "")
    if key.startswith("leaked"):
        raise error(403, "Your API key was reported as leaked. Please use another API key.")
    if not key or key.startswith("bad"):
        message = "API key not valid. Please pass a valid API key."
        info = error_info("API_KEY_INVALID", "generativelanguage.googleapis.com")
        localized = {"@type": _RPC + "LocalizedMessage", "locale": "en-US", "message": message}
        raise error(400, message, [info, localized])
    return key


def paying_key(request: web.Request, model: str = "") -> str:
    """A key that may ask for pictures.

    A key of the free tier has a quota of 0 for every AI model that makes pictures (google-gemini/gemini-cli#8437).
    """
    key = known_key(request)
    if model and key.startswith("free"):
        raise over_quota(model, 0, _FREE_HINT_S)
    if key.startswith("nocredits"):
        where = "Please go to AI Studio at https://ai.studio/projects to manage your project and billing."
        raise error(429, f"Your prepayment credits are depleted. {where}")
    return key


class GoogleApi(Api):
    headers = HEADERS
    worded = staticmethod(error)

    def key(self, request: web.Request) -> str:
        return paying_key(request)

    def too_large(self, limit_bytes: int) -> ApiError:
        """An error for a request that is too large; 20 MB by the documents, for inline requests of a batch too."""
        advice = "Please use the File API to upload files instead of using inline data."
        return error(400, f"Request payload size exceeds the limit: {limit_bytes} bytes. {advice}")

    def over_quota(self, model: Model, over: QuotaExceeded) -> ApiError:
        return over_quota(model.id, over.limit, over.retry_s, window=over.window)

    def error(self, fault: str, job: Job[Any]) -> ApiError | None:
        model, options = job.spec.model.id, job.options
        match fault:
            case "429":
                return over_quota(model, options.rpm_of(model) or 60, options.fault_delay_s)
            case "429day":
                return over_quota(model, options.rpd_of(model) or 250, _DAY_HINT_S, window="Day")
            case "429limit0":
                return over_quota(model, 0, _FREE_HINT_S)
        return _drawn(fault, job.draw) if fault in _MESSAGES else None


API = GoogleApi()


# AI models.


def admitted(request: web.Request, models: Mapping[str, Model], options: EmulatorOptions) -> tuple[Model, str]:
    """The AI model that the path names, and a key that may ask it for pictures.

    Raises ApiError, 404 for AI models that do not exist or, if asked for, are retired.
    """
    name = request.match_info["model"]
    model = models.get(name)
    if model is None or not options.offers(name):
        raise unknown_model(request)
    if not options.offers(name, is_retired=model.replacement):
        advice = f"update your code to use models/{model.replacement} for the latest features and improvements."
        raise error(404, f"This model models/{name} is no longer available. Please {advice}")
    return model, paying_key(request, name)


def listed(models: Mapping[str, Model], methods: list[str], options: EmulatorOptions) -> list[dict[str, Any]]:
    """The entries of `GET /models`."""
    return [
        {
            "name": f"models/{model.id}",
            "version": "001",
            "displayName": model.id.replace("-", " ").title(),
            "description": "Emulated",
            "inputTokenLimit": 131_072,
            "outputTokenLimit": 32_768,
            "supportedGenerationMethods": methods,
            **({"thinking": True} if model.thinking else {}),
        }
        for model in models.values()
        if options.offers(model.id, is_retired=model.replacement)
    ]


# Requests and lists.


def read_fields(value: bytes | dict[str, Any], schema: Schema) -> dict[str, Any]:
    """Read a request's body, or an object that has been parsed.

    Raises ApiError 400 for anything but a JSON object, for unknown fields, and for values that the API does not take.
    """
    reason = "Root element must be a message."
    if isinstance(value, bytes):
        try:
            value = json.loads(value)
        except ValueError as problem:
            reason = f"Parser error: {problem}"
    if not isinstance(value, dict):
        raise bad_fields(violation("", f"Invalid JSON payload received. {reason}"))
    violations: list[Violation] = []
    found: dict[str, Any] = read(schema, value, "", violations)
    if violations:
        raise bad_fields(*violations)
    return found


def page_of(name: str, found: Sequence[Any], query: Mapping[str, str], default: int, most: int) -> dict[str, Any]:
    """One page of a list: by its name, absent when empty, and `nextPageToken`, opaque to clients. Raises ApiError
    400."""
    size = min(_query_number(query, "pageSize") or default, most)
    start = _query_number(query, "pageToken")
    page = {name: list(found[start : start + size])} if found[start : start + size] else {}
    return page | ({"nextPageToken": str(start + size)} if found[start + size :] else {})


def _query_number(query: Mapping[str, str], name: str) -> int:
    text = query.get(name) or "0"
    if not text.isdecimal():
        raise bad_fields(violation(name, f"Invalid value at '{name}' (TYPE_INT32), \"{text}\""))
    return int(text)
