"""Addresses of object storage as `output:` and `--output` name them: s3://bucket/prefix, gs://bucket/prefix, az://container/prefix."""

from __future__ import annotations

import re

SCHEMES = ("s3", "gs", "az")
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,62}")


def names_bucket(text: str) -> bool:
    """Whether this is an address at all, of whatever scheme, and no folder."""
    return _SCHEME.match(text) is not None


def bucket_url(text: str) -> str:
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
