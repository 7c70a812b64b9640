"""What a vendor says about a key for free: the models it may use or that were withdrawn, and a balance. Pure, like the
codecs."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Generic, TypeVar

from pydantic import TypeAdapter, ValidationError

from batchgen.errors import ProviderError
from batchgen.profiles.profile import Profile
from batchgen.providers.answer_body import clean_line, malformed_error
from batchgen.records import Request, Response

_ID_CHARS = 200
TIMEOUT_S = 20
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class ListedModel:
    """A model in its vendor's list. input_tokens None, methods empty: the list does not say. makes_images: as far as
    its name tells."""

    id: str
    input_tokens: int | None = None
    methods: tuple[str, ...] = ()
    makes_images: bool = True


@dataclass(frozen=True, slots=True)
class Deprecation:
    """A model that its vendor withdraws. names: all names under which it was available. shutdown_at: an ISO date, "" if
    not stated; replaced_by: likewise.

    status: withdrawn (it answers 404), deprecated (it still serves), superseded (its name now means `replaced_by`).
    """

    names: frozenset[str]
    status: str
    shutdown_at: str = ""
    replaced_by: str = ""

    @property
    def description(self) -> str:
        instead = f", replaced by {self.replaced_by}" if self.replaced_by else ""
        if self.status == "withdrawn":
            return f"withdrawn{f' since {self.shutdown_at}' if self.shutdown_at else ''}{instead}"
        if self.status == "superseded":
            return f"now served as {self.replaced_by}" if self.replaced_by else "folded into another model"
        return f"{f'ends on {self.shutdown_at}' if self.shutdown_at else 'is deprecated'}{instead}"


@dataclass(frozen=True, slots=True)
class Balance:
    """Credits. low: by the vendor's own threshold, or used up."""

    credits: float
    low: bool


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """A request that costs nothing, and the reader of its answer, which raises Malformed."""

    request: Request
    read: Callable[[bytes], T]


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing:
    """What an API says about a key.

    models: the request for one page of models, from the token on the page before, "" for the first. read_models: those
    on a page that make images or can be asked about them, and the next token, "" after the last. balance, deprecations:
    None if there is no such page; the latter is public and requested without a key. listed_for: whom the models are
    listed for. rate_limit_note: where limits are published. top_up: where to buy credits.
    """

    models: Callable[[str], Request]
    read_models: Callable[[bytes], tuple[list[ListedModel], str]]
    read_error: Callable[[Response], ProviderError]
    balance: Page[Balance] | None = None
    deprecations: Page[list[Deprecation]] | None = None
    listed_for: str = "for this key"
    rate_limit_note: str = ""
    top_up: str = ""


def page_request(path: str) -> Request:
    return Request(method="GET", path=path, body=b"", timeout_s=TIMEOUT_S)


def find_deprecation(profile: Profile, feed: Iterable[Deprecation]) -> Deprecation | None:
    name = wire_name(profile)
    return next((entry for entry in feed if name in entry.names), None)


def wire_name(profile: Profile) -> str:
    """The name that the vendor knows: an id may have a prefix here."""
    return str(profile.wire.get("model") or profile.id)


def unknown_models(listed: Iterable[ListedModel], profiles: Iterable[Profile]) -> list[str]:
    """The listed models that make images and are in no profile by id or alias."""
    known = {name for profile in profiles for name in (wire_name(profile), *profile.aliases)}
    return sorted({model.id for model in listed if model.makes_images} - known)


def listed_id(text: str) -> str:
    return clean_line(text, _ID_CHARS)


def read_listing(kind: TypeAdapter[T], body: bytes) -> T:
    try:
        return kind.validate_json(body)
    except ValidationError as error:
        raise malformed_error(200, error) from None
