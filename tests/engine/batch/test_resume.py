"""Runs that find batches on their way: under another manifest, with less on disk, at a limit, or told to stop."""

from __future__ import annotations

import asyncio
import errno
import os
import signal
import sqlite3
import sys
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from batchgen.emulator import serve
from batchgen.engine.batch.chunk_submitter import EnqueuedQuotaFull
from batchgen.errors import DailyQuotaReached, RateLimited
from batchgen.events import AttemptStarted, BatchSubmitted, Notice
from batchgen.ledger.reader import Reader
from batchgen.planning.plan import RetrySelection
from batchgen.providers.gemini import Gemini
from batchgen.store.unparsed import unparsed_attempts
from tests.support.batch_bench import CHUNKS, MUGS, BatchBench, assert_all_are_right, crash, quick
from tests.support.bench import HEAD, items
from tests.support.fork_server import PYTHON
from tests.support.marked_key import KEY
from tests.support.paths import ROOT
from tests.support.postgres import both_ledgers

PRO = HEAD.replace("flash", "pro")


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[BatchBench]:
    async with await serve(quick()) as emulator:
        yield BatchBench(emulator.base_url, tmp_path)


def state(bench: BatchBench) -> Path:
    return bench.folder / "out" / ".batchgen"


def notes(bench: BatchBench, words: str) -> list[str]:
    return [event.message for event in bench.events if isinstance(event, Notice) and words in event.message]


async def submitted(bench: BatchBench, text: str = items(*MUGS), head: str = HEAD) -> None:
    assert (await bench.submit(text, head, wait=False)).exit_code == 9
    await bench.until_ended()


# --- another manifest


@both_ledgers
async def test_a_batch_of_an_ai_model_that_the_manifest_no_longer_names_is_collected_all_the_same(bench):
    await submitted(bench)
    outcome = await bench.submit(items(*MUGS), PRO, engine="online")
    assert (outcome.exit_code, outcome.submitted) == (0, 0)
    stats = await bench.stats()
    assert (stats["batch_lines"], stats["requests"], len(bench.pictures())) == (12, 12, 12)
    assert len(list((bench.folder / "out" / "superseded").iterdir())) == 12
    assert await bench.at_the_vendors("batches") == {}


async def test_a_run_of_other_items_collects_what_is_out(bench):
    await submitted(bench)
    outcome = await bench.submit(items(*MUGS, "one more"), only=("i12",), engine="online")
    assert (outcome.exit_code, outcome.submitted, len(bench.pictures())) == (0, 0, 13)


async def test_a_limit_and_a_wish_for_anew_leave_what_is_out_alone(tmp_path):
    async with await serve(quick(running_s=30.0)) as emulator:
        bench = BatchBench(emulator.base_url, tmp_path)
        await bench.submit(items(*MUGS), wait=False)
        for options in ({"limit": 1}, {"retry_selection": RetrySelection(fresh=True)}, {"max_usd": 0.2}):
            outcome = await bench.submit(items(*MUGS), wait=False, **options)
            assert (outcome.exit_code, outcome.submitted, outcome.made) == (9, 12, 0)
        assert (await bench.stats())["batches_created"] == 1


@both_ledgers
async def test_two_ai_models_and_several_samples_of_an_item_go_in_batches_of_their_own(bench):
    text = "  - {id: a, prompt: one, count: 3}\n  - {id: b, prompt: two, model: pro, count: 2}\n"
    outcome = await bench.submit(text)
    assert (outcome.exit_code, outcome.made) == (0, 5)
    assert sorted(event.requests for event in bench.events if isinstance(event, BatchSubmitted)) == [2, 3]
    served = await bench.served()
    assert {name for name, digest in bench.pictures().items() if digest in served["one"]} == {
        "a.jpg", "a-2.jpg", "a-3.jpg"
    }  # fmt: skip


# --- less on disk, or less at the vendor's


@both_ledgers
async def test_lines_that_were_deleted_before_they_were_sent_are_written_anew(bench):
    await crash(bench, f"{CHUNKS}.update!", 1)
    for path in (state(bench) / "batch").iterdir():
        path.unlink()
    outcome = await bench.submit(items(*MUGS))
    assert (outcome.exit_code, (await bench.stats())["billed_images"]) == (0, 12)
    await assert_all_are_right(bench)


