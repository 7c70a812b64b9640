"""The codecs of the Gemini API's files (a resumable upload, and a look at the result) and of its Batch API in file
mode: one line for each request, and a batch of them. Answers: batch_results.py.

Sources: ai.google.dev/gemini-api/docs/{files,batch-api} and ai.google.dev/api/{files,batch-api} (2026-09-18); requests
as sent by google-genai 3.4.0 and @google/genai 3.1.0. The documents disagree on where an answer of a batch says what,
so all places count.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Annotated, Any, TypeVar, get_args
from urllib.parse import quote

from pydantic import ValidationError

from batchgen.errors import Malformed, ProviderError, ServerFault, UploadFailed
from batchgen.providers.answer_body import LENIENT, AnswerModel, clean_line, parse_json, utc_seconds
from batchgen.providers.contract import BatchState, FileState, RemoteBatch, RemoteFile
from batchgen.providers.google_errors import error_member, parse_answer, read_error
from batchgen.records import Request, Response

TIMEOUT_S = 120.0
E = TypeVar("E", bound=AnswerModel)


class File(AnswerModel):
    name: str
    uri: str
    state: Annotated[str | None, LENIENT] = None
    expiration_time: Annotated[str | None, LENIENT] = None


class UploadAnswer(AnswerModel):
    file: File


class GeminiFiles:
    """The codec of uploads. Only `start` and `get_file` carry the key; the address that `start` returns replaces it in all
    further requests."""

    def __init__(self, version: str) -> None:
        self._version = version

    def start(self, mime_type: str, size_bytes: int, display_name: str) -> Request:
        headers = {
            "X-Goog-Upload-Protocol": "resumable",
            "X-Goog-Upload-Command": "start",
            "X-Goog-Upload-Header-Content-Length": str(size_bytes),
            "X-Goog-Upload-Header-Content-Type": mime_type,
            "Content-Type": "application/json",
        }
        file = {"displayName": display_name[:512], "mimeType": mime_type, "sizeBytes": str(size_bytes)}
        body = json.dumps({"file": file}).encode()
        return Request(
            method="POST", path=f"/upload/{self._version}/files", body=body, headers=headers, timeout_s=TIMEOUT_S
        )

    def read_start(self, response: Response) -> tuple[str, int]:
        """The address for the pieces, and the number of bytes of which all but the last must be a multiple. Raises
        ProviderError."""
        _check_success(response)
        url = response.header("X-Goog-Upload-URL") or ""
        granularity = response.header("X-Goog-Upload-Chunk-Granularity") or ""
        if not url:
            raise UploadFailed("the answer to the start of an upload names no address", http_status=response.status)
        return url, int(granularity) if granularity.isascii() and granularity.isdecimal() else 1

    def upload_piece(self, data: bytes, offset_bytes: int, *, last: bool) -> Request:
        """The request for a piece, to the address from `read_start`."""
        headers = {
            "X-Goog-Upload-Offset": str(offset_bytes),
            "X-Goog-Upload-Command": "upload, finalize" if last else "upload",
        }
        return Request(method="POST", path="", body=data, headers=headers, timeout_s=TIMEOUT_S)

    def query_offset(self) -> Request:
        """The request that asks how much has arrived, to the address from `read_start`."""
        return Request(method="POST", path="", body=b"", headers={"X-Goog-Upload-Command": "query"}, timeout_s=30.0)

    def read_offset(self, response: Response) -> int:
        """How many bytes have arrived. Raises ProviderError."""
        _check_success(response)
        size = response.header("X-Goog-Upload-Size-Received") or ""
        if response.header("X-Goog-Upload-Status") != "active" or not (size.isascii() and size.isdecimal()):
            raise UploadFailed("the upload cannot be continued", http_status=response.status)
        return int(size)

    def read_piece(self, response: Response, *, last: bool) -> RemoteFile | None:
        """The answer to a piece: the file after the last one. Raises ProviderError."""
        _check_success(response)
        if not last:
            return None
        if response.header("X-Goog-Upload-Status") != "final":
            raise UploadFailed("the upload was not taken as complete", http_status=response.status)
        return _remote_file(_read(UploadAnswer, response.body).file)

    def get_file(self, name: str) -> Request:
        return Request(method="GET", path=f"/{self._version}/{quote(name)}", body=b"", timeout_s=30.0)

    def read_file(self, response: Response) -> RemoteFile:
        """The file. Raises ProviderError."""
        _check_success(response)
        return _remote_file(_read(File, response.body))


def _check_success(response: Response) -> None:
    """Raise the error of an answer. A server's fault is a fault of the upload: nothing can have been billed."""
    if response.is_success:
        return
    error = read_error(response)
    if isinstance(error, ServerFault) or response.status == 404:
        raise UploadFailed(error.message, retry_after_s=error.retry_after_s, http_status=response.status)
    raise error


