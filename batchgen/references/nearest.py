"""What a file's name was meant to be when there is none of that name: another case, form of Unicode, separator or ending."""

from __future__ import annotations

import os
import unicodedata
from difflib import get_close_matches
from itertools import islice

ENTRIES_MAX = 20_000  # of one folder that are looked at
_ALIKE = {"jpeg": "jpg", "jpe": "jpg", "tiff": "tif", "heif": "heic"}


def nearest_name(folder: str, name: str) -> str:
    """A trailing ` (did you mean 'x'?)`, or nothing. folder: where the name is looked for, and which is not left."""
    parts = [part for part in name.replace("\\", "/").split("/") if part not in ("", ".")]
    found: list[str] = []
    for n, part in enumerate(parts, 1):
        entry = _nearest_entry(os.path.join(folder, *found), part, is_file=n == len(parts))
        if entry is None:
            return ""
        found.append(entry)
    meant = "/".join(found)
    if not found or ".." in found:
        return ""
    same = unicodedata.normalize("NFC", meant) == unicodedata.normalize("NFC", name) and meant != name
    return f" (did you mean {meant!r}{', whose letters are in another form of Unicode' if same else ''}?)"


def _nearest_entry(folder: str, name: str, *, is_file: bool) -> str | None:
    try:
        with os.scandir(folder) as entries:
            names = [entry.name for entry in islice(entries, ENTRIES_MAX)]
    except OSError:
        return None
    if name in names:
        return name
    alike = {_key(each): each for each in sorted(names, reverse=True)}
    if (same := alike.get(_key(name))) is not None or len(name) > 200:
        return same
    stems = {os.path.splitext(key)[0]: each for key, each in alike.items()} if is_file else {}
    if (same := stems.get(os.path.splitext(_key(name))[0])) is not None:
        return same
    close = get_close_matches(_key(name), list(alike), n=1, cutoff=0.75)
    return alike[close[0]] if close else None


def _key(name: str) -> str:
    """The same for names that differ only in case, form of Unicode, or in how an ending is written."""
    stem, dot, ending = unicodedata.normalize("NFC", name).casefold().rpartition(".")
    return unicodedata.normalize("NFC", stem + dot + _ALIKE.get(ending, ending))
