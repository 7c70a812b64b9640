"""The codec of the Gemini API's files: a resumable upload, and a look at what became of it.

Sources: ai.google.dev/gemini-api/docs/files and ai.google.dev/api/files; requests as sent by @google/genai 3.1.0.
"""

from __future__ import annotations

import json
from datetime import datetime
from typing import Annotated, TypeVar
from urllib.parse import quote

from pydantic import ValidationError

from batchgen.errors import ServerFault, UploadFailed
from batchgen.providers.answer_body import LENIENT, AnswerModel
from batchgen.providers.google_errors import read_error
from batchgen.providers.remote import FileState, RemoteFile
from batchgen.records import Request, Response

FILE_LIFETIME_S = 48 * 3600.0
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
    """Only `start` and `look` carry the key; the address that `start` earns stands for it in all that follows."""

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
        """Where the pieces go, and of what all but the last must be a multiple, in bytes. Raises ProviderError."""
        _check_success(response)
        url = response.header("X-Goog-Upload-URL") or ""
        granularity = response.header("X-Goog-Upload-Chunk-Granularity") or ""
        if not url:
            raise UploadFailed("the answer to the start of an upload names no address", http_status=response.status)
        return url, int(granularity) if granularity.isascii() and granularity.isdecimal() else 1

    def upload_piece(self, data: bytes, offset_bytes: int, *, last: bool) -> Request:
        """To the address of `started`."""
        headers = {
            "X-Goog-Upload-Offset": str(offset_bytes),
            "X-Goog-Upload-Command": "upload, finalize" if last else "upload",
        }
        return Request(method="POST", path="", body=data, headers=headers, timeout_s=TIMEOUT_S)

    def query_offset(self) -> Request:
        """How much has arrived? To the address of `started`."""
        return Request(method="POST", path="", body=b"", headers={"X-Goog-Upload-Command": "query"}, timeout_s=30.0)

    def read_offset(self, response: Response) -> int:
        """The answer to `query`, in bytes. Raises ProviderError."""
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
        return _remote(_read(UploadAnswer, response.body).file)

    def get_file(self, name: str) -> Request:
        return Request(method="GET", path=f"/{self._version}/{quote(name)}", body=b"", timeout_s=30.0)

    def read_file(self, response: Response) -> RemoteFile:
        """The answer to `look`. Raises ProviderError."""
        _check_success(response)
        return _remote(_read(File, response.body))


def _check_success(response: Response) -> None:
    """Faults of a server are faults of the upload here: nothing can have been billed."""
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


def _remote(file: File) -> RemoteFile:
    state: FileState = "PROCESSING" if file.state == "PROCESSING" else "FAILED" if file.state == "FAILED" else "ACTIVE"
    try:
        expires = datetime.fromisoformat(file.expiration_time or "").timestamp()
    except ValueError:
        expires = 0.0
    return RemoteFile(name=file.name, uri=file.uri, state=state, expires=expires)
