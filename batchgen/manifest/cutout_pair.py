"""An item whose image is cut out by difference is two: `{id}-white` shows it on white, and `{id}` is an edit of that, on black. Pure.

Whoever writes the second one as an entry of its own, with the first among its references, has written the pair already.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from batchgen.derivatives.specification import WHITE_SUFFIX, needs_white
from batchgen.item import Derivative, Item, OnReject, Post
from batchgen.manifest.post_section import unless_empty

ON_WHITE = (
    "It stands alone on a plain, evenly lit, pure white background (#ffffff) that reaches every edge of the image, without a floor,"
    " a gradient or a vignette."
)
ON_BLACK = (
    "Replace the white background of this image by a pure black background (#000000), also where it shows through openings and"
    " through what is translucent. Everything else stays exactly as it is: the same subject at the same place, of the same size,"
    " in the same colours and the same light, with the same edges. Add nothing, move nothing, crop nothing."
)


def is_pair(item: Item) -> bool:
    return needs_white(item.post) and f"@{white_id(item)}" not in item.references


def white_id(item: Item) -> str:
    return item.id + WHITE_SUFFIX


def problems(item: Item) -> Iterator[tuple[str, str]]:
    """(field, what is wrong) of an item that is to become two."""
    if item.count > 1:
        yield (
            "count",
            "must be 1 for `cutout: difference`, as each image needs one of its own on white: use a matrix",
        )
    if item.background == "transparent":
        yield "background", "is transparent already: leave it out, or `cutout: difference`"


def pair(item: Item) -> tuple[Item, Item]:
    """The image on white, of which all else in `post` is made, and the one on black, of which the cutout is made."""
    assert item.post is not None  # noqa: S101 - `is_pair` says so
    derivatives = item.post.derivatives
    white = replace(
        item,
        id=white_id(item),
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
        checks=tuple(check for check in item.checks if check.name != "twin"),  # which it is
        judge=None,  # of the first one
        on_reject=OnReject(),
    )
    return white, black


def _post_of(post: Post, *derivatives: Derivative) -> Post | None:
    return unless_empty(replace(post, derivatives=derivatives))
