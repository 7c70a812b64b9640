"""Images are reviewed beside the run: what is rejected is bought again within its limits, and what was paid for is kept."""

from __future__ import annotations

import asyncio
import json

import pytest

import batchgen
from batchgen.cli.main import run_command_line
from batchgen.emulator import serve
from batchgen.errors import UsageError
from batchgen.events import ImageReviewed, SampleSucceeded
from batchgen.ledger.reader import Reader
from batchgen.ledger.reviews import append_reviews, make_review
from batchgen.ledger.verdicts import VerdictReader
from batchgen.planning.plan import RetrySelection
from batchgen.report.billing import balance_text, read_billing
from tests.support.bench import FAST, Bench, items
from tests.support.postgres import both_ledgers

JUDGE = {"model": "gemini-3.1-flash-lite", "rubric": "Is it a whole mug?"}


def head(**rules: object) -> str:
    """JSON is YAML."""
    said = "".join(f"{name}: {json.dumps(value)}\n" for name, value in rules.items())
    return f"defaults: {{model: flash}}\nlimits: {{concurrency: 8}}\n{said}items:\n"


@pytest.fixture
async def bench(tmp_path):
    async with await serve(FAST) as emulator:
        yield Bench(emulator.base_url, tmp_path)


def rows(bench: Bench, sql: str) -> list[tuple]:
    with Reader.open(bench.folder / "out") as reader:
        return list(reader._query(sql))


def states(bench: Bench) -> dict[str, str]:
    return dict(rows(bench, "SELECT item_id, state FROM sample"))


def questions(bench: Bench) -> int:
    return rows(bench, "SELECT count(*) FROM attempt WHERE item_id LIKE '% (judge)'")[0][0]


def drafts(bench: Bench) -> list[str]:
    return sorted(path.name for path in (bench.folder / "out" / "drafts").glob("*"))


def rulings(bench: Bench) -> list[tuple[str, str, str]]:
    return [(each.key, each.ruling, each.reason) for each in bench.events if isinstance(each, ImageReviewed)]


async def test_blank_images_and_twins_are_pointed_out_unasked_and_count(bench):
    outcome = await bench.run(items("[[image:blank]] a", "[[image:twin]] b", "[[image:twin]] c", "d"))
    assert (outcome.exit_code, outcome.reviewed.counts) == (0, {"accepted": 2, "warned": 2})
    found = {key: reason for key, _, reason in rulings(bench)}
    assert found["i0"] == "blank" and sorted(found) in (["i0", "i1"], ["i0", "i2"])
    assert outcome.counts == {"succeeded": 4}


@both_ledgers
async def test_an_image_that_a_check_rejects_is_bought_again_and_the_first_is_kept_as_a_draft(bench):
    outcome = await bench.run(
        items("[[image:blank,good]] a", "b"), head(check={"blank": "reject"}, on_reject={"again": 2})
    )
    assert (outcome.exit_code, outcome.reviewed.counts) == (0, {"accepted": 2, "again": 1})
    assert (await bench.requests(), drafts(bench), sorted(bench.pictures())) == (
        3,
        ["i0.1-0.jpg"],
        ["i0.jpg", "i1.jpg"],
    )
    again = await bench.run(
        items("[[image:blank,good]] a", "b"), head(check={"blank": "reject"}, on_reject={"again": 2})
    )
    assert (again.exit_code, again.kept, await bench.requests(), again.reviewed.counts) == (0, 2, 3, {})


async def test_one_that_stays_bad_ends_rejected_within_the_limit_and_is_left_alone_afterwards(bench):
    rules = head(check={"blank": "reject"}, on_reject={"again": 1})
    outcome = await bench.run(items("[[image:blank]] a"), rules)
    assert (outcome.exit_code, states(bench), await bench.requests()) == (3, {"i0": "rejected"}, 2)
    line = bench.lines()["i0"]
    assert (line["state"], line["reason"], line["files"]) == ("rejected", "blank", ["i0.jpg"])
    outcome = await bench.run(items("[[image:blank]] a"), rules)
    assert (outcome.exit_code, states(bench), await bench.requests()) == (3, {"i0": "rejected"}, 2)
    retry = RetrySelection(states=frozenset({"rejected"}), explicit=True)
    outcome = await bench.run(items("[[image:blank]] a"), rules, retry_selection=retry)
    assert (outcome.exit_code, states(bench), await bench.requests()) == (3, {"i0": "rejected"}, 3)


