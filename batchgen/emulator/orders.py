"""What passes between the APIs and the reception: an order for pictures, the job made of it, and the answer."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

from PIL import Image, UnidentifiedImageError

from batchgen.emulator.faults import without_markers
from batchgen.emulator.models import Model
from batchgen.emulator.options import EmulatorOptions
from batchgen.emulator.pictures import Picture, render, scaled

JSON_TYPE = "application/json; charset=UTF-8"
_MAX_REFERENCE_PIXELS = 64_000_000
OrderT = TypeVar("OrderT", bound="Order")


class Refusal(Exception):
    """An answer that is not a picture, raised from wherever it is decided; body is what goes over the wire."""

    def __init__(self, status: int, body: bytes, content_type: str = JSON_TYPE) -> None:
        super().__init__(status, body[:200])
        self.status = status
        self.body = body
        self.content_type = content_type


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """A request that was understood. prompt: the last turn's text. turn: the user's turns, this one included.

    history: the texts of the user's earlier turns. references: sha256 of each picture sent along. label: the mime type
    its pictures are served as.
    """

    model: Model
    prompt: str
    ratio: str = "1:1"
    size: str = "1K"
    count: int = 1
    label: str = "image/png"
    quality: int = 86
    seed: int | None = None
    references: tuple[str, ...] = ()
    turn: int = 1
    history: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Job(Generic[OrderT]):
    """One order being worked on. n: the request's number; attempt: how often this prompt was asked, from 1."""

    order: OrderT
    n: int
    attempt: int
    fault: str | None
    options: EmulatorOptions
    draw: random.Random
    origin: str  # scheme and host the client used, for links


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What goes over the wire. billed_images: what the vendor would charge for; sha256: of the pictures as sent."""

    body: bytes
    status: int = 200
    content_type: str = JSON_TYPE
    billed_images: int = 0
    sha256: tuple[str, ...] = ()
    headers: Mapping[str, str] = field(default_factory=dict)


def paint(job: Job[Any], index: int = 0) -> bytes:
    """One picture of the job, spoilt where its fault says so."""
    order = job.order
    pixels = scaled(order.model.pixels(order.ratio, order.size), job.options.longest_px)
    if job.fault == "wrong_size":
        pixels = max(1, pixels[0] // 2), max(1, pixels[1] // 2)
    picture = Picture(
        prompt=order.prompt,
        title=without_markers(order.prompt),
        model=order.model.id,
        caption=f"{order.model.id} · {order.ratio} · {order.size}"
        + (f" · turn {order.turn}" if order.turn > 1 else ""),
        mime="image/jpeg" if job.fault == "mislabelled" else order.label,
        pixels=pixels,
        n=job.n,
        index=index,
        seed=order.seed,
        references=order.references,
        history=order.history,
        nonce=job.attempt,
    )
    data = render(picture, order.quality)
    return data[: len(data) // 2] if job.fault == "half_image" else data


def label_of(job: Job[Any]) -> str:
    return "image/png" if job.fault == "mislabelled" else job.order.label


def in_base64(job: Job[Any], data: bytes) -> str:
    text = base64.b64encode(data).decode("ascii")
    if job.fault == "bad_base64":
        middle = len(text) // 2
        return text[:middle] + "!" + text[middle:]
    return text


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def encoded(value: Any) -> bytes:
    """Indented as the vendors' servers send it."""
    return json.dumps(value, indent=2, ensure_ascii=False).encode("utf-8", "replace")


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
