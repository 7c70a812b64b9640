"""One picture to its derivatives: decoded once, each file whole and durable in the spool. For worker processes."""

from __future__ import annotations

import hashlib
import io
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image, ImageCms, ImageOps, PngImagePlugin

from batchgen.derivatives import containers, provenance
from batchgen.derivatives.specification import UNFINISHED_PREFIX, crop_and_size
from batchgen.store.check import MAX_PIXELS  # noqa: F401 - importing it sets the bound that Pillow keeps
from batchgen.store.sniff import sniff
from batchgen.store.spool import FILE_MODE, SpoolFile, disk_error

FORMATS = ("PNG", "JPEG", "WEBP", "GIF")
Row = dict[str, Any]


class UprightImage(NamedTuple):
    """Pixels of eight bits in RGB, RGBA or L, as they are to be looked at; the profile of their colours; Exif that says so."""

    image: Image.Image
    icc: bytes | None
    exif: bytes


class Source:
    """The original: its bytes, its metadata, and its pixels once somebody wants them."""

    def __init__(self, path: str, sha256: str) -> None:
        """Raises OSError, and ValueError when these are not the bytes that the ledger knows."""
        self.data = Path(path).read_bytes()
        if hashlib.sha256(self.data).hexdigest() != sha256:
            raise ValueError("the original is not as the ledger has it: batchgen verify")
        self.kind = sniff(self.data) or "gif"
        self.xmp = containers.read_xmp(self.data, self.kind)
        self.c2pa = containers.has_c2pa(self.data, self.kind)
        self._upright: UprightImage | None = None

    def upright_image(self) -> UprightImage:
        if self._upright is None:
            self._upright = _decode(self.data)
        return self._upright


def render(task: Mapping[str, Any], is_wanted: Callable[[], bool] = lambda: True) -> list[Row]:
    """Make the files of one task, as long as somebody waits for them. Answers a row for each: `made`, with the file that has
    it, `skipped`, or `failed` with the reason; never raises for what a picture or a disk may do.

    task: spool (folder), source (path), sha256, facts, embed, source_type, outputs (specs), present (files of the same
    picture that are there already, for the sidecar).
    """
    try:
        source = Source(task["source"], task["sha256"])
    except (OSError, ValueError) as error:
        why = f"the original cannot be read: {error.strerror}" if isinstance(error, OSError) else str(error)
        return [_row(spec, "failed", message=why) for spec in task["outputs"]]
    rows: list[Row] = []
    facts = {**task["facts"], "c2pa": source.c2pa}
    for spec in sorted(task["outputs"], key=lambda spec: spec["format"] == "json"):
        if not is_wanted():
            break
        try:
            rows += _render_one(source, task, facts, spec, rows)
        except Exception as error:  # Pillow raises all sorts of them on hostile bytes
            told = disk_error(error, spec["path"]) if isinstance(error, OSError) and error.errno else error
            rows.append(_row(spec, "failed", message=str(told) or type(error).__name__))
    return rows


def _render_one(
    source: Source, task: Mapping[str, Any], facts: Mapping[str, Any], spec: Row, rows: list[Row]
) -> list[Row]:
    match spec["format"]:
        case "json":
            made = [*task["present"], *(_sidecar_entry(row) for row in rows if row["state"] == "made")]
            text = json.dumps(
                {**facts, "derivatives": sorted(made, key=lambda row: str(row["path"]))}, ensure_ascii=False, indent=1
            )
            return [_write_output(task, spec["path"], text.encode("utf-8", "replace") + b"\n", (0, 0), "json")]
        case "original":
            return _copy(source, task, facts, spec)
    image, icc, exif = source.upright_image()
    framed = crop_and_size(image.size, spec)
    if framed is None:
        return [_row(spec, "skipped", message=f"the picture is {image.width} pixels wide")]
    box, size = framed
    if size != image.size or box != (0, 0, *image.size):
        image = image.resize(size, Image.Resampling.LANCZOS, box=box, reducing_gap=3.0)
    xmp = provenance.packet(facts, task["embed"], task["source_type"], source.xmp, copy=False)
    data = encode(image, spec, icc, _resize_exif(exif, size), xmp, provenance.png_texts(facts, task["embed"]))
    return [_write_output(task, spec["path"], data, size, spec["format"])]