@both_ledgers
async def test_the_judge_is_a_request_with_its_own_row_and_what_it_says_goes_into_the_next_prompt(bench):
    outcome = await bench.run(items("[[judge:3,8]] a"), head(judge={**JUDGE, "again": 1, "feedback": True}))
    assert (outcome.exit_code, outcome.reviewed.counts) == (0, {"accepted": 1, "again": 1})
    sent = rows(bench, "SELECT item_id, lane, outcome, sent_as FROM attempt ORDER BY id")
    assert [(item, lane.partition("/")[2] == JUDGE["model"]) for item, lane, _, _ in sent] == [
        ("i0", False), ("i0 (judge)", True), ("i0", False), ("i0 (judge)", True),
    ]  # fmt: skip
    assert {outcome for _, _, outcome, _ in sent} == {"succeeded"} and sent[2][3].startswith("prompt with")
    served = await bench.get("/_emulator/served")
    assert any("The emulated judge gives 3 of 10" in entry["prompt"] for entry in served)
    with VerdictReader.open(bench.folder / "out") as reader:
        scores = [verdict.score for verdict in reader.verdicts(["i0"])["i0", 1] if verdict.by == "judge"]
    assert scores == [3.0, 8.0]


@both_ledgers
async def test_best_of_three_keeps_the_best_under_the_name_of_its_item(bench):
    rules = head(judge={**JUDGE, "of": 3})
    outcome = await bench.run(items("[[judge:7,9,8]] a"), rules)
    assert (outcome.exit_code, drafts(bench), sorted(bench.pictures())) == (0, ["i0.1-0.jpg", "i0.5-0.jpg"], ["i0.jpg"])
    assert questions(bench) == 3
    ((sha256,),) = rows(bench, "SELECT sha256 FROM verdict WHERE score = 9")
    assert bench.pictures()["i0.jpg"] == sha256
    with Reader.open(bench.folder / "out") as reader:
        assert balance_text(read_billing(reader)) == (
            "3 requests billed: 1 for images, 2 for images that were rejected or not chosen"
        )
    outcome = await bench.run(items("[[judge:7,9,8]] a"), rules)
    assert (outcome.exit_code, questions(bench), rulings(bench)) == (0, 3, [])


@both_ledgers
async def test_a_held_image_waits_in_drafts_until_a_person_accepts_it_and_nothing_is_bought(bench):
    rules = head(judge=JUDGE, on_reject="hold")
    outcome = await bench.run(items("[[judge:2]] a"), rules)
    assert (outcome.exit_code, drafts(bench), bench.pictures()) == (3, ["i0.1-0.jpg"], {})
    out = bench.folder / "out"
    ((sha256,),) = rows(bench, "SELECT sha256 FROM image")
    append_reviews(out, [make_review("Ann", "i0", 1, sha256, "accept", 0, "fine")])
    outcome = await bench.run(items("[[judge:2]] a"), rules)
    assert (outcome.exit_code, states(bench), sorted(bench.pictures())) == (0, {"i0": "succeeded"}, ["i0.jpg"])
    assert await bench.requests() == 2


async def test_what_needs_a_rejected_image_waits_and_is_made_from_the_one_that_is_accepted(bench):
    entries = items("[[judge:2,9]] a") + "  - {id: child, prompt: c, references: ['@i0']}\n"
    outcome = await bench.run(entries, head(judge={**JUDGE, "again": 1}))
    assert outcome.exit_code == 0
    ended = [each.key for each in bench.events if isinstance(each, (SampleSucceeded, ImageReviewed))]
    assert ended.index("child") > len(ended) - 3
    ((wire,),) = rows(bench, "SELECT wire FROM sample WHERE item_id = 'child'")
    assert json.loads(wire)["references"] == [bench.pictures()["i0.jpg"]]


