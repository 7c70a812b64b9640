"""The ledger: durable before it answers, readable while it is written, and one line per item in results.jsonl."""

from __future__ import annotations

import asyncio
import json
import sqlite3
import stat
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from batchgen.errors import LedgerError, LedgerGone, Refused, ServerFault, Unanswered
from batchgen.ledger.backlog import Backlog
from batchgen.ledger.ledger import Ledger
from batchgen.ledger.location import LedgerServer, job_identity
from batchgen.ledger.pictures import SpooledPicture, UndeliveredSample
from batchgen.ledger.reader import Reader
from batchgen.ledger.requests import IntendedRequest, Money
from batchgen.ledger.results import ResultsFile
from batchgen.ledger.runs import ParkedLane
from batchgen.ledger.schema import ledger_path
from batchgen.records import ImageFile, Reply, Sample, Usage
from tests.support.samples import make_sample, receipt_of


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / ".batchgen").mkdir()
    return tmp_path


@pytest.fixture(params=["sqlite", "postgresql"])
def ledger(folder: Path, request, monkeypatch):
    server = None
    if request.param == "postgresql":
        server = LedgerServer(request.getfixturevalue("database"), "job", job_identity(str(folder)))
        monkeypatch.setenv("BATCHGEN_LEDGER", server.url)
    opened = Ledger(folder, server)
    opened.run_started(1, "host", "0")
    yield opened
    opened.close()


def test_a_lane_that_the_manifests_own_figure_parked_is_known_also_from_older_rows(ledger):
    own = ParkedLane.by_declared_rpd(9.5, 250)
    ledger.park("gemini/m", own.until, own.message)
    ledger.park("gemini/older", 9.5, "the requests a day that the manifest declares are used up: 250")
    ledger.park("gemini/n", 9.5, "Quota exceeded: the requests a day that the project may send are used up")
    ledger.flush()
    parked = ledger.reader.parked()
    assert parked["gemini/m"] == own
    assert {lane: each.is_by_declared_rpd for lane, each in parked.items()} == {
        "gemini/m": True,
        "gemini/older": True,
        "gemini/n": False,
    }


def picture(sample: Sample, n: int = 1, k: int = 0) -> SpooledPicture:
    file = ImageFile(path=f"{sample.item.filename}-{n}.png", sha256="ab" * 32, bytes=3, width=1, height=1, format="png")
    return SpooledPicture(n, k, f"spool-{k}", file, 0.04)


async def succeed(
    ledger: Ledger, sample: Sample, usd: float | None = 0.04, source: str = "usage", lane: str = "lane"
) -> int:
    attempt = await ledger.attempt_started(IntendedRequest(sample, lane, 1, 0.05))
    pictures = [picture(sample, n, n) for n in range(sample.n, sample.n + sample.images)]
    ledger.attempt_succeeded(
        receipt_of(
            attempt, sample, Reply(usage=Usage(image_tokens=9)), pictures, sent_at=5.0, usd=usd, usd_source=source
        )
    )
    ledger.record_placed(attempt)
    return attempt


async def test_an_attempt_is_on_disk_before_the_call_that_records_it_returns(ledger, folder):
    await ledger.attempt_started(IntendedRequest(make_sample("a"), "lane", 1, 0.05))
    with Reader.open(folder) as other:
        assert [attempt.item_id for attempt in other.open_attempts()] == ["a"]
        assert other.counts() == {"running": 1}


async def test_links_that_come_for_a_request_that_was_given_up_are_fetched_all_the_same(ledger):
    sample = make_sample("a")
    attempt = await ledger.attempt_started(IntendedRequest(sample, "lane", 1, 0.05))
    await ledger.attempt_failed(attempt, sample, Unanswered("gone"), sent_at=1.0, state="uncertain")
    assert ledger.reader.open_attempts() == []
    ledger.links_received(attempt, Reply(links=("https://a/b",)))
    assert [dict(each.links) for each in ledger.reader.open_attempts()] == [{0: "https://a/b"}]


async def test_a_sample_that_ends_without_another_request_does_so_whatever_its_item_has_asked_for_since(ledger):
    first = make_sample("a")
    second = replace(first, n=2, fingerprint="fp-of-the-second")
    for sample in (first, second):
        attempt = await ledger.attempt_started(IntendedRequest(sample, "lane", 1, 0.05))
        await ledger.attempt_failed(attempt, sample, ServerFault("busy"), sent_at=1.0, state="wanted")
    await ledger.sample_failed(first, ServerFault("busy"))
    assert [entry.state for entry in ledger.reader.known_samples(["a"])["a"]] == ["failed", "wanted"]


