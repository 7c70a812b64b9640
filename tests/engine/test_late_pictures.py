"""A picture that comes when its sample has another one by now: kept as what it is, named by the ledger, and nothing is replaced."""

from __future__ import annotations

import asyncio
import hashlib
import sys
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from batchgen.cli.verify import verify
from batchgen.emulator import EmulatorOptions, serve
from batchgen.ledger.ledger import Ledger
from batchgen.ledger.location import LedgerServer, job_identity
from batchgen.ledger.pictures import SpooledPicture
from batchgen.ledger.reader import Reader
from batchgen.ledger.requests import IntendedRequest
from batchgen.planning.plan import RetrySelection
from batchgen.records import ImageFile, Reply, Sample
from batchgen.report.billing import read_billing
from batchgen.report.console import Console
from tests.support.bench import HEAD, Bench
from tests.support.fork_server import PYTHON
from tests.support.paths import ROOT
from tests.support.postgres import both_ledgers
from tests.support.postgres_proxy import Proxy
from tests.support.samples import make_sample, receipt_of

LINKED = "  - {id: a, prompt: a fox, model: google/imagen-4.0-generate-001}\n"


class Wire(Bench):
    """A bench with a wire to its emulator, by which links lead there too."""

    def __init__(self, url: str, folder: Path) -> None:
        super().__init__(url, folder)
        self.proxy = Proxy(urlsplit(url).port or 0)
        self.direct, self.wired = url, f"http://127.0.0.1:{self.proxy.port}"

    async def die(self, place: str, k: int = 1, entries: str = LINKED) -> None:
        child = await asyncio.create_subprocess_exec(
            PYTHON, "-m", "tests.support.crash_child", str(self.manifest(entries, HEAD)), str(self.folder / "out"),
            self.wired, place, str(k), cwd=ROOT,
        )  # fmt: skip
        assert await child.wait() == 9

    async def bought_again(self) -> dict[str, str]:
        """The first answer was a link that could not be fetched, and the image has been bought again. Answers what there is."""
        await self.die("batchgen.ledger.ledger:Ledger.links_received!")
        self.proxy.refusing = True
        outcome = await self.run(LINKED, retry_selection=RetrySelection(fresh=True))
        assert (outcome.exit_code, outcome.made, await self.requests()) == (0, 1, 2)
        self.proxy.refusing = False
        self.url = self.wired
        return self.pictures()

    async def requests(self) -> int:
        self.url, url = self.direct, self.url
        try:
            return await super().requests()
        finally:
            self.url = url

    def whole(self, files: int) -> bool:
        out = self.folder / "out"
        with Reader.open(out) as reader:
            found = verify(out, reader, Console(sys.stderr))
            assert (found.missing, found.changed, found.gone, found.extra) == ([], [], [], [])
            assert read_billing(reader).holds
        return found.checked == files

    def drafts(self) -> set[str]:
        return {hashlib.sha256(path.read_bytes()).hexdigest() for path in (self.folder / "out" / "drafts").iterdir()}


@pytest.fixture
async def wire(tmp_path: Path) -> AsyncIterator[Wire]:
    async with await serve(EmulatorOptions(latency_s=(0.0, 0.0), picture="tiny", rpm=0)) as emulator:
        bench = Wire(emulator.base_url, tmp_path)
        yield bench
        bench.proxy.close()


@both_ledgers
async def test_a_link_that_is_fetched_when_its_image_was_bought_again_brings_a_draft(wire):
    made = await wire.bought_again()
    outcome = await wire.run(LINKED)
    assert (outcome.exit_code, outcome.kept, wire.pictures(), await wire.requests()) == (0, 1, made, 2)
    assert wire.whole(2)
    assert wire.lines()["a"]["sha256"] == list(made.values())
    assert len({*wire.drafts(), *made.values()}) == 2


async def test_whatever_step_a_run_dies_at_with_a_late_picture_the_ledger_names_only_files_that_are_there(wire):
    made = await wire.bought_again()
    out = wire.folder / "out"
    for place in (
        "batchgen.engine.settle:Ledger.attempt_succeeded",  # in the spool
        "batchgen.engine.settle:move_into_place",  # recorded
        "batchgen.store.local_folder:os.replace",
        "batchgen.engine.settle:Ledger.record_placed",  # in its place
    ):
        await wire.die(place)
        with Reader.open(out) as reader:
            assert all((out / path).is_file() for path, *_ in reader.expected_files())
    outcome = await wire.run(LINKED)
    assert (outcome.exit_code, wire.pictures(), await wire.requests()) == (0, made, 2)
    assert wire.whole(2)
    assert not (out / "superseded").exists()


async def test_parts_of_an_answer_that_nobody_has_as_a_whole_are_known_by_the_ledger_whatever_step_a_run_dies_at(wire):
    text = "  - {id: i0, prompt: only one, model: pro, keep_thoughts: true}\n"
    for place in (
        "batchgen.engine.settle:Ledger.attempt_succeeded",  # a thought and the picture are in the spool
        "batchgen.engine.recovery.open_attempts:Ledger.record_drafts!",
        "batchgen.store.local_folder:os.replace",
    ):
        await wire.die(place, entries=text)
    outcome = await wire.run(text)
    assert (outcome.exit_code, outcome.made, await wire.requests()) == (0, 1, 2)
    drafts = {path.name for path in (wire.folder / "out" / "drafts").iterdir()}
    assert {name for name in drafts if name.startswith("i0.1-")} == {"i0.1-0.jpg", "i0.1-1.jpg"}
    assert wire.whole(1 + len(drafts))


