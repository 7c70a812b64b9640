"""Who is to blame when requests fail: a night outlives what lies around it, and nobody pays for it."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

import batchgen
from batchgen import errors
from batchgen.engine.outcome import EXIT_CODE_BY_STOP_REASON
from batchgen.errors import (
    ConnectFailed,
    KeyRejected,
    ModelUnavailable,
    NotJson,
    NotTheApi,
    ProviderError,
    Refused,
    ServerFault,
    ServerFaultMaybeBilled,
    SpendRateReached,
    Unanswered,
)
from batchgen.events import Event, LaneStopped, OutageEnded, OutageProbeFailed, OutageStarted
from batchgen.ledger.reader import Reader
from batchgen.scheduling import breaker
from batchgen.scheduling.lane import Ticket
from batchgen.scheduling.retry import Released, Requeued, RetryPolicy
from batchgen.scheduling.stop_reason import StopKind, StopReason
from tests.support.http_server import serving
from tests.support.marked_key import KEY
from tests.support.outage_vendor import Vendor, batchgen_run, manifest
from tests.support.samples import make_sample
from tests.support.stub_server import Night, StubServer, drive, make_dispatcher

HOUR_S = 3600.0


# --- on virtual time


class DownServer(StubServer):
    """Answers as `StubServer` does but for a while, in which every request fails."""

    def __init__(
        self, fails: Callable[[Ticket], ProviderError | None], begin_s: float = 3.0, lasts_s: float = HOUR_S, **how: Any
    ):
        super().__init__(**{"latency_s": 0.5, **how})
        self.fails, self.begin_s, self.end_s = fails, 1000.0 + begin_s, 1000.0 + begin_s + lasts_s
        self.failed: list[tuple[float, str]] = []  # seconds, sample

    async def answer(self, ticket: Ticket) -> ProviderError | None:
        now_s = asyncio.get_running_loop().time()
        if self.begin_s <= now_s < self.end_s and (error := self.fails(ticket)) is not None:
            self.failed.append((now_s, ticket.sample.key))
            await asyncio.sleep(0.05)
            return error
        return await super().answer(ticket)

    def most_in_a_minute(self, skipped: int) -> int:
        """Of what failed, but for those that were already on their way or gave the evidence."""
        times = [at for at, _ in self.failed[skipped:]]
        return max((sum(start <= at < start + 60.0 for at in times) for start in times), default=0)


def outlast(run: Any, server: DownServer, count: int = 60, **options: Any) -> Night:
    return run(drive({"m": count}, server, rpm={"m": 600}, concurrency=5, **options))


OUTAGES: dict[str, Callable[[], ProviderError]] = {
    "503": lambda: ServerFault("overloaded"),
    "refused connections, or a name that is not found": lambda: ConnectFailed("refused"),
    "a login page": lambda: NotTheApi("Sign in"),
    "500": lambda: ServerFaultMaybeBilled("internal"),
    "no JSON": lambda: NotJson("ok"),
    "no answer": lambda: Unanswered("timeout"),
}


@pytest.mark.parametrize("begin_s", [0.0, 3.0])
@pytest.mark.parametrize("kind", OUTAGES)
def test_an_hour_of_outage_costs_no_item_and_few_requests(run, kind, begin_s):
    server = DownServer(lambda _: OUTAGES[kind](), begin_s)
    night = outlast(run, server)
    assert (len(night.done), night.dispatcher.stop_reason) == (60, None)
    # Five were in flight, and two were started before three had failed.
    assert (len(server.failed) <= 80, server.most_in_a_minute(7) <= 4) == (True, True)


@pytest.mark.parametrize("kind", OUTAGES)
def test_an_hour_of_outage_spends_only_what_may_have_been_billed(run, kind):
    server = DownServer(lambda _: OUTAGES[kind]())
    night = outlast(run, server, estimate_usd=lambda _: 0.04)
    doubtful = len(server.failed) if OUTAGES[kind]().maybe_billed else 0
    assert night.dispatcher.budget.spent_usd == pytest.approx(0.04 * (60 + doubtful))
    assert max(Counter(key for _, key in server.failed).values()) <= 3


def test_a_probe_that_may_be_billed_is_sent_once_in_five_minutes(run):
    server = DownServer(lambda _: ServerFaultMaybeBilled("internal"))
    outlast(run, server)
    assert len(server.failed) <= 7 + 6 + HOUR_S / 300


def test_the_servers_own_delay_puts_the_probe_off(run):
    server = DownServer(lambda _: ServerFault("busy", retry_after_s=600.0))
    night = outlast(run, server)
    assert (len(night.done), len(server.failed) <= 7 + HOUR_S / 600) == (60, True)


def test_a_night_with_attempts_of_1_outlives_an_outage_in_which_nothing_is_billed(run):
    night = outlast(run, DownServer(lambda _: ServerFault("overloaded")), policy=RetryPolicy(attempts=1))
    assert len(night.done) == 60


def test_with_attempts_of_1_nothing_that_may_have_been_billed_is_sent_twice(run):
    server = DownServer(lambda _: ServerFaultMaybeBilled("internal"), lasts_s=300.0)
    night = outlast(run, server, policy=RetryPolicy(attempts=1))
    assert set(Counter(key for _, key in server.failed).values()) == {1}
    assert len(night.done) == 60 - len(server.failed)


@pytest.mark.parametrize("attempts", [1, 3])
def test_a_sample_that_alone_fails_among_others_pays_with_its_own_attempts(run, attempts):
    server = DownServer(lambda ticket: ServerFault("503") if ticket.sample.key == "m30" else None, 0.0)
    night = outlast(run, server, policy=RetryPolicy(attempts=attempts))
    assert (len(night.done), Counter(key for _, key in server.failed)) == (59, {"m30": attempts})


def test_the_last_sample_of_a_run_pays_though_nobody_is_left_to_show_that_it_is_to_blame(run):
    server = DownServer(lambda ticket: ServerFault("503") if ticket.sample.key == "m9" else None, 0.0)
    night = outlast(run, server, count=10)
    assert (len(night.done), len(server.failed), night.seconds < 120) == (9, 5, True)


def test_two_samples_are_no_evidence_against_a_host(run):
    server = DownServer(lambda _: ServerFault("503"), 0.0)
    night = outlast(run, server, count=2)
    assert (len(night.done), Counter(key for _, key in server.failed)) == (0, {"m0": 5, "m1": 5})


def test_a_model_that_is_overloaded_waits_alone_while_others_of_its_host_go_on(run):
    server = DownServer(lambda ticket: ServerFault("overloaded") if ticket.lane == "a" else None, 2.0, 600.0)
    told: list[tuple[str, str]] = []
    hosts = {lane: batchgen_served("key", "api.example") for lane in "ab"}
    night = run(
        drive({"a": 40, "b": 6000}, server, rpm={"a": 600}, concurrency=5, upstream_of=hosts,
              on_breaker=lambda breaker, lanes: told.append((breaker.scope, breaker.name)))
    )  # fmt: skip
    assert len(night.done) == 6040
    assert told[0] == (
        "host",
        "api.example",
    )  # three in a row, before the other model's next answer shows that it is not so
    assert set(told[3:]) == {("lane", "a")}
    alone = run(drive({"b": 6000}, StubServer(latency_s=0.5), concurrency=5))
    assert max(at for at, key in night.done if key.startswith("b")) == pytest.approx(alone.seconds, rel=0.05)


def test_a_host_that_is_down_keeps_all_its_models_waiting_behind_one_probe(run):
    server = DownServer(lambda ticket: ConnectFailed("refused") if ticket.lane in "ab" else None)
    hosts = {lane: batchgen_served("key", "far.example" if lane in "ab" else "other.example") for lane in "abc"}
    night = run(
        drive({"a": 30, "b": 30, "c": 30}, server, rpm=dict.fromkeys("abc", 600), concurrency=6, upstream_of=hosts)
    )
    assert (len(night.done), server.most_in_a_minute(8) <= 4) == (90, True)
    assert max(at for at, key in night.done if key.startswith("c")) < 60.0


def batchgen_served(account: str, host: str) -> Any:
    from batchgen.scheduling.blame import Upstream

    return Upstream(account, host)


def test_a_spend_rate_of_the_account_pauses_all_its_models_and_touches_no_rate(run):
    server = DownServer(lambda _: SpendRateReached("spend-based rate limit"), 3.0, 300.0)
    hosts = {lane: batchgen_served("one key", "api.example") for lane in "ab"}
    night = run(drive({"a": 60, "b": 60}, server, rpm={"a": 600, "b": 600}, concurrency=5, upstream_of=hosts))
    assert len(night.done) == 120
    assert len(server.failed) <= 5 + 300.0 / 30
    for lane in night.dispatcher.lanes.values():
        assert lane.window is not None and lane.window.rate(0.0) == 600


def test_a_spend_rate_of_one_account_does_not_pause_another(run):
    server = DownServer(lambda ticket: SpendRateReached("x") if ticket.lane == "a" else None, 0.0, 600.0)
    hosts = {"a": batchgen_served("one key", "h"), "b": batchgen_served("another", "h")}
    night = run(drive({"a": 5, "b": 30}, server, rpm={"a": 600, "b": 600}, concurrency=5, upstream_of=hosts))
    assert max(at for at, key in night.done if key.startswith("b")) < 60.0


def test_one_stray_404_of_a_model_that_has_served_is_the_samples_own(run):
    script = {"m11": [ModelUnavailable("404", http_status=404)]}
    night = run(drive({"m": 60}, StubServer(script=script), concurrency=1))
    assert (len(night.done), night.dispatcher.lanes["m"].stopped) == (60, "")


def test_a_model_that_is_withdrawn_in_the_middle_stops_after_three_samples(run):
    script = {f"m{n}": [ModelUnavailable("404", http_status=404)] * 9 for n in range(11, 60)}
    night = run(drive({"m": 60}, StubServer(script=script), concurrency=1))
    assert (len(night.done), night.dispatcher.lanes["m"].stopped) == (11, "model_unavailable")
    assert (len(night.server.arrivals) <= 11 + 6, night.dispatcher.untried_count()) == (True, 49)


def test_a_model_that_has_never_served_stops_at_its_first_404(run):
    night = run(drive({"m": 60}, StubServer(script={"m0": [ModelUnavailable("404")]}), concurrency=1))
    assert (len(night.server.arrivals), night.dispatcher.lanes["m"].stopped) == (1, "model_unavailable")


def test_a_403_of_one_model_stops_that_model_when_the_key_has_served_another(run):
    script = {f"bad{n}": [KeyRejected("forbidden", http_status=403)] for n in range(9)}
    hosts = {lane: batchgen_served("one key", "api.example") for lane in ("good", "bad")}
    server = StubServer({"good": 1.0, "bad": 5.0}, script)
    night = run(drive({"good": 30, "bad": 9}, server, concurrency=2, upstream_of=hosts))
    assert (night.dispatcher.stop_reason, night.dispatcher.lanes["bad"].stopped) == (None, "key_rejected")
    assert len(night.done) == 30


def test_a_403_before_anything_was_served_stops_the_run(run):
    script = {"m0": [KeyRejected("forbidden", http_status=403)]}
    assert run(drive({"m": 9}, StubServer(script=script), concurrency=1)).dispatcher.stop_reason.slug == "key_rejected"


def test_an_answer_that_is_no_picture_shows_that_the_api_is_there(run):
    script = {f"m{n}": [ServerFault("503")] if n % 2 else [Refused("no")] for n in range(40)}
    opened: list[str] = []
    night = run(
        drive({"m": 40}, StubServer(script=script), concurrency=1, on_breaker=lambda b, _: opened.append(b.name))
    )
    assert (opened, len(night.done)) == ([], 20)


def test_a_fallback_on_another_host_is_taken_when_the_outage_has_lasted_a_minute(run):
    async def main() -> tuple[Counter[str], float]:
        from batchgen.engine.engines import OnlineEngine
        from batchgen.scheduling.lane import InMemorySampleSource

        items = [
            ("gemini/a", make_sample(f"s{n}", "a", fallback=("other/b",), fallback_on=("outage",))) for n in range(20)
        ]
        hosts = {"gemini/a": batchgen_served("k", "down.example"), "other/b": batchgen_served("k", "up.example")}
        dispatcher = make_dispatcher(
            {"gemini/a": None, "other/b": None},
            InMemorySampleSource(items),
            concurrency=4,
            upstream_of=hosts,
        )
        served, begun_s = Counter[str](), asyncio.get_running_loop().time()

        async def execute(ticket: Ticket) -> None:
            dispatcher.sent(ticket)
            await asyncio.sleep(0.1)
            if ticket.lane == "gemini/a":
                dispatcher.failed(ticket, ServerFault("503"))
            else:
                dispatcher.succeeded(ticket, 0.0)
                served[ticket.lane] += 1

        await OnlineEngine().drive(dispatcher, execute)
        return served, asyncio.get_running_loop().time() - begun_s

    served, seconds = run(main())
    assert (served, 60.0 <= seconds <= 180.0) == ({"other/b": 20}, True)


def test_a_host_that_comes_and_goes_gets_no_more_doubtful_requests_for_a_sample_than_one_that_is_down(run):
    flaps = DownServer(lambda ticket: ServerFaultMaybeBilled("500") if flapping() else None, 0.0, 9 * HOUR_S)
    answered = itertools.count()

    def flapping() -> bool:
        return next(answered) % 6 != 5  # one in six is served, which closes the breaker

    outlast(run, flaps, count=40)
    assert max(Counter(key for _, key in flaps.failed).values()) <= 3


@pytest.mark.parametrize("error", [ServerFaultMaybeBilled("500"), Unanswered("timeout")])
def test_what_may_have_been_billed_is_not_bought_from_a_fallback_besides(run, error):
    requests = Counter[str]()

    async def main() -> None:
        from batchgen.engine.engines import OnlineEngine
        from batchgen.scheduling.lane import InMemorySampleSource

        samples = [make_sample(f"s{n}", "a", fallback=("other/b",), fallback_on=("outage",)) for n in range(8)]
        dispatcher = make_dispatcher(
            {"gemini/a": None, "other/b": None}, InMemorySampleSource([("gemini/a", each) for each in samples]),
            concurrency=4,
            upstream_of={"gemini/a": batchgen_served("k", "down.example"), "other/b": batchgen_served("k", "up.example")},
        )  # fmt: skip

        async def execute(ticket: Ticket) -> None:
            if ticket.exhausted:
                dispatcher.gave_up(ticket, error)
            else:
                dispatcher.sent(ticket)
                await asyncio.sleep(0.1)
                requests[ticket.sample.key] += 1
                dispatcher.failed(ticket, error)

        await OnlineEngine().drive(dispatcher, execute)

    run(main())
    assert max(requests.values()) <= 3


def test_a_deadline_that_passes_while_the_last_answer_comes_ends_nothing(run):
    night = run(drive({"m": 3}, StubServer(latency_s=9.0), concurrency=3, deadline_s=1005.0))
    assert (len(night.done), night.dispatcher.stop_reason) == (3, None)


def test_a_run_ends_after_the_stall_limit_and_everything_is_left_for_the_next(run):
    night = outlast(run, DownServer(lambda _: ServerFault("503"), 0.0, 9 * HOUR_S), stall_s=1800.0)
    assert (night.dispatcher.stop_reason, night.dispatcher.untried_count(), len(night.done)) == (
        StopReason(StopKind.STALLED),
        60,
        0,
    )
    assert {type(retry_decision) for _, retry_decision in night.retry_decisions} <= {Requeued, Released}


def test_a_deadline_ends_a_run_in_an_outage(run):
    night = outlast(run, DownServer(lambda _: ServerFault("503"), 0.0, 9 * HOUR_S), deadline_s=1000.0 + HOUR_S)
    assert (night.dispatcher.stop_reason, night.dispatcher.untried_count(), round(night.seconds)) == (
        StopReason(StopKind.DEADLINE),
        60,
        3600,
    )


def test_an_interrupted_request_says_nothing_about_the_host():
    watched = breaker.Breaker("host", "api.example")
    assert watched.earliest_start_s(5.0) == 5.0
    for kind in (errors.HeldUncertain, errors.Unanswered):
        assert "host" in kind.suspects


# --- over real HTTP


@pytest.fixture
async def vendor() -> AsyncIterator[Vendor]:
    found = Vendor()
    async with serving(found.answer) as found.url:
        yield found


@pytest.fixture
def job(vendor: Vendor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Runs a job of so many items against the vendor, with probes that come quickly."""
    monkeypatch.setattr(breaker, "FIRST_PROBE_S", {"lane": 0.05, "host": 0.05, "account": 0.05})

    async def run(count: int, limits: str = "concurrency: 5", **options: Any) -> tuple[Any, list[Event]]:
        environ = {"GEMINI_API_KEY": KEY, "BATCHGEN_GEMINI_BASE_URL": vendor.url, "HOME": str(tmp_path)}
        events: list[Event] = []
        job = batchgen.load(manifest(tmp_path, count, limits), environ=environ)
        outcome = await batchgen.run(job, observers=[events.append], options=batchgen.RunOptions(**options))
        return outcome, events

    return run


