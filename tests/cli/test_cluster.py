"""What the command line says about a cluster: `doctor` of its server, `worker` that cannot begin, units that submit to it."""

from __future__ import annotations

import contextlib
import os
import plistlib
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from urllib.parse import urlsplit

import psycopg
import pytest
import yaml

from batchgen.engine.cluster import queue
from batchgen.ledger.lease import SERVER_NOW
from batchgen.ledger.location import SHARED_SCHEMA
from batchgen.ledger.postgresql import PostgreSQL
from tests.docs.pages import blocks, page
from tests.support.fork_server import PYTHON
from tests.support.pgbouncer import pooling
from tests.support.postgres import PASSWORD, running
from tests.support.work import job

GIVEN = ("--at", "01:30", "--", "--engine", "cluster")


def checks(answer) -> dict[str, tuple[str, str]]:
    return {check["what"]: (check["verdict"], check["says"]) for check in answer.json["checks"]}


# --- doctor


def test_doctor_looks_at_the_server_that_is_named_and_writes_nothing_there(batchgen, database, monkeypatch):
    monkeypatch.setenv("BATCHGEN_LEDGER", database)
    found = checks(batchgen("doctor", "--json"))
    assert {what: verdict for what, (verdict, _) in found.items() if what.startswith(("ledger", "queue", "worker"))} == {
        "ledger": "ok", "ledger rights": "ok", "ledger clock": "ok", "queue": "ok",
    }  # fmt: skip
    assert "PostgreSQL 1" in found["ledger"][1] and PASSWORD not in str(found)
    with psycopg.connect(database) as connection:
        assert connection.execute("SELECT to_regnamespace('batchgen')").fetchone() == (None,)


def test_doctor_counts_workers_and_what_waits_for_one(batchgen, database, monkeypatch):
    monkeypatch.setenv("BATCHGEN_LEDGER", database)
    server = PostgreSQL(database, SHARED_SCHEMA)
    queue.migrate(database)
    assert checks(batchgen("doctor", "--json"))["workers"] == ("ok", "0 workers alive, 0 samples in the queue")
    job(database, "a", ("x", 0, 1)).close()
    assert checks(batchgen("doctor", "--json"))["workers"][0] == "warn"
    server.execute(
        f"INSERT INTO {SHARED_SCHEMA}.worker VALUES ('w1', 'h', 1, 5, 0, {SERVER_NOW}), ('gone', 'h', 1, 5, 0, 0)"
    )
    assert checks(batchgen("doctor", "--json"))["workers"] == ("ok", "1 worker alive, 1 sample in the queue: w1")
    server.execute(
        f"UPDATE {SHARED_SCHEMA}.queue_tables SET version = '03.04.00_50_post_add_retry_failed_job_procedure'"
    )
    assert "earlier version" in checks(batchgen("doctor", "--json"))["queue"][1]
    server.execute(f"UPDATE {SHARED_SCHEMA}.queue_tables SET version = 'batchgen 99'")
    assert checks(batchgen("doctor", "--json"))["queue"][0] == "fail"
    server.close()


def test_doctor_says_what_is_amiss_with_the_server_and_never_its_password(batchgen, database, monkeypatch):
    monkeypatch.setenv("BATCHGEN_LEDGER", database.replace(PASSWORD, "another-word"))
    answer = batchgen("doctor")
    assert (answer.code, "another-word" in answer.out + answer.err) == (5, False)
    assert "fail  ledger" in answer.out and "PGPASSWORD" in answer.out
    user = f"poor_{database.rpartition('_')[2]}"
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute(f"CREATE USER {user} PASSWORD 'poor-word'")
    parts = urlsplit(database)
    monkeypatch.setenv("BATCHGEN_LEDGER", f"postgresql://{user}:poor-word@{parts.hostname}:{parts.port}{parts.path}")
    answer = batchgen("doctor")
    assert (answer.code, f'GRANT CREATE ON DATABASE "{parts.path[1:]}" TO "{user}"' in answer.out) == (5, True)
    monkeypatch.setenv("BATCHGEN_LEDGER", "mysql://here/there")
    assert "write postgresql://" in batchgen("doctor").out