async def test_results_that_were_deleted_before_they_were_read_are_fetched_anew(bench):
    await crash(bench, f"{CHUNKS}.adopt", 1)
    next((state(bench) / "batch").glob("*.results")).unlink()
    outcome = await bench.submit(items(*MUGS))
    assert (outcome.exit_code, (await bench.stats())["billed_images"]) == (0, 12)
    await assert_all_are_right(bench)


async def test_lines_whose_upload_has_expired_are_uploaded_anew(tmp_path):
    async with await serve(replace(quick(), file_life_s=2.0)) as emulator:
        bench = BatchBench(emulator.base_url, tmp_path)
        await crash(bench, f"{CHUNKS}.mark_asked", 1, requests=12)
        await asyncio.sleep(2.0)
        outcome = await bench.submit(items(*MUGS))
        assert (outcome.exit_code, (await bench.stats())["uploads"]) == (0, 2)
        assert set((await bench.created()).values()) == {1}
        await assert_all_are_right(bench)


async def test_files_that_went_by_themselves_are_no_trouble_when_all_is_deleted(tmp_path):
    async with await serve(replace(quick(running_s=0.3), file_life_s=1.0)) as emulator:
        bench = BatchBench(emulator.base_url, tmp_path)
        await crash(bench, "batchgen.engine.batch.result_collector:ResultCollector.delete_remote_files", 1, requests=12)
        await asyncio.sleep(1.0)
        outcome = await bench.submit(items(*MUGS))
        assert (outcome.exit_code, notes(bench, "could not be deleted")) == (0, [])
        assert await bench.at_the_vendors("batches") == {}


async def test_a_disk_that_is_full_while_results_come_ends_with_5_and_they_go_on_later(bench, monkeypatch):
    await submitted(bench)

    def full(*_: Any) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("batchgen.engine.batch.result_collector.os.fdopen", opening(full))
        outcome = await bench.submit(items(*MUGS))
    assert (outcome.exit_code, outcome.stopped_by) == (5, "disk")
    assert "the disk is full" in outcome.message
    outcome = await bench.submit(items(*MUGS))
    assert (outcome.exit_code, outcome.made, (await bench.stats())["billed_images"]) == (0, 12, 12)


def opening(full: Any) -> Any:
    """Like os.fdopen, for files that take nothing."""
    real = os.fdopen

    class Full:
        def __init__(self, file: Any) -> None:
            self.file, self.name, self.write = file, "results", full

        def __getattr__(self, name: str) -> Any:
            return getattr(self.file, name)

        def __enter__(self) -> Any:
            return self

        def __exit__(self, *_: object) -> None:
            self.file.close()

    return lambda fd, mode: Full(real(fd, mode)) if mode == "r+b" else real(fd, mode)


async def test_a_line_that_was_not_understood_is_kept_and_later_read_at_the_price_of_a_batch(bench, monkeypatch):
    real = Gemini.read

    def read(self: Any, status: int, headers: Any, body: bytes) -> Any:
        raise KeyError("a bug")

    with monkeypatch.context() as patch:
        patch.setattr(Gemini, "read", read)
        await bench.submit(items("one"), wait=False)
        await bench.until_ended()
        outcome = await bench.submit(items("one"), engine="online")
    assert (outcome.exit_code, len(unparsed_attempts(str(bench.folder / "out")))) == (4, 1)
    assert Gemini.read is real
    outcome = await bench.submit(items("one"), engine="online")
    assert (outcome.exit_code, (await bench.stats())["billed_images"]) == (0, 1)
    online = BatchBench(bench.url, bench.folder / "other")
    whole = await online.submit_online(items("one"))
    assert bench.lines()["i0"]["usd"] == pytest.approx(whole.usd / 2, rel=0.02)


# --- in doubt


