"""Nights in a cluster: workers that were given the same manifest submit each night once, whoever of them dies."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from batchgen.daemon.cluster_scheduler import ClusterScheduledJobs
from batchgen.daemon.schedule_leases import MAX_STARTS, ScheduleLeases
from batchgen.daemon.scheduled_jobs import timing_json
from batchgen.ledger.location import SHARED_SCHEMA
from batchgen.ledger.postgresql import PostgreSQL
from batchgen.manifest.schedule_section import Schedule
from batchgen.report.log_events import log_schema
from batchgen.schedule.due import DAY_S, SchedulePolicy, SkippedRun, WaitUntil
from tests.support.bench import items
from tests.support.cluster import HEAD, Cluster

JOB = "anywhere"


@pytest.fixture
def night(cluster, monkeypatch):
    """Two hours ago began a night that all workers have known of since yesterday."""
    monkeypatch.setenv("BATCHGEN_GEMINI_BASE_URL", cluster.url)
    monkeypatch.setenv("GEMINI_API_KEY", "for-the-emulator")
    made = Night(cluster)
    yield made
    made.database.close()


class Night:
    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.database = PostgreSQL(str(cluster.ledger), SHARED_SCHEMA)
        ScheduleLeases(self.database, "test").create_tables()
        due = datetime.now(UTC) - timedelta(hours=2)
        self.schedule = Schedule.model_validate({"at": f"{due:%H:%M}", "timezone": "UTC"})

    def manifest(self, name: str, prompts: str, more: str = "", counted: bool = True) -> Path:
        """A manifest in a folder of its own; all of them are one job, for they make the same pictures."""
        output = self.cluster.folder / "out"
        head = f"name: job\noutput: {output}\nschedule: {{at: '{self.schedule.at}', timezone: UTC{more}}}\n"
        path = self.cluster.folder / name / "job.yaml"
        path.parent.mkdir(exist_ok=True)
        path.write_text(head + HEAD + prompts)
        if counted:
            leases = ScheduleLeases(self.database, "test")
            leases.register(leases.job_key(output, str(output)), "job", timing_json(self.schedule))
            self.database.execute(f"UPDATE {SHARED_SCHEMA}.schedule SET since = since - {DAY_S / 2}")
        return path

    def rows(self, sql: str) -> list[Any]:
        return self.database.execute(sql).fetchall()

    def nights(self) -> list[Any]:
        return self.rows(f"SELECT worker, turn, exit_code, submitted FROM {SHARED_SCHEMA}.night")

    def runs(self) -> list[Any]:
        if not (found := self.rows(f"SELECT schema FROM {SHARED_SCHEMA}.job")):
            return []
        return self.rows(f"SELECT wanted, exit_code FROM {found[0][0]}.run ORDER BY id")


def child_of(pid: int) -> int | None:
    found = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return int(found[0]) if found else None


# --- with real workers


async def test_two_workers_submit_a_night_once_and_look_at_its_end_once(night):
    cluster = night.cluster
    one, two = night.manifest("one", items("a", "b", "c")), night.manifest("two", items("a", "b", "c"), counted=False)
    cluster.worker(str(one))
    cluster.worker(str(two))
    await cluster.until(lambda: [row[2:] for row in night.nights()] == [(0, 1)])
    assert (await cluster.requests(), len(cluster.pictures()), night.runs()) == (3, 3, [(3, 9), (0, 0)])
    said = cluster.said("w1") + cluster.said("w2")
    assert (said.count("begins (missed)"), said.count("begins (made)")) == (1, 1)
    assert [line["state"] for line in cluster.lines().values()] == ["succeeded"] * 3
    history = [sys.executable, "-m", "batchgen", "history", str(one), "--json"]
    shown = json.loads((await asyncio.to_thread(subprocess.run, history, capture_output=True)).stdout)
    assert [(run["job"], run["made"], run["exit_code"]) for run in shown] == [("job", 0, 0), ("job", 3, 9)]


async def test_a_winner_that_is_killed_half_way_is_replaced_and_nothing_is_submitted_twice(night):
    cluster, manifest = night.cluster, night.manifest("one", items("a", "b", "c"))
    first = cluster.worker(str(manifest))
    await cluster.until(lambda: bool(night.nights()) and child_of(first.pid) is not None)
    submitter = child_of(first.pid)
    first.send_signal(signal.SIGKILL)
    os.kill(submitter, signal.SIGKILL)
    await asyncio.to_thread(first.wait, 30.0)
    assert night.nights() == [("w1", 1, None, 0)]
    night.rows(f"UPDATE {SHARED_SCHEMA}.night SET heard = heard - 60 RETURNING 1")  # a minute later
    cluster.worker(str(night.manifest("two", items("a", "b", "c"), counted=False)))
    await cluster.until(lambda: [row[2:] for row in night.nights()] == [(0, 1)])
    assert (await cluster.requests(), [row[0] for row in night.nights()]) == (3, ["w2"])
    assert "begins (interrupted)" in cluster.said("w2")


async def test_a_wrong_manifest_is_said_and_the_others_go_on_and_every_line_of_the_log_is_of_the_schema(night):
    cluster, good = night.cluster, night.manifest("one", items("a"))
    wrong = cluster.folder / "wrong.yaml"
    wrong.write_text("schedule: '25:00'\n" + HEAD + items("a"))
    batches = cluster.folder / "batches.yaml"
    batches.write_text("schedule: {at: '01:30', engine: batch}\n" + HEAD + items("a"))
    worker = cluster.worker(
        str(wrong), str(batches), str(good), "--log-format", "json", "--log-file", str(cluster.folder / "log")
    )
    await cluster.until(lambda: [row[2] for row in night.nights()] == [0])
    worker.send_signal(signal.SIGTERM)
    assert await asyncio.to_thread(worker.wait, 30.0) == 143
    lines = [json.loads(line) for line in (cluster.folder / "log").read_text().splitlines()]
    checker = jsonschema.Draft202012Validator(log_schema())
    for line in lines:
        checker.validate(line)
    assert {line.get("worker") for line in lines} == {"w1"}
    assert {(line.get("job"), line.get("run")) for line in lines if line["event"] == "sample.ended"} == {("job", 1)}
    said = "\n".join(line["message"] for line in lines if line["event"] == "log.message")
    assert "wrong.yaml:1" in said and "engine: batch is not for workers" in said


def test_an_edited_manifest_counts_and_its_job_is_the_same_under_any_path(night):
    scheduled_jobs = ClusterScheduledJobs(
        [str(path := night.manifest("one", items("a")))], leases := ScheduleLeases(night.database, "w")
    )
    scheduled_jobs.reload(0.0)
    (before,) = night.rows(f"SELECT times, since FROM {SHARED_SCHEMA}.schedule")
    text = path.read_text()
    path.write_text(text.replace("schedule: {", "schedule: {days: mon, "))
    scheduled_jobs.reload(0.0)
    (after,) = night.rows(f"SELECT times, since FROM {SHARED_SCHEMA}.schedule")
    assert (json.loads(after[0])["days"], after[1] > before[1]) == ("mon", True)
    path.write_text("schedule: nonsense\n" + text)
    scheduled_jobs.reload(0.0)
    assert scheduled_jobs.jobs[path].schedule.days == "mon"
    other = ClusterScheduledJobs([str(night.manifest("two", items("a"), counted=False))], leases)
    other.reload(0.0)
    assert set(other.job_key.values()) == set(scheduled_jobs.job_key.values())


def test_a_job_in_a_bucket_is_known_by_the_bucket(night):
    path = night.cluster.folder / "job.yaml"
    path.write_text("output: s3://pictures/job\nschedule: '01:30'\n" + HEAD + items("a"))
    scheduled_jobs = ClusterScheduledJobs([str(path)], ScheduleLeases(night.database, "w"))
    scheduled_jobs.reload(0.0)
    assert scheduled_jobs.job_key == {path: "s3://pictures/job"}


# --- whose turn it is


@pytest.fixture
def rotas(database):
    """Two workers' views of one server, and its clock two hours after a night."""
    databases = [PostgreSQL(database, SHARED_SCHEMA), PostgreSQL(database, SHARED_SCHEMA)]
    found = [ScheduleLeases(each, f"w{number}") for number, each in enumerate(databases, 1)]
    found[0].create_tables()
    yield found
    for each in databases:
        each.close()


