"""Results of a batch on their way to us: what a download spoils is downloaded again, by this run or a later one, never asked for
again; and a batch that answers in its own operation is read like one that answers in a file."""

from __future__ import annotations

import json
import sqlite3
import tracemalloc
from dataclasses import replace

import aiohttp
import pytest

from batchgen.emulator import serve
from batchgen.engine.batch.result_lines import (
    ResultsCheck,
    check_results,
    describe_defect,
    extract_answers,
    without_answers,
)
from batchgen.errors import DownloadFailed
from batchgen.events import AttemptFailed, Notice
from batchgen.http.transport import Transport
from batchgen.ledger.reader import Reader
from batchgen.report.billing import read_billing
from tests.support.batch_bench import BATCH, CHUNKS, MUGS, BatchBench, assert_all_are_right, crash, quick
from tests.support.bench import items
from tests.support.postgres import both_ledgers


async def submitted(bench):
    assert (await bench.submit(items(*MUGS), wait=False)).exit_code == 9
    await bench.until_ended()


async def collected(bench, **options):
    """A night's look at what is out."""
    return await bench.submit(items(*MUGS), engine="online", poll_s=0.01, **options)


async def assert_paid_once(bench, images=12):
    assert (await bench.stats())["billed_images"] == images
    with Reader.open(bench.folder / "out") as reader:
        assert read_billing(reader).holds


def change(bench, sql):
    with sqlite3.connect(bench.folder / "out" / ".batchgen" / "ledger.sqlite") as ledger:
        assert ledger.execute(sql).rowcount == 1
    ledger.close()


# --- a file of results


@both_ledgers
@pytest.mark.parametrize("fault", ["html", "empty", "cut", "503"])
async def test_results_that_a_whole_run_cannot_download_are_downloaded_by_a_later_one(tmp_path, fault):
    times = 7 if fault == "503" else 4  # a run tries six times, or looks at three copies
    async with await serve(quick(faults=(f"download_{fault}*{times}",), ranges=False, running_s=0.5)) as emulator:
        bench = BatchBench(emulator.base_url, tmp_path)
        await submitted(bench)
        outcome = await collected(bench)
        notes = [event.message for event in bench.events if isinstance(event, Notice)]
        assert (outcome.exit_code, outcome.made, any("it is tried again" in note for note in notes)) == (9, 0, True)
        outcome = await collected(bench)
        assert (outcome.exit_code, (await bench.stats())["batches_created"]) == (0, 1)
        await assert_all_are_right(bench)
        await assert_paid_once(bench)


@pytest.mark.parametrize("fault", ["html", "empty", "cut"])
async def test_a_run_that_waits_downloads_what_was_spoilt_until_it_is_whole(tmp_path, fault):
    async with await serve(quick(faults=(f"download_{fault}*7",))) as emulator:
        bench = BatchBench(emulator.base_url, tmp_path)
        outcome = await bench.submit(items(*MUGS), poll_s=0.01)
        assert (outcome.exit_code, outcome.made, (await bench.stats())["batches_created"]) == (0, 12, 1)
        await assert_paid_once(bench)


async def test_results_that_are_cut_at_the_end_of_a_line_each_time_are_not_taken_for_all_there_are(
    tmp_path, monkeypatch
):
    """What is missing would be asked for in a second batch, and paid twice."""
    download = Transport.download

    async def cut(self, base_url, request, credentials, file):
        start = file.tell()
        response = await download(self, base_url, request, credentials, file)
        if start == 0:
            file.seek(0)
            file.truncate(sum(len(line) for line in file.readlines()[:6]))
        return response

    monkeypatch.setattr(Transport, "download", cut)
    async with await serve(quick()) as emulator:
        bench = BatchBench(emulator.base_url, tmp_path)
        outcome = await bench.submit(items(*MUGS), poll_s=0.01)
        assert (outcome.exit_code, outcome.made, (await bench.stats())["batches_created"]) == (0, 12, 1)
        await assert_paid_once(bench)


async def test_results_that_are_cut_each_time_are_downloaded_bit_by_bit(tmp_path):
    async with await serve(quick(faults=("download_cut",))) as emulator:
        bench = BatchBench(emulator.base_url, tmp_path)
        outcome = await bench.submit(items(*MUGS), stall_s=2.0, poll_s=0.01)
        assert (outcome.exit_code, outcome.made, (await bench.stats())["batches_created"]) == (0, 12, 1)
        await assert_paid_once(bench)


async def test_results_that_are_not_there_count_as_gone_after_days_and_not_before(tmp_path):
    async with await serve(quick(faults=("download_404",))) as emulator:
        bench = BatchBench(emulator.base_url, tmp_path)
        await submitted(bench)
        for _ in range(4):
            assert (await collected(bench)).exit_code == 9
        change(bench, "UPDATE chunk SET created_at = created_at - 300000")
        await collected(bench, hold_uncertain=True)  # which sees that they are gone
        outcome = await collected(bench, hold_uncertain=True)
        assert (outcome.exit_code, outcome.counts) == (4, {"uncertain": 12})
        await assert_paid_once(bench)