# --- the verdict itself, of both ledgers


@pytest.fixture(params=["sqlite", "postgresql"])
def ledger(tmp_path, request, monkeypatch):
    server = None
    if request.param == "postgresql":
        server = LedgerServer(request.getfixturevalue("database"), "job", job_identity(str(tmp_path)))
        monkeypatch.setenv("BATCHGEN_LEDGER", server.url)
    (tmp_path / ".batchgen").mkdir()
    opened = Ledger(tmp_path, server)
    opened.run_started(1, "host", "0")
    yield opened
    opened.close()


def picture(name: str = "a") -> SpooledPicture:
    file = ImageFile(path=f"{name}.png", sha256=name * 64, bytes=3, width=1, height=1, format="png")
    return SpooledPicture(1, 0, f"spool-{name}", file, 0.04)


def comes(ledger: Ledger, attempt: int, sample: Sample, name: str = "a") -> list[tuple[str, str]]:
    """(path, role) of its picture, as it is recorded."""
    recorded = ledger.attempt_succeeded(
        receipt_of(attempt, sample, Reply(), [picture(name)], sent_at=1.0, usd=0.04, usd_source="usage")
    )
    return [(each.file.path, each.file.role) for each in recorded]


def stands(ledger: Ledger) -> tuple[str, str | None]:
    (entry,) = ledger.reader.known_samples(["a"])["a"]
    return entry.state, entry.path


SAMPLE = make_sample("a")
OTHER = replace(SAMPLE, fingerprint="fp-other")


async def test_the_first_picture_to_come_is_the_samples_and_the_second_a_draft_whichever_was_asked_for_first(ledger):
    for first_to_come in (0, 1):
        asked = [await ledger.attempt_started(IntendedRequest(SAMPLE, "lane", 1, 0.05)) for _ in range(2)]
        late = asked[1 - first_to_come]
        assert comes(ledger, asked[first_to_come], SAMPLE) == [("a.png", "image")]
        assert comes(ledger, late, SAMPLE) == [(f"drafts/a.{late}-0.png", "draft")]
        assert stands(ledger) == ("succeeded", "a.png")


async def test_a_picture_for_another_prompt_than_is_wanted_by_now_is_kept_aside_and_counts_for_no_sample(ledger):
    earlier = await ledger.attempt_started(IntendedRequest(SAMPLE, "lane", 1, 0.05))
    ledger.end_without_picture(ledger.reader.open_attempts()[0], "uncertain", "interrupted", "")
    await ledger.attempt_started(IntendedRequest(OTHER, "lane", 1, 0.05))
    ledger.end_without_picture(ledger.reader.open_attempts()[0], "failed", "server_error", "")
    assert comes(ledger, earlier, SAMPLE) == [(f"superseded/a.{earlier}.0.png", "image")]
    assert stands(ledger) == ("failed", None)
    ledger.record_placed(earlier)
    ledger.flush()
    assert (
        ledger.reader.earlier_image("a", 1, SAMPLE.fingerprint).attempt == earlier
    )  # it serves when it is wanted again


async def test_a_picture_that_the_manifest_does_not_want_any_more_is_kept_aside(ledger):
    attempt = await ledger.attempt_started(IntendedRequest(SAMPLE, "lane", 1, 0.05))
    ledger.run_statements([("UPDATE sample SET state = 'superseded'", ())])
    assert comes(ledger, attempt, SAMPLE) == [(f"superseded/a.{attempt}.0.png", "image")]
    assert stands(ledger) == ("superseded", None)


async def test_what_was_recorded_twice_is_the_same_picture_and_placed_once(ledger):
    """A worker may ask again after its connection was lost, and another may have fetched the same link."""
    attempt = await ledger.attempt_started(IntendedRequest(SAMPLE, "lane", 1, 0.05))
    for _ in range(2):
        assert comes(ledger, attempt, SAMPLE) == [("a.png", "image")]
    ledger.record_placed(attempt)
    ledger.flush()
    assert comes(ledger, attempt, SAMPLE) == []


async def test_a_picture_that_waited_is_kept_aside_when_its_sample_has_a_later_one(ledger):
    first = await ledger.attempt_started(IntendedRequest(SAMPLE, "lane", 1, 0.05))
    comes(ledger, first, SAMPLE)
    again = await ledger.attempt_started(IntendedRequest(SAMPLE, "lane", 2, 0.05))
    comes(ledger, again, SAMPLE, "b")
    due = ledger.current_placements(ledger.reader.unplaced())
    assert [(image.attempt, image.file.path) for image in due] == [
        (first, f"superseded/a.{first}.0.png"),
        (again, "b.png"),
    ]
    assert [image.file.path for image in ledger.reader.unplaced()] == [image.file.path for image in due]


async def test_a_request_that_brings_nothing_takes_no_picture_from_its_sample_and_speaks_for_no_later_request(ledger):
    first = await ledger.attempt_started(IntendedRequest(SAMPLE, "lane", 1, 0.05))
    again = await ledger.attempt_started(IntendedRequest(SAMPLE, "lane", 2, 0.05))
    early, late = ledger.reader.open_attempts()
    ledger.end_without_picture(early, "failed", "link_gone", "")
    assert stands(ledger)[0] == "running"  # the later one is on its way
    assert comes(ledger, first, SAMPLE) == [("a.png", "image")]
    ledger.end_without_picture(late, "uncertain", "interrupted", "")
    assert (again, stands(ledger)) == (late.id, ("succeeded", "a.png"))
