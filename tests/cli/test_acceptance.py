"""Accepted images and what each has cost: in the summary, `status`, `history`, results, the log and metrics."""

from __future__ import annotations

import json
import re

import pytest

from batchgen.ledger.ledger import Ledger
from batchgen.ledger.results import ResultsFile
from batchgen.ledger.reviews import append_reviews, make_review
from batchgen.report import formatting
from tests.support.verdicts import review

CAT = {"mug": "A mug", "jug": "A jug", "cup": "A cup", "bad": "x [[fault:safety]]"}


@pytest.fixture
def job(batchgen, write):
    """Its folder: of three images two are rejected."""
    manifest = write(CAT)
    batchgen("run", str(manifest), "--emulate", "-q")
    folder = manifest.with_name("job.emulated")
    review(
        folder,
        ("mug", "check", "text", "reject", {"reason": "text", "message": "reads SALE 05%"}),
        ("jug", "judge", "gemini-3-pro", "reject", {"reason": "judge", "score": 4.0, "message": "no handle"}),
        ("cup", "person", "ann", "accept", {"score": 5.0}),
    )
    return folder


def test_the_summary_ends_with_what_each_accepted_image_has_cost(batchgen, write, tmp_path):
    manifest, log = str(write(CAT)), tmp_path / "run.log"
    done = batchgen("run", manifest, "--emulate", "--log-file", str(log), "--log-format", "json")
    last = done.err.splitlines()[-1]
    assert re.fullmatch(r"accepted  3 of 3 images; \$0\.0\d+ \(emulated\) and 0\.\d s per accepted image", last)
    ended = json.loads(log.read_text().splitlines()[-1])
    assert (ended["event"], ended["accepted"], ended["usd_per_accepted"]) == (
        "run.ended",
        3,
        pytest.approx(0.039, rel=0.1),
    )
    assert ended["minutes_per_accepted"] > 0 and "rejected" not in ended
    again = batchgen("run", manifest, "--emulate", "--json")
    assert (again.json["accepted"], again.json["usd_per_accepted"]) == (0, None)  # it asked for nothing
    assert "accepted  " not in again.err


def test_two_black_images_are_made_and_named_unasked(batchgen, write):
    manifest = write({"mug": "A mug [[image:blank]]", "jug": "A jug [[image:blank]]"})
    done = batchgen("run", str(manifest), "--emulate")
    black = "blank: the whole image is of one colour, #000000"
    assert f"mug: warned (blank): {black.removeprefix('blank: ')}\n" in done.err
    named = done.err.partition("warned    checks have found something in 2 images, kept and counted:\n")[2]
    assert [line.strip() for line in named.splitlines()[:2]] == [f"mug  {black}", f"jug  {black}"]
    assert done.code == 0 and "accepted  2 of 2 images, 2 with a warning; " in done.err
    found = batchgen("status", str(manifest), "--json").json
    assert (found["accepted"], found["warned"], [each["id"] for each in found["warned_samples"]]) == (
        2,
        2,
        ["mug", "jug"],
    )
    review(manifest.with_name("job.emulated"), ("mug", "person", "ann", "accept", {}))
    assert "2 images, 1 with a warning" in batchgen("status", str(manifest)).out


def test_an_image_without_a_verdict_and_a_rejected_one_each_have_their_next_step(batchgen, write):
    judge = "judge: {model: gemini-3.1-flash-lite, rubric: Is it whole?}\n"
    manifest = write({"mug": "A mug [[judge:malformed*9]]", "jug": "A jug [[judge:2]]"})
    manifest.write_text(judge + manifest.read_text())
    done = batchgen("run", str(manifest), "--emulate")
    assert done.code == 3, done.err
    assert "--emulate reviews the 1 image left without a verdict" in done.err
    assert "--rejected buys another" in done.err
    assert "jug: rejected (judge): The emulated judge gives 2 of 10." in done.err


def test_status_ends_with_it_and_lists_what_is_rejected_and_why(batchgen, job):
    shown = batchgen("status", str(job)).out
    assert shown.startswith("job: 3 of 4 images made, 2 of them rejected; 1 refused\n")
    assert "rejected  2 images are rejected:\n              mug  text: reads SALE 05%\n" in shown
    assert "              jug  by the judge: no handle\n" in shown
    last = shown.splitlines()[-1]
    found = batchgen("status", str(job), "--json").json
    assert last.startswith(f"accepted  1 of 3 images; {formatting.usd(found['usd']['spent'])} (emulated) and ")
    assert last.endswith(" per accepted image; of 2 rejected 1 for text, 1 by the judge")
    assert (found["accepted"], found["rejected"]) == (1, 2)
    assert found["rejected_for"] == {"text": 1, "judge": 1}
    assert found["usd_per_accepted"] == pytest.approx(found["usd"]["spent"], abs=1e-5)
    assert found["minutes_per_accepted"] > 0
    assert found["rejected_samples"][0] == {"id": "mug", "reason": "text", "message": "reads SALE 05%"}
    (model,) = found["variants"]["model"]
    assert (model["images"], model["accepted"], model["rejected_for"]) == (3, 1, {"text": 1, "judge": 1})


