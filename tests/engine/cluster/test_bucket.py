"""Workers whose only common ground is the ledger's server and a bucket: no folder is shared."""

from __future__ import annotations

import asyncio
import hashlib
import io
import json

import pytest
from PIL import Image

from tests.support.bench import items
from tests.support.cluster import FAST, HEAD, BucketCluster, waiting
from tests.support.fork_server import PYTHON

# Ends the process when the picture and its receipt are in the bucket and the ledger has not heard of them.
DIES = """
import os, sys
from batchgen.ledger.worker_ledger import FencedLedger
FencedLedger.attempt_succeeded = lambda *_, **__: os._exit(9)
from batchgen.__main__ import main
sys.argv = ["batchgen", *sys.argv[1:]]
main()
"""


@pytest.fixture
async def cluster(gate, tmp_path, database, monkeypatch):
    from batchgen.emulator import serve

    monkeypatch.setenv("BATCHGEN_LEDGER", database)
    async with await serve(FAST) as emulator:
        made = BucketCluster(emulator.base_url, tmp_path, database)
        try:
            yield made
        finally:
            made.finish()


def photo() -> bytes:
    data = io.BytesIO()
    Image.new("RGB", (32, 32), "red").save(data, "PNG")
    return data.getvalue()


async def test_pictures_go_from_workers_into_the_bucket_and_stay_nowhere_else(cluster, gate):
    cluster.worker()
    cluster.worker()
    outcome = await cluster.watch(items(*"abcdefgh"))
    assert (outcome.exit_code, outcome.made, await cluster.requests()) == (0, 8, 8)
    assert sorted(gate.objects()) == [f"i{n}.jpg" for n in range(8)]
    assert not list(cluster.folder.rglob("*.jpg"))
    left = [
        path
        for path in (cluster.folder / "state").rglob("*")
        if path.is_file() and "spool" in str(path) and path.suffix != ".lock"
    ]
    assert left == []


async def test_references_turns_and_pictures_of_others_reach_every_worker_through_the_bucket(cluster, gate):
    (cluster.folder / "photo.png").write_bytes(photo())
    entries = (
        "  - {id: one, prompt: like this, references: [photo.png]}\n"
        "  - {id: two, prompt: and this, references: ['@one']}\n"
        "  - {id: talk, turns: [a mug, make it red, make it blue], model: pro}\n"
    )
    head = HEAD.replace("{rpm: 6000}", "{rpm: 6000}, gemini-3-pro-image: {rpm: 6000}")
    submitted = await cluster.submit(entries, head)
    assert submitted.submitted == 5
    (cluster.folder / "photo.png").unlink()
    # One worker for each step, so that nobody has at hand what it needs.
    for _ in range(3):
        worker = cluster.worker("--until-empty", "--concurrency", "1")
        cluster.worker("--until-empty", "--concurrency", "1")
        assert await asyncio.to_thread(worker.wait, 60.0) == 0
    turns = ["talk-t1.jpg", "talk-t2.jpg", "talk-t3.jpg"]
    assert sorted(gate.objects()) == ["one.jpg", "results.jsonl", *turns, "two.jpg"]
    (cluster.folder / "photo.png").write_bytes(photo())
    found = await cluster.watch(entries, head)
    assert (found.exit_code, found.kept, await cluster.requests()) == (0, 5, 5)


async def test_a_reference_in_a_bucket_travels_with_the_work_and_workers_need_not_be_let_in(cluster, gate):
    gate.put("photos", "mugs/a.png", photo())
    entries = "  - {id: one, prompt: p, references: ['s3://photos/mugs/*']}\n  - {id: two, prompt: q, references: ['s3://photos/mugs/a.png']}\n"
    submitted = await cluster.submit(entries)
    assert (submitted.submitted, gate.fetched("photos", "mugs/a.png")) == (2, 3)  # looked at, hashed, enclosed
    assert await asyncio.to_thread(cluster.worker("--until-empty").wait, 60.0) == 0
    assert sorted(gate.objects()) == ["one.jpg", "results.jsonl", "two.jpg"]
    assert "File exists" not in cluster.said("w1")  # both samples want the same file at once
    assert gate.fetched("photos", "mugs/a.png") == 3
    found = await cluster.watch(entries)
    assert (found.exit_code, found.kept, await cluster.requests()) == (0, 2, 2)


