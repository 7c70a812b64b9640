"""The codec of OpenAI's images: /v1/images/generations as JSON, and with references /v1/images/edits as a form.

Sources: platform.openai.com/docs/api-reference/images and /guides/image-generation (2026-11); openai-python 3.57.0.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from math import isqrt
from typing import Annotated, Any, ClassVar

from pydantic import OnErrorOmit, TypeAdapter

from batchgen.endpoint import Endpoint
from batchgen.errors import BadRequest, ProviderError, RateLimited
from batchgen.profiles.profile import Profile
from batchgen.providers import chat, images_answer
from batchgen.providers.answer_body import LENIENT, AnswerModel
from batchgen.providers.credentials import Credentials, bearer
from batchgen.providers.listings import ListedModel, Listing, listed_id, page_request, read_listing, wire_name
from batchgen.providers.request_body import (
    FormFile,
    checked_size,
    deep_merged,
    encode_body,
    encode_form,
    given,
    reference_bytes,
)
from batchgen.providers.server_faults import hinted_delay_s
from batchgen.records import Answer, Inputs, Question, ReferenceImage, Reply, Request, Response, Sample

ENCODED = frozenset(("aspect_ratio", "image_size", "count", "references", "mask", "quality", "background"))
ENCODED |= {"output_format", "extra"}
# Any size whose sides are multiples of 16, at most 3840 long and 3840x2160 pixels in total.
STEP_PX, LONGEST_PX, MOST_PIXELS = 16, 3840, 3840 * 2160
PIXELS_OF_SIZE: Mapping[str, int] = {"1K": 1024 * 1024, "2K": 2048 * 2048, "4K": MOST_PIXELS}
# "… on input-images per min: Limit 5, Used 5, Requested 1. Please try again in 12s."
LIMIT_PER_MINUTE = re.compile(r"per min\b.{0,40}?: Limit:? ?(\d{1,9})", re.ASCII)


class _Model(AnswerModel):
    id: str
    shutdown_date: Annotated[str | None, LENIENT] = None


class _Models(AnswerModel):
    data: list[OnErrorOmit[_Model]]


_MODELS = TypeAdapter(_Models)


def read_models(body: bytes) -> list[ListedModel]:
    """The models. Which of them make images is taken from their names, as the list does not say. Raises Malformed."""
    return [
        ListedModel(listed_id(model.id), makes_images="image" in model.id or model.id.startswith("dall-e"))
        for model in read_listing(_MODELS, body).data
    ]


def read_error(response: Response) -> ProviderError:
    """The error of an answer, as for any OpenAI-style API; a 429 also says which limit a minute has, and when it is
    free again. Never raises."""
    error = images_answer.read_error(response)
    if isinstance(error, RateLimited):
        if limit := LIMIT_PER_MINUTE.search(error.message):
            error.rpm = int(limit.group(1)) or None
        if error.retry_after_s is None:
            error.retry_after_s = _reset_s(response)
    return error


def _reset_s(response: Response) -> float | None:
    """Seconds until what is used up is free again, from `retry-after-ms` or `x-ratelimit-reset-…` (`1s`, `6m0s`,
    `20ms`)."""
    milliseconds = response.header("retry-after-ms") or ""
    if re.fullmatch(r"\d{1,9}(\.\d{1,9})?", milliseconds, re.ASCII):
        return float(milliseconds) / 1000
    used_up = [kind for kind in ("requests", "tokens") if response.header(f"x-ratelimit-remaining-{kind}") == "0"]
    waits = [response.header(f"x-ratelimit-reset-{kind}") or "" for kind in used_up]
    hints = [hinted_delay_s(response, message=f"try again in {wait}") for wait in waits if wait]
    return max((hint for hint in hints if hint is not None), default=None)


LISTING = Listing(
    models=lambda _: page_request("/v1/models"),
    read_models=lambda body: (read_models(body), ""),
    read_error=read_error,
    rate_limit_note="rate limits depend on the usage tier: platform.openai.com/settings/organization/limits",
    top_up="platform.openai.com/settings/organization/billing",
)


class OpenAi:
    """The codec. Images only come as base64."""

    name: ClassVar[str] = "openai"
    listing: ClassVar[Listing] = LISTING
    endpoint: ClassVar[Endpoint] = Endpoint.named("openai", "https://api.openai.com")

    def __init__(self, profile: Profile) -> None:
        self.profile = profile

    @staticmethod
    def encodes(profile: Profile) -> frozenset[str]:
        return ENCODED

    @staticmethod
    def credentials(key: str) -> Credentials:
        return bearer(key)

    def build(self, sample: Sample, inputs: Inputs) -> Request:
        item = sample.item
        body: dict[str, Any] = {
            "model": wire_name(self.profile),
            "prompt": item.prompt,
            "size": self._size(item.aspect_ratio, item.image_size),
            "quality": item.quality,
            "background": item.background,
            "output_format": item.output_format,
            "n": sample.images if sample.images > 1 else None,
        }
        fields = deep_merged(given(body), item.extra)
        if inputs.references:
            path, (data, content_type) = "/v1/images/edits", _edit_form(fields, inputs.references, item.mask)
        else:
            path, data, content_type = "/v1/images/generations", encode_body(fields), "application/json"
        return Request(
            method="POST",
            path=path,
            body=checked_size(self.profile, data),
            headers={"Content-Type": content_type},
            timeout_s=self.profile.time_limit(item.image_size),
        )

    def _size(self, ratio: str | None, size: str | None) -> str | None:
        """A size such as `1536x1024`; None leaves both to the model. A size without a ratio is a square. Raises
        BadRequest."""
        if ratio is None and size is None:
            return None
        ratio, size = ratio or "1:1", (size or self.profile.default_size).upper()
        width, height = self.profile.expected_pixels(ratio, size) or pixels_of(ratio, size)
        return f"{width}x{height}"

    def read(self, response: Response) -> Reply:
        return images_answer.read_reply(response, read_error)

    def build_question(self, question: Question) -> Request:
        return chat.build_question(self.profile, question)

    def read_answer(self, response: Response) -> Answer:
        return chat.read_answer(response, read_error)


def pixels_of(ratio: str, size: str) -> tuple[int, int]:
    """Width and height in multiples of 16, with about as many pixels as a square of this size. Raises BadRequest."""
    wide, high = map(int, ratio.split(":"))
    pixels, low, long = PIXELS_OF_SIZE.get(size), min(wide, high), max(wide, high)
    if pixels is None or not 0 < long <= 3 * low:
        what = f"image_size {size}" if pixels is None else f"aspect_ratio {ratio}"
        raise BadRequest(f"{what}: OpenAI takes {', '.join(PIXELS_OF_SIZE)} and ratios from 1:3 to 3:1")
    short_px = min(isqrt(pixels * low // long), LONGEST_PX * low // long) // STEP_PX * STEP_PX
    long_px = short_px * long // low // STEP_PX * STEP_PX
    return (long_px, short_px) if wide > high else (short_px, long_px)


def _edit_form(fields: Mapping[str, Any], references: Sequence[ReferenceImage], mask: bool) -> tuple[bytes, str]:
    """A form with text first, then the images, as openai-python writes it. mask: the last reference is one. Raises
    BadRequest."""
    image = "image" if len(references) - mask == 1 else "image[]"
    files = [
        FormFile(
            "mask" if mask and number == len(references) else image,
            f"reference-{number}.{reference.mime_type.partition('/')[2]}",
            reference.mime_type,
            reference_bytes(reference),
        )
        for number, reference in enumerate(references, 1)
    ]
    try:
        texts = {name: _form_text(value) for name, value in fields.items() if value is not None}
    except (TypeError, ValueError, RecursionError) as error:
        raise BadRequest(f"the request cannot be written as a form: {error}", reason="not_sendable") from None
    return encode_form(texts, files)


def _form_text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, allow_nan=False)