async def test_a_batch_that_was_asked_for_and_never_made_is_made_online_by_a_run_without_batches(tmp_path):
    async with await serve(quick(faults=("create_reset*1",))) as emulator:
        bench = BatchBench(emulator.base_url, tmp_path)
        assert (await bench.submit(items(*MUGS), wait=False)).exit_code == 9
        await asyncio.sleep(1.1)  # after which it would be in the list
        outcome = await bench.submit(items(*MUGS), engine="online")
        stats = await bench.stats()
        assert (outcome.exit_code, outcome.made, stats["batches_created"], stats["billed_images"]) == (0, 12, 0, 12)


async def test_at_the_fallbacks_time_a_batch_in_doubt_is_looked_for_first(tmp_path):
    async with await serve(quick(faults=("create_lost*1", "stuck"), list_lag_s=0.6)) as emulator:
        bench = BatchBench(emulator.base_url, tmp_path)
        outcome = await bench.submit(items(*MUGS), fallback_at=time.time() + 0.2)
        assert (outcome.exit_code, outcome.made) == (0, 12)
        stats = await bench.stats()
        assert (stats["batches_created"], stats["billed_images"]) == (1, 12)


async def test_how_long_a_batch_may_be_missing_in_the_list_counts_from_when_its_answer_was_given_up(tmp_path):
    async with await serve(quick(faults=("create_lost*1",), list_lag_s=0.5)) as emulator:
        bench = BatchBench(emulator.base_url, tmp_path)
        await bench.submit(items(*MUGS), wait=False)
        with sqlite3.connect(state(bench) / "ledger.sqlite") as ledger:
            (sent_at, asked_at) = ledger.execute("SELECT sent_at, asked_at FROM attempt, chunk").fetchone()
        ledger.close()
        assert asked_at > sent_at


async def test_after_a_crash_while_results_are_read_what_is_missing_counts_as_missing_and_no_more(bench):
    prompts = [*MUGS[:-1], "the last [[fault:line_missing*1]]"]
    await crash(bench, "batchgen.ledger.ledger:Ledger.attempt_succeeded!", 5, items(*prompts), requests=12)
    outcome = await bench.submit(items(*prompts))
    assert (outcome.exit_code, outcome.made > 0) == (0, True)
    with Reader.open(bench.folder / "out") as ledger:
        found = ledger.attempts()
    assert found == {"succeeded": 12, "uncertain": 1}, "its picture was billed by the vendor's own count"


# --- told to stop


async def test_a_deadline_ends_the_wait_with_7_and_what_is_out_stays_out(tmp_path):
    async with await serve(quick(running_s=30.0)) as emulator:
        bench = BatchBench(emulator.base_url, tmp_path)
        outcome = await bench.submit(items(*MUGS), deadline=time.time() + 0.8)
        assert (outcome.exit_code, outcome.submitted, outcome.made) == (7, 12, 0)


@pytest.mark.skipif(sys.platform == "win32", reason="there are no such signals")
async def test_an_interrupt_ends_the_wait_and_says_how_many_stay_in_batches(tmp_path):
    async with await serve(quick(running_s=3.0)) as emulator:
        bench = BatchBench(emulator.base_url, tmp_path)
        environ = {"PYTHONPATH": str(ROOT), "GEMINI_API_KEY": KEY, "BATCHGEN_GEMINI_BASE_URL": bench.url}
        argv = ("run", str(bench.manifest(items(*MUGS))), "--output", str(tmp_path / "out"), "--engine", "batch")
        child = await asyncio.create_subprocess_exec(
            PYTHON, "-m", "batchgen", *argv, cwd=ROOT, env=environ, stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        while not (await bench.stats())["batches_created"]:
            await asyncio.sleep(0.02)
        await asyncio.sleep(0.2)
        child.send_signal(signal.SIGINT)
        _, said = await child.communicate()
        assert child.returncode == 130
        assert "12 with the vendor" in said.decode()
        for command in ("status", "verify", "history", "export", "report", "plan"):
            done = await asyncio.create_subprocess_exec(
                PYTHON, "-m", "batchgen", command, argv[1], "--output", argv[3], cwd=ROOT, env=environ,
                stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
            )  # fmt: skip
            _, err = await done.communicate()
            assert b"Traceback" not in err


# --- what a line can bring


async def test_what_an_item_asks_for_beside_its_picture_comes_from_a_line_as_from_an_answer(bench, tmp_path):
    text = (
        "  - {id: a, prompt: one, modalities: [text, image]}\n"
        "  - {id: b, prompt: two, model: pro, keep_thoughts: true}\n"
        "  - {id: c, prompt: 'three [[fault:wrong_size]]', on_mismatch: fail}\n"
    )
    other = BatchBench(bench.url, tmp_path / "online")
    await bench.submit(text)
    await other.submit_online(text)

    def files(folder: Path) -> list[str]:
        names = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if ".batchgen" not in path.parts}
        return sorted(name for name in names if path_kind(name))

    def path_kind(name: str) -> bool:
        return "." in name

    assert len(files(bench.folder / "out")) == len(files(other.folder / "out")) > 3
    for key, line in bench.lines().items():
        mine, theirs = (
            {k: v for k, v in one.items() if k in ("state", "reason", "sidecars", "flags")}
            for one in (line, other.lines()[key])
        )
        assert mine == theirs


