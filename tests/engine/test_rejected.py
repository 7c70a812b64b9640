"""Images that people have rejected: kept, counted as not accepted, bought again only when somebody says so."""

from __future__ import annotations

import hashlib
import io
import sqlite3
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

import batchgen
from batchgen.cli.verify import verify
from batchgen.emulator import serve
from batchgen.engine.job_state import absorb_reviews_unless_locked
from batchgen.engine.recovery.repair import repair
from batchgen.ledger.changes import accept_picture, classify_unaccepted, end_sample
from batchgen.ledger.ledger import Ledger
from batchgen.ledger.pictures import SpooledPicture
from batchgen.ledger.reader import HistoryReader, Reader
from batchgen.ledger.reviews import append_reviews, make_review
from batchgen.planning.plan import RetrySelection
from batchgen.records import ImageFile, Reply
from batchgen.report.console import Console
from batchgen.report.contact_sheet import cells_of
from batchgen.store.lock import JobLock
from tests.support.bench import FAST, Bench, items
from tests.support.derivatives import THUMB, files
from tests.support.postgres import both_ledgers
from tests.support.samples import make_sample, receipt_of

REJECTED = RetrySelection(explicit=True, states=frozenset({"rejected"}))
TWO = items("a mug", "a hat")


@pytest.fixture
async def bench(tmp_path) -> AsyncIterator[Bench]:
    async with await serve(FAST) as emulator:
        yield Bench(emulator.base_url, tmp_path)


def say(bench: Bench, item: str, ruling: str, comment: str = "", name: str = "Ann") -> None:
    sha256 = bench.lines()[item]["sha256"][0]
    append_reviews(bench.folder / "out", [make_review(name, item, 1, sha256, ruling, 0, comment)])
    assert absorb_reviews_unless_locked(bench.folder / "out") is not None


def superseded(bench: Bench) -> list[str]:
    """Hashes."""
    return [hashlib.sha256(path.read_bytes()).hexdigest() for path in (bench.folder / "out" / "superseded").glob("*")]


@both_ledgers
async def test_one_is_left_with_words_and_made_again_only_when_somebody_asks(bench):
    await bench.run(TWO)
    before = bench.pictures()
    say(bench, "i0", "reject", "too dark")
    line = bench.lines()["i0"]
    assert (line["state"], line["reason"], line["message"]) == ("rejected", "person", "Ann: too dark")
    assert (line["files"], line["sha256"], line["usd"] > 0) == (["i0.jpg"], [before["i0.jpg"]], True)
    outcome = await bench.run(TWO)
    assert (outcome.exit_code, outcome.kept, await bench.requests(), bench.pictures()) == (3, 1, 2, before)
    with Reader.open(bench.folder / "out") as reader:
        found = verify(bench.folder / "out", reader, Console(io.StringIO(), {}))
    assert (found.is_intact, found.checked, found.extra) == (True, 2, [])
    outcome = await bench.run(TWO, retry_selection=REJECTED)
    after = bench.pictures()
    assert (outcome.exit_code, outcome.made, await bench.requests()) == (0, 1, 3)
    assert (after["i0.jpg"] != before["i0.jpg"], after["i1.jpg"]) == (True, before["i1.jpg"])
    assert (superseded(bench), bench.lines()["i0"]["state"]) == ([before["i0.jpg"]], "succeeded")
    outcome = await bench.run(TWO)
    assert (outcome.exit_code, outcome.kept, await bench.requests()) == (0, 2, 3)


@both_ledgers
async def test_one_that_is_accepted_after_all_is_kept_and_costs_nothing(bench):
    await bench.run(TWO)
    say(bench, "i0", "reject")
    say(bench, "i0", "accept", name="Ben")
    outcome = await bench.run(TWO, retry_selection=REJECTED)
    assert (outcome.exit_code, await bench.requests(), bench.lines()["i0"]["state"]) == (0, 2, "succeeded")


