"""Opens files safely: only regular files inside one folder, and new files that only their owner can read."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import IO

PRIVATE_MODE = 0o600  # for files in `.batchgen`, which contain prompts and vendors' answers


class UnsafePathError(ValueError):
    """The reason for not reading a path."""


class MissingFileError(UnsafePathError):
    """There is no such file."""


def resolve_inside(folder: str, path: str, named: str = "the manifest's folder") -> str:
    """The real path of an existing regular file inside `folder`. Raises UnsafePathError, MissingFileError.

    folder: a real path; named: what messages call it. `~` and `$NAME` are ordinary characters here.
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
    """Open a file for reading without following a link or blocking on a pipe. Raises UnsafePathError."""
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
    try:
        descriptor = os.open(real, flags | getattr(os, "O_CLOEXEC", 0))
    except (OSError, ValueError) as error:
        raise UnsafePathError(f"cannot be read: {getattr(error, 'strerror', None) or error}") from None
    # Checked again on the open file: the name may have come to mean something else in the meantime.
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise UnsafePathError("is not a regular file")
    return os.fdopen(descriptor, "rb")


def private_opener(path: str, flags: int) -> int:
    """An `opener` for `open`: a file it creates is private to its owner, whatever the umask, and no link is followed."""
    return os.open(path, flags | getattr(os, "O_NOFOLLOW", 0), PRIVATE_MODE)


def make_private_folder(path: Path) -> None:
    """Create a private folder and its missing parents, also private: `mkdir(parents=True)` sets the mode of the last alone."""
    for folder in (*reversed(path.parents), path):
        if not folder.exists():
            folder.mkdir(mode=0o700, exist_ok=True)


def create_private_file(path: Path) -> None:
    """Create an empty private file in a private folder, unless it exists. SQLite gives the files beside it the same mode."""
    make_private_folder(path.parent)
    os.close(os.open(path, os.O_CREAT | os.O_RDWR, PRIVATE_MODE))
