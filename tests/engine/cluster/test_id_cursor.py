"""A cursor over numbers that are committed out of their order reads each row once, and forgets what never comes."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from batchgen.engine.cluster.monitor import MAX_MISSING, IdCursor


class Server:
    """Transactions that take a number each and end when they like, as PostgreSQL shows them."""

    def __init__(self) -> None:
        self.next_transaction, self.next_id = 100, 1
        self.open: dict[int, int] = {}  # transaction -> its row's number
        self.committed: set[int] = set()

    def begin(self) -> None:
        self.open[self.next_transaction] = self.next_id
        self.next_transaction, self.next_id = self.next_transaction + 1, self.next_id + 1

    def end(self, which: int, *, commit: bool) -> None:
        if self.open:
            row = self.open.pop(sorted(self.open)[which % len(self.open)])
            self.committed |= {row} if commit else set()

    def snapshot(self) -> tuple[int, int]:
        return min(self.open, default=self.next_transaction), self.next_transaction

    def read(self, cursor: IdCursor) -> list[int]:
        asked = set(cursor.missing)
        return sorted(row for row in self.committed if row > cursor.last or row in asked)


steps = st.lists(st.tuples(st.sampled_from(["begin", "commit", "roll back", "read"]), st.integers(0, 9)))


@given(before=steps, after=steps)
def test_every_committed_row_is_read_once_and_in_the_end_nothing_is_waited_for(before, after):
    server = Server()

    def play(steps, cursor=None):
        found = []
        for what, which in steps:
            if what == "begin":
                server.begin()
            elif what == "read" and cursor is not None:
                snapshot = server.snapshot()
                found += (rows := server.read(cursor))
                cursor.advance(rows, *snapshot)
            else:
                server.end(which, commit=what == "commit")
        return found

    play(before)
    seen = sorted(server.committed)
    cursor = IdCursor(max(seen, default=0), seen)
    read = play([*after, *[("commit", 0)] * len(server.open), *[("commit", 0)] * 99, ("read", 0), ("read", 0)], cursor)
    assert sorted(read) == sorted(server.committed - set(seen))
    assert cursor.missing == []


def test_a_leap_of_the_numbers_is_not_waited_for_one_by_one():
    cursor = IdCursor(5, range(6))
    cursor.advance([10_000_000], 100, 101)
    assert len(cursor.missing) == MAX_MISSING