async def test_one_that_could_not_be_made_again_is_tried_again_and_the_rejected_image_does_not_come_back(bench):
    await bench.run(items("[[fault:503*0]] a mug"))
    before = bench.pictures()["i0.jpg"]
    say(bench, "i0", "reject")
    ledger = Ledger(bench.folder / "out")  # its new request has failed
    ledger.run_statements([("UPDATE sample SET state = 'failed', reason = 'overloaded'", ())])
    ledger.close()
    outcome = await bench.run(items("[[fault:503*0]] a mug"))
    assert (outcome.exit_code, outcome.made, outcome.moved, await bench.requests()) == (0, 1, 0, 2)
    assert (superseded(bench), bench.pictures()["i0.jpg"] != before) == ([before], True)


async def test_a_prompt_that_is_changed_and_changed_back_does_not_bring_a_rejected_image_back(bench):
    await bench.run(items("a mug"))
    say(bench, "i0", "reject")
    assert (await bench.run(items("a red mug"))).made == 1
    assert bench.lines()["i0"]["state"] == "succeeded"
    say(bench, "i0", "reject", name="Ben")
    say(bench, "i0", "accept", name="Ben")
    assert ((await bench.run(items("a mug"))).made, await bench.requests()) == (1, 3)
    assert ((await bench.run(items("a red mug"))).moved, await bench.requests()) == (1, 3)  # Ben accepts that one


async def test_comments_go_into_the_prompt_and_the_request_is_the_manifests_all_the_same(bench):
    await bench.run(TWO)
    say(bench, "i0", "reject", "too dark;\nmore light")
    say(bench, "i0", "none", "a larger handle", name="Ben")
    outcome = await bench.run(TWO, retry_selection=replace(REJECTED, with_comments=True))
    (sent,) = [prompt for prompt in await bench.served() if "too dark" in prompt]
    assert sent.endswith(
        "a mug\n\nComments on an earlier version, to be taken into account: too dark; more light; a larger handle"
    )
    assert (outcome.made, bench.lines()["i0"]["prompt"]) == (1, "a mug")
    with sqlite3.connect(bench.folder / "out" / ".batchgen" / "ledger.sqlite") as ledger:
        sent_as = ledger.execute("SELECT sent_as FROM attempt ORDER BY id").fetchall()
    ledger.close()
    assert sent_as[2] == ("prompt with comments on the last image: too dark; more light; a larger handle",)
    assert ((await bench.run(TWO)).kept, await bench.requests()) == (2, 3)


async def test_what_needs_a_rejected_image_waits(bench):
    text = '  - {id: i0, prompt: a mug}\n  - {id: i1, prompt: a cup, references: ["@i0"]}\n'
    await bench.run("  - {id: i0, prompt: a mug}\n")
    say(bench, "i0", "reject")
    outcome = await bench.run(text)
    line = bench.lines()["i1"]
    assert (outcome.made, line["state"], line["message"]) == (
        0,
        "blocked",
        "needs @i0, which was rejected (person)",
    )
    assert (await bench.run(text, only=("i1",))).made == 0
    assert (await bench.run(text, retry_selection=replace(REJECTED, explicit=False))).made == 2


async def test_one_that_has_its_image_stays_what_it_is_when_what_it_needs_is_left_out(bench):
    text = '  - {id: i0, prompt: a mug}\n  - {id: i1, prompt: a cup, references: ["@i0"]}\n'
    await bench.run(text)
    say(bench, "i1", "reject")
    (bench.folder / "out" / "i0.jpg").unlink()
    await bench.run(text, only=("i1",))
    assert bench.lines()["i1"]["state"] == "rejected"


