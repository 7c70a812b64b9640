"""Frozen records of what crosses the disk or the wire. Standard library only, so that `status` starts fast."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from batchgen.endpoint import Endpoint
from batchgen.item import Check as Check
from batchgen.item import Derivative as Derivative
from batchgen.item import Item as Item
from batchgen.item import Judge as Judge
from batchgen.item import OnReject as OnReject
from batchgen.item import Post as Post

EMPTY_MAPPING: Mapping[str, Any] = {}


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """The n-th of an item's `count` images, from 1. `images` > 1: one request asks for samples n … n + images - 1.

    fingerprint: a hash of everything that reaches the wire for this sample. wire: the same facts in readable form, so that
    `plan` can say what changed. known: the ledger has this sample already, so `results.jsonl` may have its line. remarks: what
    people and the judge said about the image that this one replaces, added to the prompt if the user asked for that.
    """

    item: Item
    n: int
    fingerprint: str
    wire: str  # canonical JSON, without reference bytes
    images: int = 1
    known: bool = False
    remarks: str = ""

    @property
    def key(self) -> str:
        return sample_key(self.item.id, self.n)


def split_key(key: str) -> tuple[str, int]:
    item_id, _, n = key.partition("#")
    return item_id, int(n or 1)


def sample_key(item_id: str, n: int) -> str:
    """`id` for the first sample, `id#2` and so on for the others: what people see and `results.jsonl` says."""
    return item_id if n == 1 else f"{item_id}#{n}"


JUDGE_SUFFIX = (
    " (judge)"  # of the id under which the judge is asked about an item's images; no item has a space in its own
)


def judge_id(item_id: str) -> str:
    return f"{item_id}{JUDGE_SUFFIX}"


def is_judge_id(item_id: str) -> bool:
    return item_id.endswith(JUDGE_SUFFIX)


def lane_model(lane: str) -> str:
    """The AI model of a lane's key `provider/model`."""
    return lane.partition("/")[2] or lane


def required_keys(item: Item, n: int) -> tuple[str, ...]:
    """Keys of the samples that must have their images before sample n of `item` can be asked for."""
    if not item.references and item.turn < 2:
        return ()
    keys = [reference_key(name) for name in item.references if name.startswith("@")]
    if item.turn > 1:
        keys.append(sample_key(previous_turn_id(item), n))
    return tuple(dict.fromkeys(keys))


def previous_turn_id(item: Item) -> str:
    """The id of the turn before: turns are called `{id}-t1`, `{id}-t2` and so on."""
    return f"{item.id.rpartition('-t')[0]}-t{item.turn - 1}"


def reference_key(name: str) -> str:
    """The sample key that a reference `@id` or `@id#n` names."""
    item_id, _, n = name[1:].partition("#")
    return sample_key(item_id, int(n or 1))


@dataclass(frozen=True, slots=True)
class ReferenceImage:
    """An image sent along with a request. base64: in the standard alphabet, encoded once per run and shared.

    uri: where the API finds the image itself (an uploaded file, or a link); base64 is empty then.
    """

    mime_type: str
    base64: str = ""
    uri: str = ""


@dataclass(frozen=True, slots=True)
class Inputs:
    """What a codec needs besides the sample and cannot fetch itself.

    turns: the model's own turns of the conversation so far, each as the JSON text that the codec's `turn` returned.
    """

    references: tuple[ReferenceImage, ...] = ()
    turns: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """An HTTP request without credentials. path: starts with `/` and is joined to the provider's base URL.

    url: a whole address in place of `path`, such as one from an earlier answer, on the base URL's own server or on one of the
    hosts that `endpoint` declares. If the base URL is not the vendor's, it stands for all of these hosts and gets the url's path.
    """

    method: str
    path: str = ""
    url: str = ""
    endpoint: Endpoint | None = None
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    timeout_s: float = 300.0


