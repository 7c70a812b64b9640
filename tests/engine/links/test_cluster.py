"""Workers whose pictures come by link: a worker that dies, or a link that does, is no reason to buy."""

from __future__ import annotations

import asyncio
import sys

import pytest

from batchgen.report.billing import read_billing
from tests.support.cluster import HEAD, Cluster
from tests.support.link_bench import FOUR, ONE

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="nothing forks there")
DOWNLOAD = ("batchgen.engine.http_attempt:Exchange.download_images", 1)


@pytest.fixture
def fleet(bench, tmp_path, database, monkeypatch):
    """The same vendor's pictures, made by workers."""
    monkeypatch.setenv("BATCHGEN_LEDGER", database)
    (tmp_path / "cluster").mkdir()
    found = Cluster(bench.vendor.url, tmp_path / "cluster", database)
    yield found
    found.finish()
    with found.reader() as reader:
        assert read_billing(reader).holds


def states(fleet):
    with fleet.reader() as reader:
        return sorted((entry.state, entry.reason) for entry in reader.known_samples(["a"])["a"])


async def watched(fleet, items):
    return (await asyncio.wait_for(fleet.watch(items, HEAD), 60.0)).exit_code


@pytest.mark.parametrize("items", [ONE, FOUR], ids=["one", "four"])
async def test_another_worker_fetches_from_the_link_of_one_that_was_killed_and_the_next_run_what_gave_none(
    fleet, bench, items
):
    await fleet.submit(items)
    assert await asyncio.to_thread(fleet.impatient(die=DOWNLOAD).wait) == 9
    bench.vendor.goes_bad("a web page")
    fleet.impatient()
    assert await watched(fleet, items) == 4
    assert set(states(fleet)) == {("failed", "download_failed")}
    bench.vendor.is_well()
    assert await watched(fleet, items) == 0
    assert len(bench.vendor.requests) == 1
    assert {path.read_bytes() for path in (fleet.folder / "out").glob("*.png")} == bench.vendor.served()


async def test_of_several_links_those_that_a_worker_could_fetch_count_at_once(fleet, bench):
    bench.vendor.goes_bad("404", places=[1])
    await fleet.submit(FOUR)
    fleet.impatient()
    assert await watched(fleet, FOUR) == 3
    assert states(fleet) == [("failed", "download_failed"), *[("succeeded", "")] * 3]
    bench.vendor.is_well()
    assert (await watched(fleet, FOUR), bench.vendor.requests, dict(bench.vendor.fetched)) == (0, [4], {"1-1.png": 1})


async def test_a_picture_that_a_killed_worker_had_fetched_outlives_its_link(fleet, bench):
    bench.vendor.goes_bad("503", places=[1, 3])
    await fleet.submit(FOUR)
    assert (
        await asyncio.to_thread(fleet.impatient(die=("batchgen.engine.http_attempt:Exchange._fetch_once", 10)).wait)
        == 9
    )
    bench.vendor.goes_bad("410")
    fleet.impatient()
    assert await watched(fleet, FOUR) == 3
    assert states(fleet) == [*[("failed", "download_failed")] * 2, *[("succeeded", "")] * 2]
    assert bench.vendor.requests == [4]
