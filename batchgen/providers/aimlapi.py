"""The codec of AIML's /v1/images/generations, which with another base URL is that of any OpenAI-style images endpoint.
Also reads what AIML says about a key: its models, those it withdraws, and the account's balance.

Field names differ per model, so they are data: `wire.fields` of the profile maps batchgen's to the API's. Sources:
github.com/aimlapi/api-docs f14fa72 (2026-08-21), image-models, errors-and-messages and service-endpoints, and 935f808
(2026-08), model-deprecations; platform.openai.com/docs/api-reference/images.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar

from pydantic import OnErrorOmit, TypeAdapter

from batchgen.endpoint import Endpoint
from batchgen.providers import chat
from batchgen.providers.answer_body import LENIENT, AnswerModel
from batchgen.providers.credentials import Credentials, bearer
from batchgen.providers.images_answer import read_error, read_reply
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
from batchgen.providers.request_body import MappedCodec, Names
from batchgen.records import Answer, Inputs, Question, Reply, Request, Response, Sample

# For a model without a table of its own: the names that most of AIML's models share.
DEFAULT_FIELDS: Mapping[str, str] = {
    "aspect_ratio": "aspect_ratio",
    "image_size": "resolution",
    "count": "num_images",
    "references": "image_urls",
    "seed": "seed",
    "person_generation": "person_generation",
    "negative_prompt": "negative_prompt",
    "search": "enable_web_search",
}


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
    """The image models. The list is bare, or in `data` as OpenAI-style servers have it. Raises Malformed."""
    found = read_listing(_MODELS, body)
    models = found if isinstance(found, list) else found.data
    return [ListedModel(listed_id(model.id)) for model in models if model.type == "image"]


def read_balance(body: bytes) -> Balance:
    """The account's balance. Raises Malformed."""
    found = read_listing(_BALANCE, body)
    return Balance(found.balance, found.low_balance or found.balance <= 0)


def read_deprecations(body: bytes) -> list[Deprecation]:
    """The models that AIML withdraws. Raises Malformed."""
    return [
        Deprecation(
            names=frozenset(map(listed_id, (entry.id, *entry.aliases))),
            status=listed_id(entry.status.lower()),
            shutdown_at=listed_id(entry.shutdown_at or ""),
            replaced_by=listed_id(entry.replaced_by or ""),
        )
        for entry in read_listing(_DEPRECATIONS, body).data
    ]


LISTING = Listing(
    models=lambda _: page_request("/models"),  # public, so only the balance shows whether a key is valid
    read_models=lambda body: (read_models(body), ""),
    read_error=read_error,
    balance=Page(page_request("/v1/billing/balance"), read_balance),
    deprecations=Page(page_request("/v1/models/deprecations"), read_deprecations),
    listed_for="for all keys",
    rate_limit_note="no rate limit is published",
    top_up="aimlapi.com/app/billing",
)


class AimlApi(MappedCodec):
    """The codec. Images come as links or base64; downloading a link is up to the caller, and never a reason to generate
    again."""

    name: ClassVar[str] = "aimlapi"
    prefix: ClassVar[str] = ""
    default_fields: ClassVar[Names] = DEFAULT_FIELDS
    listing: ClassVar[Listing] = LISTING
    endpoint: ClassVar[Endpoint] = Endpoint.named("aimlapi", "https://api.aimlapi.com")
    seed_max: ClassVar[int] = 2**32 - 1  # 0 … 4294967295 in its OpenAPI (docs.aimlapi.com, image models, Google)

    @staticmethod
    def credentials(key: str) -> Credentials:
        return bearer(key)

    def build(self, sample: Sample, inputs: Inputs) -> Request:
        body = {"model": self._model, **self.mapped_input(sample, inputs)}
        return self.post(self.profile.wire.get("path") or "/v1/images/generations", body, sample, inputs)

    def read(self, response: Response) -> Reply:
        return read_reply(response, read_error)

    def build_question(self, question: Question) -> Request:
        return chat.build_question(self.profile, question)

    def read_answer(self, response: Response) -> Answer:
        return chat.read_answer(response, read_error)
