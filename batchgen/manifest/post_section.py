"""The section `post:`: the files to make from each image, and what is written into them; and the two items for a cutout
by difference."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import asdict, replace
from functools import lru_cache
from importlib.util import find_spec
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Discriminator, Field, Tag, model_validator

from batchgen.derivatives.specification import GRAVITIES, MISSING_C2PA, QUALITIES, WHITE_SUFFIX, needs_white, outputs_of
from batchgen.item import Derivative, Item, OnReject, Post
from batchgen.manifest.diagnostics import FieldPath
from batchgen.manifest.strict import Strict, field_error, text_in_form

UNION_TAGS = frozenset(("list", "object"))  # pydantic puts the chosen one into the path of a problem
TRANSPARENT = ("png", "webp")  # formats for cutouts
WIDTH_MAX = {"webp": 16_383, "avif": 65_535, "jpeg": 65_535, "png": 65_535}
ON_WHITE = (
    "It stands alone on a plain, evenly lit, pure white background (#ffffff) that reaches every edge of the image, without a floor,"
    " a gradient or a vignette."
)
ON_BLACK = (
    "Replace the white background of this image by a pure black background (#000000), also where it shows through openings and"
    " through what is translucent. Everything else stays exactly as it is: the same subject at the same place, of the same size,"
    " in the same colours and the same light, with the same edges. Add nothing, move nothing, crop nothing."
)
_NAME = re.compile(r"(?!(?:con|prn|aux|nul|com[0-9]|lpt[0-9])$)[a-z0-9][a-z0-9_-]{0,39}")
_CROP = re.compile(r"([1-9][0-9]{0,4}):([1-9][0-9]{0,4})")
_COLOUR = re.compile(r"#[0-9a-fA-F]{6}")


Width = Annotated[int, Field(ge=1, le=65_535)]


class DerivativeFields(Strict):
    """One kind of file to make of each picture."""

    name: Annotated[
        str,
        text_in_form(
            _NAME.fullmatch, "be small letters, digits, '_' and '-', at most 40, beginning with a letter or digit"
        ),
    ] = Field(description="Name of the folder it goes to: derivatives/NAME/, or derivatives/NAME-WIDTH/ with `widths`.")
    format: Literal["webp", "avif", "jpeg", "png", "original"] = Field(
        description="original: the bytes as they came, for what is to be embedded."
    )
    width: Width | None = Field(None, description="Width of the file in pixels; a smaller image keeps its own.")
    widths: list[Width] | None = Field(
        None, min_length=1, max_length=20, description="One file for each; those beyond the image's own are left out."
    )
    quality: int | None = Field(None, ge=1, le=100, description=f"Default {QUALITIES}.")
    crop: Annotated[str, text_in_form(_CROP.fullmatch, "look like 4:5")] | None = Field(
        None, description="Width to height, exactly.", examples=["4:5"]
    )
    gravity: Literal[tuple(GRAVITIES)] | None = Field(  # type: ignore[valid-type]
        None, description="The part that a crop keeps; default center."
    )
    upscale: bool | None = Field(None, description="Whether a smaller image is made larger; default false.")
    background: Annotated[str, text_in_form(_COLOUR.fullmatch, "look like #ffffff")] | None = Field(
        None,
        description="Colour behind transparent parts, in a JPEG, default #ffffff; with `cutout: key` the colour to take out, by "
        "default the border's.",
    )
    cutout: Literal["key", "difference"] | None = Field(
        None,
        description="Makes the background transparent, in png or webp. key: all that has its colour; difference: asks for the "
        "image on white as {id}-white, for the same on black as {id}, and computes it from both.",
    )

    @model_validator(mode="after")
    def _check_combination(self) -> DerivativeFields:
        asked = [name for name, value in self if value is not None and name not in ("name", "format")]
        if self.format == "original" and asked:
            raise field_error(f"the original is copied as it is: take {asked[0]!r} away or choose another format")
        if self.width is not None and self.widths is not None:
            raise field_error("has both width and widths: choose one")
        if self.quality is not None and self.format == "png":
            raise field_error("a PNG has no quality: it loses nothing")
        if self.gravity is not None and self.crop is None:
            raise field_error("gravity says what a crop keeps, and there is no crop")
        if self.cutout is not None and self.format not in TRANSPARENT:
            raise field_error(f"a cutout needs transparency, which {self.format} is not used for: choose png or webp")
        if self.background is not None and self.cutout == "difference":
            raise field_error("background is for cutout: key; difference asks for white and black itself")
        if self.background is not None and self.format != "jpeg" and self.cutout is None:
            raise field_error(f"background is for jpeg: {self.format} keeps what is transparent")
        if max([self.width or 0, *(self.widths or ())]) > WIDTH_MAX.get(self.format, 0) and (self.width or self.widths):
            raise field_error(f"a {self.format} is at most {WIDTH_MAX[self.format]:,} pixels wide")
        if self.format == "avif" and not _has_avif():
            raise field_error("this Pillow was built without AVIF: install one from PyPI, or choose webp")
        return self

    def to_record(self) -> Derivative:
        given = {name: value for name, value in self if value is not None}
        if self.crop is not None:
            given["crop"] = tuple(map(int, self.crop.split(":")))
        given["widths"] = tuple(sorted(set(self.widths or ())))
        given["quality"] = self.quality or QUALITIES.get(self.format)
        if self.cutout == "key":
            given["background"] = self.background or ""
        return Derivative(**given)


@lru_cache
def _has_avif() -> bool:
    from PIL import features  # 50 ms, only needed for AVIF

    return bool(features.check("avif"))


def _check_unique_names(value: list[DerivativeFields]) -> list[DerivativeFields]:
    seen: set[str] = set()
    for one in value:
        for folder in [f"{one.name}-{width}" for width in sorted(set(one.widths or ()))] or [one.name]:
            if folder in seen:
                raise field_error(f"two derivatives would write to derivatives/{folder}/: give one another name")
            seen.add(folder)
    return value


Derivatives = Annotated[list[DerivativeFields], Field(max_length=20), AfterValidator(_check_unique_names)]


class PostFields(Strict):
    """What is made of the pictures and written into it. Changing it never sends anything again."""

    derivatives: Derivatives | None = Field(None, description="The files to make.")
    embed: Literal["none", "ids", "full"] | None = Field(
        None,
        description="What is written into them: ids (of job, item, run, model, original), full (prompt and settings too).",
    )
    sidecar: bool | None = Field(None, description="All facts of an image as derivatives/ID.json; default false.")
    source_type: Literal["trainedAlgorithmicMedia", "compositeWithTrainedAlgorithmicMedia"] | None = Field(
        None, description="IPTC digital source type; the second for edits that leave most of a photograph as it was."
    )

    sign: bool | None = Field(
        None,
        description="Whether each file gets a C2PA manifest, signed with your certificate, the original as its parent; default "
        "false.",
    )

    @model_validator(mode="after")
    def _check_library(self) -> PostFields:
        if self.sign and find_spec("c2pa") is None:
            raise field_error(MISSING_C2PA)
        return self

    def to_record(self) -> Post:
        derivatives = tuple(one.to_record() for one in self.derivatives or ())
        return Post(
            derivatives=derivatives,
            embed=self.embed or "none",
            sidecar=self.sidecar or False,
            source_type=self.source_type or "trainedAlgorithmicMedia",
            sign=self.sign or False,
        )


def _union_tag(value: Any) -> str:
    return "list" if isinstance(value, list) else "object"


PostValue = Annotated[
    Annotated[Derivatives, Tag("list")] | Annotated[PostFields, Tag("object")], Discriminator(_union_tag)
]


def post_record(value: PostFields | list[DerivativeFields] | None) -> Post | None:
    """One object for all items that say the same. None if nothing is to be made."""
    if value is None:
        return None
    post = (value if isinstance(value, PostFields) else PostFields.model_validate({"derivatives": value})).to_record()
    return unless_empty(post)


def unless_empty(post: Post) -> Post | None:
    """The one object that says the same; None if nothing is to be made."""
    return _interned.setdefault(post, post) if outputs_of(post, "", "png", "") else None


_interned: dict[Post, Post] = {}


def post_fields(post: Post | None) -> dict[str, Any] | None:
    """The fields in a manifest from which `post_record` makes the same object."""
    if post is None:
        return None
    defaults = Post()
    fields = {name: getattr(post, name) for name in ("embed", "sidecar", "source_type", "sign")}
    asked = {name: value for name, value in fields.items() if value != getattr(defaults, name)}
    derivatives = [_derivative_fields(one) for one in post.derivatives]
    return {**({"derivatives": derivatives} if derivatives else {}), **asked}


def _derivative_fields(one: Derivative) -> dict[str, Any]:
    defaults = Derivative(name=one.name, format=one.format, quality=QUALITIES.get(one.format))
    asked = {name: value for name, value in asdict(one).items() if value != getattr(defaults, name)}
    if one.crop is not None:
        asked["crop"] = f"{one.crop[0]}:{one.crop[1]}"
    if one.background == "":
        del asked["background"]
    return {"name": one.name, "format": one.format, **asked}


def fields_at(path: FieldPath) -> frozenset[str]:
    """The names allowed at a path below `post`."""
    inside = DerivativeFields if any(isinstance(step, int) for step in path) else PostFields
    return frozenset(inside.model_fields)


# --- --- a cutout by difference


def is_cutout_pair(item: Item) -> bool:
    """Whether an item with a cutout by difference becomes two: `{id}-white` shows it on white, and `{id}` is an edit of
    that, on black. Whoever writes the second one as a separate entry, with the first among its references, has already
    written the pair."""
    return needs_white(item.post) and f"@{item.id}{WHITE_SUFFIX}" not in item.references


def cutout_pair_problems(item: Item) -> Iterator[tuple[str, str]]:
    """(field, problem) of an item that should become two."""
    if item.count > 1:
        yield (
            "count",
            "must be 1 for `cutout: difference`, as each image needs one of its own on white: use a matrix",
        )
    if item.background == "transparent":
        yield "background", "is transparent already: leave it out, or `cutout: difference`"


def cutout_pair(item: Item) -> tuple[Item, Item]:
    """The image on white, from which everything else in `post` is made, and the one on black, from which the cutout is
    made."""
    assert item.post is not None  # noqa: S101 - `is_cutout_pair` says so
    derivatives = item.post.derivatives
    white = replace(
        item,
        id=item.id + WHITE_SUFFIX,
        filename=item.filename + WHITE_SUFFIX,
        prompt=f"{item.prompt}\n\n{ON_WHITE}",
        post=_post_of(item.post, *(one for one in derivatives if one.cutout != "difference")),
    )
    black = replace(
        item,
        prompt=ON_BLACK,
        references=(f"@{white.id}",),
        mask=False,
        search=None,  # what was found is in the first one already
        max_age_s=None,  # it follows the first one
        post=_post_of(item.post, *(one for one in derivatives if one.cutout == "difference")),
        checks=tuple(check for check in item.checks if check.name != "twin"),  # it is one by design
        judge=None,  # that of the first one
        on_reject=OnReject(),
    )
    return white, black


def _post_of(post: Post, *derivatives: Derivative) -> Post | None:
    return unless_empty(replace(post, derivatives=derivatives))
