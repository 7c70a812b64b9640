"""Real processes that really die: between any two steps, and by SIGKILL in full flight. Nothing finished is lost or bought twice."""

from __future__ import annotations

import asyncio
import signal

import pytest

import batchgen
from batchgen.emulator import EmulatorOptions, serve
from batchgen.ledger.reader import Reader
from batchgen.planning.reason import ReasonKind
from tests.support.bench import LIFTED_PX, Bench, items
from tests.support.crash import PROMPTS, assert_each_turn_is_of_its_picture, start_child
from tests.support.fork_server import PYTHON
from tests.support.paths import ROOT


@pytest.mark.parametrize(
    "place",
    [
        "batchgen.engine.http_attempt:Transport.send",  # recorded, never sent: indistinguishable, so counted as uncertain
        "batchgen.engine.settle:sync_folder",
        "batchgen.engine.settle:Ledger.attempt_succeeded",
        "batchgen.engine.settle:move_into_place",
        "batchgen.store.local_folder:os.replace",
        "batchgen.engine.settle:Ledger.record_placed",
        "batchgen.ledger.results:ResultsFile.append",
        "batchgen.ledger.results:ResultsFile.compact",
    ],
)
@pytest.mark.parametrize("k", [1, 5])
async def test_a_crash_between_two_steps_loses_nothing_that_was_recorded_or_spooled(tmp_path, place, k):
    if place.endswith("compact") and k > 1:
        k = 1
    async with await serve(EmulatorOptions(latency_s=(0.0, 0.02), picture="tiny", rpm=0)) as emulator:
        bench = Bench(emulator.base_url, tmp_path)
        child = await start_child(bench, place, k)
        assert await child.wait() == 9
        with Reader.open(tmp_path / "out") as ledger:
            in_the_air = len(ledger.open_attempts())
        outcome = await bench.run(items(*PROMPTS), head="defaults: {model: flash}\nitems:\n")
        assert (outcome.exit_code, len(bench.pictures()), len(bench.lines())) == (0, 12, 12)
        served = await bench.served()
        assert all(digest in served[PROMPTS[int(name[1:-4])]] for name, digest in bench.pictures().items())
        stats = await bench.get("/_emulator/stats")
        assert stats["billed"] <= 12 + in_the_air
        assert list((tmp_path / "out" / ".batchgen" / "spool").iterdir()) == []
        with Reader.open(tmp_path / "out") as ledger:
            listed = ledger.attempts().get("uncertain", 0)
        assert stats["billed"] <= 12 + listed  # whatever was bought twice is listed


async def test_a_picture_that_was_whole_in_the_spool_is_not_bought_again(tmp_path):
    async with await serve(EmulatorOptions(latency_s=(0.0, 0.0), picture="tiny", rpm=0)) as emulator:
        bench = Bench(emulator.base_url, tmp_path)
        manifest = bench.manifest(items("only one"))
        child = await asyncio.create_subprocess_exec(
            PYTHON, "-m", "tests.support.crash_child", str(manifest), str(tmp_path / "out"), bench.url,
            "batchgen.engine.settle:Ledger.attempt_succeeded", "1", cwd=ROOT,
        )  # fmt: skip
        assert await child.wait() == 9
        assert await bench.requests() == 1
        outcome = await bench.run(items("only one"))
        assert (outcome.exit_code, outcome.made, await bench.requests()) == (0, 0, 1)
        assert (await bench.served())["only one"] == set(bench.pictures().values())
        assert bench.lines()["i0"]["usd_source"] == "estimate"


async def test_an_interim_picture_is_never_taken_for_the_answer_and_never_deleted(tmp_path):
    """What a dead run left in the spool may be a thought on the way to the picture that had not come yet."""
    async with await serve(EmulatorOptions(latency_s=(0.0, 0.0), picture="tiny", rpm=0)) as emulator:
        bench = Bench(emulator.base_url, tmp_path)
        text = "  - {id: i0, prompt: only one, model: pro, keep_thoughts: true}\n"
        child = await asyncio.create_subprocess_exec(
            PYTHON, "-m", "tests.support.crash_child", str(bench.manifest(text)), str(tmp_path / "out"), bench.url,
            "batchgen.engine.settle:Ledger.attempt_succeeded", "1", cwd=ROOT,
        )  # fmt: skip
        assert await child.wait() == 9
        left = {path.read_bytes() for path in (tmp_path / "out" / ".batchgen" / "spool").iterdir()}
        outcome = await bench.run(text)
        assert (outcome.exit_code, outcome.made, await bench.requests()) == (0, 1, 2)
        assert left <= {path.read_bytes() for path in (tmp_path / "out" / "drafts").iterdir()}
        with Reader.open(tmp_path / "out") as ledger:
            assert ledger.attempts() == {"succeeded": 1, "uncertain": 1}


