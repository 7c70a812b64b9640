"""Addresses of object storage as `output:`, `--output` and references name them: s3://bucket/prefix, gs://bucket/prefix, az://container/prefix."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from fnmatch import fnmatchcase

SCHEMES = ("s3", "gs", "az")
KEY_MAX_BYTES = 1024  # of S3, Google Cloud Storage and Azure alike
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,62}")


def has_url_scheme(text: str) -> bool:
    """Whether this is an address at all, of whatever scheme, and no folder."""
    return _SCHEME.match(text) is not None


def normalize_bucket_url(text: str) -> str:
    """The address as the ledger keeps it: scheme in small letters, no `/` at its end. Raises ValueError in words.

    The address is never part of the message: what is wrong with it may be that it holds a password.
    """
    match = _SCHEME.match(text)
    scheme = match[1].lower() if match else ""
    if match is None or scheme not in SCHEMES:
        raise ValueError(f"{scheme}:// is no storage batchgen knows: name a folder, s3://, gs:// or az://")
    bucket, _, prefix = text[match.end() :].partition("/")
    if "@" in bucket:
        raise ValueError("holds a user or password: credentials come from the environment")
    if not _BUCKET.fullmatch(bucket):
        raise ValueError(f"names no bucket: write {scheme}://bucket/prefix")
    parts = prefix.rstrip("/").split("/") if prefix.rstrip("/") else []
    if not prefix.isprintable() or re.search(r"[?#%\\*]", prefix) or any(part in ("", ".", "..") for part in parts):
        raise ValueError("the prefix is made of names with one '/' between them, without any of ? # % \\ * or '..'")
    return "/".join([f"{scheme}://{bucket}", *parts])


def is_object_url(name: str) -> bool:
    """Whether a reference names an object, or objects, of object storage."""
    return name[:5].lower().startswith(("s3://", "gs://", "az://"))


def split_object_url(name: str) -> tuple[str, str]:
    """Address of the bucket, and the key of an object in it or a glob of keys. Raises ValueError as `normalize_bucket_url` does."""
    scheme, _, rest = name.partition("://")
    bucket, _, key = rest.partition("/")
    if ":" in bucket:  # a password may hold the '/' that the '@' stands behind
        raise ValueError("holds a user or password: credentials come from the environment")
    url = normalize_bucket_url(f"{scheme}://{bucket}")
    if not key or not key.isprintable() or len(key.encode()) > KEY_MAX_BYTES:
        raise ValueError(f"names no object: write {url}/folder/name.png")
    if any(part in ("", ".", "..") for part in key.split("/")):
        raise ValueError("the object's name is made of names with one '/' between them, without '.' and '..'")
    return url, key


def glob_prefix(pattern: str) -> str:
    """What all names begin with that a glob may match."""
    magic = re.search(r"[*?[]", pattern)
    return pattern[: magic.start()] if magic else pattern


def match_keys(pattern: str, keys: Iterable[str]) -> Iterator[str]:
    """The keys that a glob matches, by the rules of files: `*` ends at a `/`, `**` does not, and neither begins with a dot."""
    parts = pattern.split("/")
    if parts[-1] == "**":
        parts.append("*")
    return (key for key in keys if _matches(parts, key.split("/")))


def _matches(parts: list[str], names: list[str]) -> bool:
    """Walks the names once, keeping all the places of the pattern where one may be by then."""
    positions = _skip_globstars({0}, parts)
    for name in names:
        reached = {
            position for position in positions if position < len(parts) and parts[position] == "**" and name[0] != "."
        }
        reached |= {
            position + 1 for position in positions if position < len(parts) and _segment_matches(name, parts[position])
        }
        positions = _skip_globstars(reached, parts)
    return len(parts) in positions


def _skip_globstars(positions: set[int], parts: list[str]) -> set[int]:
    """And the places behind a `**` that matches nothing."""
    reached = set(positions)
    for position in sorted(positions):
        while position < len(parts) and parts[position] == "**":
            position += 1
            reached.add(position)
    return reached


def _segment_matches(name: str, part: str) -> bool:
    if part == "**" or (name[0] == "." and part[0] != "."):
        return False
    return fnmatchcase(name, part)