@dataclass(frozen=True, slots=True)
class Response:
    """A complete HTTP answer of any status, as a codec reads it.

    body: as received, except that each base64 string longer than 64 KB was decoded to a file while it arrived. A body that is
    itself an image by its Content-Type went to a file as a whole and is empty here. files: the paths of these files, by number.
    A codec passes whatever stands in such a string's place to `decode_image` and need not tell the two apart.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes
    files: tuple[str, ...] = ()

    @property
    def is_success(self) -> bool:
        return 200 <= self.status < 300

    def header(self, name: str) -> str | None:
        """The value of a header, whose name is matched in any case (RFC 9110, 5.1)."""
        name = name.lower()
        return next((value for key, value in self.headers.items() if key.lower() == name), None)


@dataclass(frozen=True, slots=True, kw_only=True)
class PendingJob:
    """A job that an API accepted and answers later. It is recorded before anything waits for it, and never requested again.

    id: the vendor's. state: what the codec needs in order to ask about the job, such as addresses from the first answer.
    poll_after_s: how long to wait before asking, 0 if the next answer is there already. result_kept_s: how long the vendor
    keeps the result, None if that is days.
    """

    id: str
    state: Mapping[str, str] = field(default_factory=dict)
    poll_after_s: float = 1.0
    result_kept_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ListedJob:
    """A job in its vendor's list. input: what `SupportsJobList.job_input` returns for it; created_at: UTC seconds."""

    job: PendingJob
    input: str
    created_at: float


Role = Literal["image", "draft", "thought"]
# The files beside an image have its name with one of these endings: text, thoughts, sources, the search's suggestions. The
# last parts differ from each other and from an image's, so that no two items can mean the same file.
SIDECARS = (".txt", ".thoughts.md", ".sources.json", ".search.html")
DECODED_PREFIX = "\x00lifted:"  # and a number: in place of a long JSON string that was decoded to disk


@dataclass(frozen=True, slots=True)
class ReplyImage:
    """An image in an answer, either as bytes or as the number of a string that was decoded to disk.

    role: `image` is what was asked for, `draft` an earlier image of the same answer, `thought` an unbilled interim image.
    """

    mime_type: str
    data: bytes | None = None
    decoded: int | None = None
    role: Role = "image"


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """What the vendor says was used, in tokens, or in `credits` or `usd` if the vendor bills in those. None: not stated.

    prompt_image_tokens: of the images sent along, if the vendor counts them separately; prompt_tokens is the text alone then.
    queries: searches made for the answer. tier: the service tier that served, in lower case, empty if not stated.
    """

    prompt_tokens: int = 0
    prompt_image_tokens: int = 0
    image_tokens: int = 0
    text_tokens: int = 0
    thought_tokens: int = 0
    total_tokens: int | None = None
    credits: float | None = None
    usd: float | None = None
    queries: int = 0
    tier: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """A usable answer: images, or links to fetch, in the order of the samples they belong to.

    unavailable: images that cannot be used, by their index in `images`: (reason, message) if one could not be fetched, None if
    it is recorded already. filtered: the reasons for which requested images were withheld. text: what the model wrote besides
    the images; thoughts: what it showed of its thinking. grounding: what a search found, in the vendor's form.
    """

    images: tuple[ReplyImage, ...] = ()
    links: tuple[str, ...] = ()
    unavailable: Mapping[int, tuple[str, str] | None] = field(default_factory=dict)
    text: str = ""
    thoughts: str = ""
    usage: Usage | None = None
    finish_reason: str = ""
    reply_id: str = ""
    model_version: str = ""
    filtered: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()  # for the log: unexpected finish reason, rewritten prompt, retirement notice
    grounding: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """A question to a judge: how well does an image meet a rubric? model: the judge's id. text: the whole question with the
    rubric, to which the codec adds the form of JSON it wants. images: the one to judge first, then others to compare it with."""

    model: str
    text: str
    images: tuple[ReferenceImage, ...]
    timeout_s: float = 120.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """A judge's answer. score: from 0 to 10. remark: one line that says what is wrong, empty if nothing is."""

    score: float
    remark: str = ""
    usage: Usage | None = None
    model_version: str = ""
    reply_id: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageFile:
    """A checked image on disk. path: relative to the job folder, with `/` between its parts."""

    path: str
    sha256: str
    bytes: int
    width: int
    height: int
    format: Literal["png", "jpeg", "webp", "gif"]
    role: Role = "image"
    flags: tuple[str, ...] = ()  # "size" | "ratio": not as requested, but kept


