"""The reference pictures that an item names: each found once, and what is wrong with every one that is not."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from batchgen.item import COUNT_MAX
from batchgen.manifest import names
from batchgen.manifest.addresses import is_object_url
from batchgen.manifest.diagnostics import safe_repr
from batchgen.records import reference_key
from batchgen.references.local import BadReferenceError, ReferencePicture, References, link_problem


def find_references(
    references: References, wanted: Iterable[str]
) -> Iterator[tuple[int, list[ReferencePicture] | str]]:
    """Of each of the names, by its number: its pictures, or why there are none."""
    for index, name in enumerate(wanted):
        try:
            yield index, _find(references, name)
        except BadReferenceError as bad:
            yield index, str(bad)


def _find(references: References, name: str) -> list[ReferencePicture]:
    if name.startswith("@"):
        return [_item_picture(name)]
    if "://" not in name[:12] or is_object_url(name):
        return references.find(name)
    if (problem := link_problem(name)) is not None:
        raise BadReferenceError(f"{safe_repr(name)}: {problem}")
    return [ReferencePicture(name, "image/png", 0)]  # of which nothing is known yet


def _item_picture(name: str) -> ReferencePicture:
    """The picture of another item, of which nothing is known yet; whether there is such an item is seen at the end."""
    item_id, mark, n = name[1:].partition("#")
    if why := names.id_problem(item_id):
        raise BadReferenceError(f"{safe_repr(item_id)} {why}; write @id, or @id#2 for its second sample")
    if mark and not (n.isascii() and n.isdigit() and 0 < int(n[:9]) <= COUNT_MAX):
        raise BadReferenceError(f"{safe_repr(name)}: what follows '#' is the number of a sample, from 1")
    return ReferencePicture("@" + reference_key(name), "image/png", 0)
