"""Reads the bytes of an answer without trusting them: images, the vendor's words, headers."""

from __future__ import annotations

import re
from datetime import datetime
from typing import Any

import pybase64
from pydantic import (
    AliasChoices,
    AliasGenerator,
    BaseModel,
    ConfigDict,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WrapValidator,
)
from pydantic.alias_generators import to_camel
from pydantic_core import from_json

from batchgen.errors import Malformed, NotJson
from batchgen.records import DECODED_PREFIX, ReplyImage, Response, Role
from batchgen.sanitize import redact_likely_keys

MESSAGE_MAX_CHARS = 500
ERROR_BODY_BYTES = 1_000_000  # an error message is far shorter; the rest is not worth parsing
MARKUP_TAG = re.compile(r"<(script|style)\b.*?</\1\s*>|<[^>]*>", re.IGNORECASE | re.DOTALL)
MARKUP_TITLE = re.compile(r"<title[^>]*>(.*?)</title>", re.IGNORECASE | re.DOTALL)


class AnswerModel(BaseModel):
    """Part of an answer. Names are accepted in both casings, unknown ones ignored, and numbers converted where text is
    expected."""

    model_config = ConfigDict(
        frozen=True,
        extra="ignore",
        coerce_numbers_to_str=True,
        allow_inf_nan=False,
        alias_generator=AliasGenerator(validation_alias=lambda name: AliasChoices(to_camel(name), name)),
    )


def _or_none(value: Any, read: ValidatorFunctionWrapHandler) -> Any:
    try:
        return read(value)
    except ValueError:
        return None


LENIENT = WrapValidator(_or_none)  # what cannot be read is None: an oddity beside an image must not cost the image


def malformed_error(status: int, error: ValidationError) -> Malformed:
    """Why a 2xx body is not an answer: it is not JSON (or nested too deeply), or has another shape."""
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    place = ".".join(str(part) for part in first["loc"])
    if first["type"] == "json_invalid" or not place:
        return NotJson(f"not a JSON object: {clean_line(first['msg'])}", http_status=status)
    return Malformed(f"{clean_line(place)}: {clean_line(first['msg'])}", reason="malformed", http_status=status)


def decode_image(data: str, mime_type: str | None, role: Role = "image") -> ReplyImage:
    """The image in a base64 string, or the number of the string that the transport has already decoded to disk.

    A `data:` URL counts as its base64. Raises Malformed.
    """
    if data.startswith(DECODED_PREFIX):
        number = data[len(DECODED_PREFIX) :]
        if not (number.isascii() and number.isdecimal() and len(number) < 10):
            raise Malformed("a reference to an image on disk without its number", reason="bad_base64")
        return ReplyImage(mime_type or "", decoded=int(number), role=role)
    if data.startswith("data:"):
        head, _, data = data.partition(",")
        mime_type = mime_type or head[len("data:") :].partition(";")[0]
    try:
        decoded = pybase64.b64decode(data, validate=True)
    except (ValueError, TypeError) as error:
        raise Malformed(f"the image is not base64: {clean_line(str(error))}", reason="bad_base64") from None
    if not decoded:
        raise Malformed("the image is empty", reason="bad_base64")
    return ReplyImage(mime_type or "", data=decoded, role=role)


def image_body(response: Response) -> ReplyImage:
    """The image that is the whole body of an answer. Raises Malformed if there is none."""
    if not response.files and not response.body:
        raise Malformed("the answer is empty", reason="empty_answer", http_status=response.status)
    mime_type = (response.header("content-type") or "").partition(";")[0].strip()
    return ReplyImage(mime_type, decoded=0) if response.files else ReplyImage(mime_type, data=response.body)


def parse_json(body: bytes) -> Any:
    """The JSON value of an error body, None if it is not JSON."""
    try:
        return from_json(body[:ERROR_BODY_BYTES], allow_inf_nan=False)
    except ValueError:
        return None


def utc_seconds(text: str | None) -> float | None:
    """UTC seconds of a time in ISO 8601; None for anything else."""
    try:
        return datetime.fromisoformat(text or "").timestamp()
    except ValueError:
        return None


def clean_line(text: str, limit: int = MESSAGE_MAX_CHARS) -> str:
    """The text as one line of at most `limit` characters, without control, format and bidi characters and anything like
    a key."""
    text = redact_likely_keys(text[: 4 * limit])
    kept = "".join(char if char.isprintable() else " " for char in text)
    line = " ".join(kept.split())
    return line if len(line) <= limit else line[: limit - 1] + "…"


def is_markup(response: Response) -> bool:
    """Whether a body is markup: the APIs answer in JSON."""
    said = response.header("content-type") or ""
    return said.lower().startswith("text/html") or response.body[:200].lstrip().startswith(b"<")


def markup_text(body: bytes) -> str:
    """The text of an HTML or plain-text body, without its markup."""
    text = body[:20_000].decode("utf-8", errors="replace")
    title = MARKUP_TITLE.search(text)
    return clean_line(MARKUP_TAG.sub(" ", title.group(1) if title else text))


def validation_words(detail: Any) -> str:
    """What FastAPI's `detail` says is wrong: a sentence, or `body.prompt: field required` for each field, without the
    input that it repeats. Empty for anything else."""
    if isinstance(detail, str):
        return clean_line(detail)
    entries = [entry for entry in detail if isinstance(entry, dict)] if isinstance(detail, list) else []
    return clean_line("; ".join(filter(None, map(_field_words, entries[:5]))))


def _field_words(entry: dict[str, Any]) -> str:
    loc, said = entry.get("loc"), str(entry.get("msg") or "")
    place = ".".join(map(str, loc[:10])) if isinstance(loc, list) else ""
    return f"{place}: {said}" if place else said
