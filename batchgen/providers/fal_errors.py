"""What fal's errors mean: of a question to the queue, and of a job that has ended with the HTTP status and body of its failure.

Sources: fal.ai/docs/documentation/model-apis/errors (the models': `detail` is a list of `loc`, `msg`, `type`),
…/request-errors (the platform's: `detail` is text, with an `error_type`), …/faq: 5xx is never charged, 422 may be.
"""

from __future__ import annotations

import re
from typing import Any

from batchgen.errors import (
    BadRequest,
    BillingStopped,
    InputRejected,
    JobCancelled,
    JobFailed,
    JobFailedUnbilled,
    KeyRejected,
    ModelUnavailable,
    NoImage,
    OutputRefused,
    ProviderError,
    RateLimited,
    Refused,
)
from batchgen.providers.answer_body import clean_line, markup_text, parse_json, validation_words
from batchgen.providers.server_faults import hinted_delay_s, not_the_api_error, server_fault
from batchgen.records import Response

# "User is locked. Reason: Exhausted balance. Top up your balance at fal.ai/dashboard/billing."
LOCKED = re.compile(r"user is locked|exhausted balance", re.IGNORECASE)
STILL_RUNNING = re.compile(r"still in progress", re.IGNORECASE)  # "Request is still in progress"
UNSAFE = re.compile(r"unsafe|safety|policy", re.IGNORECASE)  # of `no_media_generated`: "unsafe content …"
UNREADABLE_INPUT = frozenset({"image_load_error", "file_download_error"})


def read_error(response: Response) -> ProviderError:
    """The error of a submit, or of a question that was not answered. Never raises."""
    status = response.status
    detail = _detail(response)
    if not detail and (other := not_the_api_error(response)) is not None:
        return other
    message = validation_words(detail) or clean_line(markup_text(response.body)) or f"HTTP {status} without a body"
    if status == 403 and LOCKED.search(message):
        return BillingStopped(message, http_status=status)
    if status == 422:
        return _rejected(detail, message)
    delay_s = hinted_delay_s(response, message=message)
    kinds = {401: KeyRejected, 402: BillingStopped, 403: ModelUnavailable, 404: ModelUnavailable, 429: RateLimited}
    if (kind := kinds.get(status)) is None:
        return server_fault(status, message, delay_s)
    reason = "model_forbidden" if status == 403 else None
    return kind(message, reason=reason, retry_after_s=delay_s, http_status=status)


def read_failure(response: Response) -> ProviderError:
    """How a job has failed, when its result was asked for; what has no `detail` is about the question. Never raises."""
    status, detail = response.status, _detail(response)
    error = read_error(response)
    if not detail or error.scope == "run" or status == 422:
        return error
    if response.header("x-fal-error-type") == "client_cancelled" or status == 499:
        return JobCancelled(error.message, http_status=status)
    kind = JobFailedUnbilled if status >= 500 else JobFailed
    return kind(error.message, http_status=status)


def is_still_running(response: Response) -> bool:
    return response.status == 400 and bool(STILL_RUNNING.search(validation_words(_detail(response))))


def _rejected(detail: Any, message: str) -> ProviderError:
    """Of 422: the input was refused, could not be read or does not fit the schema, or nothing came of it."""
    kinds = {entry.get("type") for entry in detail if isinstance(entry, dict)} if isinstance(detail, list) else set()
    if "content_policy_violation" in kinds:
        return Refused(message, reason="content_policy", http_status=422)
    if "no_media_generated" in kinds:  # the same request often passes
        return (OutputRefused if UNSAFE.search(message) else NoImage)(message, http_status=422)
    if kinds & UNREADABLE_INPUT:
        return InputRejected(message, http_status=422)
    return BadRequest(message, http_status=422)


def _detail(response: Response) -> Any:
    """`detail`, however it is spelt: text, or a list of errors. None where there is none."""
    told = parse_json(response.body)
    detail = told.get("detail") if isinstance(told, dict) else None
    return detail if isinstance(detail, (str, list)) else None
