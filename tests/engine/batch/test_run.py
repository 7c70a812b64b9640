"""Jobs through a Batch API, over real HTTP: the same pictures, promises and ledger, at half the price."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from batchgen.emulator import serve
from batchgen.errors import UsageError
from batchgen.events import AttemptFailed, BatchCollected, BatchSubmitted, Notice
from batchgen.planning.plan import RetrySelection
from tests.support.batch_bench import MUGS, NAMED, BatchBench, assert_all_are_right, quick
from tests.support.bench import items
from tests.support.images import noise
from tests.support.postgres import both_ledgers


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[BatchBench]:
    async with await serve(quick()) as emulator:
        yield BatchBench(emulator.base_url, tmp_path)


@both_ledgers
async def test_a_batch_makes_the_pictures_that_were_served_for_its_prompts(bench):
    outcome = await bench.submit(items(*MUGS))
    assert (outcome.exit_code, outcome.made, outcome.left) == (0, 12, 0)
    await assert_all_are_right(bench)
    assert len(bench.lines()) == 12
    assert (await bench.stats())["batch_lines"] == 12


async def test_it_costs_half_and_says_what_was_saved(bench, tmp_path):
    by_batch = await bench.submit(items(*MUGS))
    online = await BatchBench(bench.url, tmp_path / "online").submit_online(items(*MUGS))
    assert by_batch.usd == pytest.approx(online.usd / 2, rel=0.02)  # thoughts differ
    assert by_batch.saved_usd == pytest.approx(by_batch.usd)
    assert bench.lines()["i0"]["usd_source"] == "usage"


async def test_running_again_sends_nothing(bench):
    await bench.submit(items(*MUGS))
    outcome = await bench.submit(items(*MUGS))
    assert (outcome.exit_code, outcome.kept, (await bench.stats())["batches_created"]) == (0, 12, 1)


@both_ledgers
async def test_chunks_are_bounded_and_each_is_a_batch_of_its_own(bench):
    await bench.submit(items(*MUGS), requests=5)
    assert sorted((await bench.created()).values()) == [1, 1, 1]
    assert [event.requests for event in bench.events if isinstance(event, BatchSubmitted)] == [5, 5, 2]
    await assert_all_are_right(bench)


@both_ledgers
async def test_nothing_of_a_collected_batch_is_left_at_the_vendors(bench):
    await bench.submit(items(*MUGS))
    assert await bench.at_the_vendors("batches") == {}
    assert await bench.at_the_vendors("files") == {}


@both_ledgers
async def test_without_waiting_it_submits_and_a_later_run_of_any_engine_collects(tmp_path):
    async with await serve(quick(running_s=1.0)) as emulator:  # not over before the run has left
        bench = BatchBench(emulator.base_url, tmp_path)
        outcome = await bench.submit(items(*MUGS), wait=False)
        assert (outcome.exit_code, outcome.made, outcome.submitted) == (9, 0, 12)
        await bench.until_ended()
        outcome = await bench.submit(items(*MUGS), engine="online")
        assert (outcome.exit_code, outcome.made, outcome.submitted) == (0, 12, 0)
        await assert_all_are_right(bench)
        assert (await bench.stats())["batch_lines"] == 12


async def test_what_is_in_a_batch_is_not_asked_for_again_while_that_runs(tmp_path):
    async with await serve(quick(running_s=30.0)) as emulator:
        bench = BatchBench(emulator.base_url, tmp_path)
        await bench.submit(items(*MUGS), wait=False)
        for engine in ("online", "batch"):
            outcome = await bench.submit(items(*MUGS, "one more"), engine=engine, wait=False)
            assert (outcome.exit_code, outcome.submitted) == (9, 12)
        assert (outcome.kept, len(bench.pictures())) == (1, 1)
        stats = await bench.stats()
        assert (stats["batches_created"], len(await bench.created())) == (1, 1)


async def test_a_reference_is_uploaded_once_and_named_by_its_address(bench, tmp_path):
    (tmp_path / "photo.png").write_bytes(noise(20_000))
    text = "".join(f"  - {{id: i{n}, prompt: mug number {n}, references: [photo.png]}}\n" for n in range(12))
    outcome = await bench.submit(text, requests=6)
    assert (outcome.exit_code, outcome.made) == (0, 12)
    assert (await bench.stats())["uploads"] == 3  # the picture and two chunks
    await assert_all_are_right(bench)


CHILDREN = (
    "  - {id: mug, prompt: a mug}\n"
    "  - {id: winter, prompt: the mug in snow, references: ['@mug']}\n"
    "  - {id: night, prompt: the mug at night, references: ['@winter']}\n"
)


async def test_children_go_in_waves_with_batch_and_online_with_auto(bench, tmp_path):
    outcome = await bench.submit(CHILDREN)
    assert (outcome.exit_code, outcome.made, len(await bench.created())) == (0, 3, 3)
    other = BatchBench(bench.url, tmp_path / "auto")
    other.folder.mkdir()
    outcome = await other.submit(CHILDREN, engine="auto")
    assert (outcome.exit_code, outcome.made, len(await bench.created())) == (0, 3, 4)


TURNS = (
    "  - {id: room, turns: [a room, calmer, with a cat]}\n  - {id: tea, prompt: tea, model: imagen-4.0-generate-001}\n"
)


async def test_what_no_batch_can_have_is_an_error_with_batch_and_goes_online_with_auto(bench):
    with pytest.raises(UsageError, match=r"3 request\(s\) cannot go through a batch API.*--engine auto"):
        await bench.submit(TURNS)
    assert (await bench.stats())["requests"] == 0
    outcome = await bench.submit(TURNS, engine="auto")
    assert (outcome.exit_code, outcome.made, (await bench.stats())["batch_lines"]) == (0, 4, 1)


async def test_both_families_of_states_and_all_places_of_results_are_understood(tmp_path):
    for number, (states, places) in enumerate(
        [
            ("job", ("dest",)),
            ("batch", ("response",)),
            ("job", ("metadata",)),
            ("batch", ("metadata", "response", "dest")),
        ]
    ):
        async with await serve(quick(states=states, places=places)) as emulator:
            bench = BatchBench(emulator.base_url, tmp_path / str(number))
            bench.folder.mkdir()
            outcome = await bench.submit(items(*MUGS))
            assert (outcome.exit_code, outcome.made) == (0, 12), (states, places)


@pytest.mark.parametrize(
    "fault",
    [
        "create_lost*1", "create_reset*1", "create_500*1", "create_503*2", "create_429*1", "get_404*2", "get_503*3", "get_reset*2",
        "list_503*1", "download_half*2", "download_reset*2", "download_503*1", "upload_reset*2", "upload_lost*1",
        "upload_503*1", "no_file*2", "delete_503*1", "get_html*2", "download_html*2", "download_empty*2", "download_cut*2",
    ],
)  # fmt: skip
async def test_a_fault_of_the_service_costs_nothing_but_time(tmp_path, fault):
    async with await serve(quick(faults=(fault,), list_lag_s=0.2)) as emulator:
        bench = BatchBench(emulator.base_url, tmp_path)
        outcome = await bench.submit(items(*MUGS), requests=6)
        assert (outcome.exit_code, outcome.made) == (0, 12)
        assert set((await bench.created()).values()) == {1}
        assert (await bench.stats())["billed_images"] == 12
        await assert_all_are_right(bench)


async def test_a_download_that_broke_off_goes_on_where_it_was_or_begins_anew(tmp_path):
    for number, ranges in enumerate((True, False)):
        async with await serve(quick(faults=("download_half*1",), ranges=ranges)) as emulator:
            bench = BatchBench(emulator.base_url, tmp_path / str(number))
            bench.folder.mkdir()
            outcome = await bench.submit(items(*MUGS))
            assert (outcome.exit_code, outcome.made) == (0, 12)


@both_ledgers
@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("line_missing", "missing_line"),
        ("429", "rate_limited"),
        ("500", "server_fault"),
        ("line_cut", "missing_line not_json"),  # as its key was cut off or not
    ],
)
async def test_only_the_key_that_failed_is_sent_again(bench, fault, reason):
    prompts = [*MUGS[:-1], f"the last [[fault:{fault}*1]]"]
    outcome = await bench.submit(items(*prompts))
    assert (outcome.exit_code, outcome.made) == (0, 12)
    failed = [event for event in bench.events if isinstance(event, AttemptFailed)]
    assert [(event.key, event.reason in reason.split()) for event in failed] == [("i11", True)]
    assert [event.requests for event in bench.events if isinstance(event, BatchSubmitted)] == [12, 1]


async def test_a_refused_line_is_final_and_named_in_the_vendors_words(bench):
    outcome = await bench.submit(items(*MUGS[:3], "x [[fault:safety]]"))
    assert (outcome.exit_code, outcome.made) == (3, 3)
    assert bench.lines()["i3"]["state"] == "refused"
    assert (await bench.stats())["batch_lines"] == 4


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("line_unknown_key", "unknown key"),
        ("line_doubled", "a second time"),
        ("line_keyless", "no key"),
    ],
)
async def test_a_line_that_belongs_to_nothing_is_kept_and_told(bench, fault, words):
    await bench.submit(items(*MUGS[:3], f"x [[fault:{fault}*1]]"))
    notes = [event.message for event in bench.events if isinstance(event, Notice) and words in event.message]
    assert len(notes) == 1
    kept = next((bench.folder / "out" / ".batchgen" / "batch").glob("*.strange"))
    assert len(kept.read_bytes().splitlines()) == 1
    assert len(bench.pictures()) == 4


@pytest.mark.parametrize("fault", ["failed", "expired", "cancelled", "failed_partial", "expired_partial", "partly"])
async def test_a_batch_that_ends_badly_ends_well(tmp_path, fault):
    async with await serve(quick(faults=(f"{fault}*1",))) as emulator:
        bench = BatchBench(emulator.base_url, tmp_path)
        outcome = await bench.submit(items(*MUGS))
        assert (outcome.exit_code, outcome.made) == (0, 12)
        arrived = {"failed_partial": 6, "expired_partial": 6, "partly": 12}.get(fault, 0)
        collected = [event.made for event in bench.events if isinstance(event, BatchCollected)]
        assert collected == ([12] if arrived == 12 else [arrived, 12 - arrived])
        assert (await bench.stats())["billed_images"] == 12
        await assert_all_are_right(bench)


async def test_a_lost_batch_goes_online_with_auto(tmp_path):
    async with await serve(quick(faults=("expired*1",))) as emulator:
        bench = BatchBench(emulator.base_url, tmp_path)
        outcome = await bench.submit(items(*MUGS), engine="auto")
        assert (outcome.exit_code, outcome.made, (await bench.stats())["batches_created"]) == (0, 12, 1)


@both_ledgers
async def test_at_the_fallbacks_time_what_was_not_delivered_is_made_online(tmp_path):
    async with await serve(quick(faults=("stuck_running",))) as emulator:
        bench = BatchBench(emulator.base_url, tmp_path)
        outcome = await bench.submit(items(*MUGS), requests=6, fallback_at=time.time() + 0.8)
        assert (outcome.exit_code, outcome.made, outcome.submitted) == (0, 12, 0)
        assert (await bench.stats())["billed_images"] == 12
        await assert_all_are_right(bench)


async def test_work_for_which_the_quota_of_enqueued_work_has_no_room_waits(tmp_path):
    async with await serve(quick(enqueued_tokens=60)) as emulator:
        bench = BatchBench(emulator.base_url, tmp_path)
        outcome = await bench.submit(items(*MUGS), requests=4)
        assert (outcome.exit_code, outcome.made) == (0, 12)
        assert set((await bench.created()).values()) == {1}


async def test_a_chunk_that_is_too_large_for_that_quota_by_itself_is_halved(tmp_path):
    async with await serve(quick(enqueued_tokens=30)) as emulator:
        bench = BatchBench(emulator.base_url, tmp_path)
        outcome = await bench.submit(items(*MUGS))
        assert (outcome.exit_code, outcome.made) == (0, 12)
        await assert_all_are_right(bench)


async def test_no_chunk_holds_more_tokens_than_the_tier_may_enqueue(bench):
    head = "limits: {tier: 1}\nmodels: {gemini-nano-banana-2.1: {batch_tokens: {'1': 25}}}\ndefaults: {model: flash}\nitems:\n"
    outcome = await bench.submit(items(*MUGS), head)
    assert (outcome.exit_code, outcome.made) == (0, 12)
    assert max(event.requests for event in bench.events if isinstance(event, BatchSubmitted)) == 5


@both_ledgers
async def test_a_budget_stops_chunks_before_they_are_sent(bench):
    outcome = await bench.submit(items(*MUGS), max_usd=0.12)
    assert outcome.exit_code == 6
    assert 0 < outcome.made < 12
    assert outcome.usd <= 0.12
    assert outcome.left == 12 - outcome.made


async def test_a_manifest_that_changed_meanwhile_keeps_what_was_paid_and_asks_for_the_new(bench):
    await bench.submit(items(*MUGS), wait=False)
    await bench.until_ended()
    outcome = await bench.submit(items("a vase", *MUGS[1:]))
    assert (outcome.exit_code, (await bench.stats())["batch_lines"]) == (0, 13)
    await assert_all_are_right(bench, {**NAMED, "i0.jpg": "a vase"})
    aside = list((bench.folder / "out" / "superseded").iterdir())
    assert len(aside) == 1


@both_ledgers
async def test_an_item_that_left_the_manifest_is_paid_for_and_set_aside(bench):
    await bench.submit(items(*MUGS), wait=False)
    await bench.until_ended()
    for _ in range(2):
        outcome = await bench.submit(items(*MUGS[:-1]))
        assert outcome.exit_code == 0
    names = dict(list(NAMED.items())[:-1])
    await assert_all_are_right(bench, names)


async def test_an_item_that_left_and_comes_back_has_the_picture_that_came_meanwhile(bench):
    await bench.submit(items(*MUGS), wait=False)
    await bench.until_ended()
    outcome = await bench.submit(items(*MUGS[:-1]))
    came = [
        event.message for event in bench.events if isinstance(event, Notice) and "no longer wanted" in event.message
    ]
    assert (outcome.exit_code, len(came), "i11.jpg" in bench.pictures()) == (0, 1, False)
    assert len(list((bench.folder / "out" / "superseded").iterdir())) == 1
    outcome = await bench.submit(items(*MUGS))
    assert (outcome.exit_code, outcome.moved, (await bench.stats())["batch_lines"]) == (0, 1, 12)
    await assert_all_are_right(bench, NAMED)


async def test_a_manifest_that_has_lost_all_its_items_still_collects(bench):
    await bench.submit(items(*MUGS), wait=False)
    await bench.until_ended()
    outcome = await bench.submit("  - {id: other, prompt: x}\n", retry_selection=RetrySelection(explicit=True))
    assert (outcome.exit_code, outcome.made, outcome.submitted) == (0, 12, 0)


async def test_a_service_that_only_fails_ends_the_run_after_a_while(tmp_path):
    async with await serve(quick(faults=("get_503",))) as emulator:
        bench = BatchBench(emulator.base_url, tmp_path)
        outcome = await bench.submit(items(*MUGS), stall_s=0.4)
        assert (outcome.exit_code, outcome.stopped_by, outcome.submitted) == (4, "stalled", 12)
