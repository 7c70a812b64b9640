"""Which image is the twin of which: every hash within the distance is found, and nothing else is taken for one."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from batchgen.item import Check
from batchgen.records import Verdict
from batchgen.review.twins import FIELDS, TwinIndex

HASH = 0x0F0F_1234_ABCD_9876


def seen(item_id: str, hashed: int | None, *, n: int = 1, level: int = 100, **more) -> Verdict:
    details = {} if hashed is None else {"hash": f"{hashed:016x}", "fields": (bytes([level]) * FIELDS).hex()}
    known = {"sha256": "0", "by": "check", "name": "twin", "ruling": "accept", "details": details}
    return Verdict(item_id=item_id, n=n, **{**known, **more})


def twin_of(index: TwinIndex, verdict: Verdict, distance: int = 6) -> str:
    found = index.judge(verdict, Check(name="twin", options=(("distance", distance),)))
    return found.details.get("twin", "") if found.reason == "twin" else ""


@given(st.integers(0, 2**64 - 1), st.sets(st.integers(0, 63), max_size=10), st.integers(0, 7))
def test_a_hash_is_found_exactly_when_it_differs_in_no_more_bits_than_that(hashed, flipped, distance):
    index, other = TwinIndex(), hashed
    for bit in flipped:
        other ^= 1 << bit
    assert twin_of(index, seen("a", hashed), distance) == ""
    assert twin_of(index, seen("b", other), distance) == ("a" if len(flipped) <= distance else "")


def test_another_sample_of_the_same_item_is_a_twin_too_and_has_its_number():
    index = TwinIndex()
    assert twin_of(index, seen("mug", HASH, n=2)) == ""
    assert twin_of(index, seen("mug", HASH, n=1)) == "mug#2"


def test_an_image_is_not_compared_with_one_that_it_has_replaced_and_neither_is_any_other():
    index = TwinIndex()
    index.add(seen("a", HASH))
    assert twin_of(index, seen("a", HASH)) == ""
    index.add(seen("a", ~HASH & 2**64 - 1))
    assert twin_of(index, seen("b", HASH)) == ""


def test_what_differs_in_colour_alone_is_no_twin():
    index = TwinIndex()
    index.add(seen("red", HASH, level=100))
    assert twin_of(index, seen("blue", HASH, level=150)) == ""
    assert twin_of(index, seen("darker", HASH, level=108)) == "red"


def test_the_ruling_follows_the_manifest_and_details_are_kept():
    index = TwinIndex()
    index.add(seen("a", HASH))
    warned = index.judge(seen("b", HASH ^ 1), Check(name="twin"))
    rejected = index.judge(seen("c", HASH ^ 1 << 40), Check(name="twin", rejects=True))
    assert (warned.ruling, warned.message, warned.score) == ("warn", "looks like the image of a", 1)
    assert (rejected.ruling, rejected.reason) == ("reject", "twin")
    assert rejected.details["hash"] == f"{HASH ^ 1 << 40:016x}"


def test_what_has_no_hash_or_failed_or_is_a_copy_of_its_reference_stays_as_it_is():
    index = TwinIndex()
    index.add(seen("a", HASH))
    for verdict in (
        seen("b", None),
        seen("b", None, ruling="warn", reason="check_failed"),
        seen("b", HASH, ruling="reject", reason="copy_of_reference"),
    ):
        assert index.judge(verdict, Check(name="twin")) == verdict
    assert twin_of(index, seen("c", HASH)) in ("a", "b")


def test_among_many_only_the_near_ones_are_looked_at(monkeypatch):
    index, chance = TwinIndex(), random.Random(1)
    for number in range(20_000):
        index.add(seen(str(number), chance.getrandbits(64)))
    looked_at = 0
    chains = type(index._by_owner)
    of = chains.of

    def counted(self, key):
        nonlocal looked_at
        for slot in of(self, key):
            looked_at += 1
            yield slot

    monkeypatch.setattr(chains, "of", counted)
    assert twin_of(index, seen("new", chance.getrandbits(64))) == ""
    assert looked_at < 200
