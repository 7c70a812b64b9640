"""The codec of fal's queue: a job is submitted, polled until it is over, and then asked for its result.

Each model has a schema of its own, so the names of its fields are data: `wire.fields` and `wire.values` of the profile.
An id is `fal/owner/app`, perhaps followed by a path; the prefix does not reach the wire. Sources:
fal.ai/docs/documentation/model-apis/inference/queue; …/model-apis/{errors,request-errors,faq};
fal.ai/docs/platform-apis (requests by endpoint); fal-client 1.0.3 on PyPI.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar
from urllib.parse import urlencode

from pydantic import OnErrorOmit

from batchgen.endpoint import Endpoint
from batchgen.errors import (
    BadRequest,
    BatchLostMaybeBilled,
    BillingStopped,
    InputRejected,
    JobCancelled,
    JobFailed,
    JobFailedUnbilled,
    Malformed,
    NoImage,
    OutputRefused,
    ProviderError,
    Refused,
)
from batchgen.providers.answer_body import (
    LENIENT,
    AnswerModel,
    clean_line,
    decode_image,
    markup_text,
    parse_json,
    utc_seconds,
    validation_words,
)
from batchgen.providers.credentials import Credentials, KeyHeader
from batchgen.providers.images_answer import INLINE_PREFIXES
from batchgen.providers.request_body import MappedCodec, Names, input_digest, iso_time
from batchgen.providers.server_faults import hinted_delay_s, not_the_api_error, read_answer, status_error
from batchgen.records import Inputs, ListedJob, PendingJob, Reply, Request, Response, Sample, Usage

SEGMENT = r"[A-Za-z0-9_][\w.-]*"
MODEL = re.compile(rf"{SEGMENT}(/{SEGMENT})+", re.ASCII)
JOB_URL = re.compile(rf"https?://[^/?#]+((/{SEGMENT})+)", re.ASCII)
JOB_ID = re.compile(r"[A-Za-z0-9_-]{1,64}", re.ASCII)
NAMESPACES = ("workflows", "comfy")  # may precede the owner (fal-client, APP_NAMESPACES)
LIST_URL, PAGE = "https://api.fal.ai/v1/models/requests/by-endpoint", 100  # the most that a page has
POLL_AFTER_S = 1.0  # fal-client asks ten times a second
TIMEOUT_S = 30.0  # for everything but the submit, which may carry references
RUNNING = frozenset({"IN_QUEUE", "IN_PROGRESS"})
PATH, OVER = "path", "over"  # in a job's state: where to ask, and whether it is over and has its result


class _Job(AnswerModel):
    request_id: str
    response_url: Annotated[str | None, LENIENT] = None


class _Status(AnswerModel):
    status: str


class _Image(AnswerModel):
    url: str
    content_type: Annotated[str | None, LENIENT] = None


class _Result(AnswerModel):
    images: Annotated[list[_Image] | None, LENIENT] = None
    image: Annotated[_Image | None, LENIENT] = None  # from models that make one
    has_nsfw_concepts: Annotated[list[bool] | None, LENIENT] = None  # such images are black
    description: Annotated[str | None, LENIENT] = None


class _Listed(AnswerModel):
    request_id: str
    endpoint_id: str
    sent_at: Annotated[str | None, LENIENT] = None
    json_input: Annotated[dict[str, Any] | None, LENIENT] = None


class _List(AnswerModel):
    items: list[OnErrorOmit[_Listed]]
    has_more: bool = True
    next_cursor: Annotated[str | None, LENIENT] = None


class Fal(MappedCodec):
    name: ClassVar[str] = "fal"
    prefix: ClassVar[str] = "fal/"
    # For a model without a table of its own: the names that most of them share.
    default_fields: ClassVar[Names] = {"aspect_ratio": "aspect_ratio", "seed": "seed", "count": "num_images"}
    seed_max: ClassVar[int] = 2**31 - 1
    endpoint: ClassVar[Endpoint] = Endpoint(
        name="fal",
        key_names=("FAL_KEY",),
        base_url_names=("BATCHGEN_FAL_BASE_URL",),
        base_url="https://queue.fal.run",
        hosts=("api.fal.ai",),
    )

    @staticmethod
    def credentials(key: str) -> Credentials:
        return KeyHeader("Authorization", f"Key {key}")

    def build(self, sample: Sample, inputs: Inputs) -> Request:
        if not MODEL.fullmatch(self._model):
            raise BadRequest(f"{self.profile.id} is not fal/owner/app", reason="not_sendable")
        body = self.unwrap_single(self.mapped_input(sample, inputs))
        # X-Fal-No-Retry: otherwise a failed run is repeated up to ten times before it is reported.
        return self.post(f"/{self._model}", body, sample, inputs, **{"X-Fal-No-Retry": "1"})

    def read(self, response: Response) -> Reply | PendingJob:
        taken = read_answer(_Job, response, read_error)
        if not JOB_ID.fullmatch(taken.request_id):  # it becomes part of an address
            raise Malformed("an answer without the id of a request", reason="malformed", http_status=response.status)
        said = JOB_URL.fullmatch(taken.response_url or "")
        return self._job(taken.request_id, said[1] if said else "")

    def _job(self, number: str, path: str = "") -> PendingJob:
        """A job. path: from the submit's answer. Without one it is built as fal-client does, without the model's
        sub-path."""
        parts = self._model.split("/")
        owner_and_app = "/".join(parts[: 3 if parts[0] in NAMESPACES else 2])
        path = path or f"/{owner_and_app}/requests/{number}"
        return PendingJob(id=number, state={PATH: path}, poll_after_s=POLL_AFTER_S)

    def poll(self, job: PendingJob) -> Request:
        path = job.state[PATH] if OVER in job.state else f"{job.state[PATH]}/status"
        return Request(method="GET", path=path, timeout_s=TIMEOUT_S)

    def read_poll(self, job: PendingJob, response: Response) -> Reply | PendingJob:
        """Read the answer to a poll: the status of a running job; for one that is over, its result, or the status and
        body with which it failed."""
        if response.status == 404:
            raise BatchLostMaybeBilled(f"request {job.id} is not known", reason="job_lost", http_status=404)
        if OVER not in job.state:
            if read_answer(_Status, response, read_error).status in RUNNING:
                return PendingJob(id=job.id, state=job.state, poll_after_s=POLL_AFTER_S)
            return PendingJob(id=job.id, state={**job.state, OVER: "1"}, poll_after_s=0.0)
        if response.is_success:
            return self._reply(read_answer(_Result, response, read_error), job, response)
        if is_still_running(response):
            return PendingJob(id=job.id, state={PATH: job.state[PATH]}, poll_after_s=POLL_AFTER_S)
        raise read_failure(response)

    def _reply(self, result: _Result, job: PendingJob, response: Response) -> Reply:
        usage = _usage(response, self.profile.wire)
        made = result.images or ([result.image] if result.image else [])
        flags = [*(result.has_nsfw_concepts or []), *[False] * len(made)]
        kept = [image for image, is_flagged in zip(made, flags, strict=False) if not is_flagged]
        if not made:
            raise NoImage("the result has no image", http_status=response.status, usage=usage)
        if not kept:
            raise OutputRefused("the safety checker flagged the image", http_status=response.status, usage=usage)
        inline = [image for image in kept if image.url.startswith(INLINE_PREFIXES)]  # requested by sync_mode
        return Reply(
            images=tuple(decode_image(image.url, image.content_type) for image in inline),
            links=tuple(image.url for image in kept if image not in inline),
            text=result.description or "",
            usage=usage,
            reply_id=job.id,
            filtered=("image_safety",) * (len(made) - len(kept)),
        )

    def cancel(self, job: PendingJob) -> Request:
        return Request(method="PUT", path=f"{job.state[PATH]}/cancel", timeout_s=TIMEOUT_S)

    def read_cancel(self, job: PendingJob, response: Response) -> None:
        """Read the answer to a cancel: 202, or for a job that is not going on anyway 400 `ALREADY_COMPLETED` and 404
        `NOT_FOUND`."""
        told = parse_json(response.body)
        ended = isinstance(told, dict) and told.get("status") in ("ALREADY_COMPLETED", "NOT_FOUND")
        if not response.is_success and not ended:
            raise read_error(response)

    def job_input(self, request: Request) -> str:
        return input_digest(request.path.removeprefix("/"), json.loads(request.body))

    def list_jobs(self, since: float, page: str) -> Request:
        asked = {"endpoint_id": self._model, "start": iso_time(since), "expand": "payloads", "limit": PAGE}
        query = urlencode(asked | ({"cursor": page} if page else {}))
        return Request(method="GET", url=f"{LIST_URL}?{query}", endpoint=self.endpoint, timeout_s=TIMEOUT_S)

    def read_jobs(self, response: Response) -> tuple[list[ListedJob], str]:
        found = read_answer(_List, response, read_error)
        jobs = [
            ListedJob(
                job=self._job(each.request_id),
                input=input_digest(each.endpoint_id, each.json_input),
                created_at=created_at,
            )
            for each in found.items
            if each.json_input
            and JOB_ID.fullmatch(each.request_id)
            and (created_at := utc_seconds(each.sent_at)) is not None
        ]
        return jobs, (found.next_cursor or "") if found.has_more else ""


def _usage(response: Response, wire: Mapping[str, Any]) -> Usage | None:
    """What was billed, if the profile says what one of the model's units costs."""
    units, unit_usd = response.header("x-fal-billable-units") or "", wire.get("unit_usd")
    if unit_usd is None or not re.fullmatch(r"\d{1,6}(\.\d{1,9})?", units, re.ASCII):
        return None
    return Usage(usd=float(units) * float(unit_usd))


