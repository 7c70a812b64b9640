"""The codec of AIML's /v1/images/generations, and with another base URL of any OpenAI-style images endpoint; and of what
AIML tells of a key: its lists of models and of those it withdraws, and the balance of the account.

Field names differ per model, so they are data: `wire.fields` of the profile maps ours to theirs.
Sources: github.com/aimlapi/api-docs f14fa72 (2026-08-21), image-models, errors-and-messages and service-endpoints, and
935f808 (2026-08), model-deprecations; platform.openai.com/docs/api-reference/images.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

from pydantic import OnErrorOmit, TypeAdapter

from batchgen.endpoint import Endpoint
from batchgen.errors import BadRequest
from batchgen.profiles.profile import Profile
from batchgen.providers.aimlapi_errors import read_error
from batchgen.providers.answer_body import LENIENT, AnswerModel
from batchgen.providers.credentials import Credentials, KeyHeader
from batchgen.providers.images_answer import read_reply
from batchgen.providers.listings import (
    Balance,
    Deprecation,
    ListedModel,
    Listing,
    Page,
    listed_id,
    page_request,
    read_listing,
    wire_name,
)
from batchgen.providers.request_body import deep_merged, encode_body, given, reference_placeholder
from batchgen.records import Inputs, Item, Reply, Request, Response, Sample

# For a model without a table of its own: the names most of AIML's models share.
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
MAPPABLE = frozenset({*DEFAULT_FIELDS, "temperature"})  # the fields that `wire.fields` may give a name


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
            names=frozenset(map(listed_id, (entry.id, *entry.aliases))),
            status=listed_id(entry.status.lower()),
            shutdown_at=listed_id(entry.shutdown_at or ""),
            replaced_by=listed_id(entry.replaced_by or ""),
        )
        for entry in read_listing(_DEPRECATIONS, body).data
    ]


LISTING = Listing(
    models=lambda _: page_request("/models"),  # public, so only the balance tells whether a key is good
    read_models=lambda body: (read_models(body), ""),
    read_error=read_error,
    balance=Page(page_request("/v1/billing/balance"), read_balance),
    deprecations=Page(page_request("/v1/models/deprecations"), read_deprecations),
    listed_for="for all keys",
    rate_limit_note="no rate limit is published",
    top_up="aimlapi.com/app/billing",
)


class AimlApi:
    """Pictures come as links or base64; fetching a link is the caller's, and never a reason to generate again."""

    name: ClassVar[str] = "aimlapi"
    takes_links: ClassVar[bool] = True  # image_urls
    listing: ClassVar[Listing] = LISTING
    endpoint: ClassVar[Endpoint] = Endpoint.named("aimlapi", "https://api.aimlapi.com")
    seed_max: ClassVar[int] = 2**32 - 1  # 0 … 4294967295 in its OpenAPI (docs.aimlapi.com, image models, Google)

    def __init__(self, profile: Profile) -> None:
        wire = profile.wire
        self.profile = profile
        self._model = wire_name(profile)
        self._path = wire.get("path") or "/v1/images/generations"
        self._fields = _field_names(profile)
        self._defaults: Mapping[str, Any] = wire.get("defaults") or {}

    @staticmethod
    def encodes(profile: Profile) -> frozenset[str]:
        named = {ours for ours, theirs in _field_names(profile).items() if theirs}
        return MAPPABLE & named | {"extra"}

    @staticmethod
    def credentials(key: str) -> Credentials:
        """RFC 6750, 2.1."""
        return KeyHeader("Authorization", f"Bearer {key}")

    def build(self, sample: Sample, inputs: Inputs) -> Request:
        item = sample.item
        body: dict[str, Any] = {"model": self._model, "prompt": item.prompt, **self._defaults}
        for ours, value in given(self._values(item, sample.images, inputs)).items():
            if theirs := self._fields.get(ours):
                body[theirs] = value
        data = encode_body(deep_merged(body, item.extra), [reference.base64 for reference in inputs.references])
        if len(data) > self.profile.request_max_bytes:  # pictures of other items have no size yet when a plan is made
            most = self.profile.request_max_bytes / 1e6
            message = f"the request has {len(data) / 1e6:.1f} MB, {self.profile.id} takes {most:.1f} MB"
            raise BadRequest(message, reason="request_too_large")
        return Request(
            method="POST",
            path=self._path,
            body=data,
            headers={"Content-Type": "application/json"},
            timeout_s=self.profile.time_limit(item.image_size),
        )

    def _values(self, item: Item, images: int, inputs: Inputs) -> dict[str, Any]:
        """By our names; None is not sent. References travel as links or data URLs, the way their documents allow."""
        links = [
            ref.uri or f"data:{ref.mime_type};base64,{reference_placeholder(n)}"
            for n, ref in enumerate(inputs.references)
        ]
        return {
            "aspect_ratio": item.aspect_ratio,
            "image_size": item.image_size,
            "count": images if images > 1 else None,
            "references": links or None,
            "seed": item.seed,
            "temperature": item.temperature,
            "person_generation": item.person_generation,
            "negative_prompt": item.negative_prompt,
            "search": True if item.search else None,
        }

    def read(self, response: Response) -> Reply:
        return read_reply(response, read_error)


def _field_names(profile: Profile) -> Mapping[str, str | None]:
    """Their name of each of our fields; None takes one out of the profile's own table."""
    return profile.wire.get("fields") or DEFAULT_FIELDS
