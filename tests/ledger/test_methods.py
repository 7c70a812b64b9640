"""One history written to both databases, and every question to a ledger asked of both: the answers are the same."""

from __future__ import annotations

import asyncio
import inspect
import itertools
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from batchgen.errors import DownloadFailed, Refused, ServerFault, Unanswered
from batchgen.events import Outage
from batchgen.ledger.acceptance import AcceptanceReader
from batchgen.ledger.chunk_writer import ChunkWriter
from batchgen.ledger.derivatives import DerivativeReader, DerivativeRow, delete_derivatives, upsert_derivatives
from batchgen.ledger.ledger import Ledger
from batchgen.ledger.location import LedgerServer, job_identity
from batchgen.ledger.pictures import SpooledPicture, UndeliveredSample
from batchgen.ledger.reader import HistoryReader, Reader
from batchgen.ledger.requests import IntendedRequest
from batchgen.ledger.runs import FileVersion, ManifestTotals
from batchgen.ledger.verdicts import upsert_verdicts
from batchgen.records import ImageFile, PendingJob, Reply, Usage, Verdict
from tests.support.samples import make_sample, receipt_of

FLAGGED = ("size",)
OUTAGE = Outage(at=9.0, scope="host", name="api.example", models=("m", "n"), since=8.0, retry_at=11.0, reason="html",
                message="it's ?")  # fmt: skip
UNORDERED = {
    "lane_spans",
    "current_samples",
    "images_by_model",
    "requests_by_model",
    "usd_by_model",
    "maybe_usd_by_model",
    "all_sidecar_texts",
    "chunk_lanes",
    "job_lanes",
    "recorded_files",
    "unwanted_derivatives",
}
READER: dict[str, tuple[Any, ...]] = {
    "answered_count": (1,),
    "attempt": (1,),
    "attempts": (1,),
    "sidecar_texts": (1,),
    "surplus_requests": (),
    "batch_durations": ("gemini/n", 9),
    "billed_request_count": (),
    "chunk": (1,),
    "chunk_lanes": (),
    "job_lanes": (),
    "open_jobs": (),
    "job_ids": (0.0,),
    "open_counts_of_others": ("w",),
    "unanswered_requests": ("gemini/q",),
    "chunk_usd": (1,),
    "cooling_lanes": (),
    "counts": (),
    "counts_by_model": (),
    "current_pictures": (),
    "current_count": (),
    "current_samples": (),
    "earlier_image": ("a", 1, "fp-a"),
    "sample_count_by_outcome": (1,),
    "flagged": (1, 9),
    "flagged_count": (1,),
    "images": (),
    "images_by_model": (),
    "known_samples": (["a", "é", "none"],),
    "last_attempt_id": (),
    "last_discrepancies": (),
    "recorded_files": (),
    "last_ended_run": (),
    "last_run": (),
    "last_read_manifest": (),
    "last_success_at": (),
    "received_at": ("a", 1, "fp-a"),
    "image_count_of_run": (1,),
    "maybe_usd_by_model": (),
    "meta": ("name",),
    "money": (1,),
    "money_by_model": (),
    "money_by_run": (),
    "max_accepted_per_minute": ("gemini/m", 0.0),
    "newest_paths": (1, 9),
    "notable_verdicts": (),
    "open_attempts": (),
    "open_chunks": (),
    "outages": (),
    "parked": (),
    "current_picture": ("a", 1),
    "picture_request_count": (),
    "failure_reasons": (9,),
    "recent_latencies": (),
    "recent_sends": ("gemini/m", 0.0),
    "requests_by_model": (),
    "results": (("succeeded", "refused"),),
    "results_by_item": (("succeeded", "refused", "running"),),
    "results_of_item": ("a",),
    "runs": (9,),
    "sent_count_since": ("gemini/m", 0.0),
    "spent_since": (0.0, ["gemini/m"]),
    "expected_files": (),
    "expected_file_count": (),
    "has_work_table": (),
    "queue_status": (),
    "queued_samples": (["a"],),
    "unplaced_by_workers": (),
    "chunk_request": (8,),
    "all_sidecar_texts": (),
    "unanswered_ids": (1, 0, 9),
    "uncertain_samples": (9,),
    "uncleaned_chunks": (),
    "blocked_samples": (9,),
    "unplaced": (),
    "unpriced_count_since": (0.0,),
    "usd_by_lane": (1,),
    "usd_by_model": (),
    "wire": ("a", 1),
}
CHRONICLE: dict[str, tuple[Any, ...]] = {
    "snapshot": (),
    "attempts_after": (3, [1]),
    "attempts_by_id": ([1, 3],),
    "attempts_of_run": (1,),
    "changed_since": (1004.0,),
    "derivative_path": ("a", 1, "ab"),
    "derivatives": (["a"],),
    "ended_count_since": (0.0,),
    "item_attempts": (),
    "lane_spans": (1,),
    "last_unsuccessful_attempt": (1,),
    "newest_pictures": (9,),
    "placed_picture": (1, 0),
    "pictures": (),
    "sample_states": (),
    "samples": (),
    "sums": (),
    "release": (),
}
DERIVED: dict[str, tuple[Any, ...]] = {
    "derivative_counts": (),
    "derivative_failures": (9,),
    "derivatives": (["a", "d"],),
    "expected_derivatives": (),
    "derivative_hashes": (["w/a.webp"],),
    "pictures": (["a", "g"],),
    "unwanted_derivatives": (),
}
ACCEPTANCE: dict[str, tuple[Any, ...]] = {
    "check_warnings": (1,),
    "job_acceptance": (0.0,),
    "rejections": (1,),
    "run_acceptance": (1, 60.0),
    "variant_acceptance": (),
}
OF_THE_CLUSTER = (
    "has_work_table",
    "open_counts_of_others",
    "queue_status",
    "queued_samples",
    "unplaced_by_workers",
)  # tests/engine/cluster asks with something there
HELD_OPEN = {"open", "from_reader", "close"}  # they ask for nothing


