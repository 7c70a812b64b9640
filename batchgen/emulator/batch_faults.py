"""What can go wrong with batches and files as a whole, by option or by a marker in a batch's display name."""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from batchgen.emulator.faults import fault_for, markers

# METHOD_KIND: an HTTP status; reset: the connection ends before anything is done; lost: it ends when all is done;
# half: after half of what is left to download. An upload's reset comes when half of a piece is stored. html: 200 with a web
# page, as a proxy in between may have it; empty: 200 with nothing; cut: at most half of a file at a time, without a length to
# tell by.
_KINDS = {
    "create": ("429", "500", "503", "reset", "lost"),
    "get": ("404", "429", "500", "503", "reset", "html"),
    "list": ("429", "500", "503", "reset"),
    "cancel": ("404", "429", "500", "503", "reset", "lost"),
    "delete": ("404", "429", "500", "503", "reset", "lost"),
    "download": ("404", "429", "500", "503", "reset", "half", "html", "empty", "cut"),
    "upload": ("500", "503", "reset", "lost"),
}
METHODS = {method: frozenset(f"{method}_{kind}" for kind in kinds) for method, kinds in _KINDS.items()}


@dataclass(frozen=True, slots=True)
class End:
    """share: of the lines that are answered before it ends. state: empty for a batch that stays as it is for ever."""

    share: float
    state: str


# Batches that stay PENDING or RUNNING: googleapis/python-genai#1482, #2221, #2974. EXPIRED without results: #2439.
# Whether a batch that fails or expires may name results is not documented; the `_partial` ones do.
ENDS = {
    "failed": End(0, "FAILED"),
    "failed_partial": End(0.5, "FAILED"),
    "expired": End(0, "EXPIRED"),
    "expired_partial": End(0.5, "EXPIRED"),
    "cancelled": End(0, "CANCELLED"),
    "cancelled_partial": End(0.5, "CANCELLED"),
    "partly": End(1, "PARTIALLY_SUCCEEDED"),  # a state that google-genai knows and nobody has reported of this API
    "stuck": End(0, ""),
    "stuck_running": End(0.5, ""),
}
NO_FILE = frozenset({"no_file"})  # succeeded, and no results are named yet
KNOWN = frozenset(ENDS) | NO_FILE | frozenset().union(*METHODS.values())
_TEXT = re.compile(r"[a-z_0-9]+(\*[1-9]\d*)?")


def named(text: str) -> str:
    """The fault's name in `NAME` or `NAME*TIMES`. Raises ValueError."""
    name, _, _ = text.partition("*")
    if name not in KNOWN:
        raise ValueError(f"unknown batch fault {name!r}; known: {', '.join(sorted(KNOWN))}")
    if not _TEXT.fullmatch(text):
        raise ValueError(f"batch fault {text!r}: expected NAME or NAME*TIMES")
    return name


class BatchFaults:
    """Counts occasions, so that `create_lost*2` befalls the first two and no other.

    Faults by option count over all batches where a batch begins or ends, and for each batch where it is looked at.
    """

    def __init__(self, given: Iterable[str]) -> None:
        self._given = "".join(f"[[fault:{text}]]" for text in given)
        self._occasions: Counter[tuple[str, str]] = Counter()

    def take(self, names: frozenset[str], place: str = "", display_name: str = "") -> str | None:
        """The fault of this occasion, one of `names`. place: a batch or a file, empty where all count together."""
        by_name = self._due(names, f"name {place or display_name}", display_name) if display_name else None
        return by_name or self._due(names, place, self._given)

    def _due(self, names: frozenset[str], place: str, text: str) -> str | None:
        wanted = "".join(f"[[fault:{name}*{times}]]" for name, times in markers(text) if name in names)
        if not wanted:
            return None
        occasion = (min(names), place)
        self._occasions[occasion] += 1
        return fault_for(wanted, self._occasions[occasion], {}, random.Random(0))

    def clear(self) -> None:
        self._occasions.clear()
