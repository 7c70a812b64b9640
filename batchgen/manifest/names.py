"""Ids and file names: their valid forms, those made from a prompt, and which occurred before among millions. Pure
except for the encoding of file names.

Reserved names and characters: learn.microsoft.com/windows/win32/fileio/naming-a-file.
"""

from __future__ import annotations

import hashlib
import os
import re
import unicodedata
from array import array
from bisect import bisect_left, insort
from collections import defaultdict

MANIFEST_SUFFIXES = (".yaml", ".yml", ".jsonl")

STEM_MAX_BYTES = 200
SLUG_MAX_CHARS = 48
DIGEST_MIN_CHARS = 8
_RESERVED = r"(?!(?:con|prn|aux|nul|conin\$|conout\$|com[0-9¹²³]|lpt[0-9¹²³])(?:\.|\s*$))"
_ID = re.compile(_RESERVED + r"\w[\w.-]{0,99}", re.IGNORECASE)
PLAIN_ID = re.compile(
    _RESERVED + r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,98}[A-Za-z0-9_-]|[A-Za-z0-9_]", re.IGNORECASE | re.ASCII
)
_RESERVED_STEM = re.compile(_RESERVED, re.IGNORECASE)
_NOT_IN_NAMES = re.compile(r'[<>:"/\\|?*]')
_NOT_SLUG = re.compile(r"[^a-z0-9]+")
_BUCKET_MASK = 0xFF


def id_problem(text: str) -> str | None:
    """Why this is not a valid id, or None. An id names files, ledger rows and log lines."""
    if not text:
        return "is empty"
    if len(text) > 100:
        return f"has {len(text)} characters, at most 100"
    if text[0] in ".-":
        return "must not start with a dot or a dash"
    if not re.fullmatch(r"[\w.-]+", text):
        wrong = re.sub(r"[\w.-]", "", text)[0]
        return f"may hold letters, digits, '_', '.' and '-', not {wrong!r}"
    return None if _ID.fullmatch(text) else "is a name that Windows reserves"


def stem_problem(text: str) -> str | None:
    """Why this cannot name a file on every system, or None. text: in NFC, without an extension."""
    size_bytes = len(text.encode(errors="replace"))
    if not text:
        return "is empty"
    if size_bytes > STEM_MAX_BYTES:
        return f"has {size_bytes} bytes, at most {STEM_MAX_BYTES}"
    if "/" in text or "\\" in text:
        return "names a folder; files go straight into the output folder"
    if found := _NOT_IN_NAMES.search(text):
        return f"holds {found[0]!r}, which not every system allows in a file name"
    if not text.isprintable():
        return "holds a character that cannot be seen"
    if text[0] in ".- " or text[-1] in ". ":
        return "must not start with a dot, a dash or a space, nor end with a dot or a space"
    if not text.isascii() and (problem := _locale_problem(text)):
        return problem
    return None if _RESERVED_STEM.match(text) else "is a name that Windows reserves"


def _locale_problem(text: str) -> str | None:
    try:
        os.fsencode(text)
    except UnicodeEncodeError as error:
        return f"holds {text[error.start]!r}, which a file name cannot hold in this locale: set LC_ALL=C.UTF-8"
    return None


def to_nfc(text: str) -> str:
    """A text in NFC: the same name on macOS and Linux."""
    return text if text.isascii() else unicodedata.normalize("NFC", text)


def fold_case(stem: str) -> str:
    """A stem with its case folded: two stems with the same result are one file on Windows and macOS."""
    return stem.lower() if stem.isascii() else unicodedata.normalize("NFC", stem.casefold())


class DuplicateFinder:
    """Finds out at the end which of millions of texts occurred twice, in eight bytes each: by hash, so that different
    texts are hardly ever confused."""

    def __init__(self) -> None:
        self._buckets: defaultdict[int, array[int]] = defaultdict(lambda: array("q"))  # few, for a small manifest

    def add(self, text: str) -> None:
        value = hash(text)
        self._buckets[value & _BUCKET_MASK].append(value)

    def repeated_hashes(self) -> frozenset[int]:
        """Hashes that occurred more than once: of the same string, or (hardly ever) of two."""
        twice: set[int] = set()
        for bucket in self._buckets.values():
            once: set[int] = set()
            if len(set(bucket)) != len(bucket):
                twice.update(value for value in bucket if value in once or once.add(value))  # type: ignore[func-returns-value]
        return frozenset(twice)


class SeenTexts:
    """Knows at once whether a text occurred before, in as many bytes."""

    def __init__(self) -> None:
        self._buckets: defaultdict[int, array[int]] = defaultdict(lambda: array("q"))  # each sorted, and short

    def __contains__(self, text: str) -> bool:
        value = hash(text)
        bucket = self._buckets.get(value & _BUCKET_MASK, ())
        at = bisect_left(bucket, value)
        return at < len(bucket) and bucket[at] == value

    def add(self, text: str) -> None:
        value = hash(text)
        insort(self._buckets[value & _BUCKET_MASK], value)


class DefaultIds:
    """Ids of items that have none, in the order of one reading.

    If two prompts have the same slug and hash, the later one's hash is lengthened, so that what comes later renames
    nothing that was there before.
    """

    def __init__(self) -> None:
        self._ids = SeenTexts()
        self._prompts = SeenTexts()  # with their ids

    def of(self, prompt: str) -> str:
        """The id for a prompt, the same however often it occurs."""
        for digits in range(DIGEST_MIN_CHARS, 65, 4):
            made = default_id(prompt, digits)
            own = f"{made} {prompt}"
            if made not in self._ids:
                self._ids.add(made)
                self._prompts.add(own)
                break
            if own in self._prompts:
                break
        return made


def default_id(prompt: str, digits: int = DIGEST_MIN_CHARS) -> str:
    """A slug of the prompt and some digits of its hash: readable, and the same on every run."""
    plain = unicodedata.normalize("NFKD", prompt[:200]).encode("ascii", "ignore").decode().lower()
    slug = _NOT_SLUG.sub("-", plain).strip("-")
    if len(slug) > SLUG_MAX_CHARS:
        slug = slug[: SLUG_MAX_CHARS + 1].rpartition("-")[0] or slug[:SLUG_MAX_CHARS]
    digest = hashlib.sha256(prompt.encode(errors="replace")).hexdigest()[:digits]
    return f"{slug or 'prompt'}-{digest}"


def sample_stem(filename: str, n: int) -> str:
    """The stem of the n-th sample's file: `mug`, then `mug-2`, `mug-3`."""
    return filename if n == 1 else f"{filename}-{n}"