async def test_what_a_worker_had_deposited_when_it_died_is_found_by_another_and_not_bought_again(cluster, gate):
    await cluster.submit(items("a"))
    dying = cluster.worker(start=[PYTHON, "-c", DIES, "worker"])
    assert await asyncio.to_thread(dying.wait, 60.0) == 9
    picture = hashlib.sha256(gate.objects()["i0.jpg"]).hexdigest()
    cluster.impatient()
    found = await cluster.watch(items("a"))
    assert (found.exit_code, await cluster.requests()) == (0, 1)
    with cluster.reader() as reader:
        assert [(image.file.sha256, image.file.path) for image in reader.images()] == [(picture, "i0.jpg")]
        assert reader.attempts() == {"succeeded": 1}


async def test_while_the_bucket_is_away_pictures_wait_with_their_worker_and_go_up_afterwards(cluster, gate):
    cluster.worker()
    gate.refuse = lambda method, path: 503 if path.endswith(".jpg") else None
    watching = asyncio.create_task(cluster.watch(items("a", "b", "c")))
    await cluster.until(lambda: (cluster.folder / "job.emulated").exists() and waiting(cluster) == 3)
    gate.refuse = lambda method, path: None
    await cluster.until(lambda: waiting(cluster) == 0)
    outcome = await watching
    assert (outcome.exit_code, await cluster.requests(), sorted(gate.objects())) == (
        0,
        3,
        ["i0.jpg", "i1.jpg", "i2.jpg"],
    )


async def test_derivatives_are_made_by_workers_and_go_into_the_bucket_as_well(cluster, gate):
    def head(width: int) -> str:
        return HEAD.replace("items:", f"post: [{{name: web, format: webp, width: {width}}}]\nitems:")

    cluster.worker()
    outcome = await cluster.watch(items("a", "b"), head(16))
    made = ["derivatives/web/i0.webp", "derivatives/web/i1.webp"]
    assert (outcome.exit_code, outcome.derived.made, sorted(gate.objects())) == (0, 2, [*made, "i0.jpg", "i1.jpg"])
    outcome = await cluster.watch(items("a", "b"), head(8))
    assert (outcome.exit_code, outcome.derived.made, await cluster.requests()) == (0, 2, 2)
    assert [Image.open(io.BytesIO(gate.objects()[path])).width for path in made] == [8, 8]
    assert not [path for path in cluster.folder.rglob("*") if path.suffix in (".jpg", ".webp")]


async def test_the_end_of_a_submission_that_nobody_watches_stands_beside_the_images(cluster, gate):
    await cluster.submit(items(*"abc"))
    worker = cluster.worker("--until-empty")
    assert await asyncio.to_thread(worker.wait, 60.0) == 0
    lines = [json.loads(line) for line in gate.objects()["results.jsonl"].splitlines()]
    assert [(line["id"], line["state"], line["files"]) for line in lines] == [
        (f"i{n}", "succeeded", [f"i{n}.jpg"]) for n in range(3)
    ]
    await cluster.submit(items(*"abcd"))  # over its own it writes again
    worker = cluster.worker("--until-empty")
    assert await asyncio.to_thread(worker.wait, 60.0) == 0
    assert len(gate.objects()["results.jsonl"].splitlines()) == 4
    seen = await cluster.watch(items(*"abcd"))
    own = (cluster.folder / "job.emulated" / "results.jsonl").read_text().splitlines()
    assert (seen.exit_code, [json.loads(line)["state"] for line in own]) == (0, ["succeeded"] * 4)


async def test_somebody_elses_results_in_the_bucket_are_not_written_over(cluster, gate):
    gate.put("pictures", "shop/catalog/results.jsonl", b"mine")
    await cluster.submit(items("a"))
    worker = cluster.worker("--until-empty")
    assert await asyncio.to_thread(worker.wait, 60.0) == 0
    assert "catalog/results.jsonl was not written by batchgen and stays as it is" in cluster.said("w1")
    with cluster.reader() as reader:
        assert reader.last_run().exit_code == 0
    assert gate.objects()["results.jsonl"] == b"mine"
