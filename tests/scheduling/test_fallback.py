"""When a model cannot serve, its samples go on with the models that the manifest names for that cause, and with no others."""

from __future__ import annotations

import base64
import io
import json
import sqlite3
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from PIL import Image

import batchgen
from batchgen.engine.outcome import Outcome
from batchgen.errors import BadRequest, DownloadFailed, HeldUncertain, Malformed, Unanswered, Unreadable, UsageError
from batchgen.events import Event, Notice
from batchgen.ledger.backlog import Backlog
from batchgen.scheduling.fallback import fallback_cause, next_fallback_lane, sample_for_lane
from tests.support.http_server import serving
from tests.support.marked_key import KEY
from tests.support.samples import make_sample

PRO, FLASH, LITE = "gemini-3-pro-image", "gemini-nano-banana-2.1", "gemini-3.1-flash-lite-image"


def error(code: int, message: str, status: str, quota: str = "") -> web.Response:
    details = (
        [{"@type": "type.googleapis.com/google.rpc.QuotaFailure", "violations": [{"quotaId": quota}]}] if quota else []
    )
    return web.json_response(
        {"error": {"code": code, "message": message, "status": status, "details": details}}, status=code
    )


class Server:
    """Each model answers as its word says: well, day, absent, fault, refuse, text."""

    def __init__(self) -> None:
        self.words = {PRO: "well", FLASH: "well", LITE: "well"}
        self.asked: Counter[str] = Counter()
        self.url = ""

    async def answer(self, request: web.Request) -> web.Response:
        await request.read()
        model = request.path.rsplit("/", 1)[1].removesuffix(":generateContent")
        self.asked[model] += 1
        match self.words[model]:
            case "day":
                return error(
                    429, "You exceeded your quota", "RESOURCE_EXHAUSTED", "GenerateRequestsPerDayPerProjectPerModel"
                )
            case "absent":
                return error(404, f"models/{model} is not found", "NOT_FOUND")
            case "fault":
                return error(503, "The model is overloaded", "UNAVAILABLE")
            case "refuse":
                return web.json_response({"promptFeedback": {"blockReason": "SAFETY"}})
        buffer = io.BytesIO()
        Image.new("RGB", (32, 32), (self.asked.total() % 256, 0, 0)).save(buffer, "PNG")
        blob = {"mimeType": "image/png", "data": base64.b64encode(buffer.getvalue()).decode()}
        candidate = {"content": {"role": "model", "parts": [{"inlineData": blob}]}, "finishReason": "STOP"}
        return web.json_response({"candidates": [candidate], "usageMetadata": {"promptTokenCount": 1}})


class Bench:
    def __init__(self, server: Server, folder: Path) -> None:
        self.server = server
        self.folder = folder
        self.events: list[Event] = []

    async def run(self, items: str, limits: str = "attempts: 2", **options: Any) -> Outcome:
        self.server.asked.clear()
        self.events = []
        path = self.folder / "job.yaml"
        path.write_text(f"defaults: {{model: pro}}\nlimits: {{{limits}}}\nitems:\n{items}")
        environ = {"GEMINI_API_KEY": KEY, "BATCHGEN_GEMINI_BASE_URL": self.server.url}
        job = batchgen.load(path, output=self.folder / "out", environ=environ)
        return await batchgen.run(job, observers=[self.events.append], options=batchgen.RunOptions(**options))

    def models(self) -> dict[str, str]:
        lines = map(json.loads, (self.folder / "out" / "results.jsonl").read_text().splitlines())
        return {line["id"]: line["model"] for line in lines if line["state"] == "succeeded"}

    def notes(self) -> str:
        return "\n".join(event.message for event in self.events if isinstance(event, Notice))


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    server = Server()
    async with serving(server.answer) as server.url:
        yield Bench(server, tmp_path)


def items(count: int, more: str) -> str:
    return "".join(f"  - {{id: i{n}, prompt: p{n}{more}}}\n" for n in range(count))


async def test_a_daily_quota_sends_all_that_waits_to_the_fallback_and_the_ledger_says_who_served(bench):
    bench.server.words[PRO] = "day"
    text = items(8, f", fallback: [{FLASH}]") + "  - {id: strict, prompt: s}\n"
    outcome = await bench.run(text)
    assert (outcome.exit_code, outcome.made) == (8, 8)  # `strict` waits for another day
    assert set(bench.models().values()) == {FLASH}
    assert bench.server.asked[FLASH] == 8
    assert f"meant for {PRO} go on with their fallbacks" in bench.notes()


async def test_the_next_run_keeps_what_the_fallback_made_and_sends_nothing(bench):
    bench.server.words[PRO] = "absent"
    text = items(3, f", fallback: [{FLASH}]")
    assert (await bench.run(text)).exit_code == 0
    bench.server.words[PRO] = "well"
    outcome = await bench.run(text)
    assert (outcome.exit_code, outcome.kept, bench.server.asked.total()) == (0, 3, 0)


