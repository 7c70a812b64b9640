"""What kind of picture some bytes are, by their first bytes and nothing else."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Literal

Format = Literal["png", "jpeg", "webp", "gif"]
EXTENSION: dict[Format, str] = {"png": ".png", "jpeg": ".jpg", "webp": ".webp", "gif": ".gif"}
HEAD_BYTES = 16
MAX_PIXELS = 150_000_000  # eight times a 4K picture; more is a bomb or a mistake


def sniff(head: bytes) -> Format | None:
    """The format that the first HEAD_BYTES say; None when they are no picture we accept (SVG never is).

    Sources: PNG 3rd edition 5.2; ITU T.81 B.1.1.3 (SOI, then a marker); RFC 9649 (WebP in RIFF); GIF89a section 17.
    """
    if head.startswith(b"\x89PNG\r\n\x1a\n"):
        return "png"
    if head.startswith(b"\xff\xd8\xff"):
        return "jpeg"
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "webp"
    if head[:6] in (b"GIF87a", b"GIF89a"):
        return "gif"
    return None


def is_picture(path: str | Path) -> bool:
    """Whether a file that can be read is one. A link is none, whatever it leads to."""
    flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)  # a pipe is not waited for
    with contextlib.suppress(OSError):
        fd = os.open(path, flags | getattr(os, "O_BINARY", 0))
        with os.fdopen(fd, "rb") as file:
            return sniff(file.read(HEAD_BYTES)) is not None
    return False