async def test_a_login_page_in_front_of_the_api_costs_nothing_and_ends_with_its_end(vendor, job, tmp_path):
    vendor.says = lambda number, _: "Sign in to the network" if number <= 8 else None
    outcome, events = await job(30, "budget_usd_per_day: 3")
    assert (outcome.exit_code, outcome.made, outcome.maybe_requests, outcome.maybe_usd) == (0, 30, 0, 0.0)
    began, ended = (next(event for event in events if isinstance(event, kind)) for kind in (OutageStarted, OutageEnded))
    assert (began.scope, began.name, began.reason) == ("host", vendor.url.partition("//")[2], "html")
    assert ("Sign in to the network" in began.message, ended.since == began.since, ended.retry_at) == (True, True, None)
    with Reader.open(tmp_path / "job") as reader:
        assert [(outage.scope, outage.retry_at) for outage in reader.outages()] == [("host", None)]


async def test_the_ledger_says_while_it_lasts_what_is_down_and_when_it_is_asked_next(vendor, job, tmp_path):
    vendor.says = lambda *_: 503
    outcome, events = await job(9, stall_s=0.3)
    assert (outcome.exit_code, outcome.stopped_by, outcome.left, outcome.counts) == (
        4,
        "stalled",
        9,
        {"wanted": outcome.counts["wanted"]},
    )
    assert any(isinstance(event, OutageProbeFailed) for event in events)
    with Reader.open(tmp_path / "job") as reader:
        (outage,) = reader.outages()
    assert (outage.models, outage.reason, outage.retry_at is not None) == (
        ["gemini-nano-banana-2.1"],
        "overloaded",
        True,
    )