def schedule(hours_ago: float = 2.0, **more: Any) -> Schedule:
    due = datetime.now(UTC) - timedelta(hours=hours_ago)
    return Schedule.model_validate({"at": f"{due:%H:%M}", "timezone": "UTC", **more})


def rule(of: Schedule) -> SchedulePolicy:
    return SchedulePolicy(cadence=of.cadence, catch_up_s=of.catch_up_s)


def known_since(leases: ScheduleLeases, of: Schedule, seconds_ago: float = DAY_S / 2) -> None:
    leases.register(JOB, "job", timing_json(of))
    leases._database.execute(f"UPDATE {SHARED_SCHEMA}.schedule SET since = since - ?", (seconds_ago,))


def claim(leases: ScheduleLeases, of: Schedule) -> Any:
    return leases.claim(JOB, timing_json(of), rule(of))[0]


def pass_time(leases: ScheduleLeases, seconds: float) -> None:
    leases._database.execute(f"UPDATE {SHARED_SCHEMA}.night SET heard = heard - ?", (seconds,))


def test_only_one_of_many_that_ask_at_the_same_moment_gets_the_night(database, rotas):
    from concurrent.futures import ThreadPoolExecutor

    known_since(rotas[0], of := schedule())
    databases = [PostgreSQL(database, SHARED_SCHEMA) for _ in range(8)]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda each: claim(ScheduleLeases(each, "w"), of), databases))
    for each in databases:
        each.close()
    assert sorted(type(each).__name__ for each in found) == ["Lease"] + ["WaitUntil"] * 7