def public(owner: type, base: type = object) -> set[str]:
    names = set(vars(owner)) if base is not object else set(dir(owner))
    return {name for name in names if not name.startswith("_") and inspect.isroutine(getattr(owner, name))} - HELD_OPEN


def watch(monkeypatch: pytest.MonkeyPatch, owner: type, seen: set[str]) -> None:
    """Notes every call of a method."""

    def noting(name: str, real: Any) -> Any:
        def call(*values: Any, **more: Any) -> Any:
            seen.add(name)
            return real(*values, **more)

        return call

    for name in public(owner):
        monkeypatch.setattr(owner, name, noting(name, getattr(owner, name)))


def derivative(path: str, item: str, state: str) -> DerivativeRow:
    return DerivativeRow(
        path, item, 1, "web", state, "r", "ab" * 32, "webp", "ab" * 32, 3, 1, 1, 5, "why" * (state == "failed")
    )


def settled(name: str, n: int = 1, k: int = 0, **more: Any) -> SpooledPicture:
    file = ImageFile(path=f"{name}-{n}.png", sha256="ab" * 32, bytes=3, width=1, height=1, format="png", **more)
    return SpooledPicture(n, k, f"spool-{k}", file, 0.04)


async def write_history(ledger: Ledger, chunks: ChunkWriter) -> None:
    """Something of everything. Texts hold what a database may stumble over: quotes, marks, percent signs."""
    usage, reply = (
        Usage(image_tokens=9, prompt_tokens=4),
        Reply(usage=Usage(image_tokens=9), text="it's 100 % ? \\ '\u00e9'"),
    )
    ledger.run_started(1, "host", "0", wanted=9, kept=1)
    ledger.manifest_read(ManifestTotals(12, {"limit": 2}, 1, 9, FileVersion(3, 5, "ab")))
    ledger.set_meta(name="it's ?", manifest="m.yaml")
    a, b, c, d, e = (make_sample(name) for name in ("a", "\u00e9", "c", "d", "e"))
    first = await ledger.attempt_started(IntendedRequest(a, "gemini/m", 1, 0.05, "smaller"))
    ledger.attempt_succeeded(
        receipt_of(
            first,
            a,
            reply,
            [settled("a", flags=FLAGGED)],
            sent_at=1.5,
            usd=0.04,
            usd_source="usage",
            beside={".txt": "so"},
        )
    )
    ledger.record_placed(first)
    refused = await ledger.attempt_started(IntendedRequest(b, "gemini/m", 1, 0.05))
    await ledger.attempt_failed(
        refused, b, Refused("no: 100 % 'this'", usage=usage), sent_at=2.5, state="refused", cost=(0.01, "usage")
    )
    lost = await ledger.attempt_started(IntendedRequest(c, "gemini/m", 1, 0.05))
    await ledger.attempt_failed(lost, c, Unanswered("gone"), sent_at=3.5, state="uncertain")
    linked = await ledger.attempt_started(IntendedRequest(d, "aimlapi/n", 1, None))
    ledger.links_received(linked, Reply(links=("https://a/b?c=%20",), usage=usage, text="t"))
    await ledger.download_failed(linked, d, DownloadFailed("404"))
    ledger.links_recovered(linked, Reply(links=("https://a/c",)))
    pair = replace(make_sample("g"), images=2)
    both = await ledger.attempt_started(IntendedRequest(pair, "gemini/m", 1, None))
    ledger.attempt_succeeded(
        receipt_of(
            both,
            pair,
            reply,
            [settled("g")],
            sent_at=None,
            usd=None,
            usd_source="",
            missing=(UndeliveredSample(2, "mismatch", "small", "failed"),),
        )
    )
    again = await ledger.attempt_started(IntendedRequest(a, "gemini/m", 2, 0.05))
    ledger.attempt_succeeded(receipt_of(again, a, reply, [settled("a")], sent_at=4.5, usd=0.05, usd_source="estimate"))
    ledger.record_placed(again, [("a-1.png", "superseded/a-1.png")])
    ledger.record_stamps([("5", again, 0)])
    assert [image.file.path for image in ledger.current_placements(ledger.reader.unplaced())] == ["g-1.png"]
    await ledger.attempt_started(IntendedRequest(make_sample("l"), "gemini/m", 1, 0.05))
    half = ledger.reader.open_attempts()[-1]
    ledger.record_drafts(half, [settled("l", role="draft")])
    ledger.end_without_picture(half, "uncertain", "interrupted", "it's over")
    ledger.record_blocked([(make_sample("f"), "because of e")])
    ledger.record_not_tried([make_sample("a"), replace(make_sample("m"), images=2), make_sample("m")], "it's over")
    chunk, numbers = await chunks.create(
        "gemini/m",
        "job",
        [
            IntendedRequest(e, "gemini/m", 1, 0.02, "", {"x": 1}),
            IntendedRequest(make_sample("k"), "gemini/m", 1, 0.02, "", {}),
        ],
    )
    assert numbers == [8, 9]
    chunk = await chunks.mark_asked(await chunks.update(chunk, step="uploaded", input_file="f/1"))
    await chunks.adopt(chunk)
    ledger.attempt_succeeded(receipt_of(8, e, reply, [settled("e")], sent_at=None, usd=0.02, usd_source="usage"))
    other, _ = await chunks.create("gemini/m", "job", [IntendedRequest(make_sample("h"), "gemini/m", 1, 0.02, "", {})])
    await chunks.drop(other, "no room")
    await chunks.create("gemini/n", "job", [IntendedRequest(make_sample("i"), "gemini/n", 1, 0.02, "", {})])
    assert chunks.drop_unsent() == 1
    j = make_sample("j")
    third, (last,) = await chunks.create("gemini/n", "job", [IntendedRequest(j, "gemini/n", 1, 0.02, "", {})])
    ledger.attempt_succeeded(receipt_of(last, j, reply, [settled("j")], sent_at=None, usd=0.02, usd_source="usage"))
    await chunks.update(third, step="collected", state="succeeded", created_at=2.5)
    rows = [
        derivative("w/a.webp", "a", "made"),
        derivative("w/d.webp", "d", "failed"),
        derivative("w/z.webp", "z", "skipped"),
    ]
    await ledger.writer.write(upsert_derivatives([*rows, rows[0]]))
    said = Verdict(item_id="a", n=1, sha256="ab" * 32, by="person", name="it's ?", ruling="accept", message="100 %")
    checked = replace(said, by="check", name="blank")
    await ledger.writer.write(upsert_verdicts([said, checked, replace(said, name="b", ruling="none", message="")]))
    await ledger.writer.write(delete_derivatives(rows[2:]))
    two = replace(make_sample("l"), images=2)
    partly = await ledger.attempt_started(IntendedRequest(two, "aimlapi/n", 1, 0.08))
    ledger.links_received(partly, Reply(links=("https://a/d", "https://a/e"), usage=usage), {"wire": "{}", "n": 1})
    behind = [UndeliveredSample(2, "download_failed", "404", "failed")]
    ledger.attempt_succeeded(
        receipt_of(
            partly, two, reply, [settled("l")], sent_at=None, usd=0.08, usd_source="vendor", missing=tuple(behind)
        )
    )
    assert [dict(each.links) for each in ledger.reader.open_attempts() if each.id == partly] == [{1: "https://a/e"}]
    ledger.end_without_picture(ledger.reader.attempt(partly), "failed", "link_gone", "410")
    taken = await ledger.attempt_started(
        IntendedRequest(make_sample("o"), "gemini/o", 1, 0.05, facts={"job_input": "o's"})
    )
    ledger.job_taken(taken, make_sample("o"), PendingJob(id="7", state={"at": "/jobs/7?"}), {"item": "o"})
    await ledger.adopt_job(taken)
    await ledger.attempt_started(IntendedRequest(make_sample("q"), "gemini/q", 1, 0.05, facts={"job_input": "q's"}))
    assert ledger.reader.attempt(taken).job == PendingJob(id="7", state={"at": "/jobs/7?"})
    ledger.park("gemini/m", 9.5, "too much")
    ledger.park("gemini/n", 9.5, "too much")
    ledger.unpark("gemini/n")
    ledger.record_cooling("gemini/m", 7.25)
    ledger.record_outages([OUTAGE])
    await ledger.sample_failed(make_sample("j"), ServerFault("busy"))
    ledger.run_statements([("UPDATE sample SET tags = ? WHERE item_id = ?", ("x,y", "a"))])
    ledger.flush()
    ledger.run_ended(3, "budget", {"made": 2, "discrepancies": {"missing": ["a-1.png"]}})
    ledger.run_started(2, "host", "0")
    assert ledger.reader.outages() == []  # of this run there is none yet
    ledger.record_outages([OUTAGE])
    ledger.flush()
    ledger.run_ended(0, "", {})


