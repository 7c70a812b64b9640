"""A job from manifest to folder against the emulator over real HTTP, with real files: what is made, what is kept, what costs nothing."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import sqlite3
from pathlib import Path

import pytest
from aiohttp import web
from PIL import Image

import batchgen
from batchgen.emulator import EmulatorOptions, serve
from batchgen.engine import http_attempt
from batchgen.errors import JobLocked, ManifestError, SettingsError, UsageError
from batchgen.events import AttemptFailed, AttemptStarted, Event, Notice, SampleSucceeded
from batchgen.ledger.schema import ledger_path
from batchgen.store.lock import JobLock
from batchgen.store.store import Store
from tests.support.bench import Bench, items
from tests.support.http_server import serving
from tests.support.marked_key import KEY
from tests.support.postgres import both_ledgers
from tests.support.samples import FLASH_USD


async def test_every_picture_is_the_one_that_was_served_for_its_prompt(bench):
    outcome = await bench.run(items(*(f"mug number {n}" for n in range(12))))
    assert (outcome.exit_code, outcome.made, outcome.left) == (0, 12, 0)
    served = await bench.served()
    assert {name: {digest} for name, digest in bench.pictures().items()} == {
        f"i{n}.jpg": served[f"mug number {n}"] for n in range(12)
    }


async def test_running_again_sends_nothing_and_exits_0(bench):
    await bench.run(items("a", "b"))
    outcome = await bench.run(items("a", "b"))
    assert (outcome.exit_code, outcome.kept, await bench.requests()) == (0, 2, 2)


async def test_a_picture_older_than_max_age_is_made_again_and_the_old_one_is_kept_aside(bench):
    text = items("a") + "  - {id: old, prompt: b, max_age: 7d}\n  - {id: kept, prompt: c, max_age: 2w}\n"
    await bench.run(text)
    outcome = await bench.run(text)
    assert (outcome.kept, await bench.requests()) == (3, 3)
    with sqlite3.connect(bench.folder / "out" / ".batchgen" / "ledger.sqlite") as ledger:
        ledger.execute("UPDATE attempt SET ended_at = ended_at - 8 * 86400")
    ledger.close()
    outcome = await bench.run(text)
    assert (outcome.kept, outcome.made, await bench.requests()) == (2, 1, 4)
    assert (bench.folder / "out" / "superseded" / "old.1.jpg").is_file()
    outcome = await bench.run(text)
    assert (outcome.kept, await bench.requests()) == (3, 4)


async def test_an_edited_prompt_costs_one_request_and_the_old_picture_is_kept_aside(bench):
    await bench.run(items("a", "b", "c"))
    old = bench.pictures()["i1.jpg"]
    outcome = await bench.run(items("a", "b, at night", "c"))
    assert (outcome.made, await bench.requests()) == (1, 4)
    superseded = list((bench.folder / "out" / "superseded").iterdir())
    assert [hashlib.sha256(path.read_bytes()).hexdigest() for path in superseded] == [old]


@both_ledgers
async def test_an_edit_taken_back_brings_the_old_picture_back_for_nothing(bench):
    await bench.run(items("a", "b"))
    before = bench.pictures()
    await bench.run(items("a", "b, at night"))
    outcome = await bench.run(items("a", "b"))
    assert (outcome.made, outcome.moved, await bench.requests()) == (0, 1, 3)
    assert bench.pictures() == before


@both_ledgers
async def test_what_the_manifest_no_longer_wants_moves_aside_and_comes_back_for_nothing(bench):
    await bench.run(items("a", "b"))
    before = bench.pictures()
    outcome = await bench.run(items("a"))
    assert (set(bench.pictures()), outcome.exit_code, set(bench.lines())) == ({"i0.jpg"}, 0, {"i0"})
    outcome = await bench.run(items("a", "b"))
    assert (bench.pictures(), await bench.requests(), outcome.counts) == (before, 2, {"succeeded": 2})


@both_ledgers
async def test_two_items_that_swap_their_names_swap_their_files_for_nothing(bench):
    entry = "  - {{id: {0}, prompt: {0}, filename: {1}}}\n"
    await bench.run(entry.format("a", "one") + entry.format("b", "two"))
    before = bench.pictures()
    await bench.run(entry.format("a", "two") + entry.format("b", "one"))
    assert bench.pictures() == {"one.jpg": before["two.jpg"], "two.jpg": before["one.jpg"]}
    assert await bench.requests() == 2


@both_ledgers
async def test_raising_the_count_buys_only_what_is_missing(bench):
    await bench.run("  - {id: a, prompt: a, count: 2}\n")
    before = bench.pictures()
    await bench.run("  - {id: a, prompt: a, count: 4}\n")
    after = bench.pictures()
    assert set(after) == {"a.jpg", "a-2.jpg", "a-3.jpg", "a-4.jpg"}
    assert {name: after[name] for name in before} == before
    assert await bench.requests() == 4


async def test_a_deleted_file_is_made_again(bench):
    await bench.run(items("a", "b"))
    (bench.folder / "out" / "i0.jpg").unlink()
    await bench.run(items("a", "b"))
    assert set(bench.pictures()) == {"i0.jpg", "i1.jpg"}
    assert await bench.requests() == 3


async def test_a_refusal_is_final_keeps_the_vendors_words_and_is_not_sent_again_unchanged(bench):
    outcome = await bench.run(items("fine", "[[fault:safety]] x"))
    assert (outcome.exit_code, outcome.counts) == (3, {"succeeded": 1, "refused": 1})
    assert bench.lines()["i1"]["reason"] == "safety"
    again = await bench.run(items("fine", "[[fault:safety]] x"))
    assert (again.exit_code, await bench.requests()) == (3, 2)


async def test_what_failed_is_tried_again_by_the_next_run(bench):
    outcome = await bench.run(
        items("[[fault:503*6]] x"), head="defaults: {model: flash}\nlimits: {attempts: 2}\nitems:\n"
    )
    assert (outcome.exit_code, outcome.counts) == (4, {"failed": 1})
    assert await bench.requests() == 2


@pytest.mark.parametrize("fault", ["503*1", "500*1", "502html*1", "429*2", "no_image*1", "truncated_json*1", "bad_base64*1",
                                   "half_image*1", "image_safety*1", "reset*1", "empty*1"])  # fmt: skip
async def test_what_may_pass_is_tried_again_until_the_picture_is_there(bench, fault):
    outcome = await bench.run(items(f"[[fault:{fault}]] x"))
    assert (outcome.exit_code, set(bench.pictures())) == (0, {"i0.jpg"})
    assert any(isinstance(event, AttemptFailed) for event in bench.events)


@pytest.mark.parametrize("fault", ["half_image", "bad_base64", "truncated_json", "html200", "empty", "text_only"])
async def test_no_broken_answer_ever_becomes_a_file(bench, fault):
    outcome = await bench.run(items(f"[[fault:{fault}]] x"))
    assert (outcome.made, bench.pictures()) == (0, {})
    assert list((bench.folder / "out" / ".batchgen" / "spool").iterdir()) == []


@both_ledgers
async def test_a_lost_answer_is_uncertain_counted_and_repeated_once(bench):
    outcome = await bench.run(items("[[fault:reset]] x"))
    assert (outcome.counts, outcome.maybe_requests, await bench.requests()) == ({"uncertain": 1}, 2, 2)
    assert outcome.maybe_usd == pytest.approx(2 * FLASH_USD, rel=1e-3)


async def test_a_lost_answer_is_not_repeated_when_the_user_holds_them(bench):
    outcome = await bench.run(items("[[fault:reset]] x"), hold_uncertain=True)
    assert (outcome.counts, await bench.requests()) == ({"uncertain": 1}, 1)


async def test_a_jpeg_that_the_server_calls_png_gets_its_true_ending(bench):
    await bench.run(items("[[fault:mislabelled]] x"))
    assert set(bench.pictures()) == {"i0.jpg"}


async def test_several_pictures_in_one_answer_are_all_kept_and_the_last_one_counts(bench):
    await bench.run(items("[[fault:many_images]] x"))
    drafts = list((bench.folder / "out" / "drafts").iterdir())
    assert (len(drafts), set(bench.pictures())) == (2, {"i0.jpg"})
    served = (await bench.served())["[[fault:many_images]] x"]
    assert {hashlib.sha256(path.read_bytes()).hexdigest() for path in drafts} | set(bench.pictures().values()) == served


async def test_a_picture_of_another_ratio_than_asked_for_is_kept_and_flagged(bench):
    await bench.run('  - {id: a, prompt: "[[fault:wrong_size]] x", aspect_ratio: "16:9"}\n')
    (event,) = [event for event in bench.events if isinstance(event, SampleSucceeded)]
    assert event.files[0].flags
    assert bench.lines()["a"]["flags"]


@both_ledgers
async def test_one_imagen_request_brings_several_samples_and_a_filtered_one_is_refused(bench):
    outcome = await bench.run(
        '  - {id: a, prompt: "[[fault:rai_filtered]] fox", model: imagen-4.0-generate-001, count: 4}\n'
    )
    assert (await bench.requests(), outcome.counts) == (1, {"succeeded": 3, "refused": 1})
    assert len(bench.pictures()) == 3


@both_ledgers
async def test_a_link_that_cannot_be_fetched_is_fetched_by_the_next_run_and_not_bought_again(bench, monkeypatch):
    monkeypatch.setattr(http_attempt, "DOWNLOAD_TRIES", 1)
    text = '  - {id: a, prompt: "[[fault:link404*1]] x", model: google/nano-banana-pro}\n'
    first = await bench.run(text)
    second = await bench.run(text)
    assert (first.made, first.usd, first.maybe_requests, second.exit_code) == (
        0,
        0.042,
        0,
        0,
    )  # it is paid, and said so
    assert ((await bench.get("/_emulator/stats"))["requests"], len(bench.pictures())) == (1, 1)
    with batchgen.Ledger.open(bench.folder / "out") as ledger:
        assert ledger.money().maybe_requests == 0


@both_ledgers
async def test_a_link_is_fetched_as_a_stage_of_its_own_that_never_generates_again(bench):
    outcome = await bench.run('  - {id: a, prompt: "[[fault:link404*1]] x", model: google/nano-banana-pro}\n')
    stats = await bench.get("/_emulator/stats")
    assert stats["requests"] == stats["billed"] == 1
    if not bench.pictures():  # the link was gone at first: the next run fetches and does not buy
        assert outcome.exit_code in (3, 4)
        await bench.run('  - {id: a, prompt: "[[fault:link404*1]] x", model: google/nano-banana-pro}\n')
        assert (await bench.get("/_emulator/stats"))["requests"] == 1
    assert len(bench.pictures()) == 1
    with batchgen.Ledger.open(bench.folder / "out") as ledger:
        assert ledger.money().maybe_requests == 0


async def test_a_bad_key_stops_the_run_with_exit_code_5(bench, monkeypatch):
    job = batchgen.load(bench.manifest(items(*"abcdefgh")), output=bench.folder / "out",
                        environ={"GEMINI_API_KEY": "bad-key", "BATCHGEN_GEMINI_BASE_URL": bench.url})  # fmt: skip
    outcome = await batchgen.run(job)
    assert (outcome.exit_code, outcome.stopped_by, outcome.made) == (5, "key_rejected", 0)
    assert (await bench.get("/_emulator/stats"))["billed"] == 0


@both_ledgers
async def test_a_daily_quota_parks_one_model_and_the_others_go_on_with_exit_code_8(bench):
    text = items("[[fault:429day]] x", "y") + '  - {id: p, prompt: "z", model: pro}\n'
    outcome = await bench.run(text, concurrency=1)
    assert (outcome.exit_code, outcome.left, set(bench.pictures())) == (8, 2, {"p.jpg"})
    again = await bench.run(text)
    assert (again.exit_code, again.made) == (8, 0)  # still parked: nothing is sent to it
    assert await bench.requests() == 2


async def test_a_budget_is_never_overshot(bench):
    outcome = await bench.run(items(*(f"p{n}" for n in range(40))), max_usd=0.30, concurrency=20)
    assert (outcome.exit_code, outcome.stopped_by) == (6, "budget")
    assert 0 < outcome.usd <= 0.30


@both_ledgers
async def test_a_days_budget_counts_what_earlier_runs_of_the_day_have_spent(bench):
    head = "defaults: {model: flash}\nlimits: {budget_usd_per_day: 0.10}\nitems:\n"
    first = await bench.run(items(*(f"p{n}" for n in range(9))), head)
    second = await bench.run(items(*(f"p{n}" for n in range(9))), head)
    assert (first.exit_code, first.made, second.exit_code, second.made) == (6, 2, 6, 0)


async def test_references_are_sent_and_a_changed_one_makes_its_item_stale(bench):
    Image.new("RGB", (32, 32), "teal").save(bench.folder / "ref.png")
    text = '  - {id: a, prompt: "like this", references: [ref.png]}\n' + items("b")
    await bench.run(text)
    Image.new("RGB", (32, 32), "tan").save(bench.folder / "ref.png")
    outcome = await bench.run(text)
    assert (outcome.made, await bench.requests()) == (1, 3)


async def test_no_key_is_said_before_anything_is_made(bench):
    job = batchgen.load(bench.manifest(items("a")), environ={})
    with pytest.raises(SettingsError, match="GEMINI_API_KEY or GOOGLE_API_KEY"):
        await batchgen.run(job)
    assert not (bench.folder / "job").exists()


async def test_a_bad_manifest_sends_nothing_and_leaves_nothing_behind(bench):
    with pytest.raises(ManifestError):
        await bench.run(items("a") + "  - {id: i0, prompt: twice}\n")
    assert await bench.requests() == 0
    assert not (bench.folder / "out").exists()


async def test_a_folder_of_emulated_pictures_never_gets_real_ones(bench):
    await bench.run(items("a"))
    job = batchgen.load(bench.manifest(items("a", "b")), output=bench.folder / "out", environ={"GEMINI_API_KEY": KEY})
    with pytest.raises(UsageError, match="emulated"):
        await batchgen.run(job)


async def test_a_folder_that_another_manifest_filled_is_told_before_its_pictures_move(bench):
    async def told() -> int:
        await bench.run(items("a"))
        return sum("superseded/" in event.message for event in bench.events if isinstance(event, Notice))

    def was_of(path: Path) -> None:
        with sqlite3.connect(ledger_path(bench.folder / "out")) as db:
            db.execute("UPDATE meta SET value = ? WHERE key = 'manifest'", (str(path),))
        db.close()

    assert (await told(), await told()) == (0, 0)
    other = bench.folder / "other.yaml"
    was_of(other)
    assert await told() == 0  # it was only renamed
    other.touch()
    was_of(other)
    assert await told() == 1


async def test_a_second_run_of_one_job_is_refused_with_exit_code_11(bench):
    await bench.run(items("a"))
    lock = JobLock(bench.folder / "out")
    lock.acquire()
    try:
        with pytest.raises(JobLocked, match="process") as error:
            await bench.run(items("a", "b"))
    finally:
        lock.release()
    assert error.value.exit_code == 11


async def test_an_observer_that_raises_is_dropped_and_the_run_goes_on(bench, caplog):
    def broken(event: Event) -> None:
        raise RuntimeError("broken observer")

    job = batchgen.load(bench.manifest(items("a", "b")), output=bench.folder / "out", emulate=True, environ={})
    outcome = await batchgen.run(job, observers=[broken], options=batchgen.RunOptions(emulator_url=bench.url))
    assert (outcome.exit_code, caplog.text.count("an observer failed")) == (0, 1)


async def test_the_model_ids_of_older_documents_work_against_a_server_that_is_not_the_vendors(bench):
    text = "".join(f"  - {{id: m{n}, prompt: fox, model: {model}}}\n" for n, model in enumerate(
        ["gemini-2.5-flash-image", "gemini-3-pro-image-preview", "imagen-3.0-generate-002", "imagen-4.0-generate-001",
         "google/imagen-4.0-generate-001"]))  # fmt: skip
    outcome = await bench.run(text)
    assert (outcome.exit_code, outcome.made) == (0, 5)


async def test_nothing_the_run_says_holds_the_key(bench):
    job = batchgen.load(bench.manifest(items("a", "[[fault:400]] b")), output=bench.folder / "out",
                        environ={"GEMINI_API_KEY": KEY, "BATCHGEN_GEMINI_BASE_URL": bench.url})  # fmt: skip
    events: list[Event] = []
    outcome = await batchgen.run(job, observers=[events.append])
    everything = repr(events) + repr(outcome) + repr(job)
    for path in (bench.folder / "out").rglob("*"):
        if path.is_file():
            everything += path.read_bytes().decode("latin-1")
    assert KEY not in everything
    assert not any(isinstance(event, Notice) and "bug" in event.message for event in events)


async def test_a_reference_that_vanishes_after_the_plan_fails_its_item_and_sends_nothing_for_it(bench, monkeypatch):
    Image.new("RGB", (32, 32), "teal").save(bench.folder / "ref.png")
    text = '  - {id: a, prompt: "like this", references: [ref.png]}\n' + items("b")

    def vanish(event: Event) -> None:
        (bench.folder / "ref.png").unlink(missing_ok=True)

    job = batchgen.load(bench.manifest(text), output=bench.folder / "out", emulate=True, environ={})
    outcome = await batchgen.run(job, observers=[vanish], options=batchgen.RunOptions(emulator_url=bench.url))
    assert (outcome.exit_code, await bench.requests(), bench.lines()["a"]["reason"]) == (3, 1, "reference_gone")


async def test_cancelling_a_run_records_what_was_in_flight_as_uncertain_and_frees_the_job(tmp_path):
    async with await serve(EmulatorOptions(latency_s=(5.0, 5.0), picture="tiny")) as emulator:
        bench = Bench(emulator.base_url, tmp_path)
        task = asyncio.ensure_future(bench.run(items("a", "b")))
        while not any(isinstance(event, AttemptStarted) for event in bench.events) or await bench.requests() < 2:
            await asyncio.sleep(0.02)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        with batchgen.Ledger.open(tmp_path / "out") as ledger:
            assert (ledger.counts(), ledger.money().maybe_requests) == ({"uncertain": 2}, 2)
        JobLock(tmp_path / "out").acquire()


async def test_a_job_that_another_process_made_while_the_manifest_was_read_is_not_made_again(bench, monkeypatch):
    """The folder is empty when the manifest is read, and full by the time the lock is ours."""
    await bench.run(items("a", "b"))
    full = bench.folder / "out"
    full.rename(bench.folder / "full")
    prepare = Store.prepare

    def filled_meanwhile(self: Store) -> None:
        (bench.folder / "full").rename(full)
        prepare(self)

    monkeypatch.setattr(Store, "prepare", filled_meanwhile)
    outcome = await bench.run(items("a", "b"))
    assert (outcome.exit_code, outcome.kept, await bench.requests()) == (0, 2, 2)


async def test_a_key_that_the_server_echoes_is_not_kept_anywhere(tmp_path):
    async def echo(request: web.Request) -> web.Response:
        key = request.headers["x-goog-api-key"]
        hidden = base64.b64encode(key.encode()).decode()
        message = f"Consumer 'api_key:{key}' ({hidden}, {key.encode().hex()}) has been suspended."
        return web.json_response({"error": {"code": 400, "message": message, "status": "INVALID_ARGUMENT"}}, status=400)

    key = KEY
    async with serving(echo) as url:
        bench = Bench(url, tmp_path)
        environ = {"GEMINI_API_KEY": key, "BATCHGEN_GEMINI_BASE_URL": url}
        job = batchgen.load(bench.manifest(items("a")), output=tmp_path / "out", environ=environ)
        await batchgen.run(job, observers=[bench.events.append])
    kept = [path.read_bytes().decode("latin-1") for path in (tmp_path / "out").rglob("*") if path.is_file()]
    everything = repr(bench.events) + "".join(kept)
    assert "has been suspended" in everything
    for form in (key, base64.b64encode(key.encode()).decode().rstrip("="), key.encode().hex()):
        assert form not in everything


async def test_a_run_in_which_nothing_succeeds_any_more_stops_with_4_and_says_so(bench):
    outcome = await bench.run(items("[[fault:503]] a", "[[fault:429bare]] b"), stall_s=0.2)
    assert (outcome.exit_code, outcome.stopped_by, outcome.made, outcome.left) == (4, "stalled", 0, 2)
    assert "none succeeded" in outcome.message


async def test_a_server_that_never_answers_holds_a_request_no_longer_than_its_time_limit(bench):
    head = "defaults: {model: flash}\nmodels: {gemini-2.5-flash-image: {time_limit_s: 0.3}}\nitems:\n"
    text = '  - {id: a, model: gemini-2.5-flash-image, prompt: "[[fault:hang]] a"}\n'
    outcome = await asyncio.wait_for(bench.run(text, head=head, hold_uncertain=True), 10.0)
    assert (outcome.exit_code, outcome.counts, outcome.maybe_requests) == (4, {"uncertain": 1}, 1)
