"""Opens files with care: regular ones below one folder and nothing else, and new ones that only their owner may read."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import IO

PRIVATE_MODE = 0o600  # of what lies in `.batchgen`: it holds prompts and what vendors said


class UnsafePathError(ValueError):
    """Why a path is not read."""


class MissingFileError(UnsafePathError):
    """Nothing is there."""


def resolve_inside(folder: str, path: str, named: str = "the manifest's folder") -> str:
    """The real path of an existing regular file inside `folder`. Raises UnsafePathError, MissingFileError.

    folder: a real path; named: what a message calls it. `~` and `$NAME` mean nothing here: they are characters.
    """
    if "\x00" in path:
        raise UnsafePathError("holds a NUL character")
    if os.path.isabs(path) or os.path.splitdrive(path)[0] or path.startswith(("/", "\\")):
        raise UnsafePathError(f"must be relative to {named}")
    if ".." in path.replace("\\", "/").split("/"):
        raise UnsafePathError(f"must stay inside {named}")
    try:
        real = os.path.realpath(os.path.join(folder, path), strict=True)
        mode = os.stat(real).st_mode
    except FileNotFoundError:
        raise MissingFileError("there is no such file") from None
    except (OSError, ValueError) as error:
        raise UnsafePathError(f"cannot be read: {getattr(error, 'strerror', None) or error}") from None
    if not real.startswith(folder.rstrip(os.sep) + os.sep):
        raise UnsafePathError(f"is a link out of {named}")
    if not stat.S_ISREG(mode):
        raise UnsafePathError("is a folder" if stat.S_ISDIR(mode) else "is not a regular file")
    return real


def open_regular(real: str) -> IO[bytes]:
    """Open for reading without following a link and without waiting on a pipe. Raises UnsafePathError."""
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
    try:
        descriptor = os.open(real, flags | getattr(os, "O_CLOEXEC", 0))
    except (OSError, ValueError) as error:
        raise UnsafePathError(f"cannot be read: {getattr(error, 'strerror', None) or error}") from None
    # Asked again of what was opened: the name may have been given to something else meanwhile.
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise UnsafePathError("is not a regular file")
    return os.fdopen(descriptor, "rb")


def private_opener(path: str, flags: int) -> int:
    """For `open(…, opener=private)`: what is made is its owner's alone, whatever the umask; no link is followed."""
    return os.open(path, flags | getattr(os, "O_NOFOLLOW", 0), PRIVATE_MODE)


def make_private_folder(path: Path) -> None:
    """The same for a folder, and for each above it that is missing: `mkdir` gives its mode to the last alone."""
    for folder in (*reversed(path.parents), path):
        if not folder.exists():
            folder.mkdir(mode=0o700, exist_ok=True)


def create_private_file(path: Path) -> None:
    """An empty one, unless it is there, in such a folder. What SQLite puts beside it has the same mode."""
    make_private_folder(path.parent)
    os.close(os.open(path, os.O_CREAT | os.O_RDWR, PRIVATE_MODE))
