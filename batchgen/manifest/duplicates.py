"""Finds what occurs twice in a manifest: ids and file names, which is wrong, and requests, which may be intended. Found
in one reading by their hashes, and reported in another."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from batchgen.item import Item
from batchgen.manifest.names import DuplicateFinder, fold_case, sample_stem
from batchgen.manifest.sources import RawEntry
from batchgen.planning.fingerprint import wire_facts

REPEATS_SHOWN_MAX = 3  # groups of items in a note, and items in each
Read = Iterable[tuple[Item, RawEntry]]  # the items of one reading, each with its entry


@dataclass(frozen=True, slots=True)
class Duplicate:
    """A duplicate. raw: the entry of the second. row: where that item's row is, if it has one. kind: see
    `Diagnostics.add`."""

    raw: RawEntry
    field: str
    message: str
    row: str
    kind: str


class Duplicates:
    """Finds duplicates. Memory grows by sixteen bytes an item, and with the duplicates."""

    def __init__(self, place: Callable[[int], str]) -> None:
        """place: puts a line in a message's words."""
        self._place = place
        self._ids, self._stems = DuplicateFinder(), DuplicateFinder()

    def add(self, item: Item) -> None:
        self._ids.add(item.id)
        self._stems.add(fold_case(item.filename))
        for n in range(2, item.count + 1):
            self._stems.add(fold_case(sample_stem(item.filename, n)))

    def find(self, again: Read) -> Iterator[Duplicate]:
        """The duplicates. again: everything once more, of which only what may occur twice is kept."""
        ids, stems = self._ids.repeated_hashes(), self._stems.repeated_hashes()
        if not ids and not stems:
            return
        first_ids: dict[str, tuple[Item, RawEntry]] = {}
        first_stems: dict[str, tuple[Item, RawEntry]] = {}
        for item, raw in again:
            if hash(item.id) in ids and (first := first_ids.setdefault(item.id, (item, raw)))[0] is not item:
                yield self._duplicate("id", f"{item.id!r} is already used", (item, raw), first)
                continue
            for n in range(1, item.count + 1):
                stem = sample_stem(item.filename, n)
                if hash(fold_case(stem)) in stems:
                    first = first_stems.setdefault(fold_case(stem), (item, raw))
                    if first[0].id != item.id:
                        field = "filename" if "filename" in raw.entry else "id"
                        message = f"the file {stem!r} is also written by {first[0].id!r}"
                        yield self._duplicate(field, message, (item, raw), first)

    def _duplicate(
        self, field: str, message: str, second: tuple[Item, RawEntry], first: tuple[Item, RawEntry]
    ) -> Duplicate:
        (item, raw), (other, other_raw) = second, first
        row = "" if item.origin == self._place(raw.line) else f"row {item.origin}"
        is_same_entry = raw.entry is other_raw.entry
        if is_same_entry and not row:
            message += f" in this entry; put {_distinguishing_variables(raw.entry, field)} into it"
        else:
            message += f" at {other.origin}"
        return Duplicate(raw, field, message, row, "duplicate" if is_same_entry else "")


def _distinguishing_variables(entry: Mapping[str, Any], field: str) -> str:
    """What to put into a field of an entry, so that its items differ: the axes that are not in it yet."""
    template = str(entry.get(field))
    unused = [name for kind in ("matrix", "zip") for name in entry.get(kind) or () if name not in template]
    return "-".join(f"{{{{ {name} }}}}" for name in unused or ["index"])


def repeats_note(read: Callable[[], Iterable[Item]]) -> str | None:
    """A note about items with the same prompt, model, settings and references under several ids; None if there are
    none. read: all items, once or twice.

    Turns of a conversation belong together and are ignored.
    """
    found = DuplicateFinder()
    for item in read():
        if not item.turn:
            found.add(wire_facts(item, item.references))
    repeated = found.repeated_hashes()
    if not repeated:
        return None
    ids: dict[str, list[str]] = {}
    for item in read():
        if not item.turn and hash(wire := wire_facts(item, item.references)) in repeated:
            ids.setdefault(wire, []).append(item.id)
    groups = [group for group in ids.values() if len(group) > 1]
    if not groups:
        return None
    extra = sum(len(group) - 1 for group in groups)
    shown = "; ".join(
        " = ".join(group[:REPEATS_SHOWN_MAX]) + (" = …" if len(group) > REPEATS_SHOWN_MAX else "")
        for group in groups[:REPEATS_SHOWN_MAX]
    )
    more = f"; and {len(groups) - REPEATS_SHOWN_MAX:,} more" if len(groups) > REPEATS_SHOWN_MAX else ""
    asking = "items ask" if extra > 1 else "item asks"
    return (
        f"{extra:,} {asking} for the same as another, with the same prompt and settings: {shown}{more};"
        " `count` makes several images of one item"
    )