@pytest.mark.parametrize("ledger", ["sqlite"], indirect=True)
async def test_the_file_is_for_its_owner_alone(ledger, folder):
    assert stat.S_IMODE(ledger_path(folder).stat().st_mode) == 0o600


@pytest.mark.parametrize("ledger", ["sqlite"], indirect=True)
async def test_every_commit_reaches_the_disk(ledger):
    setting = await ledger.writer.write(lambda db: db.execute("PRAGMA synchronous").fetchone()[0])
    assert setting == 2  # FULL


async def test_changes_that_come_together_share_a_commit_and_keep_their_order(ledger):
    before = ledger.writer.commits
    samples = [make_sample(f"s{n}") for n in range(200)]
    attempts = await asyncio.gather(
        *(ledger.attempt_started(IntendedRequest(sample, "lane", 1, None)) for sample in samples)
    )
    assert list(attempts) == sorted(attempts)
    assert ledger.writer.commits - before < 20


async def test_what_nobody_waits_for_goes_along_with_the_next_change_or_by_itself_soon(ledger):
    before = ledger.writer.commits
    ledger.writer.enqueue_lazy(lambda db: db.execute("INSERT INTO meta VALUES ('x', 'before')"))
    await ledger.writer.write(lambda db: db.execute("UPDATE meta SET value = 'after' WHERE key = 'x'"))
    assert (ledger.reader.meta("x"), ledger.writer.commits - before) == ("after", 1)
    ledger.writer.enqueue_lazy(lambda db: db.execute("UPDATE meta SET value = 'alone' WHERE key = 'x'"))
    while ledger.writer.commits - before < 2:
        await asyncio.sleep(0.01)
    assert ledger.reader.meta("x") == "alone"


async def test_a_ledger_that_cannot_be_written_refuses_everything_from_then_on(folder):
    ledger = Ledger(folder)

    def fail(_: sqlite3.Connection) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    with pytest.raises(LedgerError, match="disk is full"):
        await ledger.writer.write(fail)
    with pytest.raises(LedgerError, match="disk is full"):
        await ledger.attempt_started(IntendedRequest(make_sample("a"), "lane", 1, None))
    ledger.close()


async def test_a_failed_change_leaves_nothing_of_its_transaction_behind(folder):
    ledger = Ledger(folder)

    def half(db: sqlite3.Connection) -> None:
        db.execute("INSERT INTO meta VALUES ('x', 'y')")
        raise sqlite3.OperationalError("no")

    with pytest.raises(LedgerError):
        await ledger.writer.write(half)
    assert ledger.reader.meta("x") is None
    ledger.close()


async def test_success_sets_state_price_and_file(ledger):
    await succeed(ledger, make_sample("a"))
    (result,) = ledger.reader.results()
    assert (result.state, result.usd, result.usd_source, [file.path for file in result.files]) == (
        "succeeded",
        0.04,
        "usage",
        ["a-1.png"],
    )


async def test_one_attempt_can_bring_several_samples_and_withhold_one(ledger):
    base = make_sample("a", count=3)
    sample = Sample(item=base.item, n=1, fingerprint="f", wire="{}", images=3)
    attempt = await ledger.attempt_started(IntendedRequest(sample, "lane", 1, None))
    ledger.attempt_succeeded(receipt_of(attempt, sample, Reply(), [picture(sample, 1, 0), picture(sample, 2, 1)], sent_at=1.0, usd=None,
                             usd_source="unknown", missing=(UndeliveredSample(3, "filtered", "violates policy"),)))  # fmt: skip
    assert [(result.n, result.state, result.reason) for result in ledger.reader.results_of_item("a")] == [
        (1, "succeeded", ""), (2, "succeeded", ""), (3, "refused", "filtered")]  # fmt: skip


