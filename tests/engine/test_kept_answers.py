"""What was paid for and is no picture yet: its cost is counted, its bytes are kept and read again, and it is not bought twice."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from batchgen.emulator import EmulatorOptions, serve
from batchgen.engine.pacing import STORE_SLOTS
from batchgen.errors import NoImage
from batchgen.http.answer import HttpAnswer
from batchgen.http.base64_stream import StreamingBase64Decoder
from batchgen.ledger.reader import Reader
from batchgen.planning.plan import RetrySelection
from batchgen.providers.aimlapi import AimlApi
from batchgen.providers.gemini import Gemini
from batchgen.store.unparsed import load_answer, unparsed_attempts
from tests.support.bench import Bench, items
from tests.support.codec_bug import plant
from tests.support.fork_server import PYTHON
from tests.support.paths import ROOT
from tests.support.postgres import both_ledgers
from tests.support.samples import FLASH_USD

LIFTED_PX = 2048  # a JPEG beyond the length from which strings are decoded to disk
ASKED_AGAIN = RetrySelection(states=frozenset({"failed"}), explicit=True)


@pytest.fixture(autouse=True)
def no_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("batchgen.scheduling.retry.backoff_s", lambda *_: 0.01)


@pytest.fixture(params=[64, LIFTED_PX], ids=["picture in the envelope", "picture lifted"])
async def bench(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Bench]:
    async with await serve(EmulatorOptions(latency_s=(0.0, 0.02), picture_px=request.param, rpm=0)) as emulator:
        yield Bench(emulator.base_url, tmp_path)


def kept(bench: Bench) -> int:
    return len(unparsed_attempts(str(bench.folder / "out")))


async def billed(bench: Bench) -> int:
    return int((await bench.get("/_emulator/stats"))["billed"])


@both_ledgers
async def test_answers_in_words_cost_what_their_tokens_cost(bench):
    outcome = await bench.run(items("[[fault:text_only]] x"))
    with Reader.open(bench.folder / "out") as ledger:
        money = ledger.money()
    assert (outcome.made, outcome.usd > 0, money.maybe) == (0, True, 0)
    assert money.spent == pytest.approx(outcome.usd)
    assert money.spent < 0.0336  # words are cheaper than a picture


async def test_half_a_picture_costs_what_the_answer_says_and_is_not_estimated_on_top(bench):
    outcome = await bench.run(items("[[fault:half_image*1]] x"))
    assert (outcome.made, outcome.maybe_usd) == (1, 0)
    assert outcome.usd > 0.0336 * 1.9


@pytest.mark.parametrize("error", [KeyError("x"), RecursionError(), OSError("x")], ids=repr)
async def test_a_bug_that_is_mended_before_the_next_run_costs_nothing(bench, monkeypatch, error):
    prompts = [f"mug {n}" for n in range(6)]
    plant(monkeypatch, Gemini, 2, error)
    first = await bench.run(items(*prompts))
    assert (first.made, first.exit_code, kept(bench)) == (4, 3, 2)
    messages = {line["message"].split(" ")[0] for line in bench.lines().values() if line["state"] == "failed"}
    assert messages == {type(error).__name__}
    second = await bench.run(items(*prompts))
    assert (second.exit_code, await billed(bench), kept(bench)) == (0, 6, 0)
    served = await bench.served()
    assert {name: {digest} for name, digest in bench.pictures().items()} == {
        f"i{n}.jpg": served[prompt] for n, prompt in enumerate(prompts)
    }
    assert {line["usd_source"] for line in bench.lines().values()} == {"usage"}
    with Reader.open(bench.folder / "out") as ledger:
        assert ledger.money().maybe_requests == 0


@both_ledgers
async def test_a_bug_that_stays_is_bought_again_only_when_asked(bench, monkeypatch):
    plant(monkeypatch, Gemini, 3, KeyError("x"))
    for _ in range(2):
        outcome = await bench.run(items("a"))
        assert (outcome.counts, await bench.requests(), kept(bench)) == ({"failed": 1}, 1, 1)
    monkeypatch.undo()
    plant(monkeypatch, Gemini, 1, KeyError("x"))  # for the kept answer
    outcome = await bench.run(items("a"), retry_selection=ASKED_AGAIN)
    assert (outcome.exit_code, await bench.requests(), kept(bench)) == (0, 2, 0)


async def test_a_bug_that_meets_every_answer_stops_its_lane_soon(bench, monkeypatch):
    plant(monkeypatch, Gemini, 1000, KeyError("x"))
    outcome = await bench.run(items(*(f"mug {n}" for n in range(40))), concurrency=2)
    assert outcome.exit_code == 4
    assert (
        await bench.requests() <= 5 + 2 + STORE_SLOTS
    )  # those in the air and those being stored when the fifth is told
    monkeypatch.undo()
    await bench.run(items(*(f"mug {n}" for n in range(40))))
    assert (await billed(bench), len(bench.pictures()), kept(bench)) == (40, 40, 0)


async def test_a_broken_answer_is_bought_again_twice_a_run_at_most_and_each_is_kept(bench):
    await bench.run(items("[[fault:half_image]] x"))
    assert (await bench.requests(), kept(bench)) == (3, 3)
    await bench.run(items("[[fault:half_image]] x"))
    assert (await bench.requests(), kept(bench)) == (6, 6)


@pytest.mark.parametrize("fault", ["half_image*1", "bad_base64*1", "truncated_json*1"])
async def test_what_was_kept_goes_when_its_picture_is_there(bench, fault):
    outcome = await bench.run(items(f"[[fault:{fault}]] x"))
    assert (outcome.exit_code, kept(bench), await bench.requests()) == (0, 0, 2)


async def test_a_picture_that_the_codec_does_not_see_is_kept(tmp_path, monkeypatch):
    async with await serve(EmulatorOptions(latency_s=(0.0, 0.0), picture_px=LIFTED_PX, rpm=0)) as emulator:
        bench = Bench(emulator.base_url, tmp_path)
        plant(monkeypatch, Gemini, 3, NoImage("no picture"))
        await bench.run(items("a"))
        assert (await bench.requests(), kept(bench)) == (3, 3)
        outcome = await bench.run(items("a"))
        assert (outcome.exit_code, await bench.requests(), len(bench.pictures()), kept(bench)) == (0, 3, 1, 0)


@both_ledgers
async def test_a_link_that_a_bug_hid_is_fetched_by_the_next_run(bench, monkeypatch):
    entry = "  - {id: a, prompt: a, model: aiml-imagen-4}\n"
    plant(monkeypatch, AimlApi, 1, KeyError("x"))
    await bench.run(entry)
    assert (kept(bench), bench.pictures()) == (1, {})
    outcome = await bench.run(entry)
    assert (outcome.exit_code, await billed(bench), len(bench.pictures()), kept(bench)) == (0, 1, 1, 0)


async def test_a_kept_answer_of_an_edited_prompt_is_not_taken_for_the_new_one(bench, monkeypatch):
    plant(monkeypatch, Gemini, 2, KeyError("x"))  # for the answer, and when it is read again
    await bench.run(items("a"))
    for _ in range(2):
        await bench.run(items("[[fault:text_only]] a, at night"))
        assert (bench.pictures(), kept(bench)) == ({}, 1)


@pytest.mark.parametrize(
    ("place", "k"),
    [
        ("batchgen.store.unparsed:SpoolFile", 1),  # before the envelope
        ("batchgen.store.unparsed:SpoolFile", 2),  # before the head
        ("batchgen.store.unparsed:os.replace", 2),  # the first one is the lock's
        ("batchgen.store.unparsed:sync_folder", 1),
        ("batchgen.store.unparsed:sync_folder", 2),
        ("batchgen.ledger.ledger:Ledger.attempt_failed", 1),
    ],
)
async def test_a_crash_while_an_answer_is_put_by_leaves_it_whole_or_undone(tmp_path, place, k):
    async with await serve(EmulatorOptions(latency_s=(0.0, 0.0), picture_px=LIFTED_PX, rpm=0)) as emulator:
        bench = Bench(emulator.base_url, tmp_path)
        prompt = "[[fault:half_image]] x"
        child = await asyncio.create_subprocess_exec(
            PYTHON, "-m", "tests.support.crash_child", str(bench.manifest(items(prompt))), str(tmp_path / "out"),
            bench.url, place, str(k), cwd=ROOT,
        )  # fmt: skip
        assert await child.wait() == 9
        out = str(tmp_path / "out")
        await bench.run(items(prompt), retry_selection=RetrySelection(states=frozenset(), explicit=True))
        assert await bench.requests() == 1
        whole = not place.endswith("SpoolFile")
        assert kept(bench) == whole
        assert [len(load_answer(out, attempt).response.files) for attempt in unparsed_attempts(out)] == [1] * whole
        assert list((tmp_path / "out" / ".batchgen" / "spool").iterdir()) == []


UNLIKE = '  - {id: a, prompt: "[[fault:wrong_size]] x", aspect_ratio: "16:9", on_mismatch: fail}\n'


async def test_a_picture_unlike_what_was_asked_for_fails_its_item_where_wanted_and_is_kept_and_not_bought_again(bench):
    entries = UNLIKE + "  - {id: b, prompt: b}\n"
    for made, sent in ((1, 2), (0, 2)):
        outcome = await bench.run(entries)
        assert (outcome.exit_code, outcome.made, await bench.requests()) == (3, made, sent)
        assert set(bench.pictures()) == {"b.jpg"}
        (draft,) = (bench.folder / "out" / "drafts").iterdir()
        line = bench.lines()["a"]
        assert (line["state"], line["reason"], f"kept as drafts/{draft.name}" in line["message"]) == (
            "failed", "mismatch", True,
        )  # fmt: skip
    await bench.run(entries, retry_selection=ASKED_AGAIN)
    assert await bench.requests() == 3
    assert len(list((bench.folder / "out" / "drafts").iterdir())) == 2


async def test_a_mismatch_that_only_warns_changes_nothing_that_was_bought_when_it_is_made_to_fail_later(bench):
    await bench.run(UNLIKE.replace("fail}", "warn}"))
    outcome = await bench.run(UNLIKE)
    assert (outcome.exit_code, outcome.kept, await bench.requests()) == (0, 1, 1)
    assert bench.lines()["a"]["flags"]


async def test_one_picture_unlike_the_others_of_a_request_fails_alone(bench, monkeypatch):
    flags = iter([(), ("size",), ()])
    monkeypatch.setattr("batchgen.engine.spooled_reply.mismatch_flags", lambda *_: next(flags))
    outcome = await bench.run(
        "  - {id: a, prompt: fox, model: imagen-4.0-generate-001, count: 3, on_mismatch: fail, aspect_ratio: '1:1'}\n"
    )
    assert (await bench.requests(), outcome.counts) == (1, {"succeeded": 2, "failed": 1})
    assert len(bench.pictures()) == 2


async def test_a_bug_in_writing_one_request_fails_that_item_alone_and_sends_nothing_for_it(bench, monkeypatch):
    real = Gemini.build

    def build(self, sample, inputs):
        if sample.item.id == "i1":
            raise KeyError("x")
        return real(self, sample, inputs)

    monkeypatch.setattr(Gemini, "build", build)
    outcome = await bench.run(items("a", "b", "c"))
    assert (outcome.exit_code, outcome.counts, await bench.requests()) == (3, {"succeeded": 2, "failed": 1}, 2)


async def test_a_bug_in_lifting_an_answer_fails_that_item_alone(tmp_path, monkeypatch):
    async with await serve(EmulatorOptions(latency_s=(0.0, 0.0), picture_px=LIFTED_PX, rpm=0)) as emulator:
        bench, real, broken = Bench(emulator.base_url, tmp_path), StreamingBase64Decoder.close, iter([True])

        def close(self):
            if next(broken, False):
                raise KeyError("x")
            return real(self)

        monkeypatch.setattr(StreamingBase64Decoder, "close", close)
        outcome = await bench.run(items("a", "b", "c"))
        assert (outcome.exit_code, outcome.counts, kept(bench)) == (3, {"succeeded": 2, "failed": 1}, 0)
        assert "is kept" not in str([line["message"] for line in bench.lines().values()])


def test_headers_of_a_kept_answer_hold_no_key():
    key = "MARKED-KEY-12345"
    assert key not in str(HttpAnswer(200, {"X-Echo": f"for {key}"}, b"", None, [key]).redacted_headers())


async def test_words_that_cost_money_count_against_the_budget(bench):
    one = FLASH_USD * 1.15 + 1e-4  # reserved with room for what usage adds
    outcome = await bench.run(items(*["[[fault:text_only]] x"] * 4), concurrency=1, max_usd=one)
    assert (outcome.exit_code, outcome.usd > 0, await bench.requests()) == (6, True, 1)
