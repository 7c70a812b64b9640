"""Which reference pictures a model gets drawn anew, as what, and why."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from batchgen.errors import UsageError
from batchgen.manifest.capability import CONVERTIBLE, accepts_mime_type
from batchgen.profiles.profile import Profile
from batchgen.references.local import ReferencePicture, References

Redrawn = Literal["PNG", "JPEG"]


@dataclass(frozen=True, slots=True)
class Redrawing:
    """What is sent in place of a picture. why: for people."""

    kind: Redrawn
    why: str


def redrawing(picture: ReferencePicture, profile: Profile) -> Redrawing | None:
    """What a model gets in place of a picture; None: the picture as it is. Raises UsageError where nothing can be made of it."""
    accepted = accepts_mime_type(profile, picture.mime_type)
    if accepted and not picture.redraw:
        return None
    was = picture.mime_type.removeprefix("image/")
    if picture.mime_type not in CONVERTIBLE:
        raise UsageError(f"is {picture.mime_type}, which {profile.id} does not take: save it as PNG or JPEG")
    if accepted:
        kind: Redrawn = "JPEG" if was == "jpeg" else "PNG"
        return Redrawing(kind, f"sent as {kind}, upright and in RGB, since models ignore EXIF rotation and CMYK")
    frame = " (of several frames the first)" if was == "gif" else ""
    return Redrawing("PNG", f"sent as PNG{frame}, for {profile.id} does not take {was}")


def draw(references: References, picture: ReferencePicture, path: str, kind: Redrawn) -> None:
    """To a new file. Raises OSError, and UsageError when the reference has changed since it was read."""
    from batchgen.references.redraw import redraw  # Pillow, which few references need

    with references.open_unchanged(picture.path) as file:
        redraw(file, path, kind)