async def test_files_made_of_a_rejected_image_go_and_come_back_with_it(bench):
    top = f"defaults: {{model: flash}}\npost: {{derivatives: [{THUMB}]}}\nitems:\n"
    await bench.run(TWO, top)
    assert sorted(files(bench)) == ["thumb/i0.jpg", "thumb/i1.jpg"]
    say(bench, "i0", "reject")
    outcome = await bench.run(TWO, top)
    assert (sorted(files(bench)), outcome.derived.removed) == (["thumb/i1.jpg"], 1)
    say(bench, "i0", "accept")
    await bench.run(TWO, top)
    assert (sorted(files(bench)), await bench.requests()) == (["thumb/i0.jpg", "thumb/i1.jpg"], 2)


async def test_its_file_is_looked_for_at_the_end_of_a_run_and_is_on_the_contact_sheet(bench):
    await bench.run(TWO)
    say(bench, "i0", "reject")
    with HistoryReader.open(bench.folder / "out") as reader:
        assert [(cell.path, cell.state) for cell in cells_of(reader, bench.folder / "out", ())] == [
            ("i0.jpg", "rejected"),
            ("i1.jpg", "succeeded"),
        ]
    (bench.folder / "out" / "i0.jpg").unlink()
    outcome = await bench.run(TWO)
    assert (outcome.exit_code, outcome.discrepancies.missing) == (3, ("i0.jpg",))


async def test_a_repair_knows_that_it_was_rejected_from_the_results_and_from_the_journal(bench):
    await bench.run(TWO)
    say(bench, "i0", "reject", "too dark")
    out = bench.folder / "out"
    for path in (out / ".batchgen").glob("ledger.sqlite*"):
        path.unlink()
    manifest = batchgen.load(bench.manifest(TWO), output=out, emulate=True, environ={}).manifest
    done = repair(out, manifest)
    assert done is not None and done.restored == 2
    outcome = await bench.run(TWO)
    assert (outcome.exit_code, await bench.requests(), bench.lines()["i0"]["message"]) == (3, 2, "Ann: too dark")


def test_a_run_that_holds_the_job_takes_the_journal_in_itself(tmp_path):
    (tmp_path / ".batchgen").mkdir()
    Ledger(tmp_path).close()
    assert absorb_reviews_unless_locked(tmp_path) is not None
    append_reviews(tmp_path, [make_review("Ann", "i0", 1, "0" * 64, "reject", 0, "")])
    lock = JobLock(tmp_path)
    lock.acquire()
    assert absorb_reviews_unless_locked(tmp_path) is None
    lock.release()
    assert [each.name for each in absorb_reviews_unless_locked(tmp_path).verdicts] == ["Ann"]


async def test_a_late_image_of_the_same_request_is_a_draft_and_a_late_failure_changes_nothing(bench):
    """As for a sample that has its image: nobody has asked for another one yet."""
    await bench.run(items("a mug"))
    say(bench, "i0", "reject", "too dark")
    ledger = Ledger(bench.folder / "out")
    try:
        (known,) = ledger.reader.known_samples(["i0"])["i0"]
        sample = replace(make_sample("i0"), fingerprint=known.fingerprint)
        file = ImageFile(path="i0.jpg", sha256="f" * 64, bytes=9, width=1, height=1, format="jpeg", role="image")
        late = SpooledPicture(1, 0, "9-0", file, 0.1)
        receipt = receipt_of(9, sample, Reply(images=()), [late])
        taken = ledger.writer.submit(lambda db: accept_picture(db, receipt, late, 1.0)).result()
        kept = ledger.writer.submit(lambda db: classify_unaccepted(db, receipt, late)).result()
        assert (taken, kept.file.role, kept.file.path, kept.usd) == (False, "draft", "drafts/i0.9-0.jpg", None)
        ledger.writer.submit(lambda db: end_sample(db, 1, "i0", 1, ("failed", "late", ""), 1.0)).result()
        assert [each.message for each in ledger.reader.results(["rejected"])] == ["Ann: too dark"]
        ledger.run_statements([("UPDATE sample SET state = 'running'", ())])
        assert ledger.writer.submit(lambda db: accept_picture(db, receipt, late, 1.0)).result()
    finally:
        ledger.close()
