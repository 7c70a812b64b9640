"""Google's enterprise platform, from manifest to ledger: a service account's token, renewed in time and never written down."""

from __future__ import annotations

import json

import pytest

import batchgen
from batchgen.emulator import EmulatorOptions, serve
from batchgen.events import AttemptStarted, SampleSucceeded
from tests.support.google_key import key_file

MODEL = "vertex/gemini-3-pro-image"
FAST = {"latency_s": (0.0, 0.0), "picture": "tiny", "rpm": 0}


@pytest.fixture
async def emulator():
    async with await serve(EmulatorOptions(**FAST)) as running:
        yield running


@pytest.fixture
def run(tmp_path, emulator):
    async def run_items(*items, name="painter", concurrency=5, observers=(), **environ):
        manifest = {
            "models": {MODEL: {"rpm": 60000}},
            "items": [{"model": MODEL, **item} for item in items],
        }
        folder = tmp_path / "job"
        folder.mkdir(exist_ok=True)
        (folder / "job.yaml").write_text(json.dumps(manifest))
        variables = {
            "GOOGLE_APPLICATION_CREDENTIALS": str(key_file(tmp_path, emulator.base_url, name)),
            "BATCHGEN_VERTEX_BASE_URL": emulator.base_url,
            "XDG_STATE_HOME": str(tmp_path / "state"),
        }
        job = batchgen.load(folder / "job.yaml", environ=variables | environ)
        return await batchgen.run(job, observers=observers, options=batchgen.RunOptions(concurrency=concurrency))

    return run_items


def files_below(folder):
    return [(str(path), path.read_bytes()) for path in folder.rglob("*") if path.is_file()]


async def test_fifty_in_flight_are_let_in_by_one_token_that_is_in_no_file(run, emulator, tmp_path):
    outcome = await run(*({"id": f"fox-{n}", "prompt": "A fox"} for n in range(60)), concurrency=50)
    assert (outcome.exit_code, outcome.made, emulator.stats.billed_images) == (0, 60, 60)
    assert emulator.tokens_issued == 1
    kept = files_below(tmp_path / "job") + files_below(tmp_path / "state")
    assert [path for path, data in kept if b"ya29." in data or b"PRIVATE KEY" in data] == []


async def test_a_conversation_with_a_reference_in_png_is_sent_back_as_it_came(run, tmp_path):
    outcome = await run(
        {"id": "mug", "prompt": "A mug", "output_format": "png"},
        {
            "id": "talk",
            "turns": ["A fox", "In snow"],
            "references": ["@mug"],
            "person_generation": "dont_allow",
        },
    )
    assert (outcome.exit_code, outcome.made) == (0, 3)
    assert (tmp_path / "job" / "job" / "mug.png").exists()


@pytest.mark.parametrize(
    ("name", "environ", "words"),
    [
        ("deleted", {}, "invalid_grant: Invalid JWT Signature.: the key or login was deleted or has expired"),
        ("painter", {"GOOGLE_CLOUD_PROJECT": "denied-1"}, "Permission 'aiplatform.endpoints.predict' denied"),
        ("painter", {"GOOGLE_CLOUD_PROJECT": "disabled-1"}, "has not been used in project disabled-1"),
    ],
)
async def test_an_account_that_may_not_stops_the_run_for_a_person(run, emulator, name, environ, words):
    outcome = await run({"id": "fox", "prompt": "A fox"}, name=name, **environ)
    assert (outcome.exit_code, outcome.made, emulator.stats.billed_images) == (5, 0, 0)
    (result,) = outcome.results
    assert words in result.message


async def test_a_token_that_ends_early_is_renewed_and_its_request_sent_again_as_the_same_attempt(run, emulator):
    ended, started = [], []

    def end_after_the_first(event):
        if isinstance(event, SampleSucceeded) and not ended:
            ended.append(event)
            emulator.end_tokens()
        started.extend([event] if isinstance(event, AttemptStarted) else [])

    outcome = await run(
        {"id": "a", "prompt": "A"}, {"id": "b", "prompt": "B", "references": ["@a"]}, observers=[end_after_the_first]
    )
    assert (outcome.exit_code, outcome.made, len(started)) == (0, 2, 2)
    assert [record.status for record in emulator.stats.records] == [200, 401, 200]
    assert (emulator.tokens_issued, emulator.stats.billed_images) == (2, 2)
