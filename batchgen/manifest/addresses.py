"""Addresses in a manifest: of object storage, in `output:`, `--output` and references (s3://bucket/prefix, gs://,
az://), and of messages, which may be secrets: how these use variables, and when they contain a secret themselves."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from fnmatch import fnmatchcase

from batchgen.endpoint import split_url

SCHEMES = ("s3", "gs", "az")
KEY_MAX_BYTES = 1024  # the same for S3, Google Cloud Storage and Azure
VARIABLE = re.compile(r"\$\{([^}]*)\}")
ALLOWED_VARIABLE = re.compile(r"(?:NOTIFY|HEARTBEAT)(?:_[A-Z0-9_]+)?", re.ASCII)
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{2,62}")


def has_url_scheme(text: str) -> bool:
    """Whether this is an address with any scheme, rather than a folder."""
    return _SCHEME.match(text) is not None


def normalize_bucket_url(text: str) -> str:
    """The address in the form that the ledger stores: scheme in lower case, no `/` at the end. Raises ValueError in
    words.

    The address is never part of the message: what is wrong with it may be that it contains a password.
    """
    match = _SCHEME.match(text)
    scheme = match[1].lower() if match else ""
    if match is None or scheme not in SCHEMES:
        raise ValueError(f"{scheme}:// is not a storage that batchgen knows: name a folder, s3://, gs:// or az://")
    bucket, _, prefix = text[match.end() :].partition("/")
    if "@" in bucket:
        raise ValueError("holds a user or password: credentials come from the environment")
    if not bucket:
        raise ValueError(f"names no bucket: write {scheme}://bucket/prefix")
    if not _BUCKET.fullmatch(bucket):
        raise ValueError("a bucket's name has 3 to 63 letters, digits, dots, hyphens and underscores")
    parts = prefix.rstrip("/").split("/") if prefix.rstrip("/") else []
    if not prefix.isprintable() or re.search(r"[?#%\\*]", prefix) or any(part in ("", ".", "..") for part in parts):
        raise ValueError("the prefix is made of names with one '/' between them, without any of ? # % \\ * or '..'")
    return "/".join([f"{scheme}://{bucket}", *parts])


def is_object_url(name: str) -> bool:
    """Whether a reference names an object, or several, in object storage."""
    return name[:5].lower().startswith(("s3://", "gs://", "az://"))


def split_object_url(name: str) -> tuple[str, str]:
    """The bucket's address, and the key of an object in it or a glob of keys. Raises ValueError like
    `normalize_bucket_url`."""
    scheme, _, rest = name.partition("://")
    bucket, _, key = rest.partition("/")
    if ":" in bucket:  # a password may contain the '/' before the '@'
        raise ValueError("holds a user or password: credentials come from the environment")
    url = normalize_bucket_url(f"{scheme}://{bucket}")
    if not key or not key.isprintable() or len(key.encode()) > KEY_MAX_BYTES:
        raise ValueError(f"names no object: write {url}/folder/name.png")
    if any(part in ("", ".", "..") for part in key.split("/")):
        raise ValueError("the object's name is made of names with one '/' between them, without '.' and '..'")
    return url, key


def glob_prefix(pattern: str) -> str:
    """The common beginning of all names that a glob can match."""
    magic = re.search(r"[*?[]", pattern)
    return pattern[: magic.start()] if magic else pattern


def match_keys(pattern: str, keys: Iterable[str]) -> Iterator[str]:
    """The keys that a glob matches, by the rules for files: `*` stops at a `/`, `**` does not, and neither matches a
    leading dot."""
    parts = pattern.split("/")
    if parts[-1] == "**":
        parts.append("*")
    return (key for key in keys if _matches(parts, key.split("/")))


def _matches(parts: list[str], names: list[str]) -> bool:
    """Whether parts match names. Walks the names once, keeping all possible positions in the pattern."""
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
    """The positions, with those after a `**` that matches nothing."""
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


def variable_problem(address: str) -> str | None:
    """What is wrong with the variables in an address; None if nothing is."""
    for name in VARIABLE.findall(address):
        if not ALLOWED_VARIABLE.fullmatch(name) or name.endswith("_API_KEY"):
            return f"${{{name}}}: only variables that begin with NOTIFY_ or HEARTBEAT_ may be sent to an address"
    return None


def manifest_problem(address: str) -> str | None:
    """What is wrong with the variables of an address in a manifest, which may be a stranger's: it must not send a
    secret of the user's to itself.

    So a variable has to be the whole address, and decides itself where it is sent.
    """
    if VARIABLE.search(address) is None or VARIABLE.fullmatch(address) is not None:
        return variable_problem(address)
    whole = "a variable has to be the whole address: write ${NOTIFY_URL}, and set that to all of it"
    return variable_problem(address) or whole


def parameters_problem(address: str) -> str | None:
    """What is wrong with the parameters of an address from a folder's manifest or `.env`.

    Parameters such as `?template=/home/…` make apprise read any of the user's files and send it.
    """
    if set(address) & set("?&"):
        return "the address may have no parameters (`?`), which can name files to send: set ${NOTIFY_URL} in the environment instead"
    return None


def heartbeat_problem(address: str) -> str | None:
    """Why nothing is sent to an address from a folder; None if it is, or if variables say where.

    Over http it could name any port of this machine.
    """
    if VARIABLE.search(address):
        return None
    try:
        scheme = split_url(address).scheme
    except ValueError as error:
        return f"the address {error}"
    if scheme == "https":
        return None
    return "the address has to begin with https://; for one on this machine set ${HEARTBEAT_URL} in the environment"


def secrets_in(address: str) -> list[str]:
    """The parts that look like tokens or passwords: the password, and anything long with digits. Works for malformed
    addresses too."""
    text = VARIABLE.sub("", address).partition("#")[0]
    rest = text.partition("://")[2] or text
    found = [word for word in re.split(r"[/&=?@:+.,]", rest) if len(word) >= 10 and any(map(str.isdigit, word))]
    _, _, password = re.split(r"[/?]", rest)[0].rpartition("@")[0].partition(":")
    return [password, *found] if password else found
