"""What every codec of an image API offers and may declare, and what codecs of file stores and batch APIs offer. Third
parties register theirs under the entry point `batchgen.providers`.

What a codec does not declare has a cautious default, so that nothing is dropped silently.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol, runtime_checkable

from batchgen.endpoint import Endpoint
from batchgen.errors import ProviderError
from batchgen.profiles.profile import Profile
from batchgen.providers.credentials import Credentials, FoundCredentials
from batchgen.records import Answer, Inputs, ListedJob, PendingJob, Question, Reply, Request, Response, Sample

if TYPE_CHECKING:
    from batchgen.providers.listings import Listing


SEED_MAX = 2**63 - 1  # if an API states no limit of its own
PROMPT_ALONE = frozenset({"prompt"})


class Provider(Protocol):
    """A pure codec: no I/O, no clock, no state beyond the profile it was made for."""

    name: ClassVar[str]

    def __init__(self, profile: Profile) -> None: ...

    def build(self, sample: Sample, inputs: Inputs) -> Request:
        """The request for a sample, without credentials. Raises BadRequest if it cannot be built at all."""
        ...

    def read(self, response: Response) -> Reply | PendingJob:
        """The usable answer in a response, or a job to ask about. Raises the ProviderError that it amounts to, and
        nothing else."""
        ...

    @staticmethod
    def credentials(key: str) -> Credentials:
        """What authorizes requests with this key; usually a `KeyHeader`. It is never in a URL."""
        ...


class DeclaringProvider(Provider, Protocol):
    """A codec that also declares what its API is like. Each of these may be omitted; the functions below know the
    defaults.

    endpoint: the API's address and the names of its key's variables; default: no address, NAME_API_KEY and
    BATCHGEN_NAME_BASE_URL. seed_max: the largest seed. harm_categories, harm_thresholds: the terms of `safety`; by
    default none is known, so none is checked.
    """

    endpoint: ClassVar[Endpoint]
    seed_max: ClassVar[int]
    harm_categories: ClassVar[frozenset[str]]
    harm_thresholds: ClassVar[frozenset[str]]

    @staticmethod
    def encodes(profile: Profile) -> frozenset[str]:
        """The manifest's fields that `build` sends for this model. A codec without it only sends the prompt, and any
        other field is refused when the manifest is read."""
        ...


class Emulator(Protocol):
    """A stand-in for an API on this machine, for `--emulate` and a codec's tests. Registered under the entry point
    `batchgen.emulators` by the provider's name; one is made for each server."""

    def __init__(self, base_url: str) -> None:
        """base_url: the address at which it is reached, for links in its answers."""
        ...

    def answer(self, request: Request) -> Response:
        """What the vendor would answer. request: with its headers as received. An answer without a Content-Type is
        JSON."""
        ...


@runtime_checkable
class SupportsConversations(Provider, Protocol):
    """A codec of an API with conversations: it builds later turns from `Inputs.turns`."""

    @staticmethod
    def turn(envelope: bytes) -> Mapping[str, Any]:
        """Exactly what the model said, to be sent back in the next turn. envelope: of an answer that `read` has
        accepted."""
        ...


@runtime_checkable
class SupportsJudge(Provider, Protocol):
    """A codec of an API whose models look at images and answer in JSON: it asks them how well an image meets a
    rubric."""

    def build_question(self, question: Question) -> Request:
        """The request for a question, without credentials. `judgement.ANSWER_SCHEMA` describes the JSON to ask for.
        Raises BadRequest."""
        ...

    def read_answer(self, response: Response) -> Answer:
        """The judgement in a response. Raises the ProviderError that it amounts to, as `read` does: Malformed for a
        text that is not the requested JSON, Refused if the model does not look at the image. The error's `usage` says
        what was used anyway."""
        ...


@runtime_checkable
class SupportsJobs(Provider, Protocol):
    """A codec of an API that accepts a job and answers later: its `read` returns a PendingJob."""

    def poll(self, job: PendingJob) -> Request:
        """The question about a job's state, which costs nothing."""
        ...

    def read_poll(self, job: PendingJob, response: Response) -> Reply | PendingJob:
        """The answer to `poll`: what was made, or the job as it is now, perhaps with another question to ask.

        Raises JobFailed, JobCancelled, Refused, OutputRefused, NoImage, InputRejected, BadRequest or BatchLost if the
        job has ended without an image. Any other ProviderError is about the question, and the same job is asked about
        again.
        """
        ...


@runtime_checkable
class SupportsCancel(SupportsJobs, Protocol):
    """A codec of an API that cancels a job on request. How the job then ends is found out by asking about it, as
    usual."""

    def cancel(self, job: PendingJob) -> Request: ...

    def read_cancel(self, job: PendingJob, response: Response) -> None:
        """Read the answer to a cancel. Raises a ProviderError if the job goes on, but not if it had already ended."""
        ...


@runtime_checkable
class SupportsJobList(SupportsJobs, Protocol):
    """A codec of an API that lists recent jobs, so that one whose answer was lost is found by its input."""

    def job_input(self, request: Request) -> str:
        """The input of a request from `build`, as the list states it for the resulting job: the same text for both."""
        ...

    def list_jobs(self, since: float, page: str) -> Request:
        """The request for one page of the list. since: UTC seconds. page: the token from the page before, "" for the
        first."""
        ...

    def read_jobs(self, response: Response) -> tuple[list[ListedJob], str]:
        """The jobs on a page, and the token of the next page, "" after the last. Raises a ProviderError."""
        ...


