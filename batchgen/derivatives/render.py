"""Makes the derivatives of one image: it is decoded once, and each file is whole and durable in the spool."""

from __future__ import annotations

import hashlib
import io
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from PIL import Image, PngImagePlugin

from batchgen.derivatives import containers, cutout, provenance, signing
from batchgen.derivatives.decode import FORMATS, UprightImage, decode
from batchgen.derivatives.specification import (
    UNFINISHED_PREFIX,
    WHITE_SUFFIX,
    OutputSpec,
    RenderedFile,
    RenderRequest,
    crop_and_size,
)
from batchgen.store.sniff import sniff
from batchgen.store.spool import FILE_MODE, SpoolFile, disk_error

LISTED = ("path", "format", "width", "height", "bytes", "sha256")  # for each derivative, in the sidecar


class Source:
    """The original: its bytes, its metadata, and its pixels on demand."""

    def __init__(self, path: str, sha256: str) -> None:
        """Raises OSError, and ValueError if these are not the bytes that the ledger knows."""
        self.data = Path(path).read_bytes()
        if hashlib.sha256(self.data).hexdigest() != sha256:
            raise ValueError("the original is not as the ledger has it: batchgen verify")
        self.kind = sniff(self.data) or "gif"
        self.xmp = containers.read_xmp(self.data, self.kind)
        self.c2pa = containers.has_c2pa(self.data, self.kind)
        self._cut: dict[tuple[str, str], Image.Image] = {}

    @cached_property
    def upright_image(self) -> UprightImage:
        return decode(self.data)

    def cut_out(self, spec: OutputSpec, request: RenderRequest) -> UprightImage:
        """The image with real transparency. Raises ValueError, and what Pillow raises."""
        key, (image, icc, exif) = (spec.cutout or "", spec.background), self.upright_image
        if key not in self._cut:
            if spec.cutout == "key":
                self._cut[key] = cutout.cut_by_key(_to_rgb(image), spec.background)
            elif not request.on_white:
                raise ValueError(
                    f"there is no image {request.provenance.id}{WHITE_SUFFIX}, which shows the same on white"
                )
            else:
                try:
                    white = Source(request.on_white, request.white_sha256)
                except OSError as error:
                    raise ValueError(f"the image on white cannot be read: {error.strerror}") from None
                self._cut[key] = cutout.cut_by_difference(_to_rgb(white.upright_image.image), _to_rgb(image))
        return UprightImage(self._cut[key], icc, exif)


def answer(request: Mapping[str, Any], is_wanted: Callable[[], bool]) -> list[RenderedFile]:
    """Answer a worker process's request, a `RenderRequest`."""
    return render(RenderRequest.from_json(request), is_wanted)


def render(request: RenderRequest, is_wanted: Callable[[], bool] = lambda: True) -> list[RenderedFile]:
    """Make the files, for as long as somebody wants them. Never raises for what an image or a disk may do."""
    try:
        source = Source(request.source, request.sha256)
    except (OSError, ValueError) as error:
        why = f"the original cannot be read: {error.strerror}" if isinstance(error, OSError) else str(error)
        return [_not_made(spec, "failed", why) for spec in request.outputs]
    request = replace(request, provenance=replace(request.provenance, c2pa=source.c2pa))
    files: list[RenderedFile] = []
    for spec in sorted(request.outputs, key=lambda spec: spec.format == "json"):
        if not is_wanted():
            break
        try:
            files += _render_one(source, request, spec, files)
        except Exception as error:  # Pillow raises all sorts of errors on hostile bytes
            why = str(disk_error(error, spec.path) if isinstance(error, OSError) and error.errno else error)
            files.append(_not_made(spec, "failed", why or type(error).__name__))
    return files


def _render_one(
    source: Source, request: RenderRequest, spec: OutputSpec, files: Sequence[RenderedFile]
) -> list[RenderedFile]:
    """Make one file. files: those made of the same image before."""
    if spec.format == "json":
        return [_write_output(request, spec.path, _sidecar(request, files), (0, 0), "json")]
    if spec.format == "original":
        return _copy(source, request, spec)
    image, icc, exif = source.cut_out(spec, request) if spec.cutout else source.upright_image
    framed = crop_and_size(image.size, spec)
    if framed is None:
        return [_not_made(spec, "skipped", f"the image is {image.width} pixels wide")]
    box, size = framed
    if size != image.size or box != (0, 0, *image.size):
        image = image.resize(size, Image.Resampling.LANCZOS, box=box, reducing_gap=3.0)
    xmp = provenance.packet(request.provenance, request.embed, request.source_type, source.xmp, keeps_c2pa=request.sign)
    texts = provenance.png_texts(request.provenance, request.embed)
    data = encode(image, spec, icc, _resize_exif(exif, size), xmp, texts)
    if request.sign:
        definition = signing.manifest_definition(request, spec, size != source.upright_image.image.size)
        data = signing.sign(data, spec.format, source.data, source.kind, definition)
    return [_write_output(request, spec.path, data, size, spec.format)]


