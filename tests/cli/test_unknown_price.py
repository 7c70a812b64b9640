"""A price that nobody knows is said as unknown by all that tells of money, and is never 0; a guess is called one."""

from __future__ import annotations

import contextlib
import json
import sqlite3

import pytest

from batchgen.ledger.schema import ledger_path
from batchgen.profiles.catalogue import load_catalogue
from batchgen.report.dashboard.job_card import JobLocation
from batchgen.report.dashboard.watched_job import WatchedJob
from batchgen.report.gallery_data import ManifestInfo
from batchgen.report.metrics import exposition
from batchgen.report.view import as_json

STRANGE, PRICED = "google/gemini-nano-banana-2.1", "gemini-nano-banana-2.1"  # the first has no prices
UNTOLD = "[[fault:tokens_used]]"  # an answer that does not say what it cost
LOST = "[[fault:truncated_json]]"
TRIES = 3  # at an answer that cannot be read
NOUGHT = "$0.00"


@pytest.fixture
def job(batchgen, emulator, tmp_path):
    """Run items, `id: (model, prompt)`; all that is said of it, by who says it."""

    def run(items, *argv, head=None, code=0):
        emulator("--rpm", "0", "--latency", "0-0", "--batch-pending", "0", "--batch-running", "0.1")
        listed = [{"id": name, "model": model, "prompt": prompt} for name, (model, prompt) in items.items()]
        path, page, prom = tmp_path / "job.yaml", tmp_path / "page.md", tmp_path / "job.prom"
        facts = {"version": 1, **(head or {}), "items": listed}
        path.write_text(json.dumps(facts), encoding="utf-8")
        said = {"plan": batchgen("plan", str(path), *argv).out}
        done = batchgen("run", str(path), "--yes", "--summary", str(page), "--metrics-file", str(prom), *argv)
        assert done.code == code, done.err
        folder = tmp_path / "job"
        watch = WatchedJob(JobLocation(folder), lambda *_: ManifestInfo(load_catalogue()), lambda _: None)
        watch.refresh(samples=True)
        return {
            **said,
            "run": done.err,
            "page": page.read_text(encoding="utf-8").replace("\\", ""),
            "status": batchgen("status", str(path)).out,
            "watch": batchgen("status", str(path), "--watch").out,
            "history": batchgen("history", str(path)).out,
            "metrics": prom.read_text(encoding="utf-8"),
            "scrape": exposition([folder])[0].decode(),
            "card": as_json(watch.card),
            "json": batchgen("status", str(path), "--json").json["usd"],
        }

    return run


FOR_PEOPLE = ("plan", "run", "page", "status", "watch", "history")


def test_where_no_price_is_known_all_say_unknown(job):
    said = job({"a": (STRANGE, UNTOLD), "b": (STRANGE, f"B {UNTOLD}")})
    assert {name: (NOUGHT in said[name], "unknown" in said[name]) for name in FOR_PEOPLE} == dict.fromkeys(
        FOR_PEOPLE, (False, True)
    )
    assert "unknown: 2 requests of unknown price" in said["run"]
    assert "by the usage that the vendor reported" not in said["run"]
    assert (said["json"]["spent"], said["json"]["requests_of_unknown_price"]) == (None, 2)
    assert said["card"]["usd"] == said["json"]


def test_a_batch_of_unknown_price_is_unknown_when_submitted_and_when_collected(job):
    head = {"models": {PRICED: {"prices": {"batch_factor": None}}}}
    said = job({"a": (PRICED, "A"), "b": (PRICED, "B")}, "--engine", "batch", head=head)
    assert {name for name in FOR_PEOPLE if NOUGHT in said[name] or "unknown" not in said[name]} == set()
    assert "submitted with 2 requests, price unknown\n" in said["run"]
    assert "collected: 2 images, unknown (2 requests of unknown price)\n" in said["run"]
    assert "2 images by batch, unknown (2 requests of unknown price)\n" in said["plan"]