# What errors mean, both those of a question to the queue and those of a job that ended with the HTTP status and body of
# its failure. A model's `detail` is a list of `loc`, `msg`, `type`, the platform's is text; 5xx is never charged, 422
# may be.

# "User is locked. Reason: Exhausted balance. Top up your balance at fal.ai/dashboard/billing."
LOCKED = re.compile(r"user is locked|exhausted balance", re.IGNORECASE)
STILL_RUNNING = re.compile(r"still in progress", re.IGNORECASE)  # "Request is still in progress"
UNSAFE = re.compile(r"unsafe|safety|policy", re.IGNORECASE)  # in `no_media_generated`: "unsafe content …"
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
    return status_error(status, message, delay_s)


def read_failure(response: Response) -> ProviderError:
    """How a job has failed, from the answer to the request for its result. Without a `detail`, the error is about the
    question. Never raises."""
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
    """The error for a 422: the input was refused, could not be read or does not fit the schema, or nothing was made."""
    kinds = {entry.get("type") for entry in detail if isinstance(entry, dict)} if isinstance(detail, list) else set()
    if "content_policy_violation" in kinds:
        return Refused(message, reason="content_policy", http_status=422)
    if "no_media_generated" in kinds:  # the same request often passes
        return (OutputRefused if UNSAFE.search(message) else NoImage)(message, http_status=422)
    if kinds & UNREADABLE_INPUT:
        return InputRejected(message, http_status=422)
    return BadRequest(message, http_status=422)


def _detail(response: Response) -> Any:
    """`detail`, however it is spelt: text, or a list of errors. None if there is none."""
    told = parse_json(response.body)
    detail = told.get("detail") if isinstance(told, dict) else None
    return detail if isinstance(detail, (str, list)) else None
