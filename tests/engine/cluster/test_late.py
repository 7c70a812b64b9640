"""A worker that lost its server, and whose pictures were bought again meanwhile: they are found, and replace nothing."""

from __future__ import annotations

import asyncio
import hashlib
import json
import sys
from pathlib import Path

import pytest

from batchgen.cli.verify import VerifyResult, verify
from batchgen.emulator import serve
from batchgen.engine.cluster.orphan_recovery import adopt_orphans
from batchgen.ledger.changes import insert_attempt
from batchgen.ledger.ledger import Ledger
from batchgen.ledger.location import LedgerServer, job_identity, read_pointer
from batchgen.ledger.pictures import SpooledPicture
from batchgen.ledger.requests import IntendedRequest
from batchgen.ledger.worker_ledger import FencedLedger
from batchgen.planning.plan import RetrySelection
from batchgen.profiles.catalogue import load_catalogue
from batchgen.records import ImageFile, Reply
from batchgen.report.billing import read_billing
from batchgen.report.console import Console
from batchgen.store.store import Store
from tests.support.bench import items
from tests.support.cluster import HEAD, BucketCluster, Cluster, cluster_on, first_answers_late, unplaced, waiting
from tests.support.fork_server import PYTHON
from tests.support.paths import ROOT
from tests.support.postgres_proxy import Proxy
from tests.support.samples import make_sample, receipt_of
from tests.support.worker_child import STALE_S

FIVE = items(*"abcde")


def verified(cluster: Cluster) -> VerifyResult:
    """What `batchgen verify` finds; the books balance."""
    with cluster.reader() as reader:
        assert read_billing(reader).holds, read_billing(reader)
        assert reader.unplaced_by_workers() == []
        folder = cluster.folder / ("job.emulated" if isinstance(cluster, BucketCluster) else "out")
        return verify(folder, reader, Console(sys.stderr))


def assert_whole(found: VerifyResult, files: int) -> None:
    assert (found.checked, found.missing, found.changed, found.gone, found.extra) == (files, [], [], [], [])


def whole_in_spool(folder: Path) -> int:
    return sum(path.stat().st_size > 0 for path in folder.rglob("spool-w1-*/*.0"))


@pytest.fixture
async def slow_fleet(tmp_path, database, monkeypatch):
    """A worker's first answers come when it has been taken for dead for long."""
    monkeypatch.setenv("BATCHGEN_LEDGER", database)
    async for each in cluster_on(first_answers_late(5, 6.0), tmp_path, database):
        yield each


async def cut_off_with_five_in_flight(cluster: Cluster, port: int) -> Proxy:
    """w1 has lost its server, and w2 has made all five again."""
    wire = Proxy(port)
    await cluster.submit(FIVE)
    first = cluster.impatient(ledger=wire.url(str(cluster.ledger)))
    await cluster.until_sent("w1", 5)
    wire.refusing = True
    wire.hang_up()
    second = cluster.impatient()
    outcome = await asyncio.wait_for(cluster.watch(FIVE), 40.0)
    assert (outcome.exit_code, await cluster.requests()) == (0, 10)
    await cluster.until(lambda: whole_in_spool(cluster.folder) == 5)
    cluster.kill(first)
    cluster.kill(second)
    return wire


async def test_pictures_of_a_worker_that_was_cut_off_and_killed_become_drafts_and_replace_nothing(slow_fleet, postgres):
    fleet = slow_fleet
    wire = await cut_off_with_five_in_flight(fleet, postgres.port)
    made = fleet.pictures()
    outcome = await fleet.watch(FIVE)
    drafts = sorted((fleet.folder / "out" / "drafts").iterdir())
    assert (outcome.exit_code, outcome.kept, fleet.pictures(), await fleet.requests()) == (0, 5, made, 10)
    assert_whole(verified(fleet), 10)
    served = await fleet.served()
    both = [{made[f"i{n}.jpg"], hashlib.sha256(drafts[n].read_bytes()).hexdigest()} for n in range(5)]
    assert both == [served[prompt] for prompt in "abcde"]
    assert not (fleet.folder / "out" / "superseded").exists()
    wire.close()


