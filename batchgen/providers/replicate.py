"""The codec of Replicate's predictions: a job is submitted, polled, and answers with links that last an hour.

Each model has a schema of its own, so the names of its fields are data: `wire.fields` of the profile maps batchgen's to
the API's. An id is `replicate/owner/name`; the prefix does not reach the wire. Sources:
sdks.replicate.com/python/resources/predictions (methods create, get, list, cancel);
replicate.com/docs/topics/predictions/{lifecycle,create-a-prediction,data-retention,rate-limits}; replicate 1.0.7 on
PyPI.
"""

from __future__ import annotations

import json
import re
from typing import Annotated, Any, ClassVar
from urllib.parse import quote, urlsplit

from pydantic import OnErrorOmit

from batchgen.endpoint import Endpoint
from batchgen.errors import (
    BadRequest,
    BatchLost,
    BatchLostMaybeBilled,
    JobCancelled,
    JobFailed,
    Malformed,
    NoImage,
    ProviderError,
    Refused,
)
from batchgen.providers.answer_body import LENIENT, AnswerModel, clean_line, markup_text, parse_json, utc_seconds
from batchgen.providers.credentials import Credentials, bearer
from batchgen.providers.request_body import MappedCodec, Names, input_digest, iso_time
from batchgen.providers.server_faults import hinted_delay_s, not_the_api_error, read_answer, status_error
from batchgen.records import Inputs, ListedJob, PendingJob, Reply, Request, Response, Sample

OWNER_AND_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)
JOB_ID = re.compile(r"[A-Za-z0-9]{1,64}", re.ASCII)
POLL_AFTER_S = 1.0  # the SDK asks every half second
RESULT_KEPT_S = 3600.0
TIMEOUT_S = 30.0  # for everything but the submit, which may carry references
# The `error` of a prediction whose prompt or image was refused: "… flagged as sensitive. (E005)"; "NSFW content
# detected. Try running it again, or try a different prompt." Source: the vendor's models, as reported by users.
REFUSED = re.compile(r"\(E005\)|flagged as sensitive|NSFW content", re.IGNORECASE)
RESETS_IN = re.compile(r"resets in ~?(\d{1,5})s", re.ASCII)  # "… Your rate limit resets in ~30s."


class Prediction(AnswerModel):
    id: str
    status: str
    model: Annotated[str | None, LENIENT] = None
    input: Annotated[dict[str, Any] | None, LENIENT] = None
    output: Any = None
    error: Any = None
    created_at: Annotated[str | None, LENIENT] = None
    data_removed: Annotated[bool | None, LENIENT] = None


class PredictionList(AnswerModel):
    results: list[OnErrorOmit[Prediction]]
    next: Annotated[str | None, LENIENT] = None


