"""The folders besides a manifest's own that it may take references from: those allowed by the user's own settings.

A manifest and its `.env` may be a stranger's, so neither can allow one.
"""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from batchgen.errors import SettingsError
from batchgen.settings import Settings, config_home

VARIABLE = "BATCHGEN_REFERENCE_FOLDERS"  # folders, separated by ':' (on Windows ';')
FILE = Path("batchgen", "reference-folders")  # in the user's settings: one folder per line, `#` starts a comment


@dataclass(frozen=True, slots=True)
class AllowedFolders:
    """The folders that are allowed. roots: real paths. file: where another can be allowed, None if the user's settings
    have no place."""

    roots: tuple[str, ...] = ()
    file: Path | None = None

    @classmethod
    def load(cls, settings: Settings) -> AllowedFolders:
        """Load them. Raises SettingsError if the user's file exists and cannot be read."""
        named = (settings.get(VARIABLE) or "").split(os.pathsep)
        file = None
        if settings.from_process:  # a caller who passes an environment has given all settings
            with suppress(SettingsError):  # no home at all
                file = config_home() / FILE
        if file is not None and file.is_file():
            try:
                named += file.read_text(encoding="utf-8").splitlines()
            except (OSError, ValueError) as error:
                raise SettingsError(f"{file}: cannot be read: {error}") from None
        folders = (os.path.expanduser(line.strip()) for line in named if line.strip()[:1] not in ("", "#"))
        return cls(tuple(os.path.realpath(folder) for folder in folders if os.path.isabs(folder)), file)

    def problem(self, folder: str) -> str | None:
        """Why references may not be taken from a folder, and the line that would allow it. folder: a real path."""
        if not os.path.isdir(folder):
            return "there is no such folder"
        if any(is_below(folder, root) for root in self.roots):
            return None
        line = f"add the line {folder} to {self.file}" if self.file else f"set {VARIABLE}={folder} in the environment"
        return f"lies outside of the manifest's folder and your own settings do not allow it; {line}"


def is_below(path: str, folder: str) -> bool:
    """Whether a real path is a folder or inside it."""
    return path == folder or path.startswith(folder.rstrip(os.sep) + os.sep)
