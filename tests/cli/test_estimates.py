"""What `plan` says beforehand and what the run then costs, by the token counts of a server that has never seen our prices.

The emulator shares no code with the program: what a picture, a thought, a search or an earlier turn takes in tokens it has
from the vendor's documents and from recorded answers, and varies as those do. So sums are compared, not single requests.
"""

from __future__ import annotations

import itertools
import json
from collections import defaultdict

import pytest
from PIL import Image

from batchgen.profiles.catalogue import load_catalogue
from batchgen.scheduling.lane import RESERVATION_FACTOR

CLOSE = 0.03
MODELS = [profile for profile in load_catalogue() if profile.provider == "gemini" and profile.status != "retired"]
AT_LEAST = 12  # requests that are summed up: thoughts and hidden text vary by half, which is 5 % of a small picture
each_model = pytest.mark.parametrize("profile", MODELS, ids=lambda profile: profile.id)


@pytest.fixture
def compare(batchgen, emulator, tmp_path):
    """Plan and run items; what each was to cost and has cost, US dollars, by its id."""

    def both(model, items, *more):
        emulator("--rpm", "0", "--latency", "0-0", "--signature-bytes", "16")
        for number in range(14):
            Image.new("RGB", (8, 8), (number, 0, 0)).save(tmp_path / f"{number}.png")
        manifest = tmp_path / "job.yaml"
        head = {"version": 1, "defaults": {"model": model}, "models": {model: {"rpm": None}}}
        manifest.write_text(json.dumps({**head, "items": items}), encoding="utf-8")
        planned = batchgen("plan", str(manifest), "--json", *more)
        assert planned.code == 0, planned.err
        steps = {step["id"]: step["usd"] for step in planned.json["steps"]}
        done = batchgen("run", str(manifest), "--yes", "--json", *more)
        assert done.code == 0, done.err
        results = tmp_path / "job" / "results.jsonl"
        costs = [json.loads(line) for line in results.read_text(encoding="utf-8").splitlines()]
        assert {cost["usd_source"] for cost in costs} == {"usage"}
        return {cost["id"]: (steps[cost["id"]], cost["usd"]) for cost in costs}

    return both


def references(count):
    return {"references": [f"{number}.png" for number in range(count)]} if count else {}


def variants(profile):
    """Every choice that changes what a request costs, and enough of each to make up for their variety."""
    counts = [count for count in (0, 1, 3, 14) if count <= profile.references_max]
    levels, searches = (None, *profile.thinking), (None, *profile.search)
    copies = range(-(-AT_LEAST // (len(levels) * len(searches))))
    for size, count, level, search, copy in itertools.product(profile.sizes, counts, levels, searches, copies):
        name = f"{size}-{count}-{level}-{search}-{copy}"
        asked = {"image_size": None if size == profile.default_size else size, "thinking": level, "search": search}
        yield (
            name,
            (size, count, level, search),
            {
                "id": name,
                "prompt": f"A red fox, {name}. " + "The fur is bright. " * (copy % 3) * 20,
                **{key: value for key, value in asked.items() if value is not None},
                **references(count),
            },
        )


@each_model
def test_a_run_costs_what_plan_said_and_no_request_more_than_is_reserved(compare, profile):
    made = list(variants(profile))
    costs = compare(profile.id, [item for _, _, item in made])
    assert len(costs) == len(made)
    sums = defaultdict(lambda: [0.0, 0.0])
    for name, (size, count, level, search), _ in made:
        for group in (("size and references", size, count), ("thinking", level), ("search", search)):
            for place, usd in enumerate(costs[name]):
                sums[group][place] += usd
    apart = {group: cost / planned - 1 for group, (planned, cost) in sums.items()}
    assert {group: share for group, share in apart.items() if abs(share) > CLOSE} == {}
    assert {name: usd for name, usd in costs.items() if usd[1] > usd[0] * RESERVATION_FACTOR} == {}


@each_model
def test_a_later_turn_costs_what_plan_said(compare, profile):
    turns = ["A red fox in the snow", "Make it night. " * 30, "Add a moon"]
    kinds = {"silent": {"modalities": ["image"]}, "wordy": {"modalities": ["text", "image"]}}
    made = itertools.product(kinds, range(AT_LEAST))
    items = [{"id": f"{kind}-{n}", "turns": turns, **kinds[kind], **references(2)} for kind, n in made]
    sums = defaultdict(lambda: [0.0, 0.0])
    for name, usd in compare(profile.id, items).items():
        kind, _, turn = name.split("-")
        for place, each in enumerate(usd):
            sums[kind, turn][place] += each
    assert set(sums) == set(itertools.product(kinds, ("t1", "t2", "t3")))
    assert {group: usd for group, usd in sums.items() if abs(usd[1] / usd[0] - 1) > CLOSE} == {}


@each_model
def test_a_batch_costs_what_plan_said(compare, profile):
    items = [item for _, (*_, search), item in variants(profile) if search == (profile.search or (None,))[0]][:48]
    costs = compare(profile.id, items, "--engine", "batch").values()
    planned, cost = (sum(column) for column in zip(*costs, strict=True))
    assert abs(cost / planned - 1) <= CLOSE


@pytest.mark.parametrize(("engine", "budget"), [("online", "0.05"), ("batch", "0.03")])
@pytest.mark.parametrize(("count", "code"), [(0, 0), (14, 6)])
def test_a_budget_that_the_references_go_beyond_sends_nothing(
    batchgen, emulator, tmp_path, engine, budget, count, code
):
    emulator("--latency", "0-0", "--batch-pending", "0", "--batch-running", "0.1")
    for number in range(count):
        Image.new("RGB", (8, 8), (number, 0, 0)).save(tmp_path / f"{number}.png")
    manifest = tmp_path / "job.yaml"
    items = [{"id": "a", "prompt": "A mug", **references(count)}]
    manifest.write_text(json.dumps({"version": 1, "items": items}), encoding="utf-8")
    answer = batchgen("run", str(manifest), "--yes", "--json", "--engine", engine, "--max-cost", budget)
    assert (answer.code, sum(answer.json["requests"].values())) == (code, 0 if code else 1), answer.err