@pytest.fixture
def both(tmp_path: Path, database: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Ledger, Ledger]]:
    """The same history in SQLite and in PostgreSQL, by a clock that ticks alike."""
    ledgers: list[Ledger] = []
    for kind in ("sqlite", "postgresql"):
        folder = tmp_path / kind
        (folder / ".batchgen").mkdir(parents=True)
        clock = SimpleNamespace(time=itertools.count(1000.25).__next__)
        for module in ("ledger", "changes", "chunk_writer"):
            monkeypatch.setattr(f"batchgen.ledger.{module}.time", clock)
        server = None if kind == "sqlite" else LedgerServer(database, "job", job_identity(str(folder)))
        ledgers.append(Ledger(folder, server))
        asyncio.run(write_history(ledgers[-1], ChunkWriter(ledgers[-1])))
    yield ledgers[0], ledgers[1]
    for ledger in ledgers:
        ledger.close()


def answer(reader: Any, name: str, values: tuple[Any, ...]) -> Any:
    found = getattr(reader, name)(*values)
    plain = list(found) if isinstance(found, Iterator) else found
    return sorted(plain, key=repr) if name in UNORDERED or isinstance(plain, set) else plain


def test_both_databases_answer_every_question_alike(both):
    sqlite, server = both
    for name, values in READER.items():
        expected = answer(sqlite.reader, name, values)
        assert answer(server.reader, name, values) == expected, name
        assert expected or name in OF_THE_CLUSTER, f"{name} is asked about nothing"