async def test_whoever_takes_them_up_may_die_at_any_step_and_the_ledger_names_no_file_that_is_not_there(
    slow_fleet, postgres
):
    fleet = slow_fleet
    wire = await cut_off_with_five_in_flight(fleet, postgres.port)
    made = fleet.pictures()
    said = json.dumps({"engine": "cluster", "ledger": fleet.ledger, "wait": False})
    for place, k in (
        ("batchgen.engine.settle:move_into_place", 1),  # recorded as a draft, and still in the spool
        ("batchgen.store.local_folder:os.replace", 1),
        ("batchgen.ledger.worker_ledger:FencedLedger.record_placed", 2),  # in its place, and nobody has said so
    ):
        child = await asyncio.create_subprocess_exec(
            PYTHON, "-m", "tests.support.crash_child", str(fleet.manifest(FIVE, HEAD)), str(fleet.folder / "out"), fleet.url,
            place, str(k), said, cwd=ROOT,
        )  # fmt: skip
        assert await child.wait() == 9
        with fleet.reader() as reader:
            there = {
                path.relative_to(fleet.folder / "out").as_posix() for path in (fleet.folder / "out").rglob("*.jpg")
            }
            assert {path for path, *_ in reader.expected_files()} <= there
    outcome = await fleet.watch(FIVE)
    assert (outcome.exit_code, fleet.pictures(), await fleet.requests()) == (0, made, 10)
    assert_whole(verified(fleet), 10)
    wire.close()


@pytest.fixture
async def bucket_fleet(gate, tmp_path, database, monkeypatch):
    """Workers whose pictures go to a bucket; each has a spool that no other sees."""
    monkeypatch.setenv("BATCHGEN_LEDGER", database)
    async with await serve(first_answers_late(5, 6.0)) as emulator:
        made = BucketCluster(emulator.base_url, tmp_path, database)
        try:
            yield made
        finally:
            made.finish()


async def test_in_a_bucket_they_become_drafts_too_when_their_machine_is_back(bucket_fleet, postgres, gate):
    fleet = bucket_fleet
    wire = await cut_off_with_five_in_flight(fleet, postgres.port)
    made = {name: data for name, data in gate.objects().items() if not name.startswith("superseded/")}
    fleet.impatient(name="w1")
    six = items(*"abcdef")
    outcome = await asyncio.wait_for(fleet.watch(six), 40.0)
    assert (outcome.exit_code, outcome.kept, await fleet.requests()) == (0, 5, 11)
    await fleet.until(lambda: len(gate.objects()) == 11)
    found, served = gate.objects(), await fleet.served()
    assert {name: found[name] for name in made} == made
    drafts = [found[name] for name in sorted(found) if name.startswith("drafts/")]
    both = [{digest(made[f"i{n}.jpg"]), digest(drafts[n])} for n in range(5)]
    assert both == [served[prompt] for prompt in "abcde"]
    await fleet.until(lambda: not unplaced(fleet))
    assert_whole(verified(fleet), 11)
    wire.close()


async def test_a_picture_that_waited_for_its_bucket_replaces_none_that_was_made_meanwhile(
    bucket_fleet,
    gate,
    monkeypatch,
):
    """Its machine was away: it was recorded, and no success before it was there, and made again."""
    monkeypatch.setattr("batchgen.engine.cluster.queue.STALE_S", STALE_S)
    fleet = bucket_fleet
    watching = asyncio.create_task(fleet.watch(items("a")))
    gate.refuse = lambda method, path: 403 if (method, path) == ("PUT", "i0.jpg") else None
    first = fleet.impatient()
    await fleet.until(lambda: (fleet.folder / "job.emulated").exists() and waiting(fleet) == 1)
    fleet.kill(first)
    outcome = await asyncio.wait_for(watching, 40.0)
    assert (outcome.exit_code, outcome.made, outcome.discrepancies.missing) == (3, 1, ("i0.jpg",))
    gate.refuse = lambda method, path: None
    second = fleet.impatient()
    outcome = await asyncio.wait_for(fleet.watch(items("a")), 40.0)
    assert (outcome.exit_code, await fleet.requests()) == (0, 2)
    made = gate.objects()["i0.jpg"]
    fleet.kill(second)
    fleet.impatient(name="w1")
    outcome = await asyncio.wait_for(fleet.watch(items("a", "b")), 40.0)
    await fleet.until(lambda: not unplaced(fleet))
    assert (outcome.exit_code, outcome.kept, gate.objects()["i0.jpg"]) == (0, 1, made)
    assert_whole(verified(fleet), 3)