async def test_a_lane_that_is_still_parked_from_before_is_not_asked_at_all(bench):
    bench.server.words[PRO] = "day"
    await bench.run(items(1, ""))
    await bench.run(items(5, f", fallback: [{FLASH}]"))
    assert (bench.server.asked[PRO], bench.server.asked[FLASH]) == (0, 5)


async def test_faults_until_the_attempts_are_used_up_go_on_one_by_one(bench):
    bench.server.words[PRO] = "fault"
    outcome = await bench.run(items(2, f", fallback: [{FLASH}]"))
    assert (outcome.exit_code, bench.server.asked) == (0, {PRO: 4, FLASH: 2})
    assert f"i0 goes on with {FLASH}" in bench.notes()


async def test_fallbacks_are_tried_in_their_order_and_closed_ones_passed_over(bench):
    bench.server.words.update({PRO: "absent", FLASH: "absent"})
    outcome = await bench.run(items(6, f", fallback: [{FLASH}, {LITE}]"))
    assert (outcome.exit_code, set(bench.models().values())) == (0, {LITE})


async def test_a_refusal_goes_elsewhere_only_where_that_was_asked_for(bench):
    bench.server.words[PRO] = "refuse"
    text = (
        items(1, f", fallback: [{FLASH}]")
        + f"  - {{id: any, prompt: s, fallback: [{FLASH}], fallback_on: [refusal]}}\n"
    )
    outcome = await bench.run(text)
    assert (outcome.exit_code, bench.models()) == (3, {"any": FLASH})


async def test_when_all_fail_the_last_ones_words_are_kept_and_nothing_goes_round_in_circles(bench):
    bench.server.words.update({PRO: "fault", FLASH: "refuse"})
    outcome = await bench.run(items(1, f", fallback: [{FLASH}]"))
    assert (outcome.exit_code, bench.server.asked, outcome.counts) == (4, {PRO: 2, FLASH: 1}, {"refused": 1})


@pytest.mark.parametrize("kind", [Unanswered, HeldUncertain, Malformed, Unreadable, BadRequest, DownloadFailed])
def test_what_may_have_been_billed_or_would_fail_anywhere_is_not_bought_from_somebody_else(kind):
    item = make_sample("a", fallback=("gemini/x",), fallback_on=("quota", "outage", "refusal")).item
    assert next_fallback_lane(item, "gemini/m", fallback_cause(kind("x")), lambda _: True) is None


async def test_the_books_name_the_model_that_was_paid(bench):
    bench.server.words[PRO] = "absent"
    await bench.run(items(2, f", fallback: [{FLASH}]"))
    ledger = sqlite3.connect(bench.folder / "out" / ".batchgen" / "ledger.sqlite")
    rows = ledger.execute("SELECT lane, outcome, count(*) FROM attempt GROUP BY 1, 2 ORDER BY 1").fetchall()
    ledger.close()
    assert (f"gemini/{FLASH}", "succeeded", 2) in rows


@pytest.mark.parametrize("limit", ["budget_usd: 5", "budget_usd_per_day: 5"])
async def test_no_budget_meets_a_fallback_whose_price_is_unknown(bench, limit):
    with pytest.raises(UsageError, match="the price of brand-new is unknown"):
        await bench.run(items(1, ", fallback: [brand-new]"), limit)
    assert not bench.server.asked


def test_a_sample_served_elsewhere_is_the_same_wish():
    sample = make_sample("a", fallback=("imagen/x",))
    served = sample_for_lane(sample, "imagen/x")
    assert (served.item.provider, served.item.model, served.fingerprint) == ("imagen", "x", sample.fingerprint)


def test_the_backlog_moves_each_sample_to_its_own_next_lane():
    backlog = Backlog()
    both = {"fallback_on": ("quota",)}
    backlog.add("gemini/m", [
        make_sample("a", fallback=("gemini/x", "gemini/y"), **both),
        make_sample("b", fallback=("gemini/y",), **both),
        make_sample("c", fallback=("gemini/x",), fallback_on=("outage",)),
        make_sample("d"),
        make_sample("e", fallback=("gemini/x",), **both),
    ])  # fmt: skip
    assert backlog.move_to_fallback("gemini/m", "quota", lambda lane: lane != "gemini/x") == 2
    assert [sample.item.id for sample in backlog.take("gemini/m", 9)] == ["c", "d", "e"]  # what e could go to is closed
    assert [(sample.item.id, sample.item.model) for sample in backlog.take("gemini/y", 9)] == [("a", "y"), ("b", "y")]
    assert [backlog.backlog_count(f"gemini/{lane}") for lane in "mxy"] == [0, 0, 0]
    backlog.close()
