"""`Item`, one entry of a manifest, and the one place where each of its fields is declared. Standard library only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal

COUNT_MAX = 1000
TURNS_MAX = 50
FALLBACKS_MAX = 5
AGAIN_MAX = 20
AGE_PATTERN = r"^[1-9][0-9]{0,4}[hdw]$"


@dataclass(frozen=True, slots=True, kw_only=True)
class Derivative:
    """A kind of file to make from each image. widths: one file for each width that the image is large enough for; width: at
    most this width; neither: as large as the image. crop: width to height. format `original`: the bytes as received. cutout: how
    to make transparent what is behind the subject; background is then the colour to remove, empty for the border's own."""

    name: str
    format: Literal["webp", "avif", "jpeg", "png", "original"]
    width: int | None = None
    widths: tuple[int, ...] = ()
    quality: int | None = None
    crop: tuple[int, int] | None = None
    gravity: str = "center"
    upscale: bool = False
    background: str = "#ffffff"
    cutout: Literal["key", "difference"] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Post:
    """What is made from images once they exist. None of it is sent to a vendor."""

    derivatives: tuple[Derivative, ...] = ()
    embed: Literal["none", "ids", "full"] = "none"
    sidecar: bool = False
    source_type: str = "trainedAlgorithmicMedia"  # a term of IPTC's vocabulary
    sign: bool = False  # with a C2PA manifest


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """A check to run on an image. rejects: whether a finding rejects the image or is only noted. options: names and values, as
    the check declares them."""

    name: str
    rejects: bool = False
    options: tuple[tuple[str, Any], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Judge:
    """An AI model that is asked how well an image meets a rubric. least: an image with fewer points than this, of 10, is rejected.
    of: how many images to make and keep the best of. feedback: what the judge finds wrong goes into the next prompt."""

    model: str
    provider: str
    rubric: str
    least: float = 7.0
    of: int = 1
    feedback: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class OnReject:
    """What to do with a rejected image. again: how many more to buy at most; then: keep the last of them under its name, or hold
    it in drafts/ until somebody accepts it."""

    again: int = 0
    then: Literal["keep", "hold"] = "keep"


DEFAULT_CHECKS = (Check(name="blank"), Check(name="twin"))

# What a field of a manifest is used for. `own`: by batchgen itself, never sent; `picture`: sent, and another value makes
# another image; `delivery`: sent, but only changes price and speed.
Use = Literal["own", "picture", "delivery"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ManifestField:
    """How a field of `Item` is written in a manifest. name: its name there, if that differs. kind: its type there, None if it
    follows from the type here. limits: on its value, by pydantic's names."""

    description: str
    use: Use = "own"
    name: str = ""
    kind: Any = None
    limits: Mapping[str, Any] = field(default_factory=dict)


def _declared(description: str, use: Use = "own", name: str = "", kind: Any = None, **limits: Any) -> dict[str, Any]:
    return {"manifest": ManifestField(description=description, use=use, name=name, kind=kind, limits=limits)}


def _asked(description: str, use: Use = "own", *, default: Any = None, **more: Any) -> Any:
    """A field that a manifest may omit."""
    metadata = _declared(description, use, **more)
    return (
        field(default_factory=dict, metadata=metadata) if default is dict else field(default=default, metadata=metadata)
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """One entry of the manifest after expansion and defaults: an image to request, or `count` of them.

    Each field of a manifest is declared here, once. The schema, the fingerprint, what a model may support and the manual's
    table follow from it (`manifest/fields.py`). A field that reaches the wire also needs its place in a codec.

    model: the AI model's id, with aliases resolved. provider: the codec's name. filename: the stem of the image file.
    references: absolute paths, links, addresses in buckets, and `@id` or `@id#n` for the image of another item.
    origin: `file:line` of the entry, for messages. None means: not requested.
    tier_until: UTC seconds after which an item with a slow service tier is requested at the standard tier instead.
    A conversation is one item per turn. turn: from 1, or 0 outside a conversation; history: the prompts of the turns before.
    """

    id: str
    provider: str
    prompt: str = field(metadata=_declared("What the image shows.", "picture"))
    turn: int = _asked(
        "Instead of a prompt: a conversation that refines an image, one image a turn, {id}-t1, {id}-t2 …",
        "picture",
        default=0,
        name="turns",
        kind=tuple[str, ...],
        min_length=1,
        max_length=TURNS_MAX,
    )
    history: tuple[str, ...] = ()
    system: str | None = _asked("System instruction.", "picture")
    model: str = field(
        metadata=_declared(
            "Alias (flash, pro, lite) or id of an AI model; default flash. An unknown id passes with a warning."
        )
    )
    fallback: tuple[str, ...] = _asked(  # lanes, as `provider/model`
        "Models to go on with, in this order, when the model cannot serve.", default=(), max_length=FALLBACKS_MAX
    )
    fallback_on: tuple[Literal["quota", "outage", "refusal", "price"], ...] = _asked(
        "For which causes; default quota (of a day, or until `--by`) and outage. price: `--by` chooses the cheapest of them.",
        default=(),
    )
    aspect_ratio: str | None = _asked(
        "Width to height, such as 16:9. Without it the model chooses.",
        "picture",
        pattern=r"^[0-9]{1,2}:[0-9]{1,2}$",
        examples=["1:1", "16:9", "3:4"],
    )
    image_size: str | None = _asked("512, 1K, 2K or 4K, as the model offers.", "picture", examples=["1K", "2K", "4K"])
    count: int = _asked(
        "How many images (samples) of this; default 1. 2 made 4 buys two more.", default=1, ge=1, le=COUNT_MAX
    )
    references: tuple[str, ...] = _asked(
        "Images to send along: files beside the manifest or objects in a bucket, s3://bucket/name, gs:// or az:// "
        "(globs are expanded, sorted), https links, or @id and @id#n for the image of another item, which is then "
        "made first. PNG, JPEG, WebP, GIF, HEIC, HEIF, AVIF, TIFF or BMP, up to 100 MB each.",
        "picture",
        default=(),
        max_length=100,
    )
    mask: bool = _asked(  # the last of the references is one
        "An image, named as a reference is, that says which part of the first reference to change; at OpenAI where the "
        "mask is transparent.",
        "picture",
        default=False,
        kind=str,
    )
    quality: Literal["auto", "low", "medium", "high", "xhigh", "max"] | None = _asked(
        "How much work goes into the image, and how much it costs.", "picture"
    )
    background: Literal["auto", "opaque", "transparent"] | None = _asked(
        "Behind what is shown; transparent needs PNG or WebP.", "picture"
    )
    output_format: Literal["png", "jpeg", "webp"] | None = _asked(
        "What the vendor makes; `post:` makes other formats of any image.", "picture"
    )
    modalities: tuple[Literal["text", "image"], ...] = _asked(
        "What to answer with; default image. With text, the text is kept as NAME.txt.", "picture", default=()
    )
    search: Literal["web", "image"] | None = _asked(
        "Ground the image in a search of the web, or of images too; what was found is kept as NAME.sources.json and "
        "NAME.search.html.",
        "picture",
    )
    thinking: Literal["minimal", "low", "medium", "high"] | None = _asked("How long to think first.", "picture")
    keep_thoughts: bool = _asked(
        "Ask for the thoughts: their text beside the image as NAME.thoughts.md, their interim images in drafts/.",
        "picture",
        default=False,
    )
    media_resolution: Literal["low", "medium", "high"] | None = _asked(
        "How finely the references are looked at.", "picture"
    )
    service_tier: Literal["standard", "flex", "priority"] | None = _asked(
        "standard, flex (half the price, up to 15 minutes) or priority (1.8 times); when refused it is asked for at "
        "standard.",
        "delivery",
    )
    tier_until: float | None = None
    no_image_suffix: str | None = _asked(
        "Appended to the prompt when it is sent again after an answer without an image."
    )
    seed: int | None = _asked("Asked for, though no vendor promises the same image twice.", "picture")
    temperature: float | None = _asked("Vendors advise to leave it alone.", "picture", ge=0, le=2)
    safety: Mapping[str, str] = _asked(
        "Harm category to threshold, as the vendor spells them.",
        "picture",
        default=dict,
        examples=[{"HARM_CATEGORY_HARASSMENT": "BLOCK_ONLY_HIGH"}],
    )
    person_generation: Literal["dont_allow", "allow_adult", "allow_all"] | None = _asked(
        "Whether people may be shown, where a model takes it.", "picture"
    )
    negative_prompt: str | None = _asked("What the image should not show, where a model takes it.", "picture")
    tags: tuple[str, ...] = _asked("For `--only tag:NAME` and reports; never sent.", default=(), max_length=100)
    priority: int = _asked("Higher goes first; default 0.", default=0, ge=-1000, le=1000)
    max_age_s: float | None = _asked(
        "Make it again when its image is older: 36h, 7d or 4w.",
        name="max_age",
        kind=str,
        pattern=AGE_PATTERN,
        examples=["7d"],
    )
    filename: str = field(metadata=_declared("Name of the file without extension; default {{ id }}."))
    on_mismatch: Literal["warn", "fail"] = _asked(
        "An image of another size or ratio than asked for: warn (default) keeps and flags it, fail keeps it in drafts/ "
        "and ends its item failed.",
        default="warn",
    )
    extra: Mapping[str, Any] = _asked("Merged into the body of the request as given.", "picture", default=dict)
    post: Post | None = field(
        default=None, metadata=_declared("Files to make of the image: a list of them, or an object; never sent.")
    )
    checks: tuple[Check, ...] = field(
        default=DEFAULT_CHECKS,
        metadata=_declared(
            "What to look for in the image, by name: off, warn, reject or options; blank and twin warn unless they are off.",
            name="check",
        ),
    )
    judge: Judge | None = field(
        default=None, metadata=_declared("An AI model that gives points for how well the image meets a rubric.")
    )
    on_reject: OnReject = field(
        default=OnReject(),
        metadata=_declared(
            "What becomes of a rejected image: keep (default), hold, or {again: N, then: keep or hold}."
        ),
    )
    origin: str = ""


MANIFEST_FIELDS: Mapping[str, ManifestField] = {  # by name in a manifest
    declared.name or slot.name: declared for slot in fields(Item) if (declared := slot.metadata.get("manifest"))
}
SENT_FIELDS = tuple(name for name, declared in MANIFEST_FIELDS.items() if declared.use != "own")