Ruling = Literal["accept", "warn", "reject", "none"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What a check, the judge or a person says about one image. sha256: the image's. name: the check's, the judge's model or the
    person's. basis: a hash of the options or rubric, so that changed ones judge again; empty for a person.

    ruling: none withdraws an earlier ruling of the same person. reason: a slug, such as `blank`; message: in words. score: a
    judge's 0 to 10, a person's 1 to 5 stars, or what a check measured. details: JSON, such as `{"twin": "mug#2"}` or
    `{"boxes": [[x, y, width, height, text], …]}` as fractions of the image's width and height. usd: None if unknown. at: UTC
    seconds.
    """

    item_id: str
    n: int
    sha256: str
    by: Literal["check", "judge", "person"]
    name: str
    ruling: Ruling
    basis: str = ""
    reason: str = ""
    message: str = ""
    score: float | None = None
    details: Mapping[str, Any] = field(default_factory=dict)
    usd: float | None = 0.0
    attempt: int | None = None
    at: float = 0.0


SampleState = Literal[
    "wanted", "running", "submitted", "succeeded", "rejected", "refused", "failed", "uncertain", "blocked", "superseded"
]
# The states of samples that the manifest still asks for.
CURRENT_STATES = (
    *("wanted", "running", "submitted", "succeeded", "rejected", "refused", "failed", "uncertain", "blocked"),
)
HAS_IMAGE = ("succeeded", "rejected")  # states of a sample whose image is there, accepted or not
WITHOUT_IMAGE = ("failed", "refused", "uncertain", "blocked")  # it was asked for, or could not be


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """The state of a sample, as `status`, `export` and `results.jsonl` show it. files: the image first; empty if there is none.
    usd: what it cost, None if unknown. folder: the folder or the bucket's address that the paths of its files are relative
    to; empty if only the ledger was read. verdicts: what checks, the judge and people say about its image, oldest first.
    """

    id: str
    n: int
    state: SampleState
    model: str
    files: tuple[ImageFile, ...] = ()
    usd: float | None = None
    usd_source: str = ""  # "usage" | "vendor" | "estimate" | "guess" | "unknown"
    reason: str = ""
    message: str = ""
    attempts: int = 0
    fingerprint: str = ""
    prompt: str = ""
    tags: tuple[str, ...] = ()
    updated_at: str = ""
    text: str = ""
    sidecars: tuple[str, ...] = ()  # paths of the files beside its image
    derivatives: tuple[str, ...] = ()  # paths of the files made from it
    folder: str = ""
    verdicts: tuple[Verdict, ...] = ()

    @property
    def key(self) -> str:
        """The item's id, with `#2` and so on for its further images."""
        return sample_key(self.id, self.n)

    @property
    def accepted(self) -> bool:
        """Whether the sample has an image that was not rejected."""
        return self.state == "succeeded"

    @property
    def image(self) -> ImageFile | None:
        return next((file for file in self.files if file.role == "image"), None)

    @property
    def path(self) -> str | None:
        """The path of its image, in `folder`; None if there is no image."""
        if self.image is None:
            return None
        return f"{self.folder}/{self.image.path}" if self.folder else self.image.path

    @property
    def width(self) -> int | None:
        """Pixels."""
        return self.image.width if self.image else None

    @property
    def height(self) -> int | None:
        """Pixels."""
        return self.image.height if self.image else None


class KnownSample(NamedTuple):
    """What planning needs of a sample's row in the ledger. made_fingerprint: that of the image at `path`.

    A tuple and not a dataclass: planning a million lines makes a million of them.
    """

    n: int
    state: str
    fingerprint: str
    path: str | None
    bytes: int
    made_fingerprint: str | None
    reason: str
    attempts: int
