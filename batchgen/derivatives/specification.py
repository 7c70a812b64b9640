"""What is to be made of a picture: which files, under which paths, by which recipe, of which size. Pure."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from batchgen.records import Derivative, Post

DERIVATIVES = "derivatives"
UNFINISHED_PREFIX = "derive-"  # files in the spool that have no name yet
VERSION = 1  # of how files are made: raise it when the same recipe makes other files on purpose
ENDINGS = {"webp": ".webp", "avif": ".avif", "jpeg": ".jpg", "png": ".png", "gif": ".gif", "json": ".json"}
QUALITIES = {"webp": 82, "avif": 60, "jpeg": 85}
GRAVITIES: Mapping[str, tuple[float, float]] = {  # share of what is cut off that is cut off at the left and at the top
    "center": (0.5, 0.5), "north": (0.5, 0.0), "south": (0.5, 1.0), "west": (0.0, 0.5), "east": (1.0, 0.5),
    "northwest": (0.0, 0.0), "northeast": (1.0, 0.0), "southwest": (0.0, 1.0), "southeast": (1.0, 1.0),
}  # fmt: skip
ORIGINAL_COPY = Derivative(name="original", format="original")  # what `embed` alone asks for
Box = tuple[float, float, float, float]


@dataclass(frozen=True, slots=True)
class Output:
    """One file to make. name: of the derivative, `sidecar` for the facts as JSON; recipe: hash of all that makes the file
    what it is beside the picture; spec: what a worker process has to know, as plain JSON."""

    name: str
    path: str
    recipe: str
    spec: Mapping[str, Any]


def outputs_of(post: Post | None, stem: str, original_format: str, job: str) -> list[Output]:
    """Every file to make of one picture. stem: of its sample, which no other sample has, so no two paths are the same.

    Widths stand in the folder's name, `derivatives/web-480/mug.webp`: a file may be called `mug-480` itself.
    """
    if post is None:
        return []
    found: list[Output] = []
    for derivative in post.derivatives or (() if post.embed == "none" else (ORIGINAL_COPY,)):
        kind = original_format if derivative.format == "original" else derivative.format
        for width in derivative.widths or (None,):
            folder = derivative.name if width is None else f"{derivative.name}-{width}"
            path = f"{DERIVATIVES}/{folder}/{stem}{ENDINGS[kind]}"
            spec = {**asdict(derivative), "width": width or derivative.width, "skips": width is not None, "path": path}
            found.append(Output(derivative.name, path, _recipe_hash(spec, post, job), spec))
    if post.sidecar:
        path = f"{DERIVATIVES}/{stem}.json"
        recipes = [output.recipe for output in found]  # it lists the others
        spec = {"format": "json", "path": path}
        found.append(Output("sidecar", path, _recipe_hash({**spec, "of": recipes}, post, job), spec))
    return found


def _recipe_hash(spec: Mapping[str, Any], post: Post, job: str) -> str:
    """Hash. The job's name counts where it is written into the file, the path never."""
    facts = {name: value for name, value in spec.items() if name not in ("path", "widths", "name")}
    embedded_job = job if post.embed != "none" or spec["format"] == "json" else ""
    text = json.dumps([VERSION, facts, post.embed, post.source_type, embedded_job], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def crop_and_size(size: tuple[int, int], spec: Mapping[str, Any]) -> tuple[Box, tuple[int, int]] | None:
    """What part of a picture of `size` to take and how large the file becomes; None: larger than the picture, left out.

    An exact ratio without a width is the largest that whole pixels allow. Raises ValueError when no pixel is left.
    """
    wide, high = float(size[0]), float(size[1])
    if spec["crop"] is not None:
        ratio = spec["crop"][0] / spec["crop"][1]
        wide, high = min(wide, high * ratio), min(high, wide / ratio)
    target = _target_size(wide, high, spec)
    if target is None:
        return None
    if min(target) < 1:
        raise ValueError(f"no pixel is left of {size[0]} x {size[1]}")
    if spec["crop"] is not None:  # the part that has the very ratio of the file's whole pixels
        wide, high = min(wide, high * target[0] / target[1]), min(high, wide * target[1] / target[0])
    left, top = GRAVITIES[spec["gravity"]]
    x, y = (size[0] - wide) * left, (size[1] - high) * top
    return (x, y, x + wide, y + high), target


def _target_size(wide: float, high: float, spec: Mapping[str, Any]) -> tuple[int, int] | None:
    width = spec["width"]
    if width is not None and (spec["upscale"] or width <= wide + 1e-6):
        return width, max(1, round(width * high / wide))
    if width is not None and spec["skips"]:
        return None
    if spec["crop"] is None:
        return round(wide), round(high)
    a, b = (part // math.gcd(*spec["crop"]) for part in spec["crop"])
    times = min(int(wide + 1e-6) // a, int(high + 1e-6) // b)
    return times * a, times * b