async def test_the_first_turn_goes_by_batch_and_the_others_online_with_auto(bench):
    outcome = await bench.submit("  - {id: room, turns: [a room, calmer, with a cat]}\n", engine="auto")
    assert (outcome.exit_code, outcome.made) == (0, 3)
    stats = await bench.stats()
    assert (stats["batch_lines"], stats["billed_images"]) == (1, 3)


async def test_what_a_batch_was_refused_is_asked_of_the_fallback_that_the_manifest_names(bench):
    text = (
        "  - {id: a, prompt: 'x [[fault:safety]]', fallback: [pro], fallback_on: [refusal]}\n  - {id: b, prompt: y}\n"
    )
    outcome = await bench.submit(text)
    assert (outcome.exit_code, outcome.made) == (3, 1)
    asked = [(event.key, event.model, event.batch) for event in bench.events if isinstance(event, AttemptStarted)]
    assert ("a", "gemini-3-pro-image", False) in asked
    assert len(asked) == 3


async def test_a_budget_that_requests_online_hold_is_asked_again_when_they_have_ended(tmp_path):
    async with await serve(replace(quick(), latency_s=(1.0, 1.0))) as emulator:
        bench = BatchBench(emulator.base_url, tmp_path)
        text = "  - {id: tea, prompt: tea, model: imagen-4.0-generate-001}\n" + items(*MUGS)
        outcome = await bench.submit(text, engine="auto", max_usd=0.05)
        assert outcome.exit_code == 6
        assert 0 < outcome.usd + outcome.estimated_usd <= 0.05


async def test_results_that_a_batch_never_names_count_as_missing_after_a_while_whoever_looks(tmp_path):
    async with await serve(quick(faults=("no_file*30",))) as emulator:
        bench = BatchBench(emulator.base_url, tmp_path)
        await submitted(bench)
        assert (await bench.submit(items(*MUGS), engine="online")).exit_code == 9
        with sqlite3.connect(state(bench) / "ledger.sqlite") as ledger:
            assert ledger.execute("UPDATE chunk SET ended_at = ended_at - 900 WHERE ended_at > 0").rowcount == 1
        ledger.close()
        outcome = await bench.submit(items(*MUGS), engine="online", hold_uncertain=True)
        assert (outcome.exit_code, outcome.counts) == (4, {"uncertain": 12})
        assert (await bench.stats())["billed_images"] == 12


async def test_trouble_that_does_not_end_is_mentioned(tmp_path):
    async with await serve(quick(faults=("get_503*8",))) as emulator:
        bench = BatchBench(emulator.base_url, tmp_path)
        outcome = await bench.submit(items(*MUGS), poll_s=0.001)
        assert (outcome.exit_code, outcome.made, len(notes(bench, "it is tried again"))) == (0, 12, 1)


def test_only_a_quota_that_a_smaller_batch_may_fit_makes_batches_smaller():
    assert (
        EnqueuedQuotaFull(RateLimited("", retry_after_s=7.0)).retry_after_s,
        EnqueuedQuotaFull(RateLimited("")).smaller_may_fit,
    ) == (7.0, True)
    assert not EnqueuedQuotaFull(DailyQuotaReached("")).smaller_may_fit
