"""Answers with links that a bug kept from being read: their links are fetched once the bug is mended, and not bought again."""

from __future__ import annotations

import pytest

import batchgen
from batchgen.providers.aimlapi import AimlApi
from batchgen.store.unparsed import unparsed_attempts
from tests.support.codec_bug import plant
from tests.support.link_bench import BEHIND, FOUR, MADE, ONE, retry_failed


async def run(bench, items=ONE):
    """In this process, where a bug can be planted."""
    (bench.folder / "job.yaml").write_text(f"items:\n{items}")
    job = batchgen.load(bench.folder / "job.yaml", output=bench.out, emulate=True, environ={})
    outcome = await batchgen.run(job, options=batchgen.RunOptions(emulator_url=bench.vendor.url))
    bench.check()
    return outcome.exit_code


def kept(bench):
    return len(unparsed_attempts(str(bench.out)))


async def test_a_link_that_was_not_tried_is_not_dead_however_old_it_is(bench, monkeypatch):
    bench.vendor.goes_bad("503")
    await run(bench, FOUR)
    bench.ages(days=40)
    bench.vendor.hangs = True
    monkeypatch.setattr("batchgen.engine.links.STALL_TIMEOUT_S", 0.2)
    assert (await run(bench, FOUR), bench.states()) == (3, BEHIND * 4)
    bench.vendor.is_well()
    assert (await run(bench, FOUR), bench.vendor.requests, bench.states()) == (0, [4], MADE * 4)


@pytest.mark.parametrize("inline", [0, 2])
async def test_an_answer_that_is_read_at_last_has_its_links_fetched_by_every_run(bench, monkeypatch, inline):
    bench.vendor.inline = inline
    plant(monkeypatch, AimlApi, 1, KeyError("x"))
    assert (await run(bench, FOUR), kept(bench)) == (4, 1)
    bench.vendor.goes_bad("503")
    for _ in range(2):
        assert await run(bench, FOUR) == 3
        assert bench.states() == [*MADE * inline, *BEHIND * (4 - inline)]
    bench.vendor.is_well()
    assert (await run(bench, FOUR), kept(bench), bench.vendor.requests) == (0, 0, [4])
    assert bench.pictures() == bench.vendor.served()


async def test_an_answer_whose_link_has_died_does_not_have_it_fetched_again(bench, monkeypatch):
    plant(monkeypatch, AimlApi, 1, KeyError("x"))
    await run(bench)
    bench.vendor.goes_bad("410")
    bench.ages(days=2)
    for _ in range(2):
        assert (await run(bench), bench.states()) == (3, [("failed", "link_gone")])
    assert bench.vendor.fetched["1-0.png"] == 3
    bench.vendor.is_well()
    await retry_failed(bench)
    assert (bench.states(), kept(bench), bench.vendor.requests) == (MADE, 0, [1, 1])


async def test_of_two_kept_answers_to_one_request_one_becomes_the_picture(bench, monkeypatch):
    bench.vendor.inline = 1
    plant(monkeypatch, AimlApi, 3, KeyError("x"))  # the second time the kept answer is read in vain first
    await run(bench)
    await retry_failed(bench)
    assert (kept(bench), bench.vendor.requests) == (2, [1, 1])
    monkeypatch.undo()
    assert await run(bench) == 0
    assert (kept(bench), bench.states(), len(bench.pictures()), bench.pictures("superseded")) == (0, MADE, 1, set())