def test_a_schedule_counts_from_when_it_is_first_seen_and_another_one_counts_anew(rotas):
    rotas[0].register(JOB, "job", timing_json(of := schedule()))
    assert isinstance(claim(rotas[0], of), WaitUntil)
    known_since(rotas[0], of)
    rotas[1].register(JOB, "job", timing_json(of))
    other = schedule(hours_ago=1.0)
    rotas[1].register(JOB, "job", timing_json(other))
    assert isinstance(claim(rotas[1], other), WaitUntil)
    assert claim(rotas[0], of) is None


def test_a_night_that_nobody_has_any_more_is_taken_up_and_the_late_one_is_told(rotas):
    known_since(rotas[0], of := schedule())
    first = claim(rotas[0], of)
    assert isinstance(claim(rotas[1], of), WaitUntil) and rotas[0].renew(first)
    pass_time(rotas[0], 60.0)
    second = claim(rotas[1], of)
    assert (second.due.why, second.token, rotas[0].renew(first), rotas[1].renew(second)) == (
        "interrupted",
        2,
        False,
        True,
    )
    rotas[0].finish(first, 0, stopped=False)
    assert isinstance(claim(rotas[0], of), WaitUntil)
    rotas[1].finish(second, 143, stopped=True)
    assert claim(rotas[0], of).due.why == "interrupted"


def test_a_submitter_that_is_killed_each_time_is_not_begun_for_ever(rotas):
    known_since(rotas[0], of := schedule())
    for token in range(1, MAX_STARTS + 1):
        assert claim(rotas[0], of).token == token
        pass_time(rotas[0], 60.0)
    assert isinstance(claim(rotas[0], of), WaitUntil)


def test_a_night_that_is_too_long_ago_is_left_out_by_one_worker_alone(rotas):
    known_since(rotas[0], of := schedule(catch_up="1h"))
    assert isinstance(claim(rotas[0], of), SkippedRun)
    assert isinstance(claim(rotas[1], of), WaitUntil)


def test_what_was_submitted_is_never_submitted_again_only_looked_at(rotas):
    known_since(rotas[0], of := schedule())
    rotas[0].finish(claim(rotas[0], of), 9, stopped=False)
    look = claim(rotas[1], of)  # nothing of it is in the queue
    assert (look.due.why, isinstance(claim(rotas[0], of), WaitUntil)) == ("made", True)
    pass_time(rotas[0], 60.0)
    assert claim(rotas[0], of).due.why == "made"
