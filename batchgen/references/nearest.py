"""Finds out which file was meant if there is none with a name: another case, form of Unicode, separator or ending."""

from __future__ import annotations

import os
import re
import unicodedata
from difflib import get_close_matches
from itertools import islice

ENTRIES_MAX = 20_000  # in one folder that are considered
FOLDERS_SHOWN = 5  # of those that exist
_ALIKE = {"jpeg": "jpg", "jpe": "jpg", "tiff": "tif", "heif": "heic"}


def as_spelled(folder: str, name: str) -> str:
    """The name in the form of Unicode that the folder has: a Mac writes é as two characters, a spreadsheet as one."""
    if name.isascii() or "\x00" in name:
        return name
    spelled = ""
    for part in name.split("/"):
        forms = (part, unicodedata.normalize("NFC", part), unicodedata.normalize("NFD", part))
        there = (form for form in forms if os.path.lexists(os.path.join(folder, spelled, form)))
        spelled = os.path.join(spelled, next(there, part))
    return spelled


def nearest_name(folder: str, name: str, endings: tuple[str, ...] = ("",)) -> str:
    """A trailing ` (did you mean 'x'?)`, or nothing. folder: where the name is looked for, and nowhere else."""
    meant = _nearest(folder, name, endings)
    return f" (did you mean {meant!r}?)" if meant else ""


def missing_folder(folder: str, name: str) -> str:
    """The folder of a name if it is the folder that does not exist, with those that do; else nothing."""
    parent = os.path.dirname(name)
    if os.path.isabs(name) or not parent or os.path.isdir(os.path.join(folder, parent)):
        return ""
    if meant := _nearest(folder, parent, None):
        return f"there is no folder {parent!r} (did you mean {meant!r}?)"
    with os.scandir(folder) as entries:
        there = sorted(
            e.name for e in islice(entries, ENTRIES_MAX) if os.path.isdir(e.path) and not e.name.startswith(".")
        )
    here = f"; the folders there are {', '.join(map(repr, there[:FOLDERS_SHOWN]))}" if there else ""
    return f"there is no folder {parent!r} beside the manifest{here}"


def _nearest(folder: str, name: str, endings: tuple[str, ...] | None) -> str:
    """The nearest name. endings: of the files that can be meant; None for a folder."""
    parts = [part for part in name.replace("\\", "/").split("/") if part not in ("", ".")]
    found: list[str] = []
    for n, part in enumerate(parts, 1):
        entry = _nearest_entry(os.path.join(folder, *found), part, endings if n == len(parts) else None)
        if entry is None:
            return ""
        found.append(entry)
    return "" if ".." in found else "/".join(found)


def _nearest_entry(folder: str, name: str, endings: tuple[str, ...] | None) -> str | None:
    try:
        with os.scandir(folder) as entries:
            names = [
                entry.name
                for entry in islice(entries, ENTRIES_MAX)
                if (os.path.isdir(entry.path) if endings is None else entry.name.lower().endswith(endings))
            ]
    except OSError:
        return None
    if name in names:
        return name if os.path.exists(os.path.join(folder, name)) else None  # a link to nothing
    alike = {_key(each): each for each in sorted(names, reverse=True)}
    if (same := alike.get(_key(name))) is not None or len(name) > 200:
        return same
    stems = {os.path.splitext(key)[0]: each for key, each in alike.items()} if endings else {}
    if (same := stems.get(os.path.splitext(_key(name))[0])) is not None:
        return same
    # Another number means another image: 0046.jpg was not a typo of 0045.jpg.
    candidates = [key for key in alike if _numbers(key) == _numbers(name)]
    close = get_close_matches(_key(name), candidates, n=1, cutoff=0.75)
    return alike[close[0]] if close else None


def _key(name: str) -> str:
    """A key that is the same for names that differ only in case, form of Unicode, or in how an ending is written."""
    stem, dot, ending = unicodedata.normalize("NFC", name).casefold().rpartition(".")
    return unicodedata.normalize("NFC", stem + dot + _ALIKE.get(ending, ending))


def _numbers(name: str) -> list[str]:
    return [digits.lstrip("0") for digits in re.findall("[0-9]+", name)]
