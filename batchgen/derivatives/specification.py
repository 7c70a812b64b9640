"""What to make of an image: which files, under which paths, by which recipe, and of which size; and the request to a
worker process. Pure."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple, Self

from batchgen.records import Derivative, Post

DERIVATIVES = "derivatives"
MISSING_C2PA = "`sign` needs the library c2pa-python: pip install 'batchgen[c2pa]'"
WHITE_SUFFIX = "-white"  # of the id of the item that shows the same on white, for a cutout by difference
UNFINISHED_PREFIX = "derive-"  # files in the spool that have no name yet
VERSION = 1  # of how files are made: raise it if the same recipe makes different files on purpose
ENDINGS = {"webp": ".webp", "avif": ".avif", "jpeg": ".jpg", "png": ".png", "gif": ".gif", "json": ".json"}
QUALITIES = {"webp": 82, "avif": 60, "jpeg": 85}
# The share of the cropped part that is cut off on the left and at the top.
GRAVITIES: Mapping[str, tuple[float, float]] = {
    "center": (0.5, 0.5),
    "north": (0.5, 0.0),
    "south": (0.5, 1.0),
    "west": (0.0, 0.5),
    "east": (1.0, 0.5),
    "northwest": (0.0, 0.0),
    "northeast": (1.0, 0.0),
    "southwest": (0.0, 1.0),
    "southeast": (1.0, 1.0),
}
ORIGINAL_COPY = Derivative(name="original", format="original")  # what `embed` or `sign` alone asks for
Box = tuple[float, float, float, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputSpec:
    """What a worker process has to know about one file: a `Derivative` of one width. skips: not made if the image is
    narrower. Every field except the path is part of the file's recipe."""

    path: str
    format: str
    width: int | None = None
    skips: bool = False
    quality: int | None = None
    crop: Sequence[int] | None = None
    gravity: str = "center"
    upscale: bool = False
    background: str = "#ffffff"
    cutout: str | None = None


@dataclass(frozen=True, slots=True)
class Output:
    """One file to make. name: the derivative's, or `sidecar` for the facts as JSON. recipe: a hash of everything
    besides the image that the file depends on."""

    name: str
    recipe: str
    spec: OutputSpec

    @property
    def path(self) -> str:
        return self.spec.path


@dataclass(frozen=True, slots=True, kw_only=True)
class Provenance:
    """What is known about the making of an image; a sidecar has these names. settings: everything else that reached the
    wire. c2pa: whether the original has a C2PA manifest."""

    generator: str
    job: str
    id: str
    sample: int
    run: int | None
    attempt: int
    model: str
    file: str
    sha256: str
    emulated: bool
    prompt: str
    system: str | None
    settings: Mapping[str, Any]
    references: Sequence[Any]
    c2pa: bool = False


class RenderedFile(NamedTuple):
    """What became of one file. state: `made`, and `file` has it, `skipped`, or `failed` for the reason in `message`;
    for a packet beside a copy, `message` is the path of the copy."""

    path: str
    state: str
    format: str
    sha256: str = ""
    bytes: int = 0
    width: int = 0
    height: int = 0
    mtime_ns: int = 0
    message: str = ""
    file: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class RenderRequest:
    """The files that a worker process should make of one image. spool: the folder for them. source: the path of the
    original. present: existing files of the same image, for the sidecar. on_white, white_sha256: of the other image of
    a cutout by difference; empty if there is none."""

    spool: str
    source: str
    sha256: str
    embed: str
    source_type: str
    provenance: Provenance
    outputs: Sequence[OutputSpec]
    present: Sequence[RenderedFile] = ()
    sign: bool = False
    on_white: str = ""
    white_sha256: str = ""

    @classmethod
    def from_json(cls, request: Mapping[str, Any]) -> Self:
        """A request from what `asdict` returned."""
        found = dict(request)
        found["provenance"] = Provenance(**found["provenance"])
        found["outputs"] = [OutputSpec(**spec) for spec in found["outputs"]]
        found["present"] = [RenderedFile(*file) for file in found["present"]]
        return cls(**found)


