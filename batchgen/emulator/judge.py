"""An AI model that looks at an image and rates it in JSON: as the markers of its question say, else by what it sees.

Without markers, it gives an image of one colour 1, one whose lower half is of one colour 2, and any other 8. Below 7 it
makes a remark: the one of `[[judge:remark=…]]`, or what it saw.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from batchgen.emulator import google
from batchgen.emulator.faults import Places, ruling_of
from batchgen.emulator.models import Model

_FLAT = 12  # steps of 256 by which the colours of a one-coloured image differ at most: JPEG adds a few
_SIDE_PX = 64
_SEEN = {"": (8.0, ""), "blank": (1.0, "The image is blank."), "half": (2.0, "The lower half of the image is missing.")}


def modalities(config: Mapping[str, Any], model: Model) -> tuple[str, ...]:
    """The modalities of a generationConfig. Raises ApiError 400; the wording is known from public issues."""
    default = ("TEXT",) if model.writes else ("TEXT", "IMAGE")  # ai.google.dev/gemini-api/docs/image-generation
    asked = tuple(config.get("responseModalities") or default)
    refused = f"The requested combination of response modalities ({', '.join(asked)}) is not supported by the model."
    takes = f"models/{model.id} accepts the following combination of response modalities:\n* TEXT\n"
    google.require(not model.writes or asked == ("TEXT",), f"{refused} {takes}")
    return asked


def response_schema(config: Mapping[str, Any]) -> Mapping[str, Any]:
    return config.get("responseJsonSchema") or config.get("responseSchema") or {}


def wants_json(config: Mapping[str, Any], model: Model) -> bool:
    """Whether JSON is asked for. Raises ApiError 400: models that make images have no structured output.

    Source: ai.google.dev/gemini-api/docs/models.
    """
    wanted = config.get("responseMimeType") == "application/json"
    google.require(wanted or not response_schema(config), "A response schema needs responseMimeType application/json.")
    google.require(model.writes or not wanted, f"JSON mode is not enabled for models/{model.id}")
    return wanted


@dataclass(frozen=True, slots=True, kw_only=True)
class Sight:
    """What a judge sees in an image. name: its hash; flaw: blank, half, or empty."""

    name: str
    flaw: str = ""


def look_at(name: str, source: bytes | Path | None) -> Sight:
    """Look at an image. source: one that decodes; None where there are no bytes to look at."""
    if source is None:
        return Sight(name=name)
    with Image.open(source if isinstance(source, Path) else io.BytesIO(source)) as image:
        image.thumbnail((_SIDE_PX, _SIDE_PX))
        seen = image.convert("RGB")
    width, height = seen.size
    if _is_flat(seen):
        return Sight(name=name, flaw="blank")
    lower = seen.crop((0, height // 2 + 2, width, height))
    return Sight(name=name, flaw="half" if height > 8 and _is_flat(lower) else "")


def _is_flat(image: Image.Image) -> bool:
    return all(high - low <= _FLAT for low, high in image.getextrema())  # type: ignore[misc]  # of RGB, a pair a band


def judge(question: str, sight: Sight, schema: Mapping[str, Any], places: Places, attempt: int) -> str:
    """Write the text of an answer. attempt: how often the question was asked, from 1.

    schema: JSON Schema, or the vendor's own dialect with its types in upper case; its number is the score, its string
    the remark.
    """
    asked_score, asked_remark, malformed = ruling_of(question, places, sight.name)
    if attempt <= malformed:
        return "I like it, and would give it a good score"
    score, remark = _SEEN[sight.flaw]
    if asked_score is not None:
        score, remark = asked_score, f"The emulated judge gives {asked_score:g} of 10."
    elif asked_remark:
        score = 3.0
    remark = "" if score >= 7 else asked_remark or remark
    fields = schema.get("properties") or {"score": {"type": "number"}, "remark": {"type": "string"}}
    return json.dumps({name: _value(field, score, remark) for name, field in fields.items()}, ensure_ascii=False)


def _value(field: Mapping[str, Any], score: float, remark: str) -> Any:
    match str(field.get("type", "")).lower():
        case "number":
            return int(score) if score == int(score) else score
        case "integer":
            return round(score)
        case "string":
            return remark
    return None
