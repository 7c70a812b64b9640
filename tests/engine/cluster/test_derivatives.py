"""Derivatives as work for the cluster: made by whoever has processes for them, and made again when one dies."""

from __future__ import annotations

import asyncio
import io
import json
import os
import signal
import subprocess

import psycopg
import pytest
from PIL import Image

import batchgen
from batchgen.cli.verify import verify
from batchgen.engine.cluster.submit_derivatives import submit_and_wait
from batchgen.engine.outcome import DerivativeCounts
from batchgen.errors import UsageError
from batchgen.events import Notice
from batchgen.report.console import Console
from tests.support.bench import items
from tests.support.derivatives import THUMB, WEB, files, needs_proc, workers
from tests.support.fork_server import PYTHON
from tests.support.paths import ROOT
from tests.support.worker_child import STALE_S

HERE = "{name: thumb, format: jpeg, width: 20}"


def head(*made: str, more: str = "") -> str:
    models = "models: {gemini-nano-banana-2.1: {rpm: 6000}}\n"
    post = f"post: {{derivatives: [{', '.join(made)}]{more}}}\n" if made else ""
    return f"version: 1\ndefaults: {{model: flash}}\n{models}{post}items:\n"


def rows(cluster, sql, *values):
    with cluster.reader() as reader:
        return list(reader._query(sql, *values))


def queued(cluster):
    """How many pictures' derivatives may be made and wait for a worker, and how many are with one."""
    state = "CASE WHEN worker = '' THEN 'todo' ELSE 'doing' END"
    return dict(rows(cluster, f"SELECT {state}, count(*) FROM work WHERE images = 0 AND missing = 0 GROUP BY 1"))


def is_intact(cluster):
    with cluster.reader() as reader:
        return verify(cluster.folder / "out", reader, Console(io.StringIO(), {})).is_intact


async def post(cluster, text, top):
    manifest = batchgen.load(
        cluster.manifest(text, top), output=cluster.folder / "out", emulate=True, environ={}
    ).manifest
    return await submit_and_wait(manifest, cluster.folder / "out", (), cluster.events.append)


async def command(cluster, *argv):
    """From within the folder, as people call it."""
    given = [PYTHON, "-m", "batchgen", *argv]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    return await asyncio.to_thread(
        subprocess.run, given, capture_output=True, text=True, check=False, cwd=cluster.folder, env=env
    )


async def test_workers_make_the_files_of_each_picture_and_the_run_waits_for_them(cluster):
    cluster.worker()
    own = "  - {id: own, prompt: c, post: {derivatives: [" + HERE + "]}}\n  - {id: none, prompt: d, post: null}\n"
    outcome = await cluster.watch(items("a", "b") + own, head(WEB, THUMB, more=", embed: ids, sidecar: true"))
    assert (outcome.exit_code, outcome.made, outcome.derived) == (0, 4, DerivativeCounts(made=9))
    assert cluster.lines()["i0"]["derivatives"] == [
        "derivatives/i0.json", "derivatives/thumb/i0.jpg", "derivatives/web-16/i0.webp", "derivatives/web-32/i0.webp",
    ]  # fmt: skip
    with Image.open(cluster.folder / "out" / "derivatives" / "thumb" / "own.jpg") as thumb:
        assert thumb.width == 20
    assert (is_intact(cluster), "none" in str(files(cluster)), queued(cluster)) == (True, False, {})
    again = await cluster.watch(items("a", "b") + own, head(WEB, THUMB, more=", embed: ids, sidecar: true"))
    assert (again.exit_code, again.derived, await cluster.requests()) == (0, DerivativeCounts(), 4)


async def test_another_recipe_makes_only_the_files_that_it_changes_and_takes_away_what_nobody_wants(cluster):
    cluster.worker()
    await cluster.watch(items("a", "b"), head(WEB, THUMB))
    before = files(cluster)
    (cluster.folder / "out" / "derivatives" / "web-16" / "i0.webp").unlink()
    outcome = await cluster.watch(items("a"), head(WEB, THUMB.replace("24", "20")))
    assert (outcome.exit_code, outcome.derived, await cluster.requests()) == (0, DerivativeCounts(made=2, removed=3), 2)
    after = files(cluster)
    assert sorted(after) == ["thumb/i0.jpg", "web-16/i0.webp", "web-32/i0.webp"]
    assert (after["web-32/i0.webp"], is_intact(cluster)) == (before["web-32/i0.webp"], True)


