"""Contact sheets: all images of a job, small and labelled, on one image or on as many as bounded memory allows."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from itertools import islice
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from batchgen.ledger.reader import HistoryReader, PictureRow
from batchgen.ledger.results import results_order
from batchgen.planning.plan import matches_selection
from batchgen.records import HAS_IMAGE, sample_key
from batchgen.report.gallery import refuse_to_overwrite, replacing
from batchgen.report.thumbnails import THUMBNAIL_SIDE_PX, Thumbnails, shrink_stored
from batchgen.sanitize import sanitize
from batchgen.store.store import Store

FILE_NAME = "contact-sheet.jpg"
FORMATS_BY_SUFFIX = {".jpg": "JPEG", ".jpeg": "JPEG", ".png": "PNG", ".webp": "WEBP"}
MAX_SHEET_PIXELS = 40_000_000  # 120 MB while it is drawn; further images go onto another sheet
MAX_SIDE_PX = 16_000  # WebP ends at 16,383
GAP_PX = 8
FRAME_PX = 4  # around an image that was rejected
EXIF_SOFTWARE_TAG = 0x0131
BACKGROUND, CELL_BACKGROUND = (250, 250, 248), (236, 236, 232)
TEXT_COLOUR, MUTED_COLOUR, EMULATED_COLOUR, RED = (30, 32, 38), (110, 112, 120), (178, 90, 0), (158, 40, 40)
LATIN_FONTS = ("DejaVuSans.ttf", "LiberationSans-Regular.ttf", "arial.ttf", "Arial.ttf")
NOTO_FONTS = ("NotoSansCJK-Regular.ttc", "NotoSansCJKsc-Regular.otf")
OTHER_CJK_FONTS = ("Arial Unicode.ttf", "PingFang.ttc", "msyh.ttc", "wqy-microhei.ttc")
Colour = tuple[int, int, int]
Font = ImageFont.FreeTypeFont | ImageFont.ImageFont
STATE_COLOURS = {"refused": RED, "failed": RED, "rejected": RED, "uncertain": (150, 100, 0)}


@dataclass(frozen=True, slots=True)
class Cell:
    """A cell. path: of the image, empty if there is none; then `state` and `why` are shown instead."""

    label: str
    path: str
    sha256: str
    state: str
    why: str


@dataclass(frozen=True, slots=True)
class Layout:
    """The layout of a sheet. cell: pixels on a side of an image's square; its label is below."""

    columns: int
    cell: int

    @property
    def font_px(self) -> int:
        return max(9, self.cell // 14)

    @property
    def high(self) -> int:
        return self.cell + round(self.font_px * 1.7)

    @property
    def header_height(self) -> int:
        return round(self.font_px * 2.6)

    @property
    def width(self) -> int:
        return GAP_PX + self.columns * (self.cell + GAP_PX)

    def max_rows(self) -> int:
        """The number of rows that fit on one sheet."""
        high = min(MAX_SIDE_PX, MAX_SHEET_PIXELS // self.width)
        return max(1, (high - self.header_height - GAP_PX) // (self.high + GAP_PX))

    def size(self, cells: int) -> tuple[int, int]:
        rows = -(-cells // self.columns)
        return self.width, self.header_height + GAP_PX + rows * (self.high + GAP_PX)


def cells_of(ledger: HistoryReader, folder: Path, wants: Sequence[str]) -> Iterator[Cell]:
    """The cells, in the order of `results_order`. folder: the job's. wants: patterns of `--only`; none select all."""
    pictures: dict[tuple[str, int, str | None], PictureRow] = {}
    for row in ledger.pictures():
        if row.role == "image":
            pictures.setdefault((row.item_id, row.n, row.fingerprint), row)
    place = {item_id: number for number, item_id in enumerate(results_order(folder, ledger.meta)())}
    for sample in sorted(ledger.samples(), key=lambda sample: place.get(sample.item_id, len(place))):
        if sample.state == "superseded" or not matches_selection(sample.item_id, sample.tags.split(","), wants):
            continue
        key = (sample.item_id, sample.n, sample.made_fingerprint)
        found = pictures.get(key) if sample.state in HAS_IMAGE else None
        path, sha256 = (found.path, found.sha256) if found else ("", "")
        yield Cell(sample_key(sample.item_id, sample.n), path, sha256, sample.state, sanitize(sample.reason))


def write_sheets(
    target: Path, store: Store, title: str, cells: Iterable[Cell], layout: Layout, *, emulated: bool
) -> list[Path]:
    """Write one file, or NAME-2, NAME-3 … beside it. Each is whole before it has its name. Raises StoreError, also if
    somebody else's file has one of these names."""
    kind, paths = FORMATS_BY_SUFFIX[target.suffix.lower()], list[Path]()
    most, left = layout.max_rows() * layout.columns, iter(cells)
    while chunk := list(islice(left, most)):
        number = len(paths) + 1
        path = target if number == 1 else target.with_name(f"{target.stem}-{number}{target.suffix}")
        refuse_to_overwrite(path, _is_sheet)
        sheet = _sheet(store, f"{title}{f' · {number}' if number > 1 else ''}", chunk, layout, emulated=emulated)
        with replacing(path) as part, open(part, "xb") as file:
            sheet.save(file, kind, exif=_software_exif(), **({} if kind == "PNG" else {"quality": 85}))
        paths.append(path)
    return paths


def _software_exif() -> Image.Exif:
    """Exif by which a sheet is recognised. Source: Exif 2.32, 4.6.5, tag 0131 (Software)."""
    exif = Image.Exif()
    exif[EXIF_SOFTWARE_TAG] = "batchgen"
    return exif


def _is_sheet(path: Path) -> bool:
    try:
        with Image.open(path, formats=tuple(set(FORMATS_BY_SUFFIX.values()))) as image:
            return str(image.getexif().get(EXIF_SOFTWARE_TAG)) == "batchgen"
    except Exception:  # Pillow raises all sorts of errors on what is not an image
        return False


def _sheet(store: Store, title: str, cells: Sequence[Cell], layout: Layout, *, emulated: bool) -> Image.Image:
    drawing = Drawing(layout, len(cells))
    drawing.head(title, "EMULATED" if emulated else "")
    small = _thumbnails(store, [(cell.path, cell.sha256) for cell in cells], layout.cell)
    for number, (cell, thumbnail) in enumerate(zip(cells, small, strict=True)):
        drawing.cell(number, cell, thumbnail)
    return drawing.image


def _thumbnails(store: Store, pictures: Sequence[tuple[str, str]], side: int) -> Iterator[bytes]:
    """The thumbnails, in order; those of the gallery's size are kept for the next time."""
    if side <= THUMBNAIL_SIDE_PX:
        yield from Thumbnails(store.folder, store).all(pictures)
        return
    with ThreadPoolExecutor(2) as pool:  # only a few images of this size are in memory at once
        yield from pool.map(lambda picture: shrink_stored(store, picture[0], side) if picture[0] else b"", pictures)


class Drawing:
    """One sheet while it is drawn: its title, texts and cells."""

    def __init__(self, layout: Layout, cells: int) -> None:
        self.image = Image.new("RGB", layout.size(cells), BACKGROUND)
        self._draw = ImageDraw.Draw(self.image)
        self._layout = layout

    def head(self, title: str, mark: str) -> None:
        """Draw the title. mark: to its right."""
        layout = self._layout
        large, middle = round(layout.font_px * 1.3), GAP_PX + layout.header_height / 2
        max_width_px = layout.width - 2 * GAP_PX - self._draw.textlength(f"  {mark}", font_for(mark, large))
        self._text((GAP_PX, middle), title, max_width_px, TEXT_COLOUR, "lm", large)
        self._text((layout.width - GAP_PX, middle), mark, layout.width, EMULATED_COLOUR, "rm", large)

    def cell(self, number: int, cell: Cell, thumbnail: bytes) -> None:
        side, (row, column) = self._layout.cell, divmod(number, self._layout.columns)
        x = GAP_PX + column * (side + GAP_PX)
        y = self._layout.header_height + GAP_PX + row * (self._layout.high + GAP_PX)
        self._draw.rectangle((x, y, x + side - 1, y + side - 1), CELL_BACKGROUND)
        if thumbnail:
            with Image.open(io.BytesIO(thumbnail)) as small:
                small.thumbnail((side, side))
                shown = small.convert("RGBA")
            self.image.paste(shown, (x + (side - shown.width) // 2, y + (side - shown.height) // 2), shown)
        else:
            state = "cannot be shown" if cell.path else cell.state
            words = ((-0.5, state, STATE_COLOURS.get(state, MUTED_COLOUR)), (0.5, cell.why, MUTED_COLOUR))
            for line, text, colour in words:
                middle = (x + side / 2, y + side / 2 + line * self._layout.font_px * 1.4)
                self._text(middle, text, side - 8, colour, "mm")
        if cell.state == "rejected":
            self._draw.rectangle((x, y, x + side - 1, y + side - 1), outline=RED, width=FRAME_PX)
        self._text((x, y + side + 3), sanitize(cell.label), side, TEXT_COLOUR, "la")

    def _text(
        self, at: tuple[float, float], text: str, max_width_px: float, colour: Colour, anchor: str, size: int = 0
    ) -> None:
        """Draw a text of at most `max_width_px` pixels. One that is too long loses its middle, as names differ at their
        ends. anchor: the point of the text that `at` means, by Pillow's two letters."""
        font, keep_chars = font_for(text, size or self._layout.font_px), len(text)
        shown = text
        while keep_chars > 1 and self._draw.textlength(shown, font) > max_width_px:
            keep_chars -= 1
            shown = f"{text[: (keep_chars + 1) // 2]}…{text[len(text) - keep_chars // 2 :]}"
        self._draw.text(at, shown, colour, font, anchor=anchor)


def font_for(text: str, size: int) -> Font:
    """Pillow's own font, which has little more than ASCII, or the system's font that has most of the text."""
    if text.isascii():
        return ImageFont.load_default(size=size)
    return min(_fonts(size), key=lambda font: sum(_lacks_glyph(font, sign) for sign in set(text)))


@cache
def _fonts(size: int) -> list[Font]:
    found: list[Font] = []
    for name in (*LATIN_FONTS, *NOTO_FONTS, *OTHER_CJK_FONTS):
        with contextlib.suppress(OSError):
            found.append(ImageFont.truetype(name, size))
    return [*found, ImageFont.load_default(size=size)]


@cache
def _lacks_glyph(font: Font, sign: str) -> bool:
    """Whether the font draws a character as it draws U+FFFF, which is not a character."""
    return bool(bytes(font.getmask(sign)) == bytes(font.getmask("\uffff")))