async def test_what_needs_an_image_that_stays_rejected_is_blocked(bench):
    entries = items("[[judge:2]] a") + "  - {id: child, prompt: c, references: ['@i0']}\n"
    outcome = await bench.run(entries, head(judge=JUDGE))
    assert (outcome.exit_code, states(bench)) == (3, {"i0": "rejected", "child": "blocked"})
    outcome = await bench.run(entries, head(judge=JUDGE))
    assert (states(bench), await bench.requests()) == ({"i0": "rejected", "child": "blocked"}, 2)


@both_ledgers
async def test_another_rubric_judges_again_another_threshold_does_not_and_neither_buys(bench):
    await bench.run(items("[[judge:5,9]] a"), head(judge={**JUDGE, "least": 7}))
    assert (states(bench), questions(bench)) == ({"i0": "rejected"}, 1)
    outcome = await bench.run(items("[[judge:5,9]] a"), head(judge={**JUDGE, "least": 5}))
    assert (outcome.exit_code, states(bench), questions(bench)) == (0, {"i0": "succeeded"}, 1)
    outcome = await bench.run(items("[[judge:5,9]] a"), head(judge={**JUDGE, "least": 5, "rubric": "Is it red?"}))
    assert (outcome.exit_code, questions(bench), await bench.requests()) == (0, 2, 3)


@pytest.mark.parametrize("later", [{}, {"check": "off"}])
async def test_what_was_rejected_by_a_rule_that_has_gone_counts_again(bench, later):
    await bench.run(items("[[image:blank]] a"), head(check={"blank": "reject"}))
    assert states(bench) == {"i0": "rejected"}
    outcome = await bench.run(items("[[image:blank]] a"), head(**later))
    assert (outcome.exit_code, states(bench), await bench.requests()) == (0, {"i0": "succeeded"}, 1)


async def test_the_budget_of_a_run_ends_what_is_bought_again(bench):
    rules = head(check={"blank": "reject"}, on_reject={"again": 20})
    outcome = await bench.run(items("[[image:blank]] a"), rules, max_usd=0.2)
    assert outcome.exit_code == 6 and 2 <= await bench.requests() <= 5
    assert outcome.usd + outcome.estimated_usd <= 0.2


async def test_without_an_answer_of_the_judge_the_image_stays_and_a_later_run_asks(bench):
    rules = head(judge=JUDGE)
    outcome = await bench.run(items("[[judge:malformed*9]] a"), rules)
    assert (outcome.exit_code, outcome.reviewed.left, states(bench)) == (3, 1, {"i0": "succeeded"})
    before = await bench.requests()
    outcome = await bench.run(items("[[judge:malformed*9]] a"), rules)
    assert await bench.requests() > before


async def test_files_are_made_of_what_counts_alone(bench):
    post = "post: [{name: web, format: webp}]\n"
    outcome = await bench.run(items("[[judge:2,9]] a", "[[judge:2]] b"), post + head(judge={**JUDGE, "again": 1}))
    assert outcome.exit_code == 3
    assert sorted(path.name for path in (bench.folder / "out" / "derivatives" / "web").glob("*")) == ["i0.webp"]


@pytest.mark.parametrize("command", ["validate", "plan"])
async def test_a_plan_counts_every_image_to_choose_from_and_the_judge_who_looks_at_each(bench, command, capsys):
    path = bench.manifest(items("a mug", "a cup"), head(judge={**JUDGE, "of": 3}))
    arguments = [command, str(path), "--emulate", "--json"] if command == "plan" else [command, str(path)]
    assert await asyncio.to_thread(run_command_line, arguments) == 0
    if command == "plan":
        found = json.loads(capsys.readouterr().out)
        by_model = {model: load["requests"] for model, load in found["by_model"].items()}
        assert by_model == {"gemini-nano-banana-2.1": 6, JUDGE["model"]: 6}
        assert found["images"] == 2 and found["usd"] > 6 * 0.039


async def test_workers_elsewhere_are_not_given_what_a_judge_may_reject(bench, database):
    job = batchgen.load(
        bench.manifest(items("a mug"), head(judge=JUDGE)), output=bench.folder / "out", emulate=True, environ={}
    )
    options = batchgen.RunOptions(emulator_url=bench.url, ledger=database)
    with pytest.raises(UsageError, match="leave --engine cluster out"):
        await batchgen.run(job, engine="cluster", options=options)
    assert await bench.requests() == 0