def _read(kind: type[E], body: bytes) -> E:
    try:
        return kind.model_validate_json(body)
    except ValidationError:
        raise UploadFailed("the answer to an upload does not describe a file") from None


def _remote_file(file: File) -> RemoteFile:
    state: FileState = "PROCESSING" if file.state == "PROCESSING" else "FAILED" if file.state == "FAILED" else "ACTIVE"
    return RemoteFile(name=file.name, uri=file.uri, state=state, expires=utc_seconds(file.expiration_time) or 0.0)


# Batches.

LIST_PAGE_SIZE = 100
MIME_TYPE = "application/jsonl"  # from the documents; the SDKs' examples say `jsonl`, and both are accepted
RPC_CANCELLED = 1  # google.rpc.Code
_STATES: dict[str, BatchState] = {state.upper(): state for state in get_args(BatchState)}
_STATES |= {"QUEUED": "pending", "UPDATING": "running", "PAUSED": "running", "CANCELLING": "running"}
_STATES |= {"PARTIALLY_SUCCEEDED": "succeeded"}


class Output(AnswerModel):
    responses_file: Annotated[str | None, LENIENT] = None
    file_name: Annotated[str | None, LENIENT] = None
    inlined_responses: Any = None


class Stats(AnswerModel):
    request_count: Annotated[int | None, LENIENT] = None
    successful_request_count: Annotated[int | None, LENIENT] = None
    failed_request_count: Annotated[int | None, LENIENT] = None


class Metadata(AnswerModel):
    display_name: Annotated[str | None, LENIENT] = None
    state: Annotated[str | None, LENIENT] = None
    batch_stats: Annotated[Stats | None, LENIENT] = None
    output: Annotated[Output | None, LENIENT] = None


class Operation(AnswerModel):
    """A batch as `get` returns it: a long-running operation, or in newer documents the batch itself."""

    name: str
    done: Annotated[bool | None, LENIENT] = None
    state: Annotated[str | None, LENIENT] = None
    display_name: Annotated[str | None, LENIENT] = None
    batch_stats: Annotated[Stats | None, LENIENT] = None
    metadata: Annotated[Metadata | None, LENIENT] = None
    response: Annotated[Output | None, LENIENT] = None
    output: Annotated[Output | None, LENIENT] = None
    dest: Annotated[Output | None, LENIENT] = None
    error: Annotated[dict[str, Any] | None, LENIENT] = None


class Listing(AnswerModel):
    operations: Annotated[list[Operation] | None, LENIENT] = None
    batches: Annotated[list[Operation] | None, LENIENT] = None
    next_page_token: Annotated[str | None, LENIENT] = None


