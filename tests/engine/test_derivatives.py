"""Derivatives beside a run, in real worker processes: made once, made again when they should be, never at the price of a picture."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import os
import signal
import sqlite3
import time
from collections.abc import AsyncIterator
from dataclasses import fields
from pathlib import Path

import c2pa
import pytest
from PIL import Image

import batchgen
from batchgen.cli.verify import verify
from batchgen.derivatives.render_process import RenderProcess
from batchgen.derivatives.specification import Provenance, RenderRequest
from batchgen.emulator import EmulatorOptions, serve
from batchgen.engine import derivative_runner
from batchgen.engine.derivative_runner import make_derivatives
from batchgen.engine.job_state import open_finished_job
from batchgen.errors import JobLocked
from batchgen.events import Notice, SampleSucceeded
from batchgen.ledger.derivatives import DerivativeReader
from batchgen.ledger.reader import Reader
from batchgen.ledger.schema import ledger_path
from batchgen.report.console import Console
from batchgen.store.lock import JobLock
from batchgen.store.store import Store
from tests.support.bench import Bench, items
from tests.support.derivatives import THUMB, WEB, files, needs_proc, workers
from tests.support.fork_server import PYTHON
from tests.support.paths import ROOT
from tests.support.postgres import both_ledgers
from tests.support.signing_certificate import make_certificate

pytestmark = pytest.mark.usefixtures("forked_renders")

pytestmark = pytest.mark.usefixtures("forked_renders")


def head(*made: str, more: str = "") -> str:
    return f"defaults: {{model: flash}}\npost: {{derivatives: [{', '.join(made)}]{more}}}\nitems:\n"


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    async with await serve(EmulatorOptions(latency_s=(0.0, 0.02), picture="tiny", rpm=0)) as emulator:
        yield Bench(emulator.base_url, tmp_path)


def states(bench: Bench) -> dict[str, dict[str, int]]:
    with Reader.open(bench.folder / "out") as reader:
        return DerivativeReader.from_reader(reader).derivative_counts()


def variables(pid: int) -> bytes:
    return Path(f"/proc/{pid}/environ").read_bytes()


async def post(bench: Bench, text: str, top: str, **options) -> derivative_runner.DerivativeCounts:
    manifest = batchgen.load(bench.manifest(text, top), output=bench.folder / "out", emulate=True, environ={}).manifest
    return await make_derivatives(manifest, bench.folder / "out", (), bench.events.append, **options)


CUT = "{name: sprite, format: png, cutout: difference}"


@both_ledgers
async def test_a_cutout_by_difference_is_bought_as_two_images_and_made_of_both_once(bench):
    outcome = await bench.run(items("A mug"), head(CUT, WEB))
    assert (outcome.exit_code, await bench.requests()) == (0, 2)
    assert sorted(files(bench)) == ["sprite/i0.png", "web-16/i0-white.webp", "web-32/i0-white.webp"]
    assert bench.lines()["i0"]["derivatives"] == ["derivatives/sprite/i0.png"]
    image = Image.open(bench.folder / "out" / "derivatives" / "sprite" / "i0.png")
    corner, upper, lower = (image.getpixel((image.width // 2, round(image.height * y)))[3] for y in (0.02, 0.2, 0.7))
    assert (image.mode, corner, upper, abs(lower - 140) < 12) == ("RGBA", 0, 255, True)  # as the emulator drew it
    before = files(bench)
    assert (await bench.run(items("A mug"), head(CUT, WEB))).derived.made == 0
    assert (files(bench), await bench.requests()) == (before, 2)


async def test_a_cutout_without_its_image_on_white_says_so_and_is_made_once_that_is_there(bench):
    await bench.run(items("A mug"), head(CUT))
    (bench.folder / "out" / "i0-white.jpg").unlink()
    (bench.folder / "out" / "derivatives" / "sprite" / "i0.png").unlink()
    counts = await post(bench, items("A mug"), head(CUT))
    assert (counts.made, counts.failed) == (0, 1)
    with Reader.open(bench.folder / "out") as reader:
        ((_, why),) = DerivativeReader.from_reader(reader).derivative_failures(9)
    assert why == "the image on white cannot be read: No such file or directory"
    outcome = await bench.run(items("A mug"), head(CUT))
    assert (outcome.exit_code, sorted(files(bench))) == (0, ["sprite/i0.png"])


async def test_a_worker_process_signs_with_the_certificate_of_the_environment(bench, tmp_path, monkeypatch):
    outcome = await bench.run(items("a"), head(WEB, more=", sign: true"))
    assert (outcome.exit_code, outcome.derived.failed, files(bench)) == (3, 2, {})
    for name, path in make_certificate("Nordlicht").write(tmp_path).items():
        monkeypatch.setenv(name, path)
    outcome = await bench.run(items("a"), head(WEB, more=", sign: true"))
    assert (outcome.exit_code, outcome.derived.made) == (0, 2)
    with c2pa.Reader(bench.folder / "out" / "derivatives" / "web-16" / "i0.webp") as reader:
        assert (reader.get_validation_state(), "Nordlicht" in reader.json()) == ("Valid", True)


@both_ledgers
async def test_a_run_makes_them_and_says_where_they_are(bench):
    outcome = await bench.run(items("a", "b"), head(WEB, THUMB, more=", embed: ids, sidecar: true"))
    assert (outcome.exit_code, outcome.derived) == (0, derivative_runner.DerivativeCounts(made=8))
    made = [
        "derivatives/i0.json",
        "derivatives/thumb/i0.jpg",
        "derivatives/web-16/i0.webp",
        "derivatives/web-32/i0.webp",
    ]
    assert bench.lines()["i0"]["derivatives"] == made
    assert sorted(files(bench)) == sorted(
        path.replace("i0", i).removeprefix("derivatives/") for path in made for i in ("i0", "i1")
    )
    with Image.open(bench.folder / "out" / made[1]) as thumb:
        assert thumb.size == (24, 30)
    told = json.loads((bench.folder / "out" / made[0]).read_text())
    assert (told["prompt"], told["emulated"], [one["path"] for one in told["derivatives"]]) == ("a", True, made[1:])
    with Reader.open(bench.folder / "out") as reader:
        found = verify(bench.folder / "out", reader, Console(io.StringIO(), {}))
    assert (found.is_intact, found.derived, found.extra) == (True, 8, [])


@both_ledgers
async def test_running_again_makes_nothing_and_another_recipe_only_what_it_changes(bench):
    await bench.run(items("a", "b"), head(WEB, THUMB))
    before = files(bench)
    again = await bench.run(items("a", "b"), head(WEB, THUMB))
    assert (again.derived.made, files(bench)) == (0, before)
    changed = await bench.run(items("a", "b"), head(WEB, THUMB.replace("24", "20")))
    after = files(bench)
    assert (changed.made, changed.derived.made, await bench.requests()) == (0, 2, 2)
    assert {path for path in before if before[path] != after[path]} == {"thumb/i0.jpg", "thumb/i1.jpg"}


@both_ledgers
async def test_what_is_no_longer_asked_for_goes_but_not_what_somebody_changed(bench):
    await bench.run(items("a", "b"), head(WEB, THUMB))
    mine = bench.folder / "out" / "derivatives" / "thumb" / "i0.jpg"
    mine.write_bytes(b"retouched by hand")
    outcome = await bench.run(items("a"), head(WEB))
    assert (sorted(files(bench)), outcome.derived.removed) == (["thumb/i0.jpg", "web-16/i0.webp", "web-32/i0.webp"], 3)
    assert mine.read_bytes() == b"retouched by hand"
    await bench.run(items("a"), "defaults: {model: flash}\nitems:\n")
    assert (sorted(files(bench)), states(bench)) == (["thumb/i0.jpg"], {})
    assert list(bench.pictures()) == ["i0.jpg"]


@both_ledgers
async def test_another_picture_or_another_name_brings_other_derivatives(bench):
    await bench.run(items("a", "b"), head(THUMB))
    before = files(bench)
    await bench.run(items("a", "b, at night"), head(THUMB))
    assert (files(bench)["thumb/i0.jpg"], files(bench)["thumb/i1.jpg"] != before["thumb/i1.jpg"]) == (
        before["thumb/i0.jpg"],
        True,
    )
    text = items("a", "b, at night").replace("{id: i0,", "{id: i0, filename: other,")
    outcome = await bench.run(text, head(THUMB))
    assert (sorted(files(bench)), outcome.moved, await bench.requests()) == (["thumb/i1.jpg", "thumb/other.jpg"], 1, 3)


async def test_what_is_missing_cut_or_damaged_is_made_again_without_a_request(bench):
    await bench.run(items("a", "b", "c", "d"), head(THUMB))
    before = files(bench)
    folder = bench.folder / "out" / "derivatives" / "thumb"
    (folder / "i0.jpg").unlink()
    os.truncate(folder / "i1.jpg", 9)
    stands = (folder / "i2.jpg").stat()
    data = bytearray((folder / "i2.jpg").read_bytes())
    data[len(data) // 2] ^= 1
    (folder / "i2.jpg").write_bytes(data)
    os.utime(folder / "i2.jpg", ns=(stands.st_atime_ns, stands.st_mtime_ns))  # rotten where it lay
    os.utime(folder / "i3.jpg", ns=(1, 1))  # copied by somebody, and still the same
    with Reader.open(bench.folder / "out") as reader:
        found = verify(bench.folder / "out", reader, Console(io.StringIO(), {}))
    assert (found.is_intact, found.derived, len(found.derived_amiss)) == (False, 1, 3)
    outcome = await bench.run(items("a", "b", "c", "d"), head(THUMB))
    assert (outcome.derived.made, await bench.requests(), files(bench)["thumb/i3.jpg"]) == (
        3,
        4,
        before["thumb/i3.jpg"],
    )
    with Reader.open(bench.folder / "out") as reader:
        assert verify(bench.folder / "out", reader, Console(io.StringIO(), {})).is_intact


async def test_half_files_of_a_power_cut_are_swept_away(bench):
    await bench.run(items("a"), head(THUMB))
    spool = bench.folder / "out" / ".batchgen" / "spool"
    (spool / "derive-1-abc").write_bytes(b"half")
    assert (await post(bench, items("a"), head(THUMB))).made == 0
    assert list(spool.iterdir()) == []


@both_ledgers
async def test_post_makes_them_without_a_server_and_without_a_run(bench):
    await bench.run(items("a", "b"), "defaults: {model: flash}\nitems:\n")
    tally = await post(bench, items("a", "b"), head(WEB, THUMB))
    assert (tally.made, await bench.requests(), len(bench.lines()["i0"]["derivatives"])) == (6, 2, 3)
    lock = JobLock(bench.folder / "out")
    lock.acquire()
    with pytest.raises(JobLocked):
        await post(bench, items("a", "b"), head(WEB))
    lock.release()


async def test_a_picture_that_is_heard_of_while_it_is_worked_on_is_not_worked_on_twice(bench):
    await bench.run(items("a", "b", "c"), "defaults: {model: flash}\nitems:\n")
    told = [event for event in bench.events if isinstance(event, SampleSucceeded)]
    folder = bench.folder / "out"
    manifest = batchgen.load(
        bench.manifest(items("a", "b", "c"), head(THUMB)), output=folder, emulate=True, environ={}
    ).manifest
    assert len(list(manifest.items())) == len(told) == 3
    with open_finished_job(folder) as state:
        made = derivative_runner.DerivativeRunner(manifest, state, bench.events.append, emulated=True, workers=1)
        async with made:
            for event in told:
                made(event)
            assert (await made.finish()).made == 3


async def test_only_touches_only_what_it_names(bench):
    await bench.run(items("a", "b"), "defaults: {model: flash}\nitems:\n")
    await bench.run(items("a", "b"), head(THUMB), only=("i1",))
    assert list(files(bench)) == ["thumb/i1.jpg"]


@both_ledgers
async def test_plan_says_how_many_are_to_be_made(bench):
    def planned(text: str, top: str) -> int:
        job = batchgen.load(bench.manifest(text, top), output=bench.folder / "out", emulate=True, environ={})
        return batchgen.plan(job).derivatives

    assert planned(items("a", "b"), head(WEB, THUMB)) == 6
    await bench.run(items("a", "b"), head(THUMB))
    assert planned(items("a", "b"), head(THUMB)) == 0
    assert planned(items("a", "b"), head(WEB, THUMB)) == 4
    assert planned(items("a", "other"), head(WEB, THUMB)) == 2 + 3


async def test_a_picture_that_cannot_be_derived_from_spoils_nothing_but_the_exit_code(bench):
    await bench.run(items("a", "b"), "defaults: {model: flash}\nitems:\n")
    path = bench.folder / "out" / "i0.jpg"
    data = bytearray(path.read_bytes())
    data[-9] ^= 1  # rotten where it lay: as long as before
    path.write_bytes(data)
    outcome = await bench.run(items("a", "b"), head(THUMB))
    assert (outcome.exit_code, outcome.made, outcome.counts, outcome.derived.failed) == (5, 0, {"succeeded": 2}, 1)
    assert states(bench) == {"thumb": {"failed": 1, "made": 1}}
    assert bench.events[-1].derived == {"made": 1, "failed": 1}
    data[-9] ^= 1
    path.write_bytes(data)
    outcome = await bench.run(items("a", "b"), head(THUMB))
    assert (outcome.exit_code, outcome.derived.made, outcome.derived.failed) == (0, 1, 0)


@needs_proc
async def test_a_killed_worker_is_replaced_and_its_work_tried_again(bench):
    running = asyncio.create_task(bench.run(items(*"abcdef"), head(THUMB)))
    killed = 0
    while not running.done():
        for pid in list(workers(os.getpid()))[: 2 - killed]:
            with contextlib.suppress(ProcessLookupError):  # it was quicker
                os.kill(pid, signal.SIGKILL)
            killed += 1
        await asyncio.sleep(0.01)
    outcome = await running
    assert (killed, outcome.exit_code, outcome.derived) == (2, 0, derivative_runner.DerivativeCounts(made=6))


@needs_proc
async def test_work_that_kills_every_worker_is_given_up_and_its_picture_is_none_the_worse(bench):
    running = asyncio.create_task(bench.run(items("a"), head(THUMB)))
    while not running.done():
        for pid in workers(os.getpid()):
            with contextlib.suppress(ProcessLookupError):  # it has ended since it was seen
                os.kill(pid, signal.SIGKILL)
        await asyncio.sleep(0.005)
    outcome = await running
    assert (outcome.exit_code, outcome.made, outcome.derived.failed) == (3, 1, 1)
    with Reader.open(bench.folder / "out") as reader:
        ((path, why),) = DerivativeReader.from_reader(reader).derivative_failures(5)
    assert (path, why) == ("derivatives/thumb/i0.jpg", "its worker process was killed (out of memory?), 3 times")
    assert (await bench.run(items("a"), head(THUMB))).exit_code == 0
    assert await bench.requests() == 1


SLOW = [f"{{name: s{n}, format: avif, width: 4000, upscale: true}}" for n in range(3)]  # a second each


@needs_proc
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT], ids=["SIGKILL", "Ctrl-C"])
async def test_a_run_that_is_killed_or_stopped_meanwhile_leaves_them_to_the_next_one(bench, number):
    text, top = items("a", "b"), head(THUMB, *SLOW)
    manifest = bench.manifest(text, top)
    child = await asyncio.create_subprocess_exec(
        PYTHON, "-m", "batchgen", "run", str(manifest), "--output", str(bench.folder / "out"), "-q", "--no-progress",
        cwd=ROOT, env={**os.environ, "BATCHGEN_GEMINI_BASE_URL": bench.url}, stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    while not (found := workers(child.pid)) or await bench.requests() < 2:
        await asyncio.sleep(0.01)
    await asyncio.sleep(0.5)
    child.send_signal(number)
    said = (await child.communicate())[1].decode()
    assert child.returncode == (-9 if number == signal.SIGKILL else 130), said
    assert "Traceback" not in said
    for _ in range(500):  # each ends with the pipe that its run held
        if not set(found) & set(workers()):
            break
        await asyncio.sleep(0.02)
    assert not set(found) & set(workers())
    assert len(bench.pictures()) == 2
    for path in files(bench):
        with Image.open(bench.folder / "out" / "derivatives" / path) as image:
            image.load()  # none is there in part
    with sqlite3.connect(ledger_path(bench.folder / "out")) as ledger:
        ledger.execute("UPDATE meta SET value = 'yes' WHERE key = 'emulated'")
    ledger.close()
    outcome = await bench.run(text, head(THUMB))
    assert (outcome.exit_code, outcome.kept, await bench.requests()) == (0, 2, 2)
    assert {"thumb/i0.jpg", "thumb/i1.jpg"} <= set(files(bench))


@pytest.mark.parametrize(
    "place",
    [
        "batchgen.derivatives.render_process:RenderProcess.render",
        "batchgen.engine.derivative_runner:upsert_derivatives",
        "batchgen.ledger.results:ResultsFile.compact",
    ],
)
async def test_a_crash_between_two_steps_is_made_up_for_without_a_request(bench, place):
    text, top = items("a", "b"), head(THUMB)
    child = await asyncio.create_subprocess_exec(
        PYTHON, "-m", "tests.support.crash_child", str(bench.manifest(text, top)), str(bench.folder / "out"), bench.url, place, "1",
        cwd=ROOT,
    )  # fmt: skip
    assert await child.wait() == 9
    asked = await bench.requests()
    outcome = await bench.run(text, top)
    assert (outcome.exit_code, len(bench.pictures()), list(files(bench))) == (0, 2, ["thumb/i0.jpg", "thumb/i1.jpg"])
    assert "compact" not in place or await bench.requests() == asked == 2
    assert [line["derivatives"] for line in bench.lines().values()] == [
        [f"derivatives/thumb/i{n}.jpg"] for n in range(2)
    ]


async def test_a_deadline_is_one_for_derivatives_too(bench):
    outcome = await bench.run(items("a", "b"), head(*SLOW, THUMB), deadline=time.time() + 1)
    assert (outcome.exit_code, outcome.stopped_by, outcome.made, outcome.derived.finished) == (7, "deadline", 2, False)
    assert (await bench.run(items("a", "b"), head(THUMB))).exit_code == 0


def test_a_copy_is_never_taken_for_an_original_that_went_astray(tmp_path):
    for name in ("a.jpg", "drafts/b.jpg", "derivatives/original/a.jpg", "superseded/derivatives/c.jpg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    found = sorted(path for path, _ in Store(tmp_path).files())
    assert found == ["a.jpg", "drafts/b.jpg", "superseded/derivatives/c.jpg"]


async def test_a_nearly_full_disk_is_left_to_the_pictures(bench, monkeypatch):
    monkeypatch.setattr(derivative_runner, "MIN_FREE_BYTES", 1 << 60)
    outcome = await bench.run(items("a"), head(THUMB))
    assert (outcome.exit_code, outcome.made, outcome.derived.finished, outcome.derived.made) == (3, 1, False, 0)
    assert any("nearly full" in event.message for event in bench.events if isinstance(event, Notice))
    monkeypatch.undo()
    assert (await bench.run(items("a"), head(THUMB))).derived.made == 1


@needs_proc
async def test_workers_see_no_key_and_are_of_low_priority(monkeypatch):
    for name in ("GEMINI_API_KEY", "AIMLAPI_API_KEY_FILE", "OTHER_API_KEY", "NOTIFY_MAIL_URL", "GITHUB_TOKEN"):
        monkeypatch.setenv(name, "marked")
    bench = RenderProcess()
    unknown = Provenance(**dict.fromkeys((field.name for field in fields(Provenance)), ""))
    request = RenderRequest(
        spool="", source="/nowhere", sha256="", embed="none", source_type="", provenance=unknown, outputs=()
    )
    assert await bench.render(request) == []
    (pid,) = workers(os.getpid())
    assert b"marked" not in variables(pid)
    assert os.getpriority(os.PRIO_PROCESS, pid) == min(19, os.getpriority(os.PRIO_PROCESS, 0) + 10)
    await bench.close()
    assert workers(os.getpid()) == []
