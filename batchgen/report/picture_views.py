"""The images of a sample and what was said of them, as the page of a job shows them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from batchgen.ledger.reader import PictureRow, SampleRow
from batchgen.records import HAS_IMAGE, Verdict
from batchgen.report.view import Sparse, view_of

KINDS = ("image", "draft", "thought", "earlier")  # of pictures, in the order in which a sample shows them
MAX_BOXES = 300  # of one verdict
MAX_BOX_TEXT_CHARS = 200


class Box(NamedTuple):
    """Where something is in an image, in parts of its width and height from its upper left corner, and what is read there."""

    x: float
    y: float
    width: float
    height: float
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class VerdictView(Sparse):
    """As `Verdict` has it. at: UTC seconds; twin: the path, or the name, of the image that this one is like."""

    by: str
    name: str
    ruling: str
    at: int
    reason: str = ""
    message: str = ""
    score: float | None = None
    twin: str = ""
    boxes: Sequence[Box] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class PictureView(Sparse):
    """kind: one of KINDS. thumbnail: how the page asks for it. sha: how its SHA-256 begins."""

    kind: str
    path: str
    thumbnail: int | str
    sha: str
    width: int
    height: int
    bytes: int
    flags: Sequence[str]
    at: int | None
    verdicts: Sequence[VerdictView] = ()


def picture_views(
    row: SampleRow,
    pictures: Sequence[PictureRow],
    said: Sequence[Verdict],
    thumbnail: Callable[[PictureRow], int | str],
) -> list[PictureView]:
    """The picture that counts first, then drafts and thoughts of its answer, then earlier versions, the newest first."""
    made = [each for each in pictures if each.role == "image" and each.fingerprint == row.made_fingerprint]
    current = made[0].attempt_id if made and row.state in (*HAS_IMAGE, "superseded") else None
    found = [
        view_of(
            PictureView,
            each,
            kind="earlier" if each.role == "image" and each.attempt_id != current else each.role,
            thumbnail=thumbnail(each),
            sha=each.sha256[:12],
            flags=tuple(each.flags.split(",")) if each.flags else (),
            at=round(each.made_at) if each.made_at else None,
            verdicts=verdict_views(said, each.sha256) if said else (),
        )
        for each in pictures
    ]
    return sorted(found, key=lambda each: KINDS.index(each.kind))


def verdict_views(said: Iterable[Verdict], sha256: str) -> tuple[VerdictView, ...]:
    """Of one image."""
    return tuple(
        view_of(
            VerdictView,
            each,
            at=round(each.at),
            twin=twin if isinstance(twin := each.details.get("twin"), str) else "",
            boxes=tuple(_boxes(each.details)),
        )
        for each in said
        if each.sha256 == sha256
    )


def _boxes(details: Mapping[str, Any]) -> Iterator[Box]:
    """Those that can be drawn: a check of somebody else's may have written anything."""
    listed = details.get("boxes")
    for each in listed[:MAX_BOXES] if isinstance(listed, list) else ():
        if isinstance(each, list) and len(each) >= 4 and all(_is_part(value) for value in each[:4]):
            text = each[4] if len(each) > 4 and isinstance(each[4], str) else ""
            x, y, width, height = (round(value, 4) for value in each[:4])
            yield Box(x, y, width, height, text[:MAX_BOX_TEXT_CHARS])


def _is_part(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and -1 <= value <= 2