@pytest.mark.parametrize(
    "place", ["batchgen.store.local_folder:os.replace", "batchgen.ledger.worker_ledger:FencedLedger.record_placed"]
)
async def test_what_made_way_for_a_worker_that_died_before_it_could_say_so_is_known_by_the_ledger(fleet, place):
    await fleet.submit(items("a"))
    first = fleet.impatient()
    await asyncio.wait_for(fleet.watch(items("a")), 40.0)
    fleet.kill(first)
    await fleet.submit(items("a"), retry_selection=RetrySelection(fresh=True))
    dying = fleet.impatient(die=(place, 1))
    assert await asyncio.to_thread(dying.wait) == 9
    fleet.impatient()
    outcome = await asyncio.wait_for(fleet.watch(items("a")), 40.0)
    await fleet.until(lambda: not unplaced(fleet))
    again = await fleet.watch(items("a"))
    assert (outcome.exit_code, again.exit_code, again.kept, await fleet.requests()) == (0, 0, 1, 2)
    assert_whole(verified(fleet), 2)


async def test_whoever_submitted_the_work_looks_whether_what_the_workers_made_is_there(fleet):
    watching = asyncio.create_task(fleet.watch(items(*"abcdef")))
    fleet.impatient("--concurrency", "1")
    out = fleet.folder / "out"
    await fleet.until(lambda: (out / "i0.jpg").is_file() and (out / "i1.jpg").is_file() and not unplaced(fleet))
    (out / "i0.jpg").write_bytes(b"drawn over")
    (out / "i1.jpg").unlink()
    outcome = await asyncio.wait_for(watching, 40.0)
    found = outcome.discrepancies
    assert (outcome.exit_code, outcome.made, found.changed, found.missing) == (5, 6, ("i0.jpg",), ("i1.jpg",))


def test_another_picture_of_the_same_size_is_not_taken_for_one_that_is_still_to_be_placed(
    tmp_path, database, monkeypatch
):
    """Its spool may be on a machine that is away; what is thought to be placed is not looked for there any more."""
    monkeypatch.setenv("BATCHGEN_LEDGER", database)
    store = Store(tmp_path / "out")
    store.prepare()
    ledger = Ledger(store.folder, LedgerServer(database, "job", job_identity(store.root)))
    sample = make_sample("a")
    attempt = ledger.writer.submit(
        lambda db: insert_attempt(db, 0, IntendedRequest(sample, "gemini/m", 1, None), 1.0, worker="away")
    ).result()
    file = ImageFile(path="a.png", sha256=digest(b"mine"), bytes=4, width=1, height=1, format="png")
    settled = [SpooledPicture(1, 0, f"{attempt}.0", file, None)]
    ledger.attempt_succeeded(receipt_of(attempt, sample, Reply(), settled, sent_at=1.0, usd=None, usd_source=""))
    worker = FencedLedger(database, read_pointer(store.folder).schema, 0, "w1")
    for data, unplaced_left in ((b"hers", 1), (b"mine", 0)):
        (store.folder / "a.png").write_bytes(data)
        adopt_orphans(worker, store, load_catalogue(), print)
        assert len(ledger.reader.unplaced_by_workers()) == unplaced_left
    worker.close()
    ledger.close()


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