def test_what_somebody_has_just_said_counts_before_a_run_takes_it_in(batchgen, job):
    sha256 = {line["id"]: line["sha256"] for line in map(json.loads, (job / "results.jsonl").read_text().splitlines())}
    append_reviews(job, [make_review("ann", "cup", 1, sha256["cup"][0], "reject", 0, "too dark")])
    found = batchgen("status", str(job), "--json").json
    assert (found["accepted"], found["rejected_for"]) == (0, {"text": 1, "judge": 1, "person": 1})
    assert [each["accepted"] for each in found["variants"]["model"]] == [0]
    assert "cup  ann: too dark" in batchgen("status", str(job)).out
    assert "0%" in batchgen("status", str(job), "--compare", "model").out
    (run,) = batchgen("history", str(job), "--json").json
    assert run["rejected"] == 3
    batchgen("report", str(job))
    assert "of 3 rejected 1 for text, 1 by the judge, 1 by people" in (job / "report.html").read_text()


def test_history_has_a_column_for_it(batchgen, job):
    head, line = batchgen("history", str(job)).out.splitlines()
    assert head.split()[-3:] == ["accepted", "each", "end"]
    (run,) = batchgen("history", str(job), "--json").json
    usd = formatting.usd(run["usd"]["spent"])
    assert re.search(rf" {re.escape(usd)} +1 +{re.escape(usd)}, \d\.\d s +exit 3$", line)
    assert (run["accepted"], run["rejected"], run["rejected_for"]) == (1, 2, {"text": 1, "judge": 1})


def test_variants_are_compared_by_what_tags_name(batchgen, tmp_path):
    manifest = tmp_path / "job.yaml"
    tags = 'tags: ["style={{ style }}"], matrix: {style: [ink, oil]}'
    manifest.write_text(f'items:\n  - {{id: "m-{{{{ style }}}}", prompt: "A {{{{ style }}}}", count: 2, {tags}}}\n')
    batchgen("run", str(manifest), "--emulate", "-q")
    review(tmp_path / "job.emulated", ("m-ink", "check", "blank", "reject", {"reason": "blank"}))
    lines = batchgen("status", str(manifest), "--compare", "style").out.splitlines()
    assert lines[1].split() == [
        "style",
        "images",
        "accepted",
        "share",
        "95",
        "%",
        "interval",
        "USD",
        "each",
        "minutes",
        "each",
    ]
    assert [line.split()[:4] for line in lines[2:4]] == [["oil", "2", "2", "100%"], ["ink", "2", "1", "50%"]]
    assert lines[4] == "too few to tell: the interval of oil overlaps that of ink"
    found = batchgen("status", str(manifest), "--compare", "style", "--json").json
    assert [(each["variant"], each["share"], each["overlaps_best"]) for each in found["variants"]] == [
        ("oil", 1.0, False),
        ("ink", 0.5, True),
    ]
    wrong = batchgen("status", str(manifest), "--compare", "colour")
    assert (wrong.code, 'tags: ["colour={{ colour }}"]' in wrong.err) == (2, True)
    assert batchgen("status", str(manifest), "--compare", "tag", "--billing").code == 2
    assert batchgen("status", str(manifest), "--compare", "tag", "--watch").code == 2


def test_results_say_of_each_item_whether_it_is_accepted_and_what_was_said(job):
    ledger = Ledger(job)
    ResultsFile(job, ledger.reader).rebuild()
    (cup,) = ledger.reader.results_of_item("cup")
    ledger.close()
    lines = {line["id"]: line for line in map(json.loads, (job / "results.jsonl").read_text().splitlines())}
    assert {key: line["accepted"] for key, line in lines.items()} == {
        "mug": False,
        "jug": False,
        "cup": True,
        "bad": False,
    }
    assert (lines["mug"]["state"], len(lines["mug"]["files"]), lines["mug"]["usd"] > 0) == ("rejected", 1, True)
    said = {"by": "person", "name": "ann", "ruling": "accept", "reason": "", "message": "", "score": 5.0}
    assert lines["cup"]["verdicts"] == [{**said, "at": "2026-11-21T08:00:02Z"}]
    assert "verdicts" not in lines["bad"]
    assert (cup.accepted, [each.name for each in cup.verdicts]) == (True, ["ann"])


def test_metrics_have_it_too(batchgen, job, tmp_path):
    pytest.importorskip("prometheus_client", reason="NOT TESTED: prometheus_client is not installed")
    from batchgen.report.metrics import exposition  # it needs the library

    text = exposition([job])[0].decode()
    values = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    name = '{job="job.emulated"'
    assert values[f"batchgen_accepted_images{name}}}"] == "1.0"
    assert values[f'batchgen_rejected_images{name},reason="judge"}}'] == "1.0"
    assert float(values[f"batchgen_usd_per_accepted_image{name}}}"]) == pytest.approx(3 * 0.039, rel=0.1)
    assert float(values[f"batchgen_seconds_per_accepted_image{name}}}"]) > 0
