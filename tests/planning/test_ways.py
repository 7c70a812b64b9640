"""The cheapest way that is in time: what holds for every choice, whatever the facts are."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchgen.planning.plan import quota_wait_s
from batchgen.planning.ways import Basis, Choice, Demand, LaneRoom, Latency, Obstacle, Terms, Way, choose

HOUR_S = 3600.0
SLACK_S = 1e-3


def way(kind: str, seconds: float, usd: float | None, lane: str = "g/pro", rank: int = 0) -> Way:
    return Way(kind, lane, usd, Latency(seconds, Basis.MEASURED, 9), rank)  # type: ignore[arg-type]


BATCH, FLEX, ONLINE = way("batch", 24 * HOUR_S, 0.05), way("flex", 900.0, 0.05), way("online", 20.0, 0.10)
LITE = way("online", 10.0, 0.02, "g/lite", rank=1)


def terms(hours: float, concurrency: int = 5, **lanes: LaneRoom) -> Terms:
    return Terms(hours * HOUR_S, concurrency, {f"g/{name}": room for name, room in lanes.items()})


def kinds(choices: list[Choice]) -> dict[str, int]:
    return {f"{each.way.kind}{' late' if each.late else ''}": each.requests for each in choices}


def only(demand: Demand, requests: int, given: Terms) -> list[Choice]:
    return choose({demand: requests}, given)[demand]


@pytest.mark.parametrize(
    ("hours", "chosen"),
    [(25, {"batch": 100}), (6, {"flex": 100}), (1, {"flex": 14, "online": 86}), (0.2, {"online": 100})],
)
def test_the_cheapest_that_is_in_time_is_chosen(hours, chosen):
    assert kinds(only(Demand((BATCH, FLEX, ONLINE)), 100, terms(hours))) == chosen


def test_a_choice_says_what_was_better_and_why_it_is_not_that():
    flex, online = only(Demand((BATCH, FLEX, ONLINE)), 100, terms(1))
    assert flex.passed == ((BATCH, Obstacle.SLOW),)
    assert online.passed == ((BATCH, Obstacle.SLOW), (FLEX, Obstacle.FULL))


def test_what_no_way_makes_in_time_is_late_by_the_fastest_to_its_own_model():
    lanes = {"pro": LaneRoom(rpm=3), "lite": LaneRoom(rpd_left=10)}
    own, other, late = only(Demand((ONLINE, LITE)), 100, terms(70 / HOUR_S, **lanes))
    assert [(each.way, each.requests) for each in (own, other, late)] == [(ONLINE, 3), (LITE, 10), (ONLINE, 87)]
    assert (own.late, other.late, late.late) == (False, False, True)
    assert max(own.end_s, other.end_s) <= 70 < late.end_s


def test_a_fallback_is_for_what_its_model_has_no_room_for_however_cheap():
    assert [each.way for each in only(Demand((ONLINE, LITE)), 10, terms(1))] == [ONLINE]
    few = terms(1, pro=LaneRoom(rpd_left=4))
    assert [(each.way, each.requests) for each in only(Demand((ONLINE, LITE)), 10, few)] == [(ONLINE, 4), (LITE, 6)]


def test_where_the_price_decides_a_fallback_is_a_way_like_any_other():
    assert [each.way.lane for each in only(Demand((ONLINE, replace(LITE, rank=0))), 10, terms(1))] == ["g/lite"]


def test_a_price_that_nobody_knows_is_not_taken_for_a_low_one():
    unknown = replace(FLEX, usd=None)
    assert kinds(only(Demand((unknown, ONLINE)), 3, terms(6))) == {"online": 3}
    assert kinds(only(Demand((replace(ONLINE, usd=None),)), 3, terms(6))) == {"online": 3}


def test_images_that_need_one_another_take_as_long_as_all_of_them_in_a_row():
    chained = Demand((FLEX, ONLINE), chained=True)
    assert kinds(choose({chained: 3}, replace(terms(1), chain=3))[chained]) == {"flex": 3}
    assert kinds(choose({chained: 3}, replace(terms(0.7), chain=3))[chained]) == {"online": 3}


def test_who_has_one_way_alone_is_not_crowded_out_by_who_has_two():
    room = terms(1, pro=LaneRoom(rpd_left=10))
    both, one = Demand((ONLINE, LITE)), Demand((ONLINE,))
    found = choose({both: 10, one: 10}, room)
    assert (kinds(found[one]), [each.way for each in found[both]]) == ({"online": 10}, [LITE])


def test_the_dollars_of_ten_minutes_are_room_too():
    spending = terms(0.5, pro=LaneRoom(account="a", usd_per_10_min=1.0))
    assert kinds(only(Demand((ONLINE,)), 100, spending)) == {"online": 30, "online late": 70}


# --- whatever the facts

SECONDS, USD = st.floats(1.0, 5000.0), st.one_of(st.none(), st.floats(0.001, 0.3))
WAYS = st.lists(
    st.builds(
        way,
        st.sampled_from(["batch", "flex", "online"]),
        SECONDS,
        USD,
        st.sampled_from(["g/a", "g/b"]),
        st.integers(0, 1),
    ),
    min_size=1,
    max_size=5,
    unique_by=lambda each: (each.kind, each.lane),
)
DEMANDS = st.dictionaries(
    st.builds(lambda ways, chained: Demand(tuple(ways), chained=chained), WAYS, st.booleans()),
    st.integers(1, 60),
    min_size=1,
    max_size=3,
)
LIMIT = st.one_of(st.none(), st.integers(1, 40))
ROOMS = st.builds(
    LaneRoom, rpm=LIMIT, rpd_left=LIMIT, account=st.just("x"), usd_per_10_min=st.one_of(st.none(), st.floats(0.5, 5.0))
)
TERMS = st.builds(
    lambda seconds, concurrency, a, b, chain: Terms(
        seconds, concurrency, {"g/a": a, "g/b": replace(b, usd_per_10_min=a.usd_per_10_min)}, chain
    ),
    *(st.floats(1.0, 8000.0), st.integers(1, 8), ROOMS, ROOMS, st.integers(1, 3)),
)
Counts = dict[tuple[Demand, Way], int]


def span_s(demand: Demand, each: Way, given: Terms) -> float:
    return each.latency.seconds * (given.chain if demand.chained else 1)


def in_time(counts: Counts, given: Terms) -> bool:
    """By a sum of its own: whether the last answer of all this is there before the deadline."""
    sent = {key: number for key, number in counts.items() if number and key[1].kind != "batch"}
    if any(span_s(*key, given) > given.seconds + SLACK_S for key, number in counts.items() if number):
        return False
    tail = max((span_s(*key, given) for key in sent), default=0.0)
    busy = sum(each.latency.seconds * number for (_, each), number in sent.items())
    left = given.seconds + SLACK_S - tail
    if (busy - tail) / given.concurrency > left:
        return False
    usd = sum((each.usd or 0.0) * number for (_, each), number in sent.items())
    for lane, room in given.lanes.items():
        starts = sum(number for (_, each), number in sent.items() if each.lane == lane)
        if starts and quota_wait_s(starts, room.rpm) > left:
            return False
        if room.rpd_left is not None and starts > room.rpd_left:
            return False
        if sent and room.usd_per_10_min and (-(-usd // room.usd_per_10_min) - 1) * 600.0 > left + SLACK_S:
            return False
    return True


def counted(found: dict[Demand, list[Choice]]) -> Counts:
    return {(demand, each.way): each.requests for demand, choices in found.items() for each in choices if not each.late}


@given(DEMANDS, TERMS)
def test_every_request_has_one_choice_and_what_is_not_late_is_there_before_the_deadline(demands, given):
    found = choose(demands, given)
    assert {demand: sum(each.requests for each in choices) for demand, choices in found.items()} == demands
    assert in_time(counted(found), given)
    assert all(each.end_s <= given.seconds + SLACK_S for choices in found.values() for each in choices if not each.late)


@given(DEMANDS, TERMS)
def test_nothing_is_late_that_any_way_of_its_own_has_room_for(demands, given):
    found = choose(demands, given)
    counts = counted(found)
    for demand, choices in found.items():
        for each in demand.ways if any(each.late for each in choices) else ():
            tighter = replace(given, seconds=given.seconds - 2 * SLACK_S)
            assert not in_time({**counts, (demand, each): counts.get((demand, each), 0) + 1}, tighter)


@given(DEMANDS, TERMS)
def test_no_request_goes_a_dearer_way_than_another_that_has_room_for_it(demands, given):
    counts = counted(choose(demands, given))
    tighter = replace(given, seconds=given.seconds - 2 * SLACK_S)
    for (demand, was), number in counts.items():
        for better in demand.ways:
            if number and better.preference < was.preference:
                moved = {**counts, (demand, was): number - 1}
                moved[demand, better] = moved.get((demand, better), 0) + 1
                assert not in_time(moved, tighter), (was, better)


@given(DEMANDS, TERMS)
def test_nothing_is_late_when_all_would_be_in_time_by_their_lightest_ways(demands, given):
    lightest = {
        (demand, min((each for each in demand.ways if span_s(demand, each, given) <= given.seconds), key=load)): number
        for demand, number in demands.items()
        if any(span_s(demand, each, given) <= given.seconds for each in demand.ways)
    }
    if len(lightest) == len(demands) and in_time(lightest, replace(given, seconds=given.seconds - 2 * SLACK_S)):
        assert not any(each.late for choices in choose(demands, given).values() for each in choices)


def load(each: Way) -> tuple[float, tuple[int, bool, float, int]]:
    return each.load_s, each.preference
