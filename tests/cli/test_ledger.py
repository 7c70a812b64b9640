"""A ledger in PostgreSQL at the command line: every command finds it, and nobody sees the password."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from batchgen.cli.daemon import run_command
from batchgen.cli.main import cli
from batchgen.daemon.scheduled_jobs import ScheduledJobs
from batchgen.ledger.server_connection import is_unambiguous_url, passwords_in_url, redacted
from batchgen.settings import environment_without_keys
from tests.support.postgres import PASSWORD

OF_JOBS = {
    "run",
    "mcp",
    "plan",
    "post",
    "retry",
    "review",
    "status",
    "history",
    "report",
    "serve",
    "verify",
    "export",
    "daemon",
    "doctor",
    "worker",
    "cancel",
}


@pytest.fixture
def made(batchgen, write, database) -> Path:
    """A job whose run was told where its ledger goes."""
    path = write(
        {"mug": "a mug", "bad": "[[fault:safety]] b"},
        head="defaults: {model: flash}\npost: [{name: t, format: png, width: 9}]\n",
    )
    answer = batchgen("run", str(path), "--emulate", "--ledger", database, "--json")
    assert (answer.code, answer.json["samples"]) == (3, {"refused": 1, "succeeded": 1})
    return path


def folder_of(manifest: Path) -> Path:
    return manifest.with_name("job.emulated")


def test_every_command_that_reads_or_writes_ledgers_can_be_told_where_they_are(batchgen):
    told = {name for name in cli.commands if "--ledger" in batchgen(name, "--help").out}
    assert told == OF_JOBS


def test_the_option_holds_for_its_command_alone(made):
    assert "BATCHGEN_LEDGER" not in os.environ


@pytest.mark.parametrize(
    "line",
    ["status", "status --json", "history", "history --json", "verify --json", "export", "post", "report", "retry --refused --yes"],
)  # fmt: skip
def test_what_knows_the_folder_finds_the_server(batchgen, made, database, line):
    name, *options = line.split()
    answer = batchgen(name, str(folder_of(made)), *options, "--ledger", database)
    assert answer.code == (4 if name == "retry" else 0), answer
    assert PASSWORD not in answer.out + answer.err
    assert not (folder_of(made) / ".batchgen" / "ledger.sqlite").exists()


def test_a_plan_counts_what_the_server_has(batchgen, made, database):
    plan = batchgen("plan", str(made), "--emulate", "--json", "--ledger", database).json
    assert (plan["kept"], plan["skipped"]) == (1, 1)


def test_the_variable_its_file_and_an_env_file_say_it_too(batchgen, write, tmp_path, database, monkeypatch):
    path = write({"a": "a"}, head="defaults: {model: flash}\n")
    (tmp_path / ".env").write_text(f"BATCHGEN_LEDGER={database}\n")
    (tmp_path / ".env").chmod(0o600)
    elsewhere = str(tmp_path / "far" / "out")
    assert batchgen("run", str(path), "--emulate", "--output", elsewhere).code == 0
    assert batchgen("status", str(path), "--output", elsewhere).code == 0
    (tmp_path / ".env").rename(tmp_path / "secret")
    (tmp_path / "secret").write_text(database)
    assert batchgen("status", elsewhere).code == 5
    monkeypatch.setenv("BATCHGEN_LEDGER_FILE", str(tmp_path / "secret"))
    assert batchgen("status", elsewhere).code == 0
    monkeypatch.setenv("BATCHGEN_LEDGER", database)
    assert batchgen("status", elsewhere).code == 0
    (tmp_path / "secret").unlink()  # or the search for the password would find it


def test_without_a_password_it_is_said_where_one_comes_from(batchgen, made, database):
    answer = batchgen("status", str(folder_of(made)), "--ledger", redacted(database))
    assert answer.code == 5
    assert "BATCHGEN_LEDGER, PGPASSWORD or ~/.pgpass" in answer.err


@pytest.mark.parametrize(
    "given", ["nonsense", "postgresql://u:sesame/x@h/d", "postgresql://u:se@same@h/d", "mysql://u:sesame@h/d"]
)
def test_what_is_no_address_is_refused_and_not_repeated(batchgen, write, given):
    answer = batchgen("run", str(write({"a": "a"})), "--emulate", "--ledger", given)
    assert answer.code == 5
    assert "--ledger: not the address of a ledger" in answer.err
    assert "same" not in answer.err


def test_a_server_that_is_not_there_is_one_line_without_the_password(batchgen, write, tmp_path, monkeypatch):
    monkeypatch.setattr("batchgen.ledger.postgresql.RECONNECT_TIMEOUT_S", 0.0)
    answer = batchgen(
        "run", str(write({"a": "a"})), "--emulate", "--json", "--ledger", f"postgresql://u:{PASSWORD}@127.0.0.1:1/d",
        "--log-file", str(tmp_path / "log"),
    )  # fmt: skip
    assert (answer.code, answer.json["error"]) == (5, "LedgerUnreachable")
    assert "postgresql://u@127.0.0.1:1/d cannot be used" in answer.json["message"]
    assert PASSWORD not in answer.out + answer.err + (tmp_path / "log").read_text()


def test_a_traceback_holds_no_password_in_any_form(batchgen, write, tmp_path, monkeypatch):
    url = "postgresql://u:never%2Fshown-pass@127.0.0.1:1/d"

    def fail(*_: object, **__: object) -> None:
        raise RuntimeError(f"{url} and never/shown-pass")

    monkeypatch.setattr("batchgen.api.plan", fail)
    answer = batchgen("plan", str(write({"a": "a"})), "--ledger", url)
    (file,) = tmp_path.glob("*.traceback.txt")
    text = answer.err + file.read_text()
    assert answer.code == 1
    assert "127.0.0.1" in text
    assert "shown-pass" not in text


def test_repair_says_that_a_server_has_backups(batchgen, made, database):
    answer = batchgen("verify", str(folder_of(made)), "--repair", "--ledger", database)
    assert answer.code == 2
    assert "Restore that one from the server's backups" in answer.err


def test_doctor_looks_whether_the_server_lets_us_in(batchgen, database):
    found = {check["what"]: check for check in batchgen("doctor", "--json", "--ledger", database).json["checks"]}
    assert found["ledger"]["verdict"] == "ok"
    assert found["ledger"]["says"].startswith("PostgreSQL ")
    answer = batchgen("doctor", "--json", "--ledger", database.replace(PASSWORD, "wrong-word"))
    (check,) = [check for check in answer.json["checks"] if check["what"] == "ledger"]
    assert (answer.code, check["verdict"]) == (5, "fail")
    assert "wrong-word" not in answer.out + answer.err


def test_nights_of_the_daemon_are_told_by_their_environment(batchgen, write, database, monkeypatch):
    path = write({"a": "a"}, head='defaults: {model: flash}\nschedule: "00:00"\n')
    answer = batchgen("daemon", str(path), "--once", "--emulate", "--ledger", database)
    pointer = folder_of(path) / ".batchgen" / "ledger.json"
    if pointer.exists():  # a night was due
        assert "server" in json.loads(pointer.read_text())
    assert PASSWORD not in answer.out + answer.err
    monkeypatch.setenv("BATCHGEN_LEDGER", database)
    command, environ = run_command(*_due(path), emulate=True, log_format="text")
    assert environ["BATCHGEN_LEDGER"] == database
    assert PASSWORD not in " ".join(command)


def _due(path: Path):
    from batchgen.schedule.due import DueRun

    scheduled_jobs = ScheduledJobs((str(path),), path.parent / "diaries", persistent=False)
    scheduled_jobs.reload(0.0)
    (job,) = scheduled_jobs.jobs.values()
    scheduled_jobs.close()
    return job, DueRun(0.0, "due")


def test_a_process_that_makes_derivatives_has_no_business_with_it(monkeypatch, database):
    for name in ("BATCHGEN_LEDGER", "BATCHGEN_LEDGER_FILE", "PGPASSWORD"):
        monkeypatch.setenv(name, database)
    assert database not in environment_without_keys().values()


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("postgresql://u:p%40w@h:5432/d?sslmode=require&password=q", "postgresql://u@h:5432/d?sslmode=require"),
        ("postgresql://u:pw@h1:1,h2:2/d?target_session_attrs=read-write", "postgresql://u@h1:1,h2:2/d?target_session_attrs=read-write"),
        ("postgres://u:pw@[::1]:5/d", "postgres://u@[::1]:5/d"),
        ("postgresql:///d?host=/run/postgresql&options=x", "postgresql:///d?host=/run/postgresql"),
    ],
)  # fmt: skip
def test_of_an_address_all_is_shown_but_what_lets_one_in(url, words):
    assert (is_unambiguous_url(url), redacted(url)) == (True, words)
    assert passwords_in_url(redacted(url)) == set()


def test_nothing_of_it_is_loaded_where_no_server_is_named(python, write):
    path = write({"a": "a"}, head="defaults: {model: flash}\n")
    answer = python(
        "import sys; from batchgen.cli.main import run_command_line as run;"
        f"codes = [run(['run', {str(path)!r}, '--emulate', '-q']), run(['status', {str(path)!r}])];"
        "print(codes, [name for name in sys.modules if name.split('.')[0] == 'psycopg'], file=sys.stderr)"
    )
    assert answer.err.strip().endswith("[0, 0] []")
