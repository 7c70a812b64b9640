"""What of a growing table has been read: its rows get their numbers before they are committed, and so not in the order of these."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

MAX_MISSING = 10_000  # numbers before a new row that are waited for; more were never given out one by one


class IdCursor:
    """The rows to read next are those after `last` and those among `missing`: skipped numbers, whose transactions may still be
    under way. A number is given up when every transaction that could have it has ended, and it was not there then.

    Source: PostgreSQL, `pg_snapshot_xmin` and `pg_snapshot_xmax`: a transaction below the first has ended, one from the second on
    has not begun. Whoever inserts here has changed other rows before, so its transaction has its number when the row has one.
    """

    def __init__(self, last: int, present: Iterable[int]) -> None:
        """present: the rows that are there, of the last MAX_MISSING numbers up to `last`."""
        self.last = last
        absent = set(range(max(1, last - MAX_MISSING), last)).difference(present)
        self._ended_by: dict[int, int | None] = dict.fromkeys(sorted(absent))

    @property
    def missing(self) -> list[int]:
        return list(self._ended_by)

    def advance(self, ids: Sequence[int], xmin: int, xmax: int) -> None:
        """ids: of the rows that were read after the snapshot with these bounds, ascending."""
        for id_ in ids:
            self._ended_by.pop(id_, None)
        waited_for = {id_: xmax if by is None else by for id_, by in self._ended_by.items()}
        self._ended_by = {id_: by for id_, by in waited_for.items() if by > xmin}
        for id_ in ids:
            if id_ > self.last:
                self._ended_by.update(dict.fromkeys(range(max(self.last + 1, id_ - MAX_MISSING), id_)))
                self.last = id_
