"""What every codec of an image API offers, and may declare; what those of a store for files and of a batch API offer. Third parties
register theirs under the entry point `batchgen.providers`.

What a codec does not declare has a cautious default, so that nothing is dropped in silence.
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


SEED_MAX = 2**63 - 1  # where an API names no limit of its own
PROMPT_ALONE = frozenset({"prompt"})


class Provider(Protocol):
    """A pure codec: no I/O, no clock, no state beyond the profile it was made for."""

    name: ClassVar[str]

    def __init__(self, profile: Profile) -> None: ...

    def build(self, sample: Sample, inputs: Inputs) -> Request:
        """The request for a sample, without credentials. Raises BadRequest when it cannot be written at all."""
        ...

    def read(self, response: Response) -> Reply | PendingJob:
        """The usable answer in a response, a job to ask about, or the ProviderError it amounts to; no other exception."""
        ...

    @staticmethod
    def credentials(key: str) -> Credentials:
        """What lets requests in with this key; mostly a `KeyHeader`. It never stands in a URL."""
        ...


class DeclaringProvider(Provider, Protocol):
    """A codec that also says what its API is like. It may leave out any of these; the functions below know the defaults.

    endpoint: where the API is and what its key's variables are called; default: no address, NAME_API_KEY and
    BATCHGEN_NAME_BASE_URL. seed_max: the largest seed. harm_categories, harm_thresholds: the words of `safety`; default:
    none is known, so none is checked.
    """

    endpoint: ClassVar[Endpoint]
    seed_max: ClassVar[int]
    harm_categories: ClassVar[frozenset[str]]
    harm_thresholds: ClassVar[frozenset[str]]

    @staticmethod
    def encodes(profile: Profile) -> frozenset[str]:
        """The manifest's fields that `build` puts on the wire for this model. A codec without it sends the prompt alone, and
        any other field is refused when the manifest is read."""
        ...


class Emulator(Protocol):
    """A stand-in for an API on this machine, for `--emulate` and the tests of a codec. Registered under the entry point
    `batchgen.emulators` by the provider's name; made once for each server."""

    def __init__(self, base_url: str) -> None:
        """base_url: where it is reached, for links in its answers."""
        ...

    def answer(self, request: Request) -> Response:
        """What the vendor would say. request: with the headers as they came. An answer without a Content-Type is JSON."""
        ...


@runtime_checkable
class SupportsConversations(Provider, Protocol):
    """A codec of an API that has conversations: it builds their later turns from `Inputs.turns`."""

    @staticmethod
    def turn(envelope: bytes) -> Mapping[str, Any]:
        """What the model said, exactly, to be sent back in the next turn. envelope: of an answer that `read` took."""
        ...


@runtime_checkable
class SupportsJudge(Provider, Protocol):
    """A codec of an API whose models look at images and answer in JSON: it asks them how well an image meets a rubric."""

    def build_question(self, question: Question) -> Request:
        """The request that asks it, without credentials. `judgement.ANSWER_SCHEMA` is the JSON to ask for. Raises BadRequest."""
        ...

    def read_answer(self, response: Response) -> Answer:
        """The judgement in a response, or the ProviderError it amounts to, as of `read`: Malformed for a text that is not the JSON
        asked for, Refused when the model does not look at the image. What was used all the same is in the error's `usage`."""
        ...


@runtime_checkable
class SupportsJobs(Provider, Protocol):
    """A codec of an API that takes a job and answers later: its `read` gives a PendingJob."""

    def poll(self, job: PendingJob) -> Request:
        """The question how a job stands, which costs nothing."""
        ...

    def read_poll(self, job: PendingJob, response: Response) -> Reply | PendingJob:
        """The answer to it: what was made, or the job as it stands now, perhaps with another question to ask.

        Raises JobFailed, JobCancelled, Refused, OutputRefused, NoImage, InputRejected, BadRequest or BatchLost when the job has
        ended without an image. Any other ProviderError is about the question, and the same job is asked about again.
        """
        ...


@runtime_checkable
class SupportsCancel(SupportsJobs, Protocol):
    """A codec of an API that cancels a job when it is asked to. How the job then ends is learned by asking about it, as ever."""

    def cancel(self, job: PendingJob) -> Request: ...

    def read_cancel(self, job: PendingJob, response: Response) -> None:
        """The answer to it. Raises a ProviderError when the job goes on; not when it had ended before."""
        ...


@runtime_checkable
class SupportsJobList(SupportsJobs, Protocol):
    """A codec of an API that lists recent jobs: one whose answer was lost is found again by what it was asked for."""

    def job_input(self, request: Request) -> str:
        """What a request of `build` asks for, as the list says it of the job that it became: the same text for both."""
        ...

    def list_jobs(self, since: float, page: str) -> Request:
        """since: UTC seconds. page: the token that the page before gave, "" for the first."""
        ...

    def read_jobs(self, response: Response) -> tuple[list[ListedJob], str]:
        """Jobs, and the token of the next page, "" after the last. Raises a ProviderError."""
        ...


class FindsCredentials(Provider, Protocol):
    """A codec of an API that lets requests in without a key, too: by a file, a login that another program has left, or what
    this machine is."""

    @staticmethod
    def find_credentials(key: str | None, environ: Mapping[str, str]) -> FoundCredentials | None:
        """Those of this account, which a whole run shares; None when there is nothing. key: None when none is set.

        environ: of this process, and never what a folder's `.env` says; files that it names may be read. Raises
        SettingsError that names variable and remedy when what is there is no good.
        """
        ...


@runtime_checkable
class SupportsLinks(Provider, Protocol):
    """A codec of an API that fetches references from their links itself."""

    takes_links: ClassVar[bool]


class SupportsListing(Provider, Protocol):
    """A codec of an API that tells which models a key may use, and perhaps a balance."""

    listing: ClassVar[Listing]


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


@runtime_checkable
class SupportsUploads(Provider, Protocol):
    """A codec of an API with a store for files too large to send along."""

    files: FileCodec


@runtime_checkable
class SupportsBatches(SupportsUploads, Protocol):
    """A codec of an API that takes many requests as one file and answers them later, for less."""

    batch: BatchCodec


def encoded_fields(codec: type[Provider], profile: Profile) -> frozenset[str]:
    encodes = getattr(codec, "encodes", None)
    return PROMPT_ALONE if encodes is None else PROMPT_ALONE | encodes(profile)


def endpoint_of(codec: type[Provider], name: str) -> Endpoint:
    """name: of the provider, from which its variables have their names unless it declares others."""
    return getattr(codec, "endpoint", None) or Endpoint.named(name)


def find_credentials(codec: type[Provider], key: str | None, environ: Mapping[str, str]) -> FoundCredentials | None:
    """None when there is no key, and the codec has nothing else. Raises SettingsError as the codec's own."""
    find = getattr(codec, "find_credentials", None)
    if find is not None:
        found: FoundCredentials | None = find(key, environ)
        return found
    return None if key is None else FoundCredentials(codec.credentials(key))


def seed_max_of(codec: type[Provider]) -> int:
    return getattr(codec, "seed_max", SEED_MAX)


def safety_words_of(codec: type[Provider]) -> tuple[frozenset[str], frozenset[str]]:
    """Harm categories and thresholds; empty where none is known."""
    return getattr(codec, "harm_categories", frozenset()), getattr(codec, "harm_thresholds", frozenset())
