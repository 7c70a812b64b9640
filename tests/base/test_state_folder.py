"""Where the spend of all jobs is counted, in surroundings with half a home or none; and budgets that need it."""

from __future__ import annotations

import os
import pwd
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

import batchgen
from batchgen.emulator import EmulatorOptions, serve
from batchgen.errors import LedgerError
from batchgen.ledger import quota_database as quota_module
from batchgen.ledger.quota_database import FILE_NAME
from batchgen.ledger.quota_store import open_quota_store
from batchgen.settings import Settings, config_home, state_folder
from tests.support.bench import Bench, items
from tests.support.fork_server import PYTHON
from tests.support.marked_key import KEY
from tests.support.paths import ROOT

BELOW = Path(".local", "state", "batchgen")
# The program as another user meets it, whose password entry has another home, or none.
AS_ANOTHER_USER = """
import pwd, sys, types
home = sys.argv.pop(1)
def entry(uid):
    if not home:
        raise KeyError(uid)
    return types.SimpleNamespace(pw_dir=home)
pwd.getpwuid = entry
from batchgen.__main__ import main
main()
"""
LIMITS = {
    "a day": "budget_usd_per_day: 0.10",
    "a month": "budget_usd_per_month: 0.10",
    "ten minutes": "usd_per_10_min: 1",
    "a tier": "tier: 1",
}


@pytest.fixture
def program(emulator_process, tmp_path):
    """Run a job of three images as a process; answers its exit code, what it said, and what is new in its folder."""

    def run(limits: str, entry: str, name: str = "job", **environ: str) -> tuple[int, str, set[str]]:
        here = tmp_path / "here"
        here.mkdir(exist_ok=True)
        head = f"defaults: {{model: flash}}\nlimits: {{{limits}}}\nitems:\n"
        (here / f"{name}.yaml").write_text(head + items(*(f"{name} {n}" for n in range(3))))
        before = {path.name for path in here.iterdir()}
        done = subprocess.run(
            [PYTHON, "-c", AS_ANOTHER_USER, entry, "run", f"{name}.yaml", "--yes"], cwd=here, check=False,
            env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "GEMINI_API_KEY": KEY,
                 "BATCHGEN_GEMINI_BASE_URL": emulator_process, **environ},
            capture_output=True, text=True, timeout=60,
        )  # fmt: skip
        return done.returncode, done.stderr, {path.name for path in here.iterdir()} - before

    return run


@pytest.fixture(scope="module")
def emulator_process():
    process = subprocess.Popen(
        [PYTHON, "-m", "batchgen.emulator", "--picture", "tiny", "--latency", "0", "--rpm", "0"],
        stdout=subprocess.PIPE, text=True, cwd=ROOT,
    )  # fmt: skip
    yield process.stdout.readline().removeprefix("listening on ").strip()
    process.kill()
    process.communicate()


# --- where it is