async def test_a_recipe_that_changes_while_the_pictures_are_still_to_be_made_is_the_one_that_counts(cluster):
    await cluster.submit(items("a", "b"), head())
    await cluster.submit(items("a", "b"), head(THUMB))
    own = items("a") + "  - {id: i1, prompt: b, post: {derivatives: [" + HERE + "]}}\n"
    await cluster.submit(own, head(THUMB))
    cluster.worker()
    outcome = await cluster.watch(own, head(THUMB))
    assert (outcome.exit_code, outcome.derived, await cluster.requests()) == (0, DerivativeCounts(made=2), 2)
    with Image.open(cluster.folder / "out" / "derivatives" / "thumb" / "i1.jpg") as thumb:
        assert thumb.width == 20


async def test_another_picture_under_another_name_takes_the_files_of_the_one_before_away(cluster):
    cluster.worker()
    await cluster.watch(items("a"), head(THUMB))
    outcome = await cluster.watch("  - {id: i0, filename: other, prompt: b}\n", head(THUMB))
    assert (outcome.exit_code, outcome.derived, list(files(cluster))) == (
        0,
        DerivativeCounts(made=1, removed=1),
        ["thumb/other.jpg"],
    )
    assert (is_intact(cluster), await cluster.requests()) == (True, 2)


async def test_a_job_that_was_made_here_before_hands_its_files_to_workers_and_post_does_so_without_a_run(cluster):
    await cluster.run(items("a", "b"), head())
    await cluster.watch(items("a", "b"), head())  # nothing is left to do, and nothing was ever submitted
    cluster.worker()
    cluster.manifest(items("a", "b"), head(THUMB))
    said = await command(cluster, "post", "out", "--engine", "cluster", "--json")
    assert (said.returncode, json.loads(said.stdout)["made"]) == (0, 2)
    assert cluster.lines()["i1"]["derivatives"] == ["derivatives/thumb/i1.jpg"]
    assert await post(cluster, items("a", "b"), head(THUMB)) == DerivativeCounts()
    outcome = await cluster.watch(items("a", "b"), head(THUMB, WEB))
    assert (outcome.exit_code, outcome.derived, await cluster.requests()) == (0, DerivativeCounts(made=4), 2)


async def test_post_for_workers_needs_a_ledger_that_they_reach(cluster, monkeypatch):
    cluster.ledger = None
    monkeypatch.delenv("BATCHGEN_LEDGER")
    await cluster.run(items("a"), head())
    said = await command(cluster, "post", "out", "--engine", "cluster")
    assert (said.returncode, "which workers cannot reach" in said.stderr) == (2, True)
    with pytest.raises(UsageError, match="which workers cannot reach"):
        await post(cluster, items("a"), head(THUMB))


async def test_a_worker_without_processes_leaves_the_files_to_others_and_that_is_said(cluster):
    await cluster.submit(items("a", "b"), head(THUMB))
    first = cluster.worker("--post-processes", "0", "--until-empty")
    assert await asyncio.to_thread(first.wait, 60.0) == 0
    assert (len(cluster.pictures()), files(cluster), queued(cluster)) == (2, {}, {"todo": 2})
    left = await cluster.submit(items("a", "b"), head(THUMB))
    assert (left.exit_code, left.submitted, left.derived) == (9, 0, DerivativeCounts(finished=False, queued=2))
    cluster.worker("--post-processes", "0")
    await cluster.until(lambda: rows(cluster, "SELECT name FROM batchgen.worker") == [("w2",)])
    watching = asyncio.create_task(cluster.watch(items("a", "b"), head(THUMB)))
    await cluster.until(
        lambda: any(isinstance(e, Notice) and "no worker makes any" in e.message for e in cluster.events)
    )
    cluster.worker("--post-processes", "1")
    outcome = await watching
    assert (outcome.exit_code, outcome.derived, await cluster.requests()) == (0, DerivativeCounts(made=2), 2)