async def test_a_new_run_forgets_what_was_down_in_the_last_one(vendor, job, tmp_path):
    vendor.says = lambda *_: 503
    await job(9, stall_s=0.2)
    vendor.says = lambda *_: None
    assert (await job(9))[0].exit_code == 0
    with Reader.open(tmp_path / "job") as reader:
        assert reader.outages() == []


@pytest.mark.parametrize("status", [500, 502, 504, 520, 524, 507, 0], ids=lambda status: str(status or "reset"))
async def test_a_request_that_may_have_been_billed_is_repeated_once_whatever_its_status(vendor, job, status):
    vendor.says = lambda *_: status
    outcome, _ = await job(1)
    assert (len(vendor.prompts), outcome.maybe_requests, outcome.made) == (2, 2, 0)


@pytest.mark.parametrize("status", [500, 503, 504, 520, 0], ids=lambda status: str(status or "reset"))
async def test_attempts_of_1_mean_one_request(vendor, job, status):
    vendor.says = lambda *_: status
    outcome, _ = await job(1, "attempts: 1")
    assert (len(vendor.prompts), outcome.exit_code) == (1, 4)


@pytest.mark.parametrize("status", [503, 521, 522, 530, 501])
async def test_what_is_known_to_come_from_before_the_model_counts_as_free(vendor, job, status):
    vendor.says = lambda *_: status
    outcome, _ = await job(1, "attempts: 2")
    assert (len(vendor.prompts), outcome.maybe_requests) == (2, 0)


