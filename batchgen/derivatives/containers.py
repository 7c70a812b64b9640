"""Metadata beside the pixels of a PNG, JPEG or WebP: XMP, texts and a C2PA manifest, read and written without
re-encoding.

Sources: PNG (W3C, 3rd edition) 11.3.3; XMP part 3 (ISO 16684-1) 1.1; WebP container specification (RFC 9649) 2.7; C2PA
2.1 annex A (PNG caBX, JPEG APP11 JUMBF, WebP C2PA).
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator, Mapping
from typing import NamedTuple

PNG_HEAD = b"\x89PNG\r\n\x1a\n"
PNG_XMP = b"XML:com.adobe.xmp"
JPEG_XMP = b"http://ns.adobe.com/xap/1.0/\x00"
TEXT_MAX_BYTES = 4_000_000  # of a compressed text: more is not metadata but a bomb
XMP_FLAG = 0x04  # in VP8X
ALPHA_FLAG = 0x10


class Part(NamedTuple):
    """A chunk or segment: its kind, where it begins and ends in the file, and its contents."""

    kind: bytes
    start: int
    end: int
    body: bytes


def parts(data: bytes, kind: str) -> list[Part]:
    """All parts of a PNG or WebP, and those of a JPEG before its pixels; none of other formats. The file is known to be
    whole."""
    find = {"png": _png_parts, "jpeg": _jpeg_parts, "webp": _webp_parts}.get(kind)
    return list(find(data)) if find else []


def read_xmp(data: bytes, kind: str) -> bytes | None:
    """The XMP packet, None if there is none."""
    for part in parts(data, kind):
        if kind == "jpeg" and part.kind == b"\xe1" and part.body.startswith(JPEG_XMP):
            return part.body[len(JPEG_XMP) :]
        if kind == "webp" and part.kind == b"XMP ":
            return part.body
        if kind == "png" and part.kind == b"iTXt" and part.body.startswith(PNG_XMP + b"\x00"):
            return _itxt_text(part.body)
    return None


def has_c2pa(data: bytes, kind: str) -> bool:
    """Whether the file carries a C2PA manifest, which is signed over its bytes."""
    for part in parts(data, kind):
        if part.kind in (b"caBX", b"C2PA") or (
            part.kind == b"\xeb" and part.body.startswith(b"JP") and b"c2pa" in part.body[:256]
        ):
            return True
    return False


def with_metadata(data: bytes, kind: str, xmp: bytes, texts: Mapping[str, str]) -> bytes | None:
    """The file with this packet in place of its own and every other byte unchanged; None if the format has no place for
    one.

    texts: by keyword, for PNG only. xmp: at most 65,000 bytes, which fit into one segment of a JPEG.
    """
    if kind == "png":
        return _png_with(data, xmp, texts)
    if kind == "jpeg":
        return _jpeg_with(data, xmp)
    return _webp_with(data, xmp) if kind == "webp" else None


def text_chunk(keyword: bytes, text: bytes) -> bytes:
    """An uncompressed iTXt chunk of UTF-8."""
    body = b"iTXt" + keyword + b"\x00\x00\x00\x00\x00" + text
    return struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body))


def _png_parts(data: bytes) -> Iterator[Part]:
    at = len(PNG_HEAD)
    while at + 12 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, at)
        end = at + 12 + length
        yield Part(kind, at, end, data[at + 8 : end - 4] if kind in (b"iTXt", b"IHDR") else b"")
        if kind == b"IEND":
            return  # what follows is not part of the image
        at = end


def _jpeg_parts(data: bytes) -> Iterator[Part]:
    at = 2
    while at + 4 <= len(data) and data[at] == 0xFF:
        if data[at + 1] == 0xFF:  # fill
            at += 1
            continue
        if data[at + 1] == 0xDA:
            return
        end = at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")
        yield Part(data[at + 1 : at + 2], at, end, data[at + 4 : end])
        at = end


def _webp_parts(data: bytes) -> Iterator[Part]:
    at, whole = 12, min(len(data), 8 + int.from_bytes(data[4:8], "little"))
    while at + 8 <= whole:
        kind, length = struct.unpack_from("<4sI", data, at)
        yield Part(kind, at, at + 8 + length + length % 2, data[at + 8 : at + 8 + length])
        at += 8 + length + length % 2


def _itxt_text(body: bytes) -> bytes | None:
    """keyword NUL compressed method language NUL translated NUL text."""
    _, _, rest = body.partition(b"\x00")
    packed, rest = rest[:1] == b"\x01", rest[2:]
    text = rest.partition(b"\x00")[2].partition(b"\x00")[2]
    if not packed:
        return text
    try:
        return zlib.decompressobj().decompress(text, TEXT_MAX_BYTES)
    except zlib.error:
        return None


def _png_with(data: bytes, xmp: bytes, texts: Mapping[str, str]) -> bytes:
    ours = {PNG_XMP: xmp, **{key.encode("latin-1"): text.encode() for key, text in texts.items()}}
    found = parts(data, "png")
    kept = [part for part in found if not (part.kind == b"iTXt" and part.body.partition(b"\x00")[0] in ours)]
    new = b"".join(text_chunk(keyword, text) for keyword, text in ours.items())
    head, rest = kept[0], kept[1:]  # IHDR is first
    return (
        PNG_HEAD
        + data[head.start : head.end]
        + new
        + b"".join(data[part.start : part.end] for part in rest)
        + data[rest[-1].end :]
    )


def _jpeg_with(data: bytes, xmp: bytes) -> bytes:
    segment = b"\xff\xe1" + struct.pack(">H", 2 + len(JPEG_XMP) + len(xmp)) + JPEG_XMP + xmp
    found = parts(data, "jpeg")
    first = 2  # after SOI, JFIF and Exif, which readers expect first
    for part in found:
        if part.start != first or not (part.kind == b"\xe0" or part.body.startswith(b"Exif\x00")):
            break
        first = part.end
    out, at = data[:first] + segment, first
    for part in found:
        if part.kind == b"\xe1" and part.body.startswith(JPEG_XMP):
            out, at = out + data[at : part.start], part.end
    return out + data[at:]


def _webp_with(data: bytes, xmp: bytes) -> bytes | None:
    every = parts(data, "webp")
    found = [part for part in every if part.kind != b"XMP "]
    head = found[0]
    if head.kind == b"VP8X":
        extended = bytes([head.body[0] | XMP_FLAG]) + head.body[1:]
        found = found[1:]
    elif (size := _webp_size(head)) is not None:
        width, height, alpha = size
        flags = XMP_FLAG | (ALPHA_FLAG if alpha else 0)
        extended = struct.pack("<I", flags) + (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    else:
        return None
    body = b"WEBP" + _webp_chunk(b"VP8X", extended)
    body += b"".join(data[part.start : part.end] for part in found) + _webp_chunk(b"XMP ", xmp)
    return b"RIFF" + struct.pack("<I", len(body)) + body + data[every[-1].end :]


def _webp_chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack("<4sI", kind, len(body)) + body + b"\x00" * (len(body) % 2)


def _webp_size(head: Part) -> tuple[int, int, bool] | None:
    """(width, height, whether it has alpha) of the simple formats. Source: RFC 9649 sections 2.5 and 2.6, RFC 6386
    9.1."""
    if head.kind == b"VP8L" and head.body[:1] == b"\x2f":
        bits = int.from_bytes(head.body[1:5], "little")
        return (bits & 0x3FFF) + 1, ((bits >> 14) & 0x3FFF) + 1, bool(bits >> 28 & 1)
    if head.kind == b"VP8 " and head.body[3:6] == b"\x9d\x01\x2a":
        width, height = struct.unpack_from("<HH", head.body, 6)
        return width & 0x3FFF, height & 0x3FFF, False
    return None