@pytest.mark.parametrize(
    ("environ", "entry", "expected"),
    [
        ({"XDG_STATE_HOME": "{}/x", "HOME": "{}/h"}, "{}/p", "x/batchgen"),
        ({"XDG_STATE_HOME": "x", "HOME": "{}/h"}, "{}/p", f"h/{BELOW}"),
        ({"HOME": "{}/h"}, "{}/p", f"h/{BELOW}"),
        ({"HOME": "h"}, "{}/p", f"p/{BELOW}"),
        ({"HOME": ""}, "{}/p", f"p/{BELOW}"),
        ({}, "{}/p", f"p/{BELOW}"),
        ({"HOME": "{}/a file", "STATE_DIRECTORY": "{}/s"}, "{}/p", f"p/{BELOW}"),
        ({"HOME": "{}/a file", "STATE_DIRECTORY": "{}/s"}, "{}/a file", "s/batchgen"),
        ({"STATE_DIRECTORY": "{}/one:{}/two"}, "", "one/batchgen"),
        ({"STATE_DIRECTORY": "{}/a file:{}/two"}, "", "two/batchgen"),
        ({"STATE_DIRECTORY": "s"}, "p", None),
        ({"HOME": "{}/a file"}, "", f"a file/{BELOW}"),  # named in the message that it cannot be used
        ({}, "", None),
    ],
)
@pytest.mark.skipif(sys.platform != "linux", reason="where other systems keep state is platformdirs' to know")
def test_the_first_place_that_is_absolute_and_can_be_written_is_taken(tmp_path, monkeypatch, environ, entry, expected):
    def password_entry(_: int) -> SimpleNamespace:
        if not entry:
            raise KeyError
        return SimpleNamespace(pw_dir=entry.format(tmp_path))

    (tmp_path / "a file").write_text("no folder")
    monkeypatch.setattr(pwd, "getpwuid", password_entry)
    for name in ("XDG_STATE_HOME", "HOME", "STATE_DIRECTORY"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environ.items():
        monkeypatch.setenv(name, value.replace("{}", str(tmp_path)))
    found = state_folder(Settings.load())
    assert found == (None if expected is None else tmp_path / expected)
    assert {path.name for path in tmp_path.iterdir()} == {"a file"}


def test_units_and_keys_are_never_looked_for_below_the_working_directory(tmp_path, monkeypatch):
    monkeypatch.setattr(pwd, "getpwuid", lambda _: SimpleNamespace(pw_dir=str(tmp_path / "p")))
    monkeypatch.setenv("XDG_CONFIG_HOME", "c")
    monkeypatch.setenv("HOME", "h")
    assert config_home() == tmp_path / "p" / ".config"


# --- what a run does with it


@pytest.mark.parametrize("span", ["a day", "a month"])
def test_without_home_one_budget_still_counts_all_jobs(program, tmp_path, span):
    home = str(tmp_path / "home")
    first, second = program(LIMITS[span], home, "one"), program(LIMITS[span], home, "two", HOME="h", XDG_STATE_HOME="x")
    assert (first[0], second[0]) == (6, 6), first[1] + second[1]
    assert (first[2], second[2]) == ({"one"}, {"two"})  # and nothing below a relative HOME
    assert not list((tmp_path / "here" / "two").glob("*.jpg"))
    assert (tmp_path / "home" / BELOW / FILE_NAME).is_file()


@pytest.mark.parametrize("span", LIMITS)
def test_without_any_folder_a_budget_over_jobs_is_refused_and_nothing_is_sent(program, span):
    code, said, new = program(LIMITS[span], "")
    assert code == 5, said
    assert "there is no folder to keep that in: set HOME or XDG_STATE_HOME to an absolute path" in said
    assert "StateDirectory=batchgen" in said and not new & {"x", "h"}


def test_without_any_folder_and_without_such_a_budget_it_runs_with_a_note(program):
    code, said, new = program("budget_usd: 9", "", HOME="h", XDG_STATE_HOME="x")
    assert (code, new, "quota and spend are not shared with other runs" in said) == (0, {"job"}, True), said


def test_a_unit_without_a_home_counts_in_its_state_directory_and_says_why(program, tmp_path):
    (tmp_path / "a file").write_text("as unreachable as a home behind ProtectHome=")
    home = {"HOME": str(tmp_path / "a file"), "STATE_DIRECTORY": f"{tmp_path}/unit"}
    code, said, _ = program(LIMITS["a day"], str(tmp_path / "a file"), **home)
    assert code == 6, said
    assert f"quota and spend are counted in {tmp_path}/unit/batchgen: {tmp_path}/a file/" in said
    assert (tmp_path / "unit" / "batchgen" / FILE_NAME).is_file()


@pytest.mark.parametrize("harm", ["no database", "a folder in its place", "no folder can be made"])
async def test_a_file_that_cannot_be_used_ends_a_budget_over_jobs_before_anything_is_sent(tmp_path, state_home, harm):
    if harm == "no folder can be made":
        state_home.write_text("a file stands where the folder should be")
    else:
        (state_home / "batchgen").mkdir(parents=True)
        if harm == "no database":
            (state_home / "batchgen" / FILE_NAME).write_text(
                "no database at all, and long enough to be seen as such" * 20
            )
        else:
            (state_home / "batchgen" / FILE_NAME).mkdir()
    async with await serve(EmulatorOptions(latency_s=(0.0, 0.0), picture="tiny", rpm=0)) as emulator:
        bench = Bench(emulator.base_url, tmp_path)
        environ = {
            "XDG_STATE_HOME": str(state_home), "BATCHGEN_GEMINI_BASE_URL": emulator.base_url, "GEMINI_API_KEY": KEY,
        }  # fmt: skip
        for limits, refused in (("budget_usd_per_day: 9", True), ("tier: 1", True), ("budget_usd: 9", False)):
            path = bench.manifest(items("a"), f"defaults: {{model: flash}}\nlimits: {{{limits}}}\nitems:\n")
            job = batchgen.load(path, environ=environ)
            if not refused:
                assert (await batchgen.run(job)).made == 1
                continue
            with pytest.raises(
                LedgerError, match=f"counts what all jobs spend. That is counted in {state_home}/batchgen/{FILE_NAME}"
            ) as no:
                await batchgen.run(job)
            assert (no.value.exit_code, await bench.requests()) == (5, 0)
            if harm == "no database":
                with pytest.raises(LedgerError, match="counts what all jobs spend"):
                    batchgen.plan(job)


def test_a_file_that_another_process_keeps_locked_is_no_reason_to_count_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(quota_module, "BUSY_S", 0.1)
    open_quota_store(tmp_path, print).close()
    other = sqlite3.connect(tmp_path / FILE_NAME, isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    began_s = time.monotonic()
    with pytest.raises(LedgerError, match="locked"):
        open_quota_store(tmp_path, print, counts_money=True)
    assert time.monotonic() - began_s < 5.0
    other.close()
