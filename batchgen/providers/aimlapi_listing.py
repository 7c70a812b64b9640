"""AIML's lists of models and of those it withdraws, and the balance of an account.

Sources: docs.aimlapi.com/api-references/service-endpoints, complete-model-list and account-balance (2026-08-21),
model-deprecations (github.com/aimlapi/api-docs 935f808, 2026-08).
"""

from __future__ import annotations

from typing import Annotated

from pydantic import OnErrorOmit, TypeAdapter

from batchgen.providers import aimlapi_errors
from batchgen.providers.answer_body import LENIENT, AnswerModel
from batchgen.providers.listings import (
    Balance,
    Deprecation,
    ListedModel,
    Listing,
    Page,
    listed_id,
    page_request,
    read_listing,
)


class _Model(AnswerModel):
    id: str
    type: str


class _List(AnswerModel):
    data: list[OnErrorOmit[_Model]]


class _Balance(AnswerModel):
    balance: float
    low_balance: bool = False


class _Deprecation(AnswerModel):
    id: str
    aliases: tuple[OnErrorOmit[str], ...] = ()
    status: str
    shutdown_at: Annotated[str | None, LENIENT] = None
    replaced_by: Annotated[str | None, LENIENT] = None


class _Deprecations(AnswerModel):
    data: list[OnErrorOmit[_Deprecation]]


_MODELS = TypeAdapter(list[OnErrorOmit[_Model]] | _List)
_BALANCE = TypeAdapter(_Balance)
_DEPRECATIONS = TypeAdapter(_Deprecations)


def read_models(body: bytes) -> list[ListedModel]:
    """Image models; the list is bare, or in `data` as OpenAI-style servers have it. Raises Malformed."""
    found = read_listing(_MODELS, body)
    models = found if isinstance(found, list) else found.data
    return [ListedModel(listed_id(model.id)) for model in models if model.type == "image"]


def read_balance(body: bytes) -> Balance:
    """Raises Malformed."""
    found = read_listing(_BALANCE, body)
    return Balance(found.balance, found.low_balance or found.balance <= 0)


def read_deprecations(body: bytes) -> list[Deprecation]:
    """Raises Malformed."""
    return [
        Deprecation(
            frozenset(map(listed_id, (entry.id, *entry.aliases))), listed_id(entry.status.lower()),
            listed_id(entry.shutdown_at or ""), listed_id(entry.replaced_by or ""),
        )
        for entry in read_listing(_DEPRECATIONS, body).data
    ]  # fmt: skip


LISTING = Listing(
    models=lambda _: page_request("/models"),  # public, so only the balance tells whether a key is good
    read_models=lambda body: (read_models(body), ""),
    read_error=aimlapi_errors.read_error,
    balance=Page(page_request("/v1/billing/balance"), read_balance),
    deprecations=Page(page_request("/v1/models/deprecations"), read_deprecations),
    listed_for="for all keys",
    rate_limit_note="no rate limit is published",
    top_up="aimlapi.com/app/billing",
)