async def test_an_answer_that_is_given_up_ends_none_of_its_samples_that_were_asked_for_again(ledger):
    pair = Sample(item=make_sample("a").item, n=1, fingerprint="fp-a", wire="{}", images=2)
    first = await ledger.attempt_started(IntendedRequest(pair, "lane", 1, 0.05))
    ledger.links_received(first, Reply(links=("https://a/1", "https://a/2")))
    again = await ledger.attempt_started(IntendedRequest(make_sample("a"), "lane", 1, 0.05))
    ledger.end_without_picture(ledger.reader.attempt(first), "failed", "link_gone", "404")
    assert [(known_samples.state, known_samples.reason) for known_samples in ledger.reader.known_samples(["a"])["a"]] == [
        ("running", ""), ("failed", "link_gone"),
    ]  # fmt: skip
    await ledger.download_failed(again, make_sample("a"), Unanswered("gone"))
    assert ledger.reader.known_samples(["a"])["a"][0].state == "failed"


async def test_failure_keeps_the_vendors_words_and_counts_what_may_have_been_billed(ledger):
    for name, error, state in [
        ("a", Refused("no such pictures", reason="safety", http_status=200), "refused"),
        ("b", ServerFault("busy", http_status=503), "failed"),
        ("c", Unanswered("reset"), "uncertain"),
    ]:
        sample = make_sample(name)
        attempt = await ledger.attempt_started(IntendedRequest(sample, "lane", 1, 0.05))
        await ledger.attempt_failed(attempt, sample, error, sent_at=1.0, state=state)
    assert [(result.state, result.reason, result.message) for result in ledger.reader.results()] == [
        ("refused", "safety", "no such pictures"),
        ("failed", "server_fault", "busy"),
        ("uncertain", "unanswered", "reset"),
    ]
    money = ledger.reader.money()
    assert (money.maybe, money.maybe_requests) == (0.05, 1)


async def test_money_keeps_usage_estimates_and_unknown_prices_apart(ledger):
    await succeed(ledger, make_sample("a"), 0.04, "usage")
    await succeed(ledger, make_sample("b"), 0.05, "estimate")
    await succeed(ledger, make_sample("c"), None, "unknown")
    money = ledger.reader.money()
    assert (money.spent, money.estimated, money.unknown) == (0.04, 0.05, 1)


async def test_money_by_model_counts_a_guess_as_an_estimate_batches_with_the_rest_and_lost_replies_on_their_own(ledger):
    await succeed(ledger, make_sample("a"), 0.04, "vendor", lane="gemini/m")
    await succeed(ledger, make_sample("b"), 0.02, "guess", lane="gemini:batch/m")
    for name, estimate_usd in (("c", 0.05), ("d", None)):
        attempt = await ledger.attempt_started(IntendedRequest(make_sample(name), "gemini/n", 1, estimate_usd))
        await ledger.attempt_failed(attempt, make_sample(name), Unanswered("reset"), sent_at=1.0, state="uncertain")
    run_id = ledger.reader.last_run().id
    assert (
        ledger.reader.money_by_model(run_id)
        == ledger.reader.money_by_model()
        == {
            "m": Money(spent=0.04, estimated=0.02, guessed=0.02),
            "n": Money(maybe=0.05, maybe_requests=2, maybe_unknown=1),
        }
    )
    assert ledger.reader.money_by_model(run_id + 1) == {}


async def test_recent_sends_say_when_the_headers_left(ledger):
    await succeed(ledger, make_sample("a"))
    assert ledger.reader.recent_sends("lane", 0.0) == [5.0]
    assert ledger.reader.recent_sends("other", 0.0) == []


async def test_a_changed_item_counts_its_attempts_anew(ledger):
    sample = make_sample("a")
    await succeed(ledger, sample)
    await succeed(ledger, sample)
    changed = Sample(item=sample.item, n=1, fingerprint="other", wire="{}")
    await ledger.attempt_started(IntendedRequest(changed, "lane", 1, None))
    assert [result.attempts for result in ledger.reader.results()] == [1]


def test_a_file_that_is_no_ledger_is_refused_and_left_as_it_is(folder):
    ledger_path(folder).write_bytes(b"not a database, but precious" * 50)
    with pytest.raises(LedgerError, match="is damaged"):
        Ledger(folder)
    assert ledger_path(folder).read_bytes().startswith(b"not a database")


def test_a_ledger_of_another_version_is_refused(folder):
    Ledger(folder).close()
    with sqlite3.connect(ledger_path(folder)) as db:
        db.execute("PRAGMA user_version=99")
    db.close()
    with pytest.raises(LedgerError, match="another version"):
        Ledger(folder)