class FindsCredentials(Provider, Protocol):
    """A codec of an API that also accepts other credentials than a key: a file, another program's login, or the
    machine's identity."""

    @staticmethod
    def find_credentials(key: str | None, environ: Mapping[str, str]) -> FoundCredentials | None:
        """The credentials of this account, shared by a whole run; None if there are none. key: None if none is set.

        environ: this process's, and never what a folder's `.env` says; files that it names may be read. Raises
        SettingsError, naming variable and remedy, if what is there is unusable.
        """
        ...


@runtime_checkable
class SupportsLinks(Provider, Protocol):
    """A codec of an API that downloads references from their links itself."""

    takes_links: ClassVar[bool]


class SupportsListing(Provider, Protocol):
    """A codec of an API that lists the models a key may use, and perhaps states a balance."""

    listing: ClassVar[Listing]


FileState = Literal["PROCESSING", "ACTIVE", "FAILED"]
BatchState = Literal["pending", "running", "succeeded", "failed", "cancelled", "expired"]
ENDED_STATES: frozenset[BatchState] = frozenset({"succeeded", "failed", "cancelled", "expired"})


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoteFile:
    """A file at the vendor. name: `files/…`. expires: UTC seconds, 0 if the answer does not say."""

    name: str
    uri: str
    state: FileState
    expires: float


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoteBatch:
    """A batch at the vendor. name: `batches/…`. results_file: `files/…`, the batch's own name if its operation contains
    the answers, empty if there are none yet. The counts are of requests."""

    name: str
    display_name: str
    state: BatchState
    requests: int = 0
    succeeded: int = 0
    failed: int = 0
    results_file: str = ""
    message: str = ""


class FileCodec(Protocol):
    """The codec of a resumable upload. Each `read_…` may raise a ProviderError."""

    def start(self, mime_type: str, size_bytes: int, display_name: str) -> Request: ...

    def read_start(self, response: Response) -> tuple[str, int]:
        """The address for the pieces, and the number of bytes of which all but the last must be a multiple."""
        ...

    def upload_piece(self, data: bytes, offset_bytes: int, *, last: bool) -> Request: ...

    def read_piece(self, response: Response, *, last: bool) -> RemoteFile | None:
        """The file, after the last piece."""
        ...

    def query_offset(self) -> Request: ...

    def read_offset(self, response: Response) -> int:
        """How many bytes have arrived."""
        ...

    def get_file(self, name: str) -> Request: ...

    def read_file(self, response: Response) -> RemoteFile: ...


class BatchCodec(Protocol):
    """The codec of a file of requests, a batch of them, and a file of answers. Each `read_…` may raise a ProviderError.

    mime_type: of the file of requests.
    """

    mime_type: str

    def line(self, key: str, body: bytes) -> bytes:
        """A line of the file. body: of the request that the provider built, as JSON without line ends."""
        ...

    def create(self, display_name: str, file: str) -> Request: ...

    def get_batch(self, name: str) -> Request: ...

    def list_batches(self, page: str = "") -> Request: ...

    def cancel(self, name: str) -> Request: ...

    def delete(self, name: str) -> Request:
        """The request that deletes a batch or a file."""
        ...

    def download(self, file: str, offset_bytes: int = 0) -> Request: ...

    def read_batch(self, response: Response) -> RemoteBatch: ...

    def is_missing(self, response: Response) -> bool:
        """Whether the API itself says that there is no such batch."""
        ...

    def read_list(self, response: Response) -> tuple[list[RemoteBatch], str]:
        """The batches on a page, newest first, and the token of the next page, empty on the last."""
        ...

    def check_removed(self, response: Response) -> None: ...

    def read_error(self, response: Response) -> ProviderError:
        """The error that an answer amounts to if it is not the file that was to be downloaded."""
        ...


@runtime_checkable
class SupportsUploads(Provider, Protocol):
    """A codec of an API with a store for files too large to send along."""

    files: FileCodec


@runtime_checkable
class SupportsBatches(SupportsUploads, Protocol):
    """A codec of an API that takes many requests as one file and answers them later, for less money."""

    batch: BatchCodec


def encoded_fields(codec: type[Provider], profile: Profile) -> frozenset[str]:
    encodes = getattr(codec, "encodes", None)
    return PROMPT_ALONE if encodes is None else PROMPT_ALONE | encodes(profile)


def endpoint_of(codec: type[Provider], name: str) -> Endpoint:
    """The endpoint of a codec. name: the provider's, which its variables are named after unless it declares others."""
    return getattr(codec, "endpoint", None) or Endpoint.named(name)


def find_credentials(codec: type[Provider], key: str | None, environ: Mapping[str, str]) -> FoundCredentials | None:
    """The credentials for a codec, None if there is no key and the codec finds nothing else. Raises SettingsError as
    the codec does."""
    find = getattr(codec, "find_credentials", None)
    if find is not None:
        found: FoundCredentials | None = find(key, environ)
        return found
    return None if key is None else FoundCredentials(codec.credentials(key))


def seed_max_of(codec: type[Provider]) -> int:
    return getattr(codec, "seed_max", SEED_MAX)


def safety_words_of(codec: type[Provider]) -> tuple[frozenset[str], frozenset[str]]:
    """Harm categories and thresholds; empty if unknown."""
    return getattr(codec, "harm_categories", frozenset()), getattr(codec, "harm_thresholds", frozenset())
