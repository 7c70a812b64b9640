"""An attempt in the hands of an engine that neither dispatches nor sends: what came back some other way is settled the same."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from batchgen.engine.answer import AnsweredAttempt
from batchgen.engine.attempts import AttemptRecorder
from batchgen.engine.context import RunContext
from batchgen.engine.dependents import Dependents
from batchgen.errors import NoImage
from batchgen.events import AttemptFailed, AttemptStarted, Event, SampleEnded, SampleSucceeded
from batchgen.http.transport import Transport
from batchgen.http.uploads import Uploader
from batchgen.ledger.backlog import Backlog
from batchgen.ledger.ledger import Ledger
from batchgen.ledger.requests import IntendedRequest
from batchgen.ledger.results import RESULTS_FILE, ResultsFile
from batchgen.profiles.catalogue import load_catalogue
from batchgen.records import Reply, ReplyImage
from batchgen.references.local import References
from batchgen.store.store import Store
from tests.support.images import WHOLE
from tests.support.samples import make_sample

MODEL = "gemini-nano-banana-2.1"


class Bench:
    """Everything an attempt needs, and nothing that dispatches or sends."""

    def __init__(self, folder: Path, executor: ThreadPoolExecutor, transport: Transport) -> None:
        self.folder = folder
        store = Store(folder)
        store.prepare()
        self.ledger = Ledger(folder)
        self.ledger.run_started(1, "host", "0")
        self.results = ResultsFile(folder, self.ledger.reader)
        self.results.open(compacted=True)
        self.backlog = Backlog()
        self.let_go: list[str] = []
        self.events: list[Event] = []
        dependents = Dependents(self.backlog, self.ledger, store, References(folder), self.let_go.append)
        context = RunContext(
            ledger=self.ledger,
            store=store,
            routes={},
            transport=transport,
            uploads=Uploader(None, transport, print),
            executor=executor,
            emit=self.events.append,
            note=print,
        )
        self.attempts = AttemptRecorder(context, self.results, dependents)

    def close(self) -> None:
        self.results.close()
        self.backlog.close()
        self.ledger.close()


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    with ThreadPoolExecutor(1) as executor:
        async with Transport(1, executor) as transport:
            made = Bench(tmp_path, executor, transport)
            yield made
            made.close()


async def test_a_reply_that_came_some_other_way_is_placed_recorded_and_told_and_frees_its_children(bench):
    sample, child = make_sample("a", MODEL), make_sample("b", MODEL)
    bench.backlog.add_dependent("lane", child, ["a"])
    attempt = await bench.attempts.begin(IntendedRequest(sample, "lane", 1, 0.05))
    reply, profile = Reply(images=(ReplyImage("", WHOLE["PNG"]),)), load_catalogue().resolve(MODEL)
    answered = AnsweredAttempt(id=attempt, sample=sample, profile=profile, estimate_usd=0.05)
    stored = await asyncio.to_thread(bench.attempts.settle, answered, reply, [])
    await bench.attempts.succeeded(answered, reply, stored, sent_at=0.0)
    bench.ledger.flush()
    assert [type(event) for event in bench.events] == [AttemptStarted, SampleSucceeded]
    assert (bench.folder / "a.png").read_bytes() == WHOLE["PNG"]
    assert '"a"' in (bench.folder / RESULTS_FILE).read_text()
    assert (bench.ledger.reader.counts(), bench.let_go) == ({"succeeded": 1}, ["lane"])


async def test_an_error_that_came_some_other_way_ends_its_sample_and_those_that_wait_for_it(bench):
    sample = make_sample("a", MODEL)
    bench.backlog.add_dependent("lane", make_sample("b", MODEL), ["a"])
    attempt = await bench.attempts.begin(IntendedRequest(sample, "lane", 1, 0.05))
    error = NoImage("no picture", reason="no_image")
    await bench.attempts.failed(sample, attempt, error, sent_at=None, state=error.outcome)
    assert type(bench.events[-1]) is AttemptFailed
    await bench.attempts.given_up(sample, error, error.outcome)
    ends = [(event.key, event.state) for event in bench.events if isinstance(event, SampleEnded)]
    assert ends == [("a", error.outcome), ("b", "blocked")]
    assert bench.ledger.reader.counts() == {error.outcome: 1, "blocked": 1}