def test_both_databases_are_asked_about_nothing_alike(both):
    for ledger in both:
        chronicle, derived = HistoryReader(ledger.reader._connection), DerivativeReader.from_reader(ledger.reader)
        asked = [ledger.reader.known_samples([]), list(ledger.reader.results_by_item([])), list(chronicle.samples([]))]
        asked += [
            list(chronicle.pictures([])),
            list(chronicle.derivatives([])),
            derived.pictures([]),
            derived.derivatives([]),
        ]
        assert not any(asked)
        assert ledger.reader.spent_since(0.0, []) == 0.0
        assert len(list(chronicle.attempts_after(7, []))) == 8


@pytest.mark.parametrize(
    ("owner", "questions"), [(DerivativeReader, DERIVED), (HistoryReader, CHRONICLE), (AcceptanceReader, ACCEPTANCE)]
)
def test_both_databases_answer_the_views_alike(both, owner, questions):
    for name, values in questions.items():
        expected, found = (answer(owner(ledger.reader._connection), name, values) for ledger in both)
        assert found == expected, name
        assert expected or name in ("snapshot", "release", "unwanted_derivatives", "rejections", "check_warnings"), (
            f"{name} is asked about nothing"
        )


@pytest.mark.parametrize(
    ("owner", "base", "questions"),
    [
        (Reader, object, READER),
        (HistoryReader, Reader, CHRONICLE),
        (DerivativeReader, Reader, DERIVED),
        (AcceptanceReader, Reader, ACCEPTANCE),
    ],
)
def test_no_question_is_left_out(owner, base, questions):
    assert public(owner, base) == set(questions)


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_the_history_calls_everything_that_writes(tmp_path, request, monkeypatch, kind):
    seen: dict[type, set[str]] = {Ledger: set(), ChunkWriter: set()}
    for owner, names in seen.items():
        watch(monkeypatch, owner, names)
    (tmp_path / ".batchgen").mkdir()
    server = (
        None
        if kind == "sqlite"
        else LedgerServer(request.getfixturevalue("database"), "job", job_identity(str(tmp_path)))
    )
    ledger = Ledger(tmp_path, server)
    asyncio.run(write_history(ledger, ChunkWriter(ledger)))
    ledger.close()
    assert seen == {owner: public(owner) for owner in seen}