async def test_what_cannot_be_made_of_a_changed_picture_ends_the_run_with_5_and_is_tried_again_by_the_next(cluster):
    await cluster.submit(items("a", "b"), head())
    cluster.worker("--post-processes", "0", "--until-empty")
    await cluster.watch(items("a", "b"), head())
    picture = cluster.folder / "out" / "i0.jpg"
    data = picture.read_bytes()
    picture.write_bytes(bytes(len(data)))  # its size says nothing
    cluster.worker()
    outcome = await cluster.watch(items("a", "b"), head(THUMB))
    assert (outcome.exit_code, outcome.derived) == (5, DerivativeCounts(made=1, failed=1))
    picture.write_bytes(data)
    outcome = await cluster.watch(items("a", "b"), head(THUMB))
    assert (outcome.exit_code, outcome.derived, await cluster.requests()) == (0, DerivativeCounts(made=1), 2)


SLOW = "{name: big, format: avif, width: 2600, upscale: true, quality: 90}"


async def stopped_half_way(cluster, worker):
    """The process of a worker that has made the first file of a picture and not the last, and is kept from it."""
    state = cluster.folder / "out" / ".batchgen"
    await cluster.until(lambda: any(state.glob("post-spool-*/derive-*")))
    (process,) = workers(worker.pid)
    os.kill(process, signal.SIGSTOP)
    assert files(cluster) == {}  # they have their names once all of a picture are whole
    return process


@needs_proc
async def test_the_files_of_a_worker_that_is_killed_while_it_makes_them_are_made_by_another(cluster):
    killed = cluster.worker("--post-processes", "1")
    await cluster.submit(items("a", "b"), head(THUMB, SLOW))
    process = await stopped_half_way(cluster, killed)
    killed.send_signal(signal.SIGKILL)
    await asyncio.to_thread(killed.wait, 30.0)
    os.kill(process, signal.SIGCONT)
    await cluster.until(lambda: process not in workers())  # it ends with its worker
    half = cluster.folder / "out" / ".batchgen" / "post-spool-gone" / "derive-1-abc"  # of one that fell silent long ago
    half.parent.mkdir()
    half.write_bytes(b"half")
    assert queued(cluster) == {"doing": 1, "todo": 1}
    cluster.impatient("--post-processes", "1")
    outcome = await cluster.watch(items("a", "b"), head(THUMB, SLOW))
    assert (outcome.exit_code, outcome.derived, await cluster.requests()) == (0, DerivativeCounts(made=4), 2)
    assert (len(files(cluster)), is_intact(cluster), queued(cluster), half.exists()) == (4, True, {}, False)


@needs_proc
async def test_a_worker_that_is_told_twice_to_stop_gives_back_the_files_it_is_making(cluster):
    first = cluster.worker("--post-processes", "1")
    await cluster.submit(items("a"), head(THUMB, SLOW))
    await stopped_half_way(cluster, first)
    first.send_signal(signal.SIGTERM)
    await asyncio.sleep(0.5)
    assert first.poll() is None  # it waits for its process
    first.send_signal(signal.SIGTERM)
    assert (await asyncio.to_thread(first.wait, 30.0), queued(cluster), workers(first.pid)) == (143, {"todo": 1}, [])
    cluster.worker("--post-processes", "1")
    outcome = await cluster.watch(items("a"), head(THUMB, SLOW))
    assert (outcome.exit_code, len(files(cluster)), await cluster.requests()) == (0, 2, 1)


