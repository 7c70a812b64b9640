"""Frozen nouns that cross disk or wire. Standard library only, so that `status` starts fast."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field
from typing import Any, Literal, NamedTuple

from batchgen.dataclass import dataclass
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
    """The n-th of an item's `count` (from 1). `images` > 1: one request asks for samples n … n + images - 1.

    fingerprint: hash of all that reaches the wire for this sample; wire: the same facts, readable, for `plan` to say
    what changed. known: the ledger has this sample already, so `results.jsonl` may have its line. remarks: what was said of the
    image that this one is to replace, for the prompt; empty unless somebody asked for that.
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
    """One image sent along. `base64` is the standard alphabet, encoded once per run and shared.

    uri: where the API finds the image itself, which then has no base64: a file uploaded to it, or a link.
    """

    mime_type: str
    base64: str = ""
    uri: str = ""


@dataclass(frozen=True, slots=True)
class Inputs:
    """What a codec needs beside the sample and cannot fetch itself.

    turns: the model's own turns of the conversation so far, each the JSON text that the codec's `turn` gave.
    """

    references: tuple[ReferenceImage, ...] = ()
    turns: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One HTTP request without credentials. path starts with `/` and is joined to the provider's base URL.

    url: a whole address in place of `path`, such as one that an answer gave, on the base URL's own server or at one of the
    hosts that `endpoint` declares. A base URL that is not the vendor's stands for all of these: there the url's path is asked.
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
    """A whole answer, of any status, as a codec reads it.

    body: as it came; but each string of base64 in it that is longer than 64 KB was decoded to a file while it arrived, and so
    was the whole of a body that is an image by its Content-Type, which then is empty here. files: paths of these, by number.
    A codec passes what stands in such a string's place to `decode_image`, and need not know which of the two it is.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes
    files: tuple[str, ...] = ()

    @property
    def is_success(self) -> bool:
        return 200 <= self.status < 300

    def header(self, name: str) -> str | None:
        """A header whatever its casing (RFC 9110, 5.1)."""
        name = name.lower()
        return next((value for key, value in self.headers.items() if key.lower() == name), None)


@dataclass(frozen=True, slots=True, kw_only=True)
class PendingJob:
    """A job that an API has taken and answers later. It is durable before it is waited for, and never asked for again.

    id: as its vendor names it. state: what its codec needs to ask about it, such as addresses that an answer gave.
    poll_after_s: how long it is not worth asking, 0 when the next answer is there already. result_kept_s: how long the vendor
    keeps what it made, None where that is days.
    """

    id: str
    state: Mapping[str, str] = field(default_factory=dict)
    poll_after_s: float = 1.0
    result_kept_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ListedJob:
    """A job in its vendor's list. input: as of `SupportsJobList.job_input`; created_at: UTC seconds."""

    job: PendingJob
    input: str
    created_at: float


Role = Literal["image", "draft", "thought"]
# Endings of the files beside a picture, its own ending replaced: text, thoughts, sources, the search's suggestions. The
# last parts differ from each other and from a picture's, so that no two items can mean the same file.
SIDECARS = (".txt", ".thoughts.md", ".sources.json", ".search.html")
DECODED_PREFIX = "\x00lifted:"  # and a number stand for a long JSON string that the transport decoded to disk


@dataclass(frozen=True, slots=True)
class ReplyImage:
    """One image in an answer, either as bytes or as the number of a lifted string already on disk.

    role: `image` is what was asked for, `draft` an earlier image of the same answer, `thought` an unbilled interim.
    """

    mime_type: str
    data: bytes | None = None
    decoded: int | None = None
    role: Role = "image"


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """What the vendor says was used. Tokens; `credits` and `usd` where the vendor bills in those. None: not said.

    prompt_image_tokens: of the images sent along, where the vendor counts them apart; prompt_tokens then holds the text alone.
    queries: searches made for the answer. tier: the service tier that served, in lower case, empty when not said.
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

    unavailable: images that are not at hand, by their place in `images`: (reason, message) of one that could not be had, None
    for one that is recorded already. filtered: reasons for images that were asked for and withheld. text: what the model
    wrote besides; thoughts: what it let see of its thinking. grounding: what a search found, as the vendor says it.
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
    """What a judge is asked: how well an image meets a rubric. model: its id. text: of the question, rubric and all, to which the
    codec adds the JSON that is asked for. images: to be looked at, the one that is judged first."""

    model: str
    text: str
    images: tuple[ReferenceImage, ...]
    timeout_s: float = 120.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a judge answered. score: from 0 to 10. remark: one line that says what is wrong, empty when nothing is."""

    score: float
    remark: str = ""
    usage: Usage | None = None
    model_version: str = ""
    reply_id: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageFile:
    """A checked image on disk. path: relative to the job folder, `/` between parts."""

    path: str
    sha256: str
    bytes: int
    width: int
    height: int
    format: Literal["png", "jpeg", "webp", "gif"]
    role: Role = "image"
    flags: tuple[str, ...] = ()  # "size" | "ratio": not what was asked for; kept all the same


Ruling = Literal["accept", "warn", "reject", "none"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What a check, the judge or a person says of one image. sha256: of the image. name: of the check, of the judge's model, of the
    person. basis: hash of what was asked of it, so that another rubric or another option judges again; empty of a person.

    ruling: none takes an earlier one of the same person back. reason: a slug, such as `blank`; message: in words. score: 0 to 10
    of a judge, stars from 1 to 5 of a person, what was measured of a check. details: JSON, such as `{"twin": "mug#2"}` or
    `{"boxes": [[x, y, width, height, text], …]}` in parts of the image's width and height. usd: None when unknown. at: UTC
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
# Of what the manifest has not given up.
CURRENT_STATES = (
    *("wanted", "running", "submitted", "succeeded", "rejected", "refused", "failed", "uncertain", "blocked"),
)
HAS_IMAGE = ("succeeded", "rejected")  # states of a sample whose image is there, accepted or not


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """How a sample stands, as `status`, `export` and `results.jsonl` show it. files: its image first; empty without one.
    usd: what it cost, None when that is unknown. folder: where the paths of its files begin, or the address of the bucket;
    empty when only the ledger was read. verdicts: what judge and people say of its image, and what
    checks have found, the earliest first.
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
    sidecars: tuple[str, ...] = ()  # paths of what stands beside its picture
    derivatives: tuple[str, ...] = ()  # paths of what was made of it
    folder: str = ""
    verdicts: tuple[Verdict, ...] = ()

    @property
    def key(self) -> str:
        """Its `id`, with `#2` and so on for the further images of an item."""
        return sample_key(self.id, self.n)

    @property
    def accepted(self) -> bool:
        """Whether its image is there and was not rejected."""
        return self.state == "succeeded"

    @property
    def image(self) -> ImageFile | None:
        return next((file for file in self.files if file.role == "image"), None)

    @property
    def path(self) -> str | None:
        """Where its image is, below `folder`; None without one."""
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
    """What the ledger knows of a sample, as far as planning needs it. made_fingerprint: of the image at `path`.

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
