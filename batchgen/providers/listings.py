"""What the vendors list: models that a key may use or that were withdrawn, and AIML's balance. Pure, like the codecs.

Sources: ai.google.dev/api/models#method:-models.list; docs.aimlapi.com/api-references/service-endpoints,
complete-model-list and account-balance (2026-08-21), model-deprecations (github.com/aimlapi/api-docs 935f808, 2026-08).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, TypeVar

from pydantic import OnErrorOmit, TypeAdapter, ValidationError

from batchgen.profiles.profile import Profile
from batchgen.providers.answer_body import LENIENT, AnswerModel, clean_line, malformed_error

IMAGE_MODEL_NAME = re.compile(r"image|imagen|banana", re.IGNORECASE)  # Google's list does not say what a model gives
_METHODS = frozenset({"generateContent", "predict"})
_ID_CHARS = 200
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class ListedModel:
    """An image model as its vendor lists it. input_tokens None, methods empty: the list does not say."""

    id: str
    input_tokens: int | None = None
    methods: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Deprecation:
    """A model that its vendor withdraws. names: all under which it was reachable. shutdown_at: ISO date, "" when none is said;
    replaced_by: likewise.

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


class _GoogleModel(AnswerModel):
    name: str
    supported_generation_methods: tuple[str, ...] = ()
    input_token_limit: Annotated[int | None, LENIENT] = None


class _GooglePage(AnswerModel):
    models: tuple[OnErrorOmit[_GoogleModel], ...] = ()
    next_page_token: str = ""


class _AimlModel(AnswerModel):
    id: str
    type: str


class _AimlList(AnswerModel):
    data: list[OnErrorOmit[_AimlModel]]


class _AimlBalance(AnswerModel):
    balance: float
    low_balance: bool = False


class _AimlDeprecation(AnswerModel):
    id: str
    aliases: tuple[OnErrorOmit[str], ...] = ()
    status: str
    shutdown_at: Annotated[str | None, LENIENT] = None
    replaced_by: Annotated[str | None, LENIENT] = None


class _AimlDeprecations(AnswerModel):
    data: list[OnErrorOmit[_AimlDeprecation]]


_PAGE = TypeAdapter(_GooglePage)
_LIST = TypeAdapter(list[OnErrorOmit[_AimlModel]] | _AimlList)
_BALANCE = TypeAdapter(_AimlBalance)
_DEPRECATIONS = TypeAdapter(_AimlDeprecations)


def read_google_page(body: bytes) -> tuple[list[ListedModel], str]:
    """(image models of one page, the token of the next or ""). Raises Malformed."""
    page = _read(_PAGE, body)
    listed = [
        ListedModel(
            _id(model.name.removeprefix("models/")), model.input_token_limit, model.supported_generation_methods
        )
        for model in page.models
        if _METHODS & {*model.supported_generation_methods}
    ]
    return [model for model in listed if IMAGE_MODEL_NAME.search(model.id)], page.next_page_token


def read_aiml_models(body: bytes) -> list[ListedModel]:
    """Image models; the list is bare, or in `data` as OpenAI-style servers have it. Raises Malformed."""
    found = _read(_LIST, body)
    models = found if isinstance(found, list) else found.data
    return [ListedModel(_id(model.id)) for model in models if model.type == "image"]


def read_aiml_balance(body: bytes) -> Balance:
    """Raises Malformed."""
    found = _read(_BALANCE, body)
    return Balance(found.balance, found.low_balance or found.balance <= 0)


def read_aiml_deprecations(body: bytes) -> list[Deprecation]:
    """Raises Malformed."""
    return [
        Deprecation(
            frozenset(map(_id, (entry.id, *entry.aliases))), _id(entry.status.lower()),
            _id(entry.shutdown_at or ""), _id(entry.replaced_by or ""),
        )
        for entry in _read(_DEPRECATIONS, body).data
    ]  # fmt: skip


def find_deprecation(profile: Profile, feed: Iterable[Deprecation]) -> Deprecation | None:
    name = wire_name(profile)
    return next((entry for entry in feed if name in entry.names), None)


def wire_name(profile: Profile) -> str:
    """AIML has two models under Google's own ids, which have a prefix here."""
    return str(profile.wire.get("model") or profile.id)


def unknown_models(listed: Iterable[ListedModel], profiles: Iterable[Profile]) -> list[str]:
    """Listed, and in no profile by id or alias."""
    known = {name for profile in profiles for name in (wire_name(profile), *profile.aliases)}
    return sorted({model.id for model in listed} - known)


def _id(text: str) -> str:
    return clean_line(text, _ID_CHARS)


def _read(kind: TypeAdapter[T], body: bytes) -> T:
    try:
        return kind.validate_json(body)
    except ValidationError as error:
        raise malformed_error(200, body, error) from None