async def test_a_picture_that_was_recorded_and_is_not_placed_yet_is_waited_for(cluster):
    await cluster.submit(items("a"), head(THUMB))
    cluster.worker("--post-processes", "0", "--until-empty")
    await asyncio.to_thread(cluster.workers[0].wait, 60.0)
    picture = cluster.folder / "out" / "i0.jpg"
    picture.rename(picture.with_suffix(".later"))
    with psycopg.connect(cluster.ledger) as db:
        (schema,) = db.execute("SELECT schema FROM batchgen.job").fetchone()
        db.execute(f"UPDATE {schema}.image SET placed = 0")
    cluster.worker("--post-processes", "1")
    await cluster.until(lambda: queued(cluster) == {"doing": 1})
    await asyncio.sleep(0.5)
    assert queued(cluster) != {}
    picture.with_suffix(".later").rename(picture)
    with psycopg.connect(cluster.ledger) as db:
        db.execute(f"UPDATE {schema}.image SET placed = 1")
    outcome = await cluster.watch(items("a"), head(THUMB))
    # Made before this run looked, or while it did.
    assert (outcome.exit_code, outcome.derived.failed, outcome.derived.finished) == (0, 0, True)
    assert (cluster.folder / "out" / "derivatives" / "thumb" / "i0.jpg").is_file()


async def test_another_prompt_together_with_another_recipe_ends_with_the_files_of_the_new_picture(cluster):
    cluster.worker()
    await cluster.watch(items("a"), head(THUMB))
    outcome = await cluster.watch(items("b"), head(THUMB, WEB))
    assert (outcome.exit_code, outcome.derived.made, await cluster.requests()) == (0, 3, 2)
    assert sorted(files(cluster)) == ["thumb/i0.jpg", "web-16/i0.webp", "web-32/i0.webp"]
    again = await cluster.watch(items("b"), head(THUMB, WEB))
    assert (again.exit_code, again.derived) == (0, DerivativeCounts())


async def test_cancel_leaves_the_files_of_pictures_that_are_there_and_takes_back_those_of_samples_it_withdraws(cluster):
    await cluster.submit(items("a"), head(THUMB))
    first = cluster.worker("--post-processes", "0", "--until-empty")
    assert await asyncio.to_thread(first.wait, 60.0) == 0
    await cluster.submit(items("a", "b"), head(HERE))  # both are of this run now
    waiting = rows(cluster, "SELECT item_id, images FROM work ORDER BY item_id")
    dry = await command(cluster, "cancel", "out", "--json", "--dry-run")
    assert json.loads(dry.stdout)["withdrawn"] == 1
    assert rows(cluster, "SELECT item_id, images FROM work ORDER BY item_id") == waiting
    cancelled = await command(cluster, "cancel", "out", "--json")
    assert json.loads(cancelled.stdout)["withdrawn"] == 1
    assert rows(cluster, "SELECT item_id, images FROM work") == [("i0", 0)]
    assert (rows(cluster, "SELECT * FROM need"), queued(cluster)) == ([], {"todo": 1})


async def test_no_files_are_made_of_a_sample_that_ends_without_a_picture(cluster):
    cluster.worker()
    outcome = await cluster.watch(items("a", "[[fault:safety]] b"), head(THUMB))
    assert (outcome.exit_code, outcome.derived) == (3, DerivativeCounts(made=1))
    assert (rows(cluster, "SELECT key FROM work"), rows(cluster, "SELECT key FROM need")) == ([], [])


@needs_proc
async def test_what_a_living_worker_makes_files_of_stays_its_own_however_long_it_takes(cluster):
    first = cluster.impatient("--post-processes", "1")
    await cluster.submit(items("a"), head(THUMB, SLOW))
    process = await stopped_half_way(cluster, first)
    cluster.impatient("--post-processes", "1")
    await cluster.until(lambda: "w2" in [name for (name,) in rows(cluster, "SELECT name FROM batchgen.worker")])
    await asyncio.sleep(2.0 * STALE_S)  # several looks for what nobody has
    assert rows(cluster, "SELECT worker FROM work") == [("w1",)]
    os.kill(process, signal.SIGCONT)
    outcome = await cluster.watch(items("a"), head(THUMB, SLOW))
    assert (outcome.exit_code, len(files(cluster)), await cluster.requests()) == (0, 2, 1)
