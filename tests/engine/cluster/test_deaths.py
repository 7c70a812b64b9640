"""Workers that die at every step, and others that take over: nothing is lost, and nothing is bought twice in silence."""

from __future__ import annotations

import asyncio
import functools
import json
import signal

import pytest

from batchgen.emulator import EmulatorOptions
from tests.support.bench import items
from tests.support.cluster import HEAD, cluster_on, unplaced
from tests.support.fork_server import PYTHON
from tests.support.paths import ROOT
from tests.support.postgres import running

PROMPTS = "abcdefgh"
CHAIN = items(*PROMPTS) + "".join(
    f"  - {{id: d{n}, prompt: 'again {n}', references: ['@i{n}']}}\n" for n in range(4)
)  # fmt: skip


def account(cluster):
    """Requests by outcome, and whether the books balance."""
    from batchgen.report.billing import read_billing

    with cluster.reader() as reader:
        assert reader.unplaced_by_workers() == []
        assert read_billing(reader).holds, read_billing(reader)
        left = next(iter(reader._query("SELECT (SELECT count(*) FROM work) + (SELECT count(*) FROM need)")))[0]
        assert left == 0
        return reader.attempts()


async def test_what_a_killed_worker_had_in_flight_is_uncertain_and_the_rest_is_made_by_another(fleet):
    await fleet.submit(items(*PROMPTS * 2), hold_uncertain=True)
    first = fleet.impatient()
    await fleet.until_sent("w1", 5)
    fleet.kill(first)
    in_flight = fleet.open_of("w1")
    fleet.impatient()
    outcome = await fleet.watch(items(*PROMPTS * 2), hold_uncertain=True)
    assert account(fleet) == {"succeeded": 16 - in_flight, "uncertain": in_flight}
    assert (outcome.exit_code, outcome.counts["uncertain"], outcome.maybe_requests) == (3, in_flight, in_flight)
    assert await fleet.requests() == 16
    again = await fleet.watch(items(*PROMPTS * 2))
    assert (again.exit_code, len(fleet.pictures()), await fleet.requests()) == (0, 16, 16 + in_flight)


PLACES = [
    "batchgen.ledger.lease:claim!",
    "batchgen.ledger.worker_ledger:FencedLedger.claim!",
    "batchgen.ledger.worker_ledger:FencedLedger.attempt_started",
    "batchgen.engine.http_attempt:Transport.send",
    "batchgen.engine.settle:sync_folder!",
    "batchgen.ledger.worker_ledger:FencedLedger._on_attempt_end!",
    "batchgen.engine.settle:move_into_place",
    "batchgen.ledger.worker_ledger:FencedLedger.record_placed!",
    "batchgen.engine.cluster.sample_session:SampleSession._mark_done",
    "batchgen.engine.cluster.sample_session:SampleSession._mark_done!",
]


@pytest.mark.parametrize("place", PLACES)
async def test_whatever_step_a_worker_dies_at_another_finishes_and_each_request_is_accounted_for(fleet, place):
    await fleet.submit(CHAIN)
    first = fleet.impatient(die=(place, 2))
    assert await asyncio.to_thread(first.wait) == 9
    fleet.impatient()
    outcome = await asyncio.wait_for(fleet.watch(CHAIN), 40.0)
    attempts = account(fleet)
    assert (outcome.exit_code, len(fleet.pictures()), len(fleet.lines())) == (0, 12, 12)
    assert attempts["succeeded"] == 12
    stats = await fleet.get("/_emulator/stats")
    assert stats["billed"] <= 12 + attempts.get("uncertain", 0)  # whatever was bought twice is listed
    served = await fleet.served()
    assert all(
        digest in served[PROMPTS[int(name[1:-4])] if name[0] == "i" else f"again {name[1:-4]}"]
        for name, digest in fleet.pictures().items()
    )


def both_busy(cluster):
    return cluster.open_of("w1") >= 2 and cluster.open_of("w2") >= 2


def jobs(cluster):
    """Keys in the queue."""
    with cluster.reader() as reader:
        return [key for (key,) in reader._query("SELECT key FROM work ORDER BY 1")]


@pytest.mark.parametrize(
    "place",
    [
        "batchgen.ledger.work_queue:insert_samples!",
        "batchgen.ledger.lease:announce",
        "batchgen.engine.cluster.engine:ClusterMonitor",
    ],
)
async def test_a_submitter_that_dies_has_submitted_all_or_nothing_and_running_again_attaches(fleet, place):
    manifest = fleet.manifest(items(*PROMPTS), HEAD)
    child = await asyncio.create_subprocess_exec(
        PYTHON, "-m", "tests.support.crash_child", str(manifest), str(fleet.folder / "out"), fleet.url, place, "1",
        json.dumps({"engine": "cluster", "ledger": fleet.ledger}), cwd=ROOT,
    )  # fmt: skip
    assert await child.wait() == 9
    submitted = await fleet.submit(items(*PROMPTS))
    assert (submitted.exit_code, submitted.submitted, jobs(fleet)) == (9, 8, [f"i{n}" for n in range(8)])