async def test_a_batch_that_was_deleted_is_looked_for_through_a_while_whichever_run_looks(tmp_path):
    async with await serve(quick()) as emulator:
        bench = BatchBench(emulator.base_url, tmp_path)
        await submitted(bench)
        (batch,) = (await bench.at_the_vendors("batches"))["operations"]
        async with aiohttp.ClientSession(headers={"x-goog-api-key": "local"}) as session:
            await session.delete(f"{bench.url}/v1beta/{batch['name']}")
        for _ in range(3):
            assert (await bench.submit(items(*MUGS), engine="online")).exit_code == 9
        change(bench, "UPDATE chunk SET ended_at = ended_at - 600 WHERE ended_at > 0")
        outcome = await bench.submit(items(*MUGS), engine="online", hold_uncertain=True)
        assert (outcome.exit_code, outcome.counts) == (4, {"uncertain": 12})


async def test_a_service_that_gives_no_results_ends_a_run_that_waits_after_a_while(tmp_path):
    async with await serve(quick(faults=("download_html",))) as emulator:
        bench = BatchBench(emulator.base_url, tmp_path)
        outcome = await bench.submit(items(*MUGS), stall_s=0.5, poll_s=0.01)
        assert (outcome.exit_code, outcome.stopped_by, outcome.submitted) == (4, "stalled", 12)


@pytest.mark.parametrize(
    ("text", "found", "why"),
    [
        (b"", (0, 0, False, 0), "only 0 of 2 answers are in it"),
        (b"<html>\n</html>\n", (0, 2, False, 15), "the download is not a results file"),
        (b'{"error": {"code": 503}}', (0, 1, True, 0), "the download is not a results file"),
        (b'{"key": "1", "response": {}}\n{"key": "2", "error": {}}', (2, 0, False, 54), ""),
        (b'{"response": {}, "metadata": {"key": "1"}}\n{"response": {"a": 1}}\n', (2, 0, False, 66), ""),
        (
            b'{"key": "1", "response": {}}\n{"key": "2", "resp',
            (1, 1, True, 29),
            "the file ends in the middle of a line",
        ),
        (b'{"key": "1", "resp\n\n{"key": "2", "error": {}}\n', (1, 1, False, 46), "1 of the lines are broken"),
        (b'{"key": "1", "response": {}}\n' * 2, (1, 0, False, 58), "only 1 of 2 answers are in it"),
    ],
)
def test_what_a_copy_of_results_lacks_is_seen_in_it(tmp_path, text, found, why):
    (tmp_path / "results").write_bytes(text)
    with open(tmp_path / "results", "rb") as file:
        seen = check_results(file)
    assert (seen.answers, seen.malformed, seen.truncated, seen.complete_bytes) == found
    assert describe_defect(seen, 2) == why


def test_a_copy_is_looked_at_in_memory_that_does_not_grow_with_its_lines(tmp_path):
    picture = b"iVBORw0KGgo" * 2_000_000
    with open(tmp_path / "results", "w+b") as file:
        file.write(b'{"key": "1", "response": {"data": "' + picture + b'"}}\n')
        file.write(b'{"response": {"data": "' + picture + b'"}, "metadata": {"key": "2"}}\n')
        file.write(b'{"key": "3", "response": {"data": "' + picture)
        tracemalloc.start()
        seen = check_results(file)
        _, peak_bytes = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert (seen.answers, seen.malformed, seen.truncated, peak_bytes < 4_000_000) == (2, 1, True, True)


def test_a_copy_with_more_answers_than_the_batch_counts_is_whole():
    assert describe_defect(ResultsCheck(3, 0, False, 9, b""), 0) == ""


# --- answers in the operation itself


@both_ledgers
@pytest.mark.parametrize("places", [("response",), ("metadata",), ("dest",), ("metadata", "response", "dest")])
@pytest.mark.parametrize("px", [64, 1024], ids=["short", "long"])
async def test_a_batch_that_answers_inline_is_read_wherever_the_answers_stand(tmp_path, places, px):
    options = replace(quick(inline_most=12, places=places), picture="full", picture_px=px)
    async with await serve(options) as emulator:
        bench = BatchBench(emulator.base_url, tmp_path)
        outcome = await bench.submit(items(*MUGS))
        assert (outcome.exit_code, outcome.made, (await bench.stats())["batches_created"]) == (0, 12, 1)
        assert await bench.at_the_vendors("batches") == await bench.at_the_vendors("files") == {}
        await assert_all_are_right(bench)
        await assert_paid_once(bench)


