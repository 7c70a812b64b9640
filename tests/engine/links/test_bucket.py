"""Pictures behind links on their way into a bucket: what has come is there at once, the rest by a later run, bought once."""

from __future__ import annotations

import sys

import pytest

from batchgen.report.billing import read_billing
from tests.support.bucket_bench import BucketBench
from tests.support.link_bench import FOUR, ONE

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="nothing forks there")


@pytest.fixture
def shop(bench, gate, tmp_path):
    """A job of the same vendor whose pictures go into a bucket."""
    (tmp_path / "bucket").mkdir()
    found = BucketBench(bench.vendor.url, tmp_path / "bucket")
    yield found
    with found.reader() as reader:
        assert read_billing(reader).holds
    assert found.spooled == []


def pictures(gate):
    return {data for name, data in gate.objects().items() if "/" not in name}


@pytest.mark.parametrize("kind", ["a web page", "404"])
async def test_a_link_that_gives_no_picture_is_fetched_by_the_next_run(shop, bench, gate, kind):
    bench.vendor.goes_bad(kind)
    assert [(await shop.run(ONE)).exit_code, (await shop.run(ONE)).exit_code] == [4, 3]
    assert pictures(gate) == set()
    bench.vendor.is_well()
    assert (await shop.run(ONE)).exit_code == 0
    assert (bench.vendor.requests, pictures(gate)) == ([1], bench.vendor.served())


async def test_what_came_of_several_links_goes_up_at_once_and_the_rest_later(shop, bench, gate):
    bench.vendor.goes_bad("nothing", places=[0, 3])
    for code in (3, 3):
        assert (await shop.run(FOUR)).exit_code == code
        assert (len(pictures(gate)), "on its way to the bucket" in shop.notes) == (2, False)
    bench.vendor.is_well()
    assert (await shop.run(FOUR)).exit_code == 0
    assert (bench.vendor.requests, pictures(gate)) == ([4], bench.vendor.served())


async def test_a_late_picture_takes_no_other_ones_place_in_the_bucket(shop, bench, gate):
    bench.vendor.goes_bad("404")
    await shop.run(ONE)
    bench.vendor.goes_bad("404", times=3)
    assert (await shop.run(ONE.replace("fox", "hare"))).exit_code == 0
    now = pictures(gate)
    bench.vendor.is_well()
    assert (await shop.run(ONE.replace("fox", "hare"))).exit_code == 0
    assert (len(now), pictures(gate) == now, set(gate.objects().values())) == (1, True, bench.vendor.served())


@pytest.mark.parametrize(
    "place",
    [
        "batchgen.engine.http_attempt:Exchange.download_images",
        "batchgen.engine.settle:deposit",
        "batchgen.engine.settle:deposit!",
    ],
)
async def test_a_process_that_is_killed_costs_nothing_though_the_links_are_dead_then(shop, bench, gate, place):
    child = await shop.child(place, 1, FOUR)
    assert await child.wait() == 9
    bench.vendor.goes_bad("410")
    fetched = "deposit" in place
    assert (await shop.run(FOUR)).exit_code == (0 if fetched else 3)
    bench.vendor.is_well()
    assert (await shop.run(FOUR)).exit_code == 0
    assert (bench.vendor.requests, pictures(gate)) == ([4], bench.vendor.served())