def outputs_of(post: Post | None, stem: str, original_format: str, job: str) -> list[Output]:
    """Every file to make of one image. stem: the sample's, which is unique, so no two paths are the same.

    Widths are in the folder's name, `derivatives/web-480/mug.webp`, because a file may itself be called `mug-480`.
    """
    if post is None:
        return []
    found: list[Output] = []
    for derivative in post.derivatives or ((ORIGINAL_COPY,) if post.sign or post.embed != "none" else ()):
        kind = original_format if derivative.format == "original" else derivative.format
        for width in derivative.widths or (None,):
            folder = derivative.name if width is None else f"{derivative.name}-{width}"
            spec = OutputSpec(
                path=f"{DERIVATIVES}/{folder}/{stem}{ENDINGS[kind]}",
                format=derivative.format,
                width=width or derivative.width,
                skips=width is not None,
                quality=derivative.quality,
                crop=derivative.crop,
                gravity=derivative.gravity,
                upscale=derivative.upscale,
                background=derivative.background,
                cutout=derivative.cutout,
            )
            found.append(Output(derivative.name, _recipe_hash(asdict(spec), post, job), spec))
    if post.sidecar:
        # It lists the others.
        recipe = _recipe_hash({"format": "json", "of": [output.recipe for output in found]}, post, job)
        found.append(Output("sidecar", recipe, OutputSpec(path=f"{DERIVATIVES}/{stem}.json", format="json")))
    return found


def _recipe_hash(recipe: Mapping[str, Any], post: Post, job: str) -> str:
    """The hash of a recipe. The job's name counts if it is written into the file, the path never. A cutout or signature
    that is not requested is left out, as older recipes did not have them."""
    recipe = {name: value for name, value in recipe.items() if name != "path" and (name, value) != ("cutout", None)}
    embedded_job = job if post.embed != "none" or recipe["format"] == "json" else ""
    signed = ["signed"] if post.sign else []
    text = json.dumps([VERSION, recipe, post.embed, post.source_type, embedded_job, *signed], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def needs_white(post: Post | None) -> bool:
    return post is not None and any(derivative.cutout == "difference" for derivative in post.derivatives)


def crop_and_size(size: tuple[int, int], spec: OutputSpec) -> tuple[Box, tuple[int, int]] | None:
    """The part of an image of `size` to take, and the size of the file; None if that is larger than the image, so that
    it is left out.

    An exact ratio without a width is the largest that whole pixels allow. Raises ValueError if no pixel is left.
    """
    wide, high = float(size[0]), float(size[1])
    if spec.crop is not None:
        ratio = spec.crop[0] / spec.crop[1]
        wide, high = min(wide, high * ratio), min(high, wide / ratio)
    target = _target_size(wide, high, spec)
    if target is None:
        return None
    if min(target) < 1:
        raise ValueError(f"no pixel is left of {size[0]} x {size[1]}")
    if spec.crop is not None:  # the part with the exact ratio of the file's whole pixels
        wide, high = min(wide, high * target[0] / target[1]), min(high, wide * target[1] / target[0])
    left, top = GRAVITIES[spec.gravity]
    x, y = (size[0] - wide) * left, (size[1] - high) * top
    return (x, y, x + wide, y + high), target


def _target_size(wide: float, high: float, spec: OutputSpec) -> tuple[int, int] | None:
    width = spec.width
    if width is not None and (spec.upscale or width <= wide + 1e-6):
        return width, max(1, round(width * high / wide))
    if width is not None and spec.skips:
        return None
    if spec.crop is None:
        return round(wide), round(high)
    a, b = (part // math.gcd(*spec.crop) for part in spec.crop)
    times = min(int(wide + 1e-6) // a, int(high + 1e-6) // b)
    return times * a, times * b