@pytest.mark.parametrize("status", [500, 520, 524])
async def test_a_budget_holds_against_answers_that_may_have_been_billed(vendor, job, status):
    vendor.says = lambda *_: status
    outcome, _ = await job(40, "budget_usd: 0.10")
    assert (outcome.stopped_by, len(vendor.prompts)) == ("budget", 2)  # of 0.0336 USD, with room for what usage adds


async def test_a_model_that_a_403_shuts_out_says_so_and_others_go_on(vendor, job):
    vendor.says = lambda number, prompt: 403 if prompt == "p3" else None
    outcome, events = await job(6, "concurrency: 1")
    assert outcome.exit_code == 5  # a key that has served this very model and is refused now is no longer good
    assert not [event for event in events if isinstance(event, LaneStopped)]


def test_every_reason_to_stop_a_run_that_a_codec_gives_has_an_exit_code_of_its_own():
    folder = Path(batchgen.__file__).parent / "providers"
    source = "".join(path.read_text() for path in folder.glob("*.py"))
    import re

    named = set(re.findall(r"(?:KeyRejected|BillingStopped),? \"(\w+)\"", source))
    assert {"location_unsupported", "account_restricted"} <= named
    assert {
        EXIT_CODE_BY_STOP_REASON[reason] for reason in named | {KeyRejected.reason, errors.BillingStopped.reason}
    } == {5}