def test_doctor_counts_the_connections_that_are_left_and_refuses_when_no_worker_finds_room(batchgen, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", None)  # the server's user may not enter this test's folder
    with running("max_connections=10", "superuser_reserved_connections=2") as server, contextlib.ExitStack() as stack:
        monkeypatch.setenv("BATCHGEN_LEDGER", server.url())
        says = "max_connections 10, 2 reserved, {} in use: room for {} of at most 4 connections each"
        assert checks(batchgen("doctor", "--json"))["connections"] == ("ok", says.format(0, "2 more workers"))
        for _ in range(5):
            stack.enter_context(psycopg.connect(server.url()))
        answer = batchgen("doctor")
        assert (answer.code, says.format(5, "0 more workers") in answer.out) == (5, True)
        assert "raise max_connections in its postgresql.conf" in answer.out
        with contextlib.suppress(psycopg.OperationalError):
            while True:
                stack.enter_context(psycopg.connect(server.url()))
        answer = batchgen("doctor")
        assert (answer.code, "All its connections are in use" in answer.out) == (5, True)


def test_doctor_sees_that_a_pooler_stands_before_the_server(batchgen, postgres, database, monkeypatch):
    with pooling(postgres) as port:
        monkeypatch.setenv("BATCHGEN_LEDGER", database.replace(f":{postgres.port}/", f":{port}/"))
        assert "max_client_conn" in checks(batchgen("doctor", "--json"))["connections"][1]


# --- worker


def test_a_worker_that_cannot_begin_says_why_and_leaves_with_a_code_that_tells(batchgen, database, monkeypatch):
    assert (batchgen("worker").code, batchgen("worker", "--ledger", "nonsense").code) == (2, 5)
    wrong = batchgen("worker", "--ledger", database.replace(PASSWORD, "another-word"))
    assert (wrong.code, "another-word" in wrong.err, "Traceback" in wrong.err) == (5, False, False)


def test_a_worker_that_is_given_a_manifest_says_who_submits_nights_instead(batchgen, database):
    answer = batchgen("worker", "--ledger", database, "--until-empty", "job.yaml")
    assert (answer.code, answer.out) == (2, "")
    for words in ("takes no manifest", "--engine cluster --no-wait", "CronJob", "batchgen daemon"):
        assert words in answer.err


@pytest.mark.parametrize("given", ["x", "70000", ":9464", "::1:9464", "[::1]9464", "a b:1"])
def test_an_address_that_is_none_is_refused(batchgen, given):
    answer = batchgen("worker", "--metrics", given)
    assert (answer.code, "write 9464, 0.0.0.0:9464 or [::]:9464" in answer.err) == (2, True)


def test_metrics_without_the_library_or_on_a_port_that_is_taken_end_a_worker_before_it_begins(batchgen, monkeypatch):
    monkeypatch.setenv("BATCHGEN_LEDGER", "postgresql://nobody@127.0.0.1:1/nothing")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        answer = batchgen("worker", "--metrics", port)
        assert (answer.code, f"cannot listen on 127.0.0.1 port {port}" in answer.err, "--metrics 0" in answer.err) == (
            5,
            True,
            True,
        )
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    answer = batchgen("worker", "--metrics", "0")
    assert (answer.code, "batchgen[metrics]" in answer.err) == (2, True)


def test_the_health_file_stays_fresh_while_the_server_is_away(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", None)  # the server's user may not enter this test's folder
    with running() as server:
        health = tmp_path / "alive"
        command = [PYTHON, "-m", "batchgen", "worker", "--health-file", str(health)]
        environment = {**os.environ, "BATCHGEN_LEDGER": server.url()}
        with open(tmp_path / "log", "wb") as log:
            worker = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
        try:
            _until(health.is_file)
            server.stop()
            gone_at = time.time()
            _until(lambda: health.stat().st_mtime > gone_at + 2.0)
            server.start()
            worker.send_signal(signal.SIGTERM)
            assert worker.wait(60.0) == 143
        finally:
            worker.kill()
            worker.wait()
        assert "Traceback" not in (tmp_path / "log").read_text()


def _until(true, seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it never happened"
        time.sleep(0.05)


# --- schedule


def test_a_unit_that_submits_reads_the_ledgers_address_from_a_file_and_needs_no_key(
    batchgen, write, tmp_path, monkeypatch
):
    monkeypatch.delenv("GEMINI_API_KEY", raising=False)
    monkeypatch.setenv("BATCHGEN_LEDGER", "postgresql://u:secret-of-mine@h/d")
    address = tmp_path / "ledger"
    manifest = str(write({"a": "A mug"}))
    options = ("--key-file", f"BATCHGEN_LEDGER={address}")
    unit = batchgen("schedule", manifest, "--as", "systemd", *options, *GIVEN)
    assert unit.code == 0, unit.err
    assert f"LoadCredential=batchgen_ledger:{address}" in unit.out and "--engine cluster" in unit.out
    assert 'Environment="BATCHGEN_LEDGER_FILE=%d/batchgen_ledger"' in unit.out
    assert "API_KEY" not in unit.out and "secret-of-mine" not in unit.out + unit.err


def test_a_cron_job_that_submits_has_the_ledgers_address_as_a_secret(batchgen, write):
    head = "schedule: {at: '01:30', engine: cluster}\n"
    answer = batchgen("schedule", str(write({"a": "A mug"}, head=head)), "--as", "kubernetes")
    (container,) = yaml.safe_load(answer.out)["spec"]["jobTemplate"]["spec"]["template"]["spec"]["containers"]
    assert container["command"][-3:] == ["--engine", "cluster", "--later-ok"]
    names = [entry["name"] for entry in container["env"]]
    assert "BATCHGEN_LEDGER_FILE" in names and not any("API_KEY" in name for name in names)
    assert "--from-file=batchgen_ledger=FILE" in answer.err


def test_launchd_and_cron_know_it_too(batchgen, write):
    manifest = str(write({"a": "A mug"}))
    agent = plistlib.loads(batchgen("schedule", manifest, "--as", "launchd", *GIVEN).out.encode())
    assert list(agent["EnvironmentVariables"]) == ["BATCHGEN_LEDGER_FILE"]
    assert re.search(r"BATCHGEN_LEDGER_FILE=\S+ nice", batchgen("schedule", manifest, "--as", "cron", *GIVEN).out)


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="NOT TESTED: there is no systemd-analyze here")
def test_the_workers_unit_of_the_manual_is_one_that_systemd_takes(tmp_path):
    (unit,) = blocks(page("cluster"), "ini")
    path = tmp_path / "batchgen-worker.service"
    path.write_text(unit.replace("%h/.local/bin/batchgen", "/bin/true"))
    command = ["systemd-analyze", "verify", "--user", "--man=no", path]
    environment = {**os.environ, "XDG_RUNTIME_DIR": str(tmp_path)}
    answer = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert (answer.returncode, path.name in answer.stderr) == (0, False), answer.stderr