def test_where_no_price_is_known_no_metric_says_nought(job):
    parser = pytest.importorskip("prometheus_client.parser", reason="NOT TESTED: prometheus_client is not installed")
    said = job({"a": (STRANGE, UNTOLD), "b": (STRANGE, LOST)}, code=3)
    for text in (said["metrics"], said["scrape"]):
        lines = [line for line in text.splitlines() if "usd" in line and not line.startswith("#")]
        assert lines == []
        found = parser.text_string_to_metric_families(text)
        samples = [
            sample for family in found if family.name == "batchgen_unpriced_requests" for sample in family.samples
        ]
        assert {sample.labels["billed"]: sample.value for sample in samples} == {"yes": 1, "maybe": TRIES}


def test_what_may_have_been_billed_at_an_unknown_price_is_unknown_too(job):
    said = job({"b": (STRANGE, LOST)}, code=4)
    assert {name for name in FOR_PEOPLE if NOUGHT in said[name]} == set()
    for name in ("run", "page", "status"):
        assert f"an unknown amount maybe billed ({TRIES} requests that brought no image)" in said[name]
    assert f"; maybe unknown ({TRIES} requests of unknown price); " in said["watch"]
    assert (said["json"]["maybe_billed"], said["json"]["maybe_billed_of_unknown_price"]) == (None, TRIES)


def test_what_is_known_in_part_is_a_sum_and_a_number_of_requests(job):
    said = job({"a": (STRANGE, UNTOLD), "b": (PRICED, "B")})
    for name in ("run", "page", "status"):
        assert "$0.037 charged, by the usage that the vendor reported" in said[name], said[name]
        assert "1 request of unknown price" in said[name]
    assert f"$0.039, estimated, + 1 request of unknown price: no price is known for {STRANGE}\n" in said["plan"]
    assert "; $0.037 + 1 request of unknown price; " in said["watch"]
    assert "$0.037+?" in said["history"]
    assert (said["json"]["spent"] > 0, said["json"]["requests_of_unknown_price"]) == (True, 1)


def test_an_estimate_is_not_called_what_the_vendor_reported(job):
    live = {"models": {"imagen-4.0-generate-001": {"status": "live"}}}
    said = job({"a": ("imagen-4.0-generate-001", "A")}, head=live)  # its answers report no usage
    for name in ("run", "page", "status"):
        assert "$0.04 estimated (no usage was reported)" in said[name], said[name]
        assert "that the vendor reported" not in said[name]
        assert NOUGHT not in said[name]


def test_a_guessed_price_is_called_a_guess(job, batchgen):
    said = job({"a": (PRICED, "A")}, head={"defaults": {"service_tier": "flex"}})
    assert "guess" in said["plan"]
    for name in ("run", "page", "status"):
        assert "the price of the service tier is a guess" in said[name], said[name]
        assert "that the vendor reported" not in said[name]
    assert said["json"]["guessed"] > 0
    assert f"are guesses for {PRICED}, " in batchgen("models").out


def test_a_tier_of_a_published_price_is_no_guess(job):
    said = job({"a": ("gemini-3-pro-image", "A")}, head={"defaults": {"service_tier": "flex"}})
    assert {name for name in FOR_PEOPLE if "guess" in said[name]} == set()


@pytest.mark.parametrize(
    ("engine", "share"), [("online", 1), ("batch", 0.5)], ids=["online", "batch"]
)  # of the picture's price; a batch makes no search cheaper
def test_searches_are_billed_by_the_answers_queries_and_said_to_count_in_full(job, tmp_path, engine, share):
    said = job({"a": (PRICED, "A map")}, "--engine", engine, head={"defaults": {"search": "web"}})
    (result,) = [json.loads(line) for line in (tmp_path / "job" / "results.jsonl").read_text().splitlines()]
    assert result["usd"] == pytest.approx(2 * 0.014 + share * 0.0387, rel=0.1)
    with contextlib.closing(sqlite3.connect(ledger_path(tmp_path / "job"))) as db:
        ((usage,),) = db.execute("SELECT usage FROM attempt").fetchall()
    assert json.loads(usage)["queries"] == 2
    for name in ("run", "page", "status"):
        assert "searches in 1 request are priced in full; some may have been free (monthly allowance)" in said[name]
    assert "searches in 1 request are priced in full; some may be free (monthly allowance)" in said["plan"]
    assert said["json"]["searched_requests"] == 1
