"""What fal's models take, by the pages of their endpoints, and what one of their inputs asks for.

Sources: fal.ai/models/fal-ai/flux-1/{schnell,dev}/llms.txt; fal.ai/models/fal-ai/nano-banana-2/llms.txt and …/edit/llms.txt;
fal.ai/docs/model-api-reference/image-generation-api/nano-banana-pro; fal.ai/docs/documentation/model-apis/errors.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from batchgen.emulator.models import FOURTEEN, TEN, Model

_WORDS = {  # of `image_size`
    "square_hd": (1024, 1024),
    "square": (512, 512),
    "portrait_4_3": (768, 1024),
    "portrait_16_9": (576, 1024),
    "landscape_4_3": (1024, 768),
    "landscape_16_9": (1024, 576),
}
_LONGEST_PX = 14142
_MOST = 4  # images of one request


@dataclass(frozen=True, slots=True)
class Schema:
    """formats: the default first. by_megapixel: those that are sized in pixels and billed by them; others have a ratio and a
    resolution. edits: whether images to edit are required."""

    model: Model
    formats: tuple[str, ...]
    by_megapixel: bool = False
    edits: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Input:
    """size: `1K`, or in pixels, `1344x768`. links: of the images to edit."""

    ratio: str
    size: str
    count: int
    mime: str
    seed: int | None
    links: tuple[str, ...]


class InvalidInput(Exception):
    """detail: as the model words it."""

    def __init__(self, field: str, said: str, kind: str, value: Any) -> None:
        super().__init__(said)
        url = f"https://docs.fal.ai/errors#{kind}"
        self.detail = [{"loc": ["body", field], "msg": said, "type": kind, "url": url, "input": value}]


def _flux(name: str) -> tuple[str, Schema]:
    model = Model(id=name, family="flux", ratios=("1:1",), sizes=("1K",))
    return name, Schema(model, ("jpeg", "png"), by_megapixel=True)


def _banana(name: str, ratios: tuple[str, ...], sizes: tuple[str, ...]) -> tuple[str, Schema]:
    model = Model(id=name, family="3", ratios=ratios, sizes=sizes)
    return name, Schema(model, ("png", "jpeg", "webp"), edits=name.endswith("/edit"))


SCHEMAS: Mapping[str, Schema] = dict(
    [
        *map(_flux, ("fal-ai/flux/schnell", "fal-ai/flux/dev", "fal-ai/flux-pro/v1.1")),
        _banana("fal-ai/nano-banana-2", FOURTEEN, ("0.5K", "1K", "2K", "4K")),
        _banana("fal-ai/nano-banana-2/edit", FOURTEEN, ("0.5K", "1K", "2K", "4K")),
        _banana("fal-ai/nano-banana-pro", TEN, ("1K", "2K", "4K")),
        _banana("fal-ai/nano-banana-pro/edit", TEN, ("1K", "2K", "4K")),
    ]
)


def read_input(schema: Schema, asked: Mapping[str, Any]) -> Input:
    """Raises InvalidInput."""
    prompt, count, seed = asked.get("prompt"), asked.get("num_images", 1), asked.get("seed")
    if not isinstance(prompt, str):
        raise InvalidInput("prompt", "Field required", "missing", dict(asked))
    if type(count) is not int or not 1 <= count <= _MOST:
        raise InvalidInput("num_images", f"Input should be from 1 to {_MOST}", "less_than_equal", count)
    if seed is not None and type(seed) is not int:
        raise InvalidInput("seed", "Input should be a valid integer", "int_type", seed)
    kind = _one_of(asked, "output_format", schema.formats)
    links = asked.get("image_urls", []) if schema.edits else []
    if not isinstance(links, list) or not all(isinstance(link, str) for link in links):
        raise InvalidInput("image_urls", "Input should be a valid list of text", "list_type", links)
    if schema.edits and not links:
        raise InvalidInput("image_urls", "Field required", "missing", dict(asked))
    if schema.by_megapixel:
        ratio, size = "1:1", _pixels(asked.get("image_size", "landscape_4_3"))
    else:
        usual = ("auto", *schema.model.ratios) if schema.edits else ("1:1", "auto", *schema.model.ratios)
        ratio = _one_of(asked, "aspect_ratio", usual)
        ratio = "1:1" if ratio == "auto" else ratio
        size = _one_of(asked, "resolution", ("1K", *schema.model.sizes)).replace("0.5K", "512")
    return Input(ratio=ratio, size=size, count=count, mime=f"image/{kind}", seed=seed, links=tuple(links))


def _one_of(asked: Mapping[str, Any], field: str, words: tuple[str, ...]) -> str:
    """The first is the default."""
    value = asked.get(field, words[0])
    if value not in words:
        raise InvalidInput(field, f"Input should be {', '.join(map(repr, words))}", "enum", value)
    return str(value)


def _pixels(value: Any) -> str:
    if isinstance(value, str) and value in _WORDS:
        width, height = _WORDS[value]
        return f"{width}x{height}"
    sides = (value.get("width", 512), value.get("height", 512)) if isinstance(value, dict) else ()
    if len(sides) == 2 and all(type(side) is int and 1 <= side <= _LONGEST_PX for side in sides):
        return f"{sides[0]}x{sides[1]}"
    said = f"Input should be {', '.join(map(repr, _WORDS))} or a width and a height up to {_LONGEST_PX}"
    raise InvalidInput("image_size", said, "enum", value)
