"""What the codec of a store for files and of a batch API offers, and the nouns that both speak of."""

from __future__ import annotations

from typing import Literal, Protocol

from batchgen.dataclass import dataclass
from batchgen.errors import ProviderError
from batchgen.records import Request, Response

FileState = Literal["PROCESSING", "ACTIVE", "FAILED"]
BatchState = Literal["pending", "running", "succeeded", "failed", "cancelled", "expired"]
ENDED_STATES: frozenset[BatchState] = frozenset({"succeeded", "failed", "cancelled", "expired"})


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoteFile:
    """A file at the vendor's. name: `files/…`. expires: UTC seconds, 0 when the answer does not say."""

    name: str
    uri: str
    state: FileState
    expires: float


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoteBatch:
    """A batch at the vendor's. name: `batches/…`; results_file: `files/…`, the batch's own name when its operation holds the
    answers themselves, empty while there are none. Counts of requests."""

    name: str
    display_name: str
    state: BatchState
    requests: int = 0
    succeeded: int = 0
    failed: int = 0
    results_file: str = ""
    message: str = ""


class FileCodec(Protocol):
    """A resumable upload. What `read_…` reads it may refuse with a ProviderError."""

    def start(self, mime_type: str, size_bytes: int, display_name: str) -> Request: ...

    def read_start(self, response: Response) -> tuple[str, int]:
        """Where the pieces go, and of what all but the last must be a multiple, in bytes."""
        ...

    def upload_piece(self, data: bytes, offset_bytes: int, *, last: bool) -> Request: ...

    def read_piece(self, response: Response, *, last: bool) -> RemoteFile | None:
        """The file, after the last piece."""
        ...

    def query_offset(self) -> Request: ...

    def read_offset(self, response: Response) -> int:
        """How much has arrived, in bytes."""
        ...

    def get_file(self, name: str) -> Request: ...

    def read_file(self, response: Response) -> RemoteFile: ...


class BatchCodec(Protocol):
    """A file of requests, a batch of them, and a file of answers. What `read_…` reads it may refuse with a ProviderError.

    mime_type: of the file of requests.
    """

    mime_type: str

    def line(self, key: str, body: bytes) -> bytes:
        """body: of the request that the provider built; JSON without line ends."""
        ...

    def create(self, display_name: str, file: str) -> Request: ...

    def get_batch(self, name: str) -> Request: ...

    def list_batches(self, page: str = "") -> Request: ...

    def cancel(self, name: str) -> Request: ...

    def delete(self, name: str) -> Request:
        """name: of a batch or of a file."""
        ...

    def download(self, file: str, offset_bytes: int = 0) -> Request: ...

    def read_batch(self, response: Response) -> RemoteBatch: ...

    def is_missing(self, response: Response) -> bool:
        """Whether the API itself says that there is no such batch."""
        ...

    def read_list(self, response: Response) -> tuple[list[RemoteBatch], str]:
        """Batches, newest first, and the token of the next page, empty on the last."""
        ...

    def check_removed(self, response: Response) -> None: ...

    def read_error(self, response: Response) -> ProviderError:
        """What an answer without the file that was to be downloaded amounts to."""
        ...