# --- the program


@pytest.mark.parametrize("what", [503, "Sign in"], ids=["503", "a login page"])
async def test_the_program_outlives_an_outage_in_the_middle_of_a_night(vendor, tmp_path, what):
    began, failed = [0.0], list[float]()

    def says(number: int, _: str) -> int | str | None:
        if number == 20:
            began[0] = time.monotonic()
        if not began[0] or (since := time.monotonic() - began[0]) >= 3.0:
            return None
        failed.append(since)
        return what

    vendor.says = says
    code, facts, err = await batchgen_run(vendor, manifest(tmp_path, 60))
    assert (code, facts["images"]["made"], facts["usd"]["maybe_billed_requests"]) == (0, 60, 0)
    (outage,) = facts["outages"]
    assert (outage["scope"], outage["until"] is not None) == ("host", True)
    assert ("has been down since" in err, "answers again" in err) == (True, True)
    assert len(vendor.prompts) == 60 + len(failed)  # nothing is asked for twice but what had failed
    assert len([since for since in failed if since > 1.5]) <= 3  # by then it is noticed, and only probes go out


async def test_a_run_that_an_outage_ends_says_since_when_the_api_is_down(vendor, tmp_path):
    vendor.says = lambda *_: 503
    code, facts, err = await batchgen_run(vendor, manifest(tmp_path, 9), "--stall", "3s")
    assert (code, facts["stopped_by"], facts["outages"][0]["until"]) == (4, "stalled", None)
    assert "the API has been down since" in err
    code, facts, err = await batchgen_run(vendor, manifest(tmp_path, 9), "--max-duration", "3s")
    assert (code, facts["stopped_by"]) == (7, "deadline")
    assert "the time is up and the API has been down since" in err