async def test_a_refused_request_of_a_batch_that_answers_inline_is_final(tmp_path):
    async with await serve(quick(inline_most=12)) as emulator:
        bench = BatchBench(emulator.base_url, tmp_path)
        outcome = await bench.submit(items(*MUGS[:3], "x [[fault:safety]]", "y [[fault:500*1]]"))
        assert (outcome.exit_code, outcome.counts) == (3, {"succeeded": 4, "refused": 1})


@pytest.mark.parametrize("fault", ["get_html*3", "get_503*3", "get_reset*2", "no_file*2", "get_404*1"])
async def test_a_fault_while_inline_answers_are_looked_for_costs_nothing(tmp_path, fault):
    async with await serve(quick(inline_most=12, faults=(fault,))) as emulator:
        bench = BatchBench(emulator.base_url, tmp_path)
        outcome = await bench.submit(items(*MUGS), requests=6)
        assert (outcome.exit_code, outcome.made, set((await bench.created()).values())) == (0, 12, {1})
        await assert_paid_once(bench)


async def test_an_inline_answer_without_a_key_is_kept_and_its_request_asked_for_again(tmp_path):
    async with await serve(quick(inline_most=12)) as emulator:
        bench = BatchBench(emulator.base_url, tmp_path)
        outcome = await bench.submit(items(*MUGS[:3], "x [[fault:line_keyless*1]]"))
        assert (outcome.exit_code, outcome.made) == (0, 4)
        assert [event.key for event in bench.events if isinstance(event, AttemptFailed)] == ["i3"]
        kept = next((bench.folder / "out" / ".batchgen" / "batch").glob("*.strange"))
        assert len(kept.read_bytes().splitlines()) == 1


@pytest.mark.parametrize("inline", [0, 12])
async def test_the_only_answer_of_a_batch_of_one_request_needs_no_key(tmp_path, inline):
    async with await serve(quick(inline_most=inline)) as emulator:
        bench = BatchBench(emulator.base_url, tmp_path)
        outcome = await bench.submit(items("x [[fault:line_keyless]]"))
        assert (outcome.exit_code, outcome.made) == (0, 1)
        await assert_paid_once(bench, 1)


@pytest.mark.parametrize(
    "place",
    [
        (f"{BATCH}.result_collector:extract_answers", 1),
        (f"{BATCH}.result_collector:extract_answers!", 1),
        (f"{BATCH}.result_collector:ResultCollector._fetch_complete!", 1),
        (f"{CHUNKS}.adopt", 1),
        ("batchgen.ledger.ledger:Ledger.attempt_succeeded!", 5),
        (f"{BATCH}.result_collector:BatchContext.delete_files!", 1),
        (f"{BATCH}.result_collector:ResultCollector.delete_remote_files!", 1),
    ],
)
async def test_a_process_that_is_killed_while_it_reads_inline_answers_costs_nothing(tmp_path, place):
    async with await serve(quick(inline_most=12)) as emulator:
        bench = BatchBench(emulator.base_url, tmp_path)
        await crash(bench, *place, requests=12)
        outcome = await bench.submit(items(*MUGS))
        assert (outcome.exit_code, (await bench.stats())["batches_created"]) == (0, 1)
        await assert_all_are_right(bench)
        await assert_paid_once(bench)
        assert await bench.at_the_vendors("batches") == {}


def test_inline_answers_that_break_off_are_no_answers(tmp_path):
    whole = json.dumps({"response": {"inlinedResponses": {"inlinedResponses": [{"response": {}}, {"response": {}}]}}})
    for text in ("", "<html>", whole[:-3], whole[: len(whole) * 2 // 3]):
        (tmp_path / "operation").write_text(text)
        with open(tmp_path / "operation", "r+b") as operation, open(tmp_path / "results", "w+b") as file:
            with pytest.raises(DownloadFailed):
                extract_answers(operation, file)
            assert file.tell() == 0


def test_inline_answers_are_taken_out_in_the_memory_of_one_of_them(tmp_path):
    with open(tmp_path / "operation", "w+b") as operation, open(tmp_path / "results", "w+b") as file:
        operation.write(b'{"response": {"inlinedResponses": {"inlinedResponses": [')
        picture = b"iVBORw0KGgo" * 200_000
        for number in range(40):
            named = b'"metadata": {"key": "%d"}}' % number
            operation.write(b",\n  "[number == 0 :] + b'{"response": {"data": "' + picture + b'"},\n ' + named)
        operation.write(b"]}}}")
        tracemalloc.start()
        extract_answers(operation, file)
        short = without_answers(operation)
        _, peak_bytes = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert json.loads(short) == {"response": {"inlinedResponses": {"inlinedResponses": [{}]}}}
        assert (check_results(file).answers, file.tell() > 88_000_000, peak_bytes < 10_000_000) == (40, True, True)