async def test_two_submitters_at_the_same_time_submit_everything_once(fleet):
    manifest = fleet.manifest(items(*PROMPTS), HEAD)
    said = json.dumps({"engine": "cluster", "ledger": fleet.ledger, "wait": False})
    children = [
        await asyncio.create_subprocess_exec(
            PYTHON, "-m", "tests.support.crash_child", str(manifest), str(fleet.folder / "out"), fleet.url, "-", "0", said,
            cwd=ROOT, stderr=asyncio.subprocess.DEVNULL,
        )
        for _ in range(2)
    ]  # fmt: skip
    codes = sorted([await child.wait() for child in children])
    assert codes in ([1, 9], [9, 9])  # 1: JobLocked, which nobody caught there
    assert jobs(fleet) == [f"i{n}" for n in range(8)]


async def test_workers_go_on_when_their_server_has_crashed_and_is_back(tmp_path, monkeypatch):
    options = EmulatorOptions(
        latency_s=(1.5, 1.5), picture="tiny", rpm=0
    )  # one has not made all before both are at work
    with running() as server:
        monkeypatch.setenv("BATCHGEN_LEDGER", server.url())
        async for fleet in cluster_on(options, tmp_path, server.url()):
            await fleet.submit(items(*PROMPTS * 2))
            fleet.impatient()
            fleet.impatient()
            await fleet.until(functools.partial(both_busy, fleet))
            await asyncio.to_thread(server.stop, signal.SIGQUIT)
            await asyncio.to_thread(server.start)
            outcome = await asyncio.wait_for(fleet.watch(items(*PROMPTS * 2)), 60.0)
            assert (outcome.exit_code, len(fleet.pictures()), await fleet.requests()) == (0, 16, 16)
            assert account(fleet) == {"succeeded": 16}


class Cable:
    """Between a worker and its server; `cut` ends all connections and lets no new ones through."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._open = True
        self._writers: list[asyncio.StreamWriter] = []

    async def __aenter__(self) -> Cable:
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self.cut()
        self._server.close()

    def cut(self) -> None:
        self._open = False
        for writer in self._writers:
            writer.transport.abort()
        self._writers.clear()

    def mend(self) -> None:
        self._open = True

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if not self._open:
            writer.transport.abort()
            return
        there, to_there = await asyncio.open_connection("127.0.0.1", self._port)
        self._writers += [writer, to_there]
        await asyncio.gather(_pump(reader, to_there), _pump(there, writer))


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while piece := await reader.read(65536):
            writer.write(piece)
            await writer.drain()
    except OSError:
        pass
    finally:
        writer.transport.abort()


@pytest.mark.parametrize("hold", [True, False], ids=["held", "asked again"])
async def test_a_worker_that_was_cut_off_brings_its_picture_late_and_starts_nothing_it_lost(slow_fleet, postgres, hold):
    """Its picture is the sample's when nobody has asked again, else a draft; what it had not begun is another's."""
    fleet = slow_fleet
    async with Cable(postgres.port) as cable:
        await fleet.submit(items(*"abcde"), hold_uncertain=hold)
        fleet.impatient("--concurrency", "1", ledger=str(fleet.ledger).replace(f":{postgres.port}/", f":{cable.port}/"))
        await fleet.until_sent("w1", 1)
        cable.cut()
        fleet.impatient()
        outcome = await asyncio.wait_for(fleet.watch(items(*"abcde"), hold_uncertain=hold), 40.0)
        assert (outcome.exit_code, outcome.counts.get("uncertain", 0)) == ((3, 1) if hold else (0, 0))
        cable.mend()
        await fleet.until(lambda: fleet.open_of("w1") == 0 and came(fleet, "w1") == 1)
        await fleet.until(lambda: not unplaced(fleet))
        assert account(fleet) == {"succeeded": 5 if hold else 6}
        assert await fleet.requests() == 5 + (not hold)
        assert len(fleet.pictures()) == 5
        assert len(list((fleet.folder / "out").glob("drafts/*"))) == (not hold)
        again = await fleet.watch(items(*"abcde"))
        assert (again.exit_code, await fleet.requests()) == (0, 5 + (not hold))


def came(cluster, name):
    with cluster.reader() as reader:
        return next(
            iter(reader._query("SELECT count(*) FROM attempt WHERE worker = ? AND outcome = 'succeeded'", name))
        )[0]


async def test_what_a_living_worker_has_in_flight_stays_its_own_for_longer_than_a_dead_ones(slow_fleet):
    fleet = slow_fleet
    await fleet.submit(items(*"abcde"))
    fleet.impatient()
    await fleet.until_sent("w1", 5)
    fleet.impatient()
    outcome = await asyncio.wait_for(fleet.watch(items(*"abcde")), 40.0)
    assert (outcome.exit_code, await fleet.requests(), account(fleet)) == (0, 5, {"succeeded": 5})