def test_reading_a_folder_without_a_ledger_says_so(tmp_path):
    with pytest.raises(LedgerError, match="nothing has run here"):
        Ledger.open(tmp_path)


async def test_results_have_one_line_per_item_after_tidying_although_samples_end_one_by_one(ledger, folder):
    results = ResultsFile(folder, ledger.reader)
    results.open(compacted=True)
    base = make_sample("a", count=2)
    for n in (1, 2):
        sample = Sample(item=base.item, n=n, fingerprint="f", wire='{"prompt": "p"}')
        await succeed(ledger, sample)
        results.append(sample)
    await succeed(ledger, make_sample("b"))
    results.append(make_sample("b"))
    results.compact()
    lines = [json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines()]
    assert [(line["id"], line["state"], line["files"], line["usd"]) for line in lines] == [
        ("a", "succeeded", ["a-1.png", "a-2.png"], 0.08), ("b", "succeeded", ["b-1.png"], 0.04)]  # fmt: skip


async def test_results_torn_by_a_crash_are_rebuilt_from_the_ledger(ledger, folder):
    await succeed(ledger, make_sample("a"))
    (folder / "results.jsonl").write_text('{"id": "a", "sta')
    results = ResultsFile(folder, ledger.reader)
    results.open(compacted=False)
    results.close()
    assert [json.loads(line)["id"] for line in (folder / "results.jsonl").read_text().splitlines()] == ["a"]


def test_the_backlog_gives_back_what_was_put_in_higher_priority_first():
    backlog = Backlog()
    first = make_sample(
        "a", tags=("x",), references=("/r.png",), seed=3, safety={"H": "OFF"}, extra={"deep": {"er": [1]}}
    )
    backlog.add("gemini/m", [first, make_sample("b"), make_sample("c", priority=5)])
    assert [sample.item.id for sample in backlog.take("gemini/m", 2)] == ["c", "a"]
    assert backlog.backlog_count("gemini/m") == 1
    backlog.add("gemini/m", [first])
    assert backlog.take("gemini/m", 9)[-1] == first
    backlog.close()


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/self/status")
def test_a_large_backlog_spills_to_disk_instead_of_filling_memory():
    def resident_kib() -> int:
        status = Path("/proc/self/status").read_text()
        return int(status.split("VmRSS:")[1].split()[0])

    backlog = Backlog()
    sample = make_sample("a", prompt="x" * 2000)
    before = resident_kib()
    for _ in range(100):
        backlog.add("lane", [sample] * 500)
    assert resident_kib() - before < 60_000  # 50,000 samples of 2 KB each
    assert backlog.backlog_count("lane") == 50_000
    backlog.close()


async def test_what_has_just_been_committed_is_seen_while_a_long_answer_is_being_read(ledger):
    for number in range(3):
        await succeed(ledger, make_sample(f"before{number}"))
    long_answers = [ledger.reader.images(), ledger.reader.current_samples(), ledger.reader.results()]
    assert all(next(answer) is not None for answer in long_answers)
    attempt = await succeed(ledger, make_sample("after"))
    found = ledger.reader.current_picture("after", 1)
    assert found is not None
    assert found.attempt == attempt
    assert [len(list(answer)) for answer in long_answers] == [2, 2, 2]


@pytest.mark.parametrize("other", [None, b""], ids=["gone", "another in its place"])
async def test_a_long_answer_is_never_read_from_another_file_than_the_ledger_that_was_opened(folder, other):
    with closing(Ledger(folder)) as ledger:
        await succeed(ledger, make_sample("a"))
        ledger_path(folder).rename(folder / "away")
        if other is not None:
            ledger_path(folder).write_bytes(other)
        with pytest.raises(LedgerGone, match="has gone"):
            next(ledger.reader.images())
        assert ledger.reader.current_picture("a", 1) is not None


async def test_what_has_just_been_committed_is_seen_whatever_other_threads_are_reading(ledger):
    stopped = threading.Event()

    def read() -> None:
        while not stopped.is_set():
            ledger.reader.known_samples([f"item{number}" for number in range(200)])

    with ThreadPoolExecutor(3) as threads:
        readers = [threads.submit(read) for _ in range(3)]
        try:
            for number in range(200):
                await succeed(ledger, make_sample(f"item{number}"))
                assert ledger.reader.current_picture(f"item{number}", 1) is not None
        finally:
            stopped.set()
        for reader in readers:
            reader.result()