async def test_sigkill_in_full_flight_costs_at_most_what_was_in_the_air_and_it_is_listed(tmp_path):
    async with await serve(EmulatorOptions(latency_s=(0.2, 0.4), picture="tiny", rpm=0)) as emulator:
        bench = Bench(emulator.base_url, tmp_path)
        in_the_air = 0
        for _ in range(3):
            child = await start_child(bench)
            start = await bench.requests()
            while (await bench.requests()) < start + 4:
                await asyncio.sleep(0.02)
            child.send_signal(signal.SIGKILL)
            await child.wait()
            with Reader.open(tmp_path / "out") as ledger:
                in_the_air += len(ledger.open_attempts())
        outcome = await bench.run(items(*PROMPTS))
        assert (outcome.exit_code, len(bench.pictures())) == (0, 12)
        stats = await bench.get("/_emulator/stats")
        assert stats["billed"] <= 12 + in_the_air
        with Reader.open(tmp_path / "out") as ledger:
            adopted = sum(result.usd_source == "estimate" for result in ledger.results(["succeeded"]))
            assert ledger.attempts().get("uncertain", 0) + adopted == in_the_air  # adopted: whole in the spool


FAMILY = (
    "  - {id: talk, turns: [one, two, three]}\n"
    "  - {id: child, prompt: child, references: ['@parent', '@talk-t1']}\n"
    "  - {id: parent, prompt: parent}\n"
)
SAYS = {"talk-t1": "one", "talk-t2": "two", "talk-t3": "three", "child": "child", "parent": "parent"}


@pytest.mark.parametrize(
    ("place", "k"),
    [
        *[("batchgen.engine.http_attempt:Transport.send", k) for k in (1, 3)],
        # The picture is whole in the spool, what the model said is nowhere.
        *[("batchgen.engine.answer:save_turn", k) for k in (1, 3)],
        # A picture's bytes or those of what the model said; before these the folder is tried out.
        *[("batchgen.store.spool:SpoolFile.write", k) for k in (2, 3, 4, 5, 6, 7)],
        *[("batchgen.store.spool:SpoolFile.sync", k) for k in (2, 3, 4, 6)],
        *[("batchgen.store.job_folder:sync_folder", k) for k in (3, 4, 5)],  # of turns
        *[("batchgen.store.local_folder:sync_folder", k) for k in (3, 4, 5, 6)],
        *[("batchgen.store.local_folder:os.replace", k) for k in (1, 2, 3, 4)],
        # The turn is kept, the picture not yet recorded; recorded, not placed; placed, not recorded; whoever waits not told.
        *[("batchgen.engine.settle:Ledger.attempt_succeeded", k) for k in (1, 2, 4)],
        *[("batchgen.engine.settle:move_into_place", k) for k in (2, 4)],
        *[("batchgen.engine.settle:Ledger.record_placed", k) for k in (1, 2, 4)],
        *[("batchgen.engine.attempts:Dependents.images_made", k) for k in (1, 3)],
    ],
)
async def test_a_crash_between_two_steps_of_a_turn_or_of_a_parent_goes_on_where_it_was(tmp_path, place, k):
    # Pictures large enough to be in the spool before the answer ends.
    async with await serve(EmulatorOptions(latency_s=(0.0, 0.02), picture_px=LIFTED_PX, rpm=0)) as emulator:
        bench = Bench(emulator.base_url, tmp_path)
        assert await (await start_child(bench, place, k, FAMILY)).wait() == 9
        with Reader.open(tmp_path / "out") as ledger:
            in_the_air = len(ledger.open_attempts())
        job = batchgen.load(bench.manifest(FAMILY), output=tmp_path / "out", emulate=True, environ={})
        reasons = batchgen.plan(job).reconciliation.counts_by_reason
        assert not [reason for reason in reasons if reason.kind is ReasonKind.NEEDS]
        outcome = await bench.run(FAMILY)
        assert (outcome.exit_code, len(bench.pictures()), set(bench.lines())) == (0, 5, set(SAYS))
        served = await bench.served()
        assert all(digest in served[SAYS[name[:-4]]] for name, digest in bench.pictures().items())
        assert_each_turn_is_of_its_picture(tmp_path / "out", "talk")
        with Reader.open(tmp_path / "out") as ledger:
            listed = ledger.attempts().get("uncertain", 0)
        assert (await bench.get("/_emulator/stats"))["billed"] <= 5 + listed <= 5 + in_the_air
        assert list((tmp_path / "out" / ".batchgen" / "spool").iterdir()) == []