class GeminiBatch:
    """The codec of batches. A line contains what `generateContent` would be sent, and its answer what that would
    return."""

    mime_type = MIME_TYPE

    def __init__(self, version: str, model: str) -> None:
        self._version = version
        self._model = quote(model, safe="")

    def line(self, key: str, body: bytes) -> bytes:
        """A line. body: of the request that the codec built, as JSON without line ends."""
        return b'{"key":%s,"request":%s}\n' % (json.dumps(key).encode(), body)

    def create(self, display_name: str, file: str) -> Request:
        """The request for a batch. It is not idempotent, the documents warn: sent twice it makes two batches, and both
        are paid for."""
        body = {"batch": {"displayName": display_name, "inputConfig": {"fileName": file}}}
        return self._request("POST", f"models/{self._model}:batchGenerateContent", json.dumps(body).encode())

    def get_batch(self, name: str) -> Request:
        return self._request("GET", name)

    def list_batches(self, page: str = "") -> Request:
        token = f"&pageToken={quote(page, safe='')}" if page else ""
        return self._request("GET", f"batches?pageSize={LIST_PAGE_SIZE}{token}")

    def cancel(self, name: str) -> Request:
        return self._request("POST", f"{name}:cancel")

    def delete(self, name: str) -> Request:
        """The request that deletes a batch or a file."""
        return self._request("DELETE", name)

    def download(self, file: str, offset_bytes: int = 0) -> Request:
        """The request for the results from `offset_bytes` on, if the server supports that; one that answers 200 begins
        at the start. file: may also be the name of a batch whose operation contains the answers."""
        if file.startswith("batches/"):
            return self.get_batch(file)
        headers = {"Range": f"bytes={offset_bytes}-"} if offset_bytes else {}
        path = f"/download/{self._version}/{quote(file, safe='/')}:download?alt=media"
        return Request(method="GET", path=path, body=b"", headers=headers, timeout_s=TIMEOUT_S)

    def read_batch(self, response: Response) -> RemoteBatch:
        """The batch in an answer to `create` or `get_batch`. Raises ProviderError."""
        return _remote_batch(parse_answer(Operation, response))

    def is_missing(self, response: Response) -> bool:
        """Whether the answer to `get_batch` says that there is no such batch: in the API's own words, not on a proxy's
        page."""
        return response.status == 404 and error_member(parse_json(response.body)) is not None

    def read_list(self, response: Response) -> tuple[list[RemoteBatch], str]:
        """The batches, newest first, and the token of the next page, empty on the last. Raises ProviderError."""
        page = parse_answer(Listing, response)
        return [_remote_batch(one) for one in page.operations or page.batches or ()], page.next_page_token or ""

    def check_removed(self, response: Response) -> None:
        """Check the answer to `cancel` and `delete`; that something no longer exists is not an error. Raises
        ProviderError."""
        # A file that expired by itself, after two days, is a 403.
        no_file = response.status == 403 and b"may not exist" in response.body
        if not response.is_success and response.status != 404 and not no_file:
            raise read_error(response)

    def read_error(self, response: Response) -> ProviderError:
        return read_error(response)

    def _request(self, method: str, path: str, body: bytes = b"") -> Request:
        headers = {"Content-Type": "application/json"} if method == "POST" else {}
        return Request(method=method, path=f"/{self._version}/{path}", body=body, headers=headers, timeout_s=TIMEOUT_S)


def _remote_batch(found: Operation) -> RemoteBatch:
    inner = found.metadata or Metadata()
    word = (found.state or inner.state or "").upper().removeprefix("BATCH_STATE_").removeprefix("JOB_STATE_")
    stats = found.batch_stats or inner.batch_stats or Stats()
    return RemoteBatch(
        name=_checked_name(found.name),
        display_name=found.display_name or inner.display_name or "",
        state=_state(word, found),
        requests=stats.request_count or 0,
        succeeded=stats.successful_request_count or 0,
        failed=stats.failed_request_count or 0,
        results_file=_results_file([inner.output, found.response, found.output, found.dest], found.name),
        message=clean_line(str((found.error or {}).get("message") or "")),
    )


_NAME = re.compile(r"(batches|files)/[\w.-]{1,200}")  # it becomes part of an address


def _checked_name(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise Malformed("the answer names a batch or file in a way that cannot be asked for", http_status=200)
    return name


def _results_file(outputs: Sequence[Output | None], batch: str) -> str:
    name = next((name for one in outputs if one for name in (one.responses_file, one.file_name) if name), "")
    if not name and any(_has_answers(one.inlined_responses) for one in outputs if one):
        return batch
    return _checked_name(name) if name else ""


def _has_answers(inlined: Any) -> bool:
    """Whether a list has answers; it may be in an object of the same name."""
    if isinstance(inlined, dict):
        inlined = inlined.get("inlinedResponses") or inlined.get("inlined_responses")
    return bool(inlined)


def _state(word: str, found: Operation) -> BatchState:
    if word in _STATES:
        return _STATES[word]
    if not found.done:
        return "running"
    if found.error:
        return "cancelled" if found.error.get("code") == RPC_CANCELLED else "failed"
    return "succeeded"