class Replicate(MappedCodec):
    name: ClassVar[str] = "replicate"
    prefix: ClassVar[str] = "replicate/"
    # For a model without a table of its own: the names that most of them share.
    default_fields: ClassVar[Names] = {"aspect_ratio": "aspect_ratio", "seed": "seed"}
    seed_max: ClassVar[int] = 2**31 - 1
    endpoint: ClassVar[Endpoint] = Endpoint(
        name="replicate",
        key_names=("REPLICATE_API_TOKEN",),
        base_url_names=("BATCHGEN_REPLICATE_BASE_URL", "REPLICATE_BASE_URL"),
        base_url="https://api.replicate.com",
    )

    @staticmethod
    def credentials(key: str) -> Credentials:
        return bearer(key)

    def build(self, sample: Sample, inputs: Inputs) -> Request:
        if not OWNER_AND_NAME.fullmatch(self._model):
            raise BadRequest(f"{self.profile.id} is not replicate/owner/name", reason="not_sendable")
        body = self.unwrap_single(self.mapped_input(sample, inputs))
        return self.post(f"/v1/models/{self._model}/predictions", {"input": body}, sample, inputs)

    def read(self, response: Response) -> Reply | PendingJob:
        """The job that was accepted. One that has already ended, as a gateway may answer, is read like any other."""
        return self._outcome(_prediction(response))

    def poll(self, job: PendingJob) -> Request:
        return Request(method="GET", path=f"/v1/predictions/{job.id}", body=b"", timeout_s=TIMEOUT_S)

    def read_poll(self, job: PendingJob, response: Response) -> Reply | PendingJob:
        if response.status == 404:
            raise BatchLostMaybeBilled(f"prediction {job.id} is not known", reason="job_lost", http_status=404)
        return self._outcome(_prediction(response))

    def _outcome(self, prediction: Prediction) -> Reply | PendingJob:
        said = clean_line(str(prediction.error or ""))
        match prediction.status:
            case "failed" if REFUSED.search(said):
                raise Refused(said, reason="content_policy", http_status=200)
            case "failed":
                raise JobFailed(said or "the prediction failed", http_status=200)
            case "canceled":  # while running, which is charged for the time it ran
                raise JobCancelled("the prediction was canceled", http_status=200)
            case "aborted":  # before running, which is not charged
                raise BatchLost("the prediction was aborted before it started", reason="job_failed", http_status=200)
            case "succeeded":
                return _reply(prediction)
        return _pending(prediction)

    def cancel(self, job: PendingJob) -> Request:
        return Request(method="POST", path=f"/v1/predictions/{job.id}/cancel", timeout_s=TIMEOUT_S)

    def read_cancel(self, job: PendingJob, response: Response) -> None:
        """Read the answer to a cancel, which is the prediction, also if it had ended before."""
        _prediction(response)

    def job_input(self, request: Request) -> str:
        owner_and_name = request.path.removeprefix("/v1/models/").removesuffix("/predictions")
        return input_digest(owner_and_name, json.loads(request.body)["input"])

    def list_jobs(self, since: float, page: str) -> Request:
        query = page or f"created_after={quote(iso_time(since))}"
        return Request(method="GET", path=f"/v1/predictions?{query}", body=b"", timeout_s=TIMEOUT_S)

    def read_jobs(self, response: Response) -> tuple[list[ListedJob], str]:
        found = read_answer(PredictionList, response, read_error)
        jobs = [
            ListedJob(job=_pending(each), input=input_digest(each.model or "", each.input), created_at=created_at)
            for each in found.results
            if each.input and JOB_ID.fullmatch(each.id) and (created_at := utc_seconds(each.created_at)) is not None
        ]
        return jobs, urlsplit(found.next or "").query


def _pending(prediction: Prediction) -> PendingJob:
    return PendingJob(id=prediction.id, poll_after_s=POLL_AFTER_S, result_kept_s=RESULT_KEPT_S)


def _prediction(response: Response) -> Prediction:
    """The prediction in an answer. Raises ProviderError."""
    prediction = read_answer(Prediction, response, read_error)
    if not JOB_ID.fullmatch(prediction.id):  # it becomes part of an address
        raise Malformed("an answer without the id of a prediction", reason="malformed", http_status=response.status)
    return prediction


def _reply(prediction: Prediction) -> Reply:
    """The images. `output` is a link or a list of links, depending on the model's schema; it is removed after an
    hour."""
    output = prediction.output if isinstance(prediction.output, list) else [prediction.output]
    links = tuple(link for link in output if isinstance(link, str) and link.startswith(("https://", "http://")))
    if links:
        return Reply(links=links, reply_id=prediction.id)
    if prediction.data_removed:
        message = f"the output of prediction {prediction.id} was removed, as all are after an hour"
        raise BatchLostMaybeBilled(message, reason="job_lost", http_status=200)
    raise NoImage("the prediction has no link to an image in its output", http_status=200)


def read_error(response: Response) -> ProviderError:
    """The error of an answer other than a success: RFC 9457's `title`, `detail` and `status`, or `detail` alone. Never
    raises."""
    status, told = response.status, parse_json(response.body)
    said = [told.get("title"), told.get("detail")] if isinstance(told, dict) else []
    words = " ".join(text for text in said if isinstance(text, str))
    if not words and (other := not_the_api_error(response)) is not None:
        return other
    message = clean_line(words or markup_text(response.body)) or f"HTTP {status} without a body"
    resets = RESETS_IN.search(words)
    delay_s = float(resets[1]) if resets else hinted_delay_s(response, message=message)
    return status_error(status, message, delay_s)