def _sidecar(request: RenderRequest, files: Sequence[RenderedFile]) -> bytes:
    made = sorted([*request.present, *(file for file in files if file.state == "made")])  # by path
    listed = [{name: getattr(file, name) for name in LISTED} for file in made]
    text = json.dumps({**asdict(request.provenance), "derivatives": listed}, ensure_ascii=False, indent=1)
    return text.encode("utf-8", "replace") + b"\n"


def _copy(source: Source, request: RenderRequest, spec: OutputSpec) -> list[RenderedFile]:
    """Copy the original's bytes, with its provenance if that does no harm. A C2PA manifest is signed over the file's
    bytes, so a file with one stays as it is and the packet goes beside it, as it does if the format has no place for
    one. A signed copy has a manifest of its own, which contains the original's."""
    with Image.open(io.BytesIO(source.data), formats=FORMATS) as image:
        size = image.size
    facts, embed, source_type = request.provenance, request.embed, request.source_type
    data: bytes | None = None
    if not request.sign and not source.c2pa and embed == "none" and provenance.has_source_type(source.xmp):
        data = source.data
    elif request.sign or not source.c2pa:
        xmp = provenance.packet(facts, embed, source_type, source.xmp, keeps_c2pa=True)
        data = containers.with_metadata(source.data, source.kind, xmp, provenance.png_texts(facts, embed))
    if request.sign:
        definition = signing.manifest_definition(request, spec, size_changed=False)
        data = signing.sign(data or source.data, source.kind, source.data, source.kind, definition)
    if data is not None:
        return [_write_output(request, spec.path, data, size, source.kind)]
    packet = provenance.packet(facts, embed, source_type, keeps_c2pa=True)
    beside = _write_output(request, os.path.splitext(spec.path)[0] + ".xmp", packet, (0, 0), "xmp")
    return [_write_output(request, spec.path, source.data, size, source.kind), beside._replace(message=spec.path)]


def encode(
    image: Image.Image, spec: OutputSpec, icc: bytes | None, exif: bytes, xmp: bytes, texts: Mapping[str, str]
) -> bytes:
    """The bytes of the file. A colour profile that no longer fits the pixels is left out."""
    out, kind = io.BytesIO(), spec.format
    if kind == "jpeg" and image.mode == "RGBA":
        image = _flatten(image, spec.background)
    elif kind in ("webp", "avif") and image.mode == "L":
        image = image.convert("RGB")
    space = None if icc is None else icc[16:20].strip()
    about: dict[str, Any] = {"icc_profile": icc if space == (b"GRAY" if image.mode == "L" else b"RGB") else None}
    if exif:
        about["exif"] = exif
    if kind == "png":
        info = PngImagePlugin.PngInfo()
        info.add_itxt("XML:com.adobe.xmp", xmp.decode())
        for name, text in texts.items():
            info.add_itxt(name, text)
        image.save(out, "PNG", pnginfo=info, **about)
    elif kind == "jpeg":
        image.save(out, "JPEG", quality=spec.quality, progressive=True, optimize=True, xmp=xmp, **about)
    elif kind == "webp":
        image.save(out, "WEBP", quality=spec.quality, method=4, xmp=xmp, **about)
    else:
        image.save(out, "AVIF", quality=spec.quality, speed=6, max_threads=1, xmp=xmp, **about)
    return out.getvalue()


def _to_rgb(image: Image.Image) -> Image.Image:
    return _flatten(image, "#ffffff") if image.mode == "RGBA" else image.convert("RGB")


def _flatten(image: Image.Image, background: str) -> Image.Image:
    under = Image.new("RGB", image.size, background)
    under.paste(image, mask=image.getchannel("A"))
    return under


def _resize_exif(exif: bytes, size: tuple[int, int]) -> bytes:
    """The Exif with the pixel dimensions of the file, if it has any. Source: Exif 2.32, tags A002 and A003."""
    if not exif:
        return b""
    found = Image.Exif()
    found.load(exif)
    inner = found.get_ifd(0x8769)
    for tag, value in zip((0xA002, 0xA003), size, strict=True):
        if tag in inner:
            inner[tag] = value
    return found.tobytes()


def _write_output(request: RenderRequest, path: str, data: bytes, size: tuple[int, int], kind: str) -> RenderedFile:
    """Write a file to the spool, whole and synced. The run gives it its name."""
    name = f"{UNFINISHED_PREFIX}{os.getpid()}-{hashlib.sha256(path.encode()).hexdigest()[:16]}"
    file = SpoolFile(request.spool, name, mode=FILE_MODE)
    file.write(data)
    file.sync()
    return RenderedFile(path, "made", kind, file.sha256, file.bytes, *size, file=file.path)


def _not_made(spec: OutputSpec, state: str, message: str) -> RenderedFile:
    return RenderedFile(spec.path, state, spec.format, message=message[:500])
