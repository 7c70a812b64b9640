"""What passes between the APIs and the pipeline: the pictures asked for, the job made of them, and the answer."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import random
import secrets
import string
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Generic, TypeVar

from PIL import Image, UnidentifiedImageError

from batchgen.emulator.faults import without_markers
from batchgen.emulator.models import Model
from batchgen.emulator.options import EmulatorOptions
from batchgen.emulator.pictures import Picture, render, scaled

JSON_TYPE = "application/json; charset=UTF-8"
_MAX_REFERENCE_PIXELS = 64_000_000
SpecT = TypeVar("SpecT", bound="Spec")


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What goes over the wire. billed_images: what the vendor would charge for; sha256: of the pictures as sent."""

    body: bytes
    status: int = 200
    content_type: str = JSON_TYPE
    billed_images: int = 0
    sha256: tuple[str, ...] = ()
    headers: Mapping[str, str] = field(default_factory=dict)


class ApiError(Exception):
    """An answer in place of pictures, raised from wherever it is decided."""

    def __init__(self, status: int, body: bytes, content_type: str = JSON_TYPE) -> None:
        super().__init__(status, body[:200])
        self.answer = Answer(status=status, body=body, content_type=content_type)


@dataclass(frozen=True, slots=True, kw_only=True)
class Spec:
    """A request that was understood. prompt: the last turn's text. turn: the user's turns, this one included.

    history: the texts of the user's earlier turns. references: sha256 of each picture sent along. mime: what its
    pictures are served as.
    """

    model: Model
    prompt: str
    ratio: str = "1:1"
    size: str = "1K"
    count: int = 1
    mime: str = "image/png"
    quality: int = 86
    seed: int | None = None
    references: tuple[str, ...] = ()
    turn: int = 1
    history: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Job(Generic[SpecT]):
    """One request being worked on. n: its number; attempt: how often this prompt was asked, from 1.

    origin: scheme and host the client used, for links.
    """

    spec: SpecT
    n: int
    attempt: int
    fault: str | None
    options: EmulatorOptions
    draw: random.Random
    origin: str

    @property
    def mime(self) -> str:
        """What its pictures are called, which a fault may make a lie."""
        return "image/png" if self.fault == "mislabelled" else self.spec.mime

    def paint(self, index: int = 0) -> bytes:
        """One picture, broken in the way the fault asks for."""
        spec = self.spec
        pixels = scaled(spec.model.pixels(spec.ratio, spec.size), self.options.longest_px)
        if self.fault == "wrong_size":
            pixels = max(1, pixels[0] // 2), max(1, pixels[1] // 2)
        turn = f" · turn {spec.turn}" if spec.turn > 1 else ""
        picture = Picture(
            prompt=spec.prompt,
            title=without_markers(spec.prompt),
            model=spec.model.id,
            caption=f"{spec.model.id} · {spec.ratio} · {spec.size}{turn}",
            mime="image/jpeg" if self.fault == "mislabelled" else spec.mime,
            pixels=pixels,
            n=self.n,
            index=index,
            seed=spec.seed,
            references=spec.references,
            history=spec.history,
            nonce=self.attempt,
        )
        data = render(picture, spec.quality)
        return data[: len(data) // 2] if self.fault == "half_image" else data

    def in_base64(self, data: bytes) -> str:
        text = base64.b64encode(data).decode("ascii")
        if self.fault == "bad_base64":
            middle = len(text) // 2
            return text[:middle] + "!" + text[middle:]
        return text


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def as_json(value: Any, *, compact: bool = False) -> bytes:
    """Indented as the vendors' servers send it."""
    form: dict[str, Any] = {"separators": (",", ":")} if compact else {"indent": 2}
    return json.dumps(value, ensure_ascii=False, **form).encode("utf-8", "replace")


def timestamp(at_s: float, timespec: str = "microseconds") -> str:
    return datetime.fromtimestamp(at_s, UTC).isoformat(timespec=timespec).replace("+00:00", "Z")


def random_id(length: int) -> str:
    return "".join(secrets.choice(string.ascii_lowercase + string.digits) for _ in range(length))


def clean(text: str) -> str:
    """Lone surrogates, which JSON can carry and UTF-8 cannot, become question marks."""
    return text.encode("utf-8", "replace").decode()


def picture_size(source: bytes | Path) -> tuple[int, int] | None:
    """Width and height of a picture that decodes as a whole; None if it does not."""
    try:
        with Image.open(source if isinstance(source, Path) else io.BytesIO(source)) as image:
            if image.width * image.height > _MAX_REFERENCE_PIXELS:
                return None
            image.load()
            return image.size
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return None
