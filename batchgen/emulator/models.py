"""The AI models as the vendors document them: pixels, ratios, sizes, tokens, what each one accepts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

Pixels = tuple[int, int]

# ai.google.dev/gemini-api/docs/image-generation, table "Gemini 3.1 Flash Image": pixels at 1K; 2K and 4K are exactly
# 2 and 4 times that, 512 the half. Landscape ratios are the portrait ones turned.
_PORTRAIT_3: Mapping[str, Pixels] = {
    "1:1": (1024, 1024),
    "2:3": (848, 1264),
    "3:4": (896, 1200),
    "4:5": (928, 1152),
    "9:16": (768, 1376),
    "9:21": (672, 1584),  # only its landscape form, 21:9, is offered
    "1:4": (512, 2048),
    "1:8": (384, 3072),
}
# The same page, table "Gemini 2.5 Flash Image".
_PORTRAIT_25: Mapping[str, Pixels] = {
    "1:1": (1024, 1024),
    "2:3": (832, 1248),
    "3:4": (864, 1184),
    "4:5": (896, 1152),
    "9:16": (768, 1344),
    "9:21": (672, 1536),
}
# 1408x768 for 16:9: docs.aimlapi.com, page of google/imagen-4.0-generate-001. 2K is twice that.
_PORTRAIT_IMAGEN: Mapping[str, Pixels] = {"1:1": (1024, 1024), "3:4": (896, 1280), "9:16": (768, 1408)}
# ASPECT_RATIOS of the FLUX models that Replicate publishes, as copies of that code have it.
_PORTRAIT_FLUX: Mapping[str, Pixels] = {
    "1:1": (1024, 1024),
    "2:3": (832, 1216),
    "3:4": (896, 1152),
    "4:5": (896, 1088),
    "9:16": (768, 1344),
    "9:21": (640, 1536),
}

TEN = ("1:1", "2:3", "3:2", "3:4", "4:3", "4:5", "5:4", "9:16", "16:9", "21:9")
FOURTEEN = ("1:1", "1:4", "1:8", "2:3", "3:2", "3:4", "4:1", "4:3", "4:5", "5:4", "8:1", "9:16", "16:9", "21:9")
FIVE = ("1:1", "3:4", "4:3", "9:16", "16:9")
_PICTURE_TOKENS = 560  # of one in a batch
_FACTOR = {"512": 0.5, "1K": 1.0, "2K": 2.0, "4K": 4.0}

Family = Literal["3", "2.5", "imagen", "flux"]
_TABLES: Mapping[Family, Mapping[str, Pixels]] = {
    "3": _PORTRAIT_3,
    "2.5": _PORTRAIT_25,
    "imagen": _PORTRAIT_IMAGEN,
    "flux": _PORTRAIT_FLUX,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """One AI model.

    tokens: image tokens by size; reference_tokens: of a picture that is sent along, unless the request says at what
    resolution to look at it. thinking: levels it takes, none = it does not think. thoughts: tokens it thinks on
    average, by level; "" is for requests that name none. replacement: of an AI model that the vendor has shut down;
    empty while it is served. writes: it answers in text, as JSON where that is asked for, and makes no images.
    """

    id: str
    family: Family
    ratios: tuple[str, ...]
    sizes: tuple[str, ...]
    tokens: Mapping[str, int] = field(default_factory=dict)
    reference_tokens: int = 1120
    thinking: tuple[str, ...] = ()
    thoughts: Mapping[str, int] = field(default_factory=dict)
    search: tuple[str, ...] = ()
    mime: str = "image/jpeg"
    replacement: str = ""
    writes: bool = False

    def thoughts_at(self, level: str) -> int:
        return self.thoughts.get(level, self.thoughts.get("", 0))

    @property
    def signs(self) -> bool:
        """Whether its parts carry thought signatures (Gemini 3 and later)."""
        return self.family == "3"

    def pixels(self, ratio: str, size: str) -> Pixels:
        """The pixels for a ratio and a size. size: `2K`, or in pixels, `1536x1024`, where a vendor takes any."""
        if "x" in size:
            width, height = map(int, size.split("x"))
            return width, height
        wide, high = (int(side) for side in ratio.split(":"))
        table = _TABLES[self.family]
        short, long = table[f"{min(wide, high)}:{max(wide, high)}"]
        factor = _FACTOR[size]
        width, height = (long, short) if wide > high else (short, long)
        return int(width * factor), int(height * factor)

    def nearest_ratio(self, width: int, height: int) -> str:
        def distance(ratio: str) -> float:
            wide, high = self.pixels(ratio, "1K")
            return abs(wide / high - width / height)

        return min(self.ratios, key=distance)


def text_tokens(text: str) -> int:
    """Estimate tokens, about four characters each (ai.google.dev/gemini-api/docs/tokens)."""
    return (len(text) + 3) // 4


def enqueued_tokens(request: Any) -> int:
    """Estimate the tokens of a request that has not been checked yet.

    What the vendor counts is not documented beyond "tokens".
    """
    contents = request.get("contents") if isinstance(request, dict) else None
    contents = [one for one in contents if isinstance(one, dict)] if isinstance(contents, list) else []
    texts = [part.get("text") for one in contents for part in one.get("parts") or [] if isinstance(part, dict)]
    return sum(text_tokens(text) if isinstance(text, str) else _PICTURE_TOKENS for text in texts)


# Recorded answers of 3-pro: 174 and 337 thoughts, whatever level was asked for.
_PRO = Model(
    id="gemini-3-pro-image",
    family="3",
    ratios=TEN,
    sizes=("1K", "2K", "4K"),
    tokens={"1K": 1120, "2K": 1120, "4K": 2000},
    reference_tokens=560,  # ai.google.dev/gemini-api/docs/pricing: $0.0011 a picture at $2 a million
    thinking=("MINIMAL", "LOW", "MEDIUM", "HIGH", "XHIGH"),
    thoughts={"": 255},
    search=("web",),
)
# Recorded answers of 3.1-flash: no thoughts unless asked for. HIGH costs $0.002 more at $3 a million tokens (fal.ai).
_FLASH_31 = Model(
    id="gemini-3.1-flash-image",
    family="3",
    ratios=FOURTEEN,
    sizes=("512", "1K", "2K", "4K"),
    tokens={"512": 747, "1K": 1120, "2K": 1680, "4K": 2520},
    thinking=("MINIMAL", "HIGH"),
    thoughts={"HIGH": 667},
    search=("web", "image"),
)
# 4K is billed at $0.1134 by inference.sh (2026-11-06) and at 3797 tokens by fal.ai: half as much again. It thinks at
# MEDIUM by itself; no count of it is published.
_FLASH_21 = replace(
    _FLASH_31,
    id="gemini-nano-banana-2.1",
    sizes=("1K", "2K", "4K"),
    tokens={"512": 747, "1K": 1120, "2K": 1680, "4K": 3780},
    thinking=("MINIMAL", "MEDIUM", "HIGH"),
    thoughts={"": 333, "MEDIUM": 333, "MINIMAL": 0, "HIGH": 667},
)
_FLASH_25 = Model(
    id="gemini-2.5-flash-image",  # announced to end on 2026-10-02; still served by the changelog of 2026-09-18
    family="2.5",
    ratios=TEN,
    sizes=("1K",),
    tokens={"1K": 1290},
    reference_tokens=258,  # ai.google.dev/gemini-api/docs/tokens, a picture of up to 384 pixels
    mime="image/png",
)
# ai.google.dev/gemini-api/docs/models; they take images and have structured output.
_WRITING = ("3.1-flash-lite", "3.5-flash-lite", "3.5-flash", "3.6-flash", "3.7-flash")
# ai.google.dev/gemini-api/docs/{pricing,deprecations,changelog}, as of November 2026.
_GEMINI = [
    _FLASH_21,
    _PRO,
    replace(_PRO, id="nano-banana-pro-preview"),
    replace(_FLASH_31, id="gemini-3.1-flash-lite-image", sizes=("1K",), search=()),
    _FLASH_31,
    _FLASH_25,
    *(replace(_FLASH_31, id=f"gemini-{name}", search=("web",), writes=True) for name in _WRITING),
    replace(_PRO, id="gemini-3-pro-image-preview", replacement="gemini-3-pro-image"),
    replace(_FLASH_31, id="gemini-3.1-flash-image-preview", replacement=_FLASH_21.id),
    replace(_FLASH_25, id="gemini-2.5-flash-image-preview", replacement=_FLASH_21.id),
    replace(_FLASH_25, id="gemini-2.0-flash-preview-image-generation", replacement=_FLASH_21.id),
]

# ai.google.dev/gemini-api/docs/imagen: all shut down on this API by 2026-08-17; 2K only on standard and ultra.
_IMAGEN = Model(
    id="imagen-4.0-generate-001",
    family="imagen",
    ratios=FIVE,
    sizes=("1K", "2K"),
    mime="image/png",
    replacement=_FLASH_21.id,
)
_IMAGEN_ALL = [
    _IMAGEN,
    replace(_IMAGEN, id="imagen-4.0-ultra-generate-001"),
    replace(_IMAGEN, id="imagen-4.0-fast-generate-001", sizes=("1K",)),
    replace(_IMAGEN, id="imagen-4.0-generate-preview-06-06"),
    replace(_IMAGEN, id="imagen-4.0-ultra-generate-preview-06-06"),
    replace(_IMAGEN, id="imagen-3.0-generate-002", sizes=("1K",)),
]

GEMINI = {model.id: model for model in _GEMINI}
IMAGEN = {model.id: model for model in _IMAGEN_ALL}
