"""The list of models that a key may use.

Source: ai.google.dev/api/models#method:-models.list
"""

from __future__ import annotations

import re
from typing import Annotated
from urllib.parse import urlencode

from pydantic import OnErrorOmit, TypeAdapter

from batchgen.providers import google_errors
from batchgen.providers.answer_body import LENIENT, AnswerModel
from batchgen.providers.listings import ListedModel, Listing, listed_id, page_request, read_listing
from batchgen.records import Request

IMAGE_MODEL_NAME = re.compile(r"image|imagen|banana", re.IGNORECASE)  # the list does not say what a model gives
_METHODS = frozenset({"generateContent", "predict"})


class _Model(AnswerModel):
    name: str
    supported_generation_methods: tuple[str, ...] = ()
    input_token_limit: Annotated[int | None, LENIENT] = None


class _Page(AnswerModel):
    models: tuple[OnErrorOmit[_Model], ...] = ()
    next_page_token: str = ""


_PAGE = TypeAdapter(_Page)


def read_model_page(body: bytes) -> tuple[list[ListedModel], str]:
    """(image models of one page, the token of the next or ""). Raises Malformed."""
    page = read_listing(_PAGE, body)
    listed = [
        ListedModel(
            listed_id(model.name.removeprefix("models/")), model.input_token_limit, model.supported_generation_methods
        )
        for model in page.models
        if _METHODS & {*model.supported_generation_methods}
    ]
    return [model for model in listed if IMAGE_MODEL_NAME.search(model.id)], page.next_page_token


def _models_request(page: str) -> Request:
    query = urlencode({"pageSize": "1000", **({"pageToken": page} if page else {})})
    return page_request(f"/v1beta/models?{query}")


LISTING = Listing(
    models=_models_request,
    read_models=read_model_page,
    read_error=google_errors.read_error,
    rate_limit_note="requests per minute are told only at aistudio.google.com/rate-limit",
)
