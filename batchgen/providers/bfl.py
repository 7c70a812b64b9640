"""The codec of Black Forest Labs: a task is submitted, polled at the address in the answer, and ends with a link that
lasts ten minutes.

An id is `bfl/flux-2-pro`; the prefix does not reach the wire. Models differ in their fields: `wire.fields` of a profile
maps batchgen's to theirs. A model that maps no `aspect_ratio` takes width and height. Up to eight references are fields
of their own, or a list if `wire.references` is `list`. Sources:
docs.bfl.ai/quick_start/{introduction,generating_images,pricing}, /api-reference/models, /flux_2/flux2_text_to_image and
/api_integration/errors (2026-11). There is no list of tasks, no cancelling and no idempotency key.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from math import isqrt
from typing import Annotated, Any, ClassVar

from pydantic import ValidationError

from batchgen.endpoint import Endpoint
from batchgen.errors import (
    BadRequest,
    BatchLostMaybeBilled,
    BillingStopped,
    JobFailed,
    KeyRejected,
    Malformed,
    ModelUnavailable,
    NoImage,
    OutputRefused,
    ProviderError,
    RateLimited,
    Refused,
)
from batchgen.profiles.profile import Profile
from batchgen.providers.answer_body import (
    LENIENT,
    AnswerModel,
    clean_line,
    malformed_error,
    markup_text,
    parse_json,
    validation_words,
)
from batchgen.providers.credentials import Credentials, KeyHeader
from batchgen.providers.request_body import MappedCodec, Names, reference_placeholder
from batchgen.providers.server_faults import hinted_delay_s, not_the_api_error, read_answer, server_fault
from batchgen.records import Inputs, PendingJob, Reply, Request, Response, Sample, Usage

NOT_FOUND = "Task not found"
MODEL = re.compile(r"[A-Za-z0-9][\w.-]*", re.ASCII)
POLL_AFTER_S = 1.0  # the vendor's examples ask every half second to second and a half
RESULT_KEPT_S = 600.0
TIMEOUT_S = 30.0  # for a poll
USD_PER_CREDIT = 0.01
STEP_PX = 16
PIXELS_OF_SIZE: Mapping[str, int] = {"512": 512 * 512, "1K": 1024 * 1024, "2K": 2048 * 2048}
KEY_FORMAT = re.compile(r"API key", re.IGNORECASE)  # 422 `{"detail": "Invalid API key format"}`


class Task(AnswerModel):
    """A task that was accepted. cost: in credits."""

    id: str
    polling_url: str
    cost: Annotated[float | None, LENIENT] = None


class Result(AnswerModel):
    sample: Annotated[str | None, LENIENT] = None


class Status(AnswerModel):
    status: str
    details: Any = None
    result: Annotated[Result | None, LENIENT] = None
    cost: Annotated[float | None, LENIENT] = None


class Bfl(MappedCodec):
    name: ClassVar[str] = "bfl"
    prefix: ClassVar[str] = "bfl/"
    # FLUX.2's fields, also used for an unknown model.
    default_fields: ClassVar[Names] = {"references": "input_image", "seed": "seed", "output_format": "output_format"}
    endpoint: ClassVar[Endpoint] = Endpoint(
        name="bfl",
        key_names=("BFL_API_KEY",),
        base_url_names=("BATCHGEN_BFL_BASE_URL",),
        base_url="https://api.bfl.ai",
        hosts=("*.bfl.ai",),  # a task is asked about at its own cluster's: api.eu2.bfl.ai, api.us6.bfl.ai, …
    )

    @classmethod
    def encodes(cls, profile: Profile) -> frozenset[str]:
        pixels = {"aspect_ratio", "image_size"} if _takes_pixels(cls.field_names(profile)) else set[str]()
        return super().encodes(profile) | pixels

    @staticmethod
    def credentials(key: str) -> Credentials:
        return KeyHeader("x-key", key)

    def build(self, sample: Sample, inputs: Inputs) -> Request:
        if not MODEL.fullmatch(self._model):
            raise BadRequest(f"{self.profile.id} is not bfl/name", reason="not_sendable")
        body = {
            **self._pixels(sample.item.aspect_ratio, sample.item.image_size),
            **self._references(inputs),
            **self.mapped_input(sample, inputs, without="references"),
        }
        return self.post(f"/v1/{self._model}", body, sample, inputs)

    def _references(self, inputs: Inputs) -> dict[str, Any]:
        """The references, each as a link or as base64 without a prefix."""
        name = self._fields.get("references")
        images = [reference.uri or reference_placeholder(n) for n, reference in enumerate(inputs.references)]
        if not name or not images:
            return {}
        if self.profile.wire.get("references") == "list":
            return {name: images}
        return {name if n == 1 else f"{name}_{n}": image for n, image in enumerate(images, 1)}

    def _pixels(self, ratio: str | None, size: str | None) -> dict[str, Any]:
        """The width and height to request. None leaves both to the model. A size without a ratio is a square. Raises
        BadRequest."""
        if not _takes_pixels(self._fields) or (ratio is None and size is None):
            return {}
        ratio, size = ratio or "1:1", (size or self.profile.default_size).upper()
        width, height = self.profile.expected_pixels(ratio, size) or pixels_of(ratio, size)
        return {"width": width, "height": height}

    def read(self, response: Response) -> PendingJob:
        """The task that was accepted, with its cost, which no later answer states."""
        task = read_answer(Task, response, read_error)
        if not task.id or not task.polling_url:
            raise Malformed("a task without its id or address", reason="malformed", http_status=response.status)
        return _pending(task.id, {"url": task.polling_url, "cost": "" if task.cost is None else str(task.cost)})

    def poll(self, job: PendingJob) -> Request:
        return Request(method="GET", url=job.state["url"], endpoint=self.endpoint, timeout_s=TIMEOUT_S)

    def read_poll(self, job: PendingJob, response: Response) -> Reply | PendingJob:
        found = _status(response)
        said = clean_line(f"{found.status}: {found.details}" if found.details else found.status)
        match found.status:
            case "Ready":
                return _reply(job, found)
            case "Request Moderated":
                raise Refused(said, reason="content_policy", http_status=response.status)
            case "Content Moderated":
                raise OutputRefused(said, http_status=response.status)
            case "Error" | "Failed":
                raise JobFailed(said, http_status=response.status)
            case status if status == NOT_FOUND:
                message = f"task {job.id} is not known, or no longer"
                raise BatchLostMaybeBilled(message, reason="job_lost", http_status=response.status)
        return _pending(job.id, job.state)  # Pending, Reasoning, Generating, and whatever may be added


def _takes_pixels(names: Names) -> bool:
    return "aspect_ratio" not in names


def pixels_of(ratio: str, size: str) -> tuple[int, int]:
    """Width and height in multiples of 16, with about as many pixels as a square of this size and no more. Raises
    BadRequest."""
    pixels = PIXELS_OF_SIZE.get(size)
    wide, high = map(int, ratio.split(":"))
    if pixels is None or not wide or not high:
        raise BadRequest(f"{ratio} at {size}: Black Forest Labs takes {', '.join(PIXELS_OF_SIZE)}")
    return isqrt(pixels * wide // high) // STEP_PX * STEP_PX, isqrt(pixels * high // wide) // STEP_PX * STEP_PX


def _pending(task: str, state: Mapping[str, str]) -> PendingJob:
    return PendingJob(id=task, state=state, poll_after_s=POLL_AFTER_S, result_kept_s=RESULT_KEPT_S)


def _status(response: Response) -> Status:
    """The status of a task. An answer other than a success only counts if it says that the task is unknown. Raises
    ProviderError."""
    try:
        found = Status.model_validate_json(response.body)
    except ValidationError as error:
        if response.is_success:
            raise not_the_api_error(response) or malformed_error(response.status, error) from None
        found = None
    if found is None or not (response.is_success or found.status == NOT_FOUND):
        raise read_error(response)
    return found


def _reply(job: PendingJob, found: Status) -> Reply:
    link = found.result.sample if found.result else None
    if not link or not link.startswith(("https://", "http://")):
        raise NoImage("the task is ready and has no link to an image", http_status=200)
    said = found.cost if found.cost is not None else float(job.state.get("cost") or "nan")
    usage = Usage(credits=said, usd=round(said * USD_PER_CREDIT, 6)) if said >= 0 else None
    return Reply(links=(link,), reply_id=job.id, usage=usage)


def read_error(response: Response) -> ProviderError:
    """The error in an answer other than a success: `detail`, a sentence or FastAPI's list of fields, or `error`. Never
    raises."""
    status, found = response.status, parse_json(response.body)
    words = _words(found)
    if not words and (other := not_the_api_error(response)) is not None:
        return other
    message = clean_line(words or markup_text(response.body)) or f"HTTP {status} without a body"
    delay_s = hinted_delay_s(response, message=message)
    kinds: Mapping[int, type[ProviderError]] = {
        401: KeyRejected,
        402: BillingStopped,
        403: KeyRejected,
        429: RateLimited,
    }
    if status in kinds:
        return kinds[status](message, http_status=status, retry_after_s=delay_s)
    if status == 404:
        return ModelUnavailable(message, http_status=status)
    if status == 422 and isinstance(found, dict) and isinstance(found.get("detail"), str) and KEY_FORMAT.search(words):
        return KeyRejected(message, http_status=status)
    return server_fault(status, message, delay_s)


def _words(found: Any) -> str:
    if not isinstance(found, dict):
        return ""
    detail = found.get("detail") or found.get("error") or found.get("message")
    return validation_words(detail.get("message") if isinstance(detail, dict) else detail)
