"""Derivatives of pictures in a bucket: made once, made again when the recipe changes, and never at the price of a picture."""

from __future__ import annotations

import io

import pytest
from PIL import Image

import batchgen
from batchgen.ledger.derivatives import DerivativeReader
from batchgen.store.objects import ObjectStorage
from tests.support.bench import items
from tests.support.bucket_bench import ADDRESS

pytestmark = pytest.mark.usefixtures("forked_renders")
TWO = items("a", "b")
PATHS = ["derivatives/web/i0.webp", "derivatives/web/i1.webp"]


def head(width: int = 16) -> str:
    return f"defaults: {{model: flash}}\npost: [{{name: web, format: webp, width: {width}}}]\nitems:\n"


def derivatives(gate) -> dict[str, bytes]:
    return {name: data for name, data in gate.objects().items() if name.startswith("derivatives/")}


def width(data: bytes) -> int:
    with Image.open(io.BytesIO(data)) as image:
        return image.width


def asked_for(gate) -> list[str]:
    return [path for _, path in gate.seen if path.startswith("derivatives/")]


async def test_they_are_made_once_and_again_when_the_recipe_changes(bench, gate):
    outcome = await bench.run(TWO, head())
    assert (outcome.exit_code, outcome.derived.made, bench.spooled) == (0, 2, [])
    assert {name: width(data) for name, data in derivatives(gate).items()} == dict.fromkeys(PATHS, 16)
    gate.seen.clear()
    outcome = await bench.run(TWO, head())
    assert (outcome.exit_code, outcome.derived.made, asked_for(gate)) == (0, 0, [])
    outcome = await bench.run(TWO, head(8))
    assert (outcome.exit_code, outcome.derived.made, await bench.requests()) == (0, 2, 2)
    assert {name: width(data) for name, data in derivatives(gate).items()} == dict.fromkeys(PATHS, 8)
    assert sorted(gate.objects()) == [*PATHS, "i0.jpg", "i1.jpg"]
    outcome = await bench.run(TWO)
    assert (outcome.derived.removed, sorted(gate.objects())) == (2, ["i0.jpg", "i1.jpg"])


async def test_the_ledger_and_the_plan_know_them_as_those_of_a_folder(bench, gate):
    await bench.run(TWO, head())
    with bench.reader() as reader:
        rows = list(DerivativeReader.from_reader(reader).expected_derivatives())
        assert [(path, size) for path, _, size in rows] == [
            (name, len(data)) for name, data in sorted(derivatives(gate).items())
        ]
    for text, missing in ((head(), 0), (head(8), 2)):
        job = batchgen.load(bench.manifest(TWO, text), output=ADDRESS, emulate=True)
        assert batchgen.plan(job).derivatives == missing


async def test_what_is_missing_or_was_changed_is_made_again_and_a_strangers_file_is_kept(bench, gate):
    await bench.run(items("a", "b", "c"), head())
    made, objects = derivatives(gate), ObjectStorage(ADDRESS)
    objects.delete(PATHS[0])
    gate.put("pictures", f"shop/catalog/{PATHS[1]}", b"somebody's own")
    gate.seen.clear()
    outcome = await bench.run(items("a", "b", "c"), head())
    assert (outcome.exit_code, outcome.derived.made, derivatives(gate)) == (0, 2, made)
    assert gate.objects()[f"superseded/{PATHS[1]}.1"] == b"somebody's own"


@pytest.mark.parametrize(
    "place",
    [
        "batchgen.derivatives.render_process:RenderProcess.render",
        "batchgen.store.stored_files:StoredFiles.put_derivative",
        "batchgen.store.stored_files:StoredFiles.put_derivative!",
        "batchgen.engine.derivative_runner:upsert_derivatives",
    ],
)
async def test_a_crash_between_two_steps_is_made_up_for_without_a_request(bench, gate, place):
    await bench.run(TWO)
    first = gate.objects()
    child = await bench.child(place, 1, TWO, head())
    assert await child.wait() == 9
    outcome = await bench.run(TWO, head())
    assert (outcome.exit_code, await bench.requests(), bench.spooled) == (0, 2, [])
    assert sorted(derivatives(gate)) == PATHS
    assert {name: data for name, data in gate.objects().items() if name not in PATHS} == first


async def test_a_bucket_that_takes_no_derivative_costs_no_picture(bench, gate, monkeypatch):
    monkeypatch.setattr("batchgen.store.objects.RETRIES", 0)
    gate.refuse = lambda method, path: 503 if method == "PUT" and path.startswith("derivatives/") else None
    outcome = await bench.run(TWO, head())
    assert (outcome.exit_code, outcome.made, outcome.derived.made, outcome.derived.finished) == (3, 2, 0, False)
    assert "derivatives are left to the next run" in bench.notes and sorted(gate.objects()) == ["i0.jpg", "i1.jpg"]
    gate.refuse = lambda method, path: None
    outcome = await bench.run(TWO, head())
    assert (outcome.exit_code, outcome.derived.made, await bench.requests(), bench.spooled) == (0, 2, 2, [])


async def test_a_picture_that_waits_in_the_spool_has_its_derivative_once_both_can_go_up(bench, gate, monkeypatch):
    monkeypatch.setattr("batchgen.store.objects.RETRIES", 0)
    gate.refuse = lambda method, path: 503 if method == "PUT" and not path.startswith(".batchgen/probe") else None
    outcome = await bench.run(TWO, head())
    assert (outcome.made, outcome.waiting, outcome.derived.made) == (2, 2, 0)
    gate.refuse = lambda method, path: None
    outcome = await bench.run(TWO, head())
    assert (outcome.exit_code, await bench.requests(), sorted(gate.objects())) == (0, 2, [*PATHS, "i0.jpg", "i1.jpg"])