def _copy(source: Source, task: Mapping[str, Any], facts: Mapping[str, Any], spec: Row) -> list[Row]:
    """The original's bytes, with its provenance where that harms nothing: a C2PA manifest is signed over the file's bytes, so
    what carries one stays as it is and the packet goes beside it, as it does where a format has no place for one."""
    with Image.open(io.BytesIO(source.data), formats=FORMATS) as image:
        size = image.size
    data: bytes | None = None
    if not source.c2pa:
        if task["embed"] == "none" and provenance.has_source_type(source.xmp):
            return [_write_output(task, spec["path"], source.data, size, source.kind)]
        xmp = provenance.packet(facts, task["embed"], task["source_type"], source.xmp, copy=True)
        texts = provenance.png_texts(facts, task["embed"])
        data = containers.with_metadata(source.data, source.kind, xmp, texts)
    if data is not None:
        return [_write_output(task, spec["path"], data, size, source.kind)]
    packet = provenance.packet(facts, task["embed"], task["source_type"], copy=True)
    xmp_path = os.path.splitext(spec["path"])[0] + ".xmp"
    return [
        _write_output(task, spec["path"], source.data, size, source.kind),
        {**_write_output(task, xmp_path, packet, (0, 0), "xmp"), "message": spec["path"]},  # whose it is
    ]


def encode(
    image: Image.Image, spec: Mapping[str, Any], icc: bytes | None, exif: bytes, xmp: bytes, texts: Mapping[str, str]
) -> bytes:
    """The file's bytes. A profile that does not belong to the pixels any more is left out."""
    out, kind = io.BytesIO(), spec["format"]
    if kind == "jpeg" and image.mode == "RGBA":
        image = _flatten(image, spec["background"])
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
        image.save(out, "JPEG", quality=spec["quality"], progressive=True, optimize=True, xmp=xmp, **about)
    elif kind == "webp":
        image.save(out, "WEBP", quality=spec["quality"], method=4, xmp=xmp, **about)
    else:
        image.save(out, "AVIF", quality=spec["quality"], speed=6, max_threads=1, xmp=xmp, **about)
    return out.getvalue()


def _decode(data: bytes) -> UprightImage:
    """Raises what Pillow raises."""
    image: Image.Image = Image.open(io.BytesIO(data), formats=FORMATS)
    image.load()
    ImageOps.exif_transpose(image, in_place=True)
    about = dict(image.info)
    if image.mode == "CMYK":
        image, about["icc_profile"] = _cmyk_to_rgb(image, about.get("icc_profile")), None
    elif image.mode.startswith("I"):  # 16 bits of grey
        image = image.convert("I").point(lambda value: value / 257).convert("L")
    elif image.mode not in ("RGB", "RGBA", "L"):
        image = image.convert("RGBA" if "transparency" in about or "A" in image.mode else "RGB")
    elif "transparency" in about:
        image = image.convert("RGBA")
    image.info = {}  # Pillow would write some of it unasked
    return UprightImage(image, about.get("icc_profile"), about.get("exif", b""))


def _cmyk_to_rgb(image: Image.Image, icc: bytes | None) -> Image.Image:
    """To sRGB through its profile, where it has one that can be read."""
    if icc:
        try:
            found = ImageCms.profileToProfile(image, io.BytesIO(icc), ImageCms.createProfile("sRGB"), outputMode="RGB")
            if found is not None:
                return found
        except ImageCms.PyCMSError:
            pass
    return image.convert("RGB")


def _flatten(image: Image.Image, background: str) -> Image.Image:
    under = Image.new("RGB", image.size, background)
    under.paste(image, mask=image.getchannel("A"))
    return under


def _resize_exif(exif: bytes, size: tuple[int, int]) -> bytes:
    """Exif whose pixel dimensions, where it has any, are those of the file. Source: Exif 2.32, tags A002 and A003."""
    if not exif:
        return b""
    found = Image.Exif()
    found.load(exif)
    inner = found.get_ifd(0x8769)
    for tag, value in zip((0xA002, 0xA003), size, strict=True):
        if tag in inner:
            inner[tag] = value
    return found.tobytes()


def _write_output(task: Mapping[str, Any], path: str, data: bytes, size: tuple[int, int], kind: str) -> Row:
    """Whole and synced, in the spool: its name is given to it by the run."""
    name = f"{UNFINISHED_PREFIX}{os.getpid()}-{hashlib.sha256(path.encode()).hexdigest()[:16]}"
    file = SpoolFile(task["spool"], name, mode=FILE_MODE)
    file.write(data)
    file.sync()
    return {"path": path, "state": "made", "format": kind, "sha256": file.sha256, "bytes": file.bytes, "width": size[0],
            "height": size[1], "mtime_ns": 0, "message": "", "file": file.path}  # fmt: skip


def _row(spec: Mapping[str, Any], state: str, message: str) -> Row:
    return {"path": spec["path"], "state": state, "format": spec["format"], "sha256": "", "bytes": 0, "width": 0,
            "height": 0, "mtime_ns": 0, "message": message[:500]}  # fmt: skip


def _sidecar_entry(row: Row) -> Row:
    return {name: row[name] for name in ("path", "format", "width", "height", "bytes", "sha256")}
