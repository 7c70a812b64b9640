"""The ledger, the job folder or the file of all jobs' spend goes away in the middle of a run."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest

from batchgen.engine.pacing import STORE_SLOTS
from tests.support.command_line import remedy, requests, until
from tests.support.marked_key import KEY

COUNT, AT_ONCE = 30, 4
MOST_IN_THE_AIR = 2 * AT_ONCE + STORE_SLOTS  # requests in flight, and answers that are being checked and written
HEAD = f"defaults: {{model: flash}}\nlimits: {{concurrency: {AT_ONCE}%s}}\nmodels: {{flash: {{rpm: 6000}}}}\n"
LATENCY = "0.3"


@pytest.fixture
def running(write, emulator, spawn, monkeypatch, tmp_path):
    """Start a run as a process, and answer it with the emulator's address once some pictures are there."""
    monkeypatch.setenv("GEMINI_API_KEY", KEY)
    (tmp_path / "temp").mkdir()

    def start(limits: str = "", least: int = 2):
        url = emulator("--latency", LATENCY, "--rpm", "0")
        manifest = write({f"cup-{n}": f"A cup, number {n}" for n in range(COUNT)}, head=HEAD % limits)
        process = spawn("run", str(manifest), "--no-progress", TMPDIR=str(tmp_path / "temp"))
        until(lambda: len(pictures(manifest.with_name("job"))) >= least)
        return manifest, process, url

    return start


def pictures(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("*.jpg"))


def ended(process) -> tuple[int, str]:
    """The exit code, and what was said."""
    _, err = process.communicate(timeout=30)
    return process.returncode, err


def lines(folder: Path) -> list[str]:
    return sorted(json.loads(line)["id"] for line in (folder / "results.jsonl").read_text().splitlines())


@pytest.mark.parametrize("what", ["the state folder", "the ledger", "another in its place"])
def test_a_ledger_that_goes_stops_the_run_and_no_picture_is_lost_or_bought_again(batchgen, running, what):
    manifest, process, url = running()
    folder = manifest.with_name("job")
    if what == "the state folder":
        shutil.rmtree(folder / ".batchgen", ignore_errors=True)
    else:
        ledger = folder / ".batchgen" / "ledger.sqlite"
        ledger.unlink()
        if what.startswith("another"):
            ledger.write_bytes(b"")
    code, said = ended(process)
    sent = requests(url)
    assert (code, sent < COUNT - AT_ONCE) == (5, True), said
    assert "ledger.sqlite has gone: it was deleted, moved or replaced while it was in use" in said
    assert f"Every image that was made is in {folder}" in said
    assert "Traceback" not in said and "is lost" not in said
    made = pictures(folder)
    assert (len(made), lines(folder)) == (sent, [name.removesuffix(".jpg") for name in made]), said
    again = batchgen("run", str(manifest))
    assert (again.code, requests(url)) == (5, sent), again.err
    assert batchgen(*remedy(said)).code == 0
    assert batchgen("run", str(manifest)).code == batchgen("verify", str(manifest)).code == 0
    assert (requests(url), len(pictures(folder))) == (COUNT, COUNT)


@pytest.mark.parametrize("how", ["moved", "an empty one in its place"])
def test_when_the_folder_goes_it_is_said_where_each_picture_lies_and_the_next_run_has_them(
    batchgen, running, how, tmp_path, monkeypatch
):
    manifest, process, url = running()
    folder = manifest.with_name("job")
    folder.rename(tmp_path / "away")
    if how != "moved":
        folder.mkdir()
    code, said = ended(process)
    sent, strays = requests(url), sorted((tmp_path / "temp").iterdir())
    assert code == 5, said
    told = dict(re.findall(r"the image of (\S+) lies in (\S+): the next run picks it up", said))
    assert (sorted(map(Path, told.values())), 1 <= len(strays) <= MOST_IN_THE_AIR) == (strays, True), said
    assert f"Bring {folder} back to where it was and run again" in said and "is lost and" not in said
    if how != "moved":
        assert list(folder.iterdir()) == []
        folder.rmdir()
    (tmp_path / "away").rename(folder)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temp"))
    answer = batchgen("run", str(manifest))
    assert answer.code == 0, answer.err
    assert answer.err.count("found in the temporary folder and need not be bought again") == len(strays)
    assert (requests(url), len(pictures(folder)), list((tmp_path / "temp").iterdir())) == (COUNT, COUNT, [])
    assert sent < COUNT


def test_when_the_folder_is_deleted_what_was_saved_can_be_brought_home(batchgen, running, tmp_path):
    manifest, process, url = running()
    folder = manifest.with_name("job")
    while folder.exists():
        shutil.rmtree(folder, ignore_errors=True)
    code, said = ended(process)
    assert code == 5, said
    told = dict(re.findall(r"the image of (\S+) lies in (\S+): the next run picks it up", said))
    folder.mkdir()
    for item, path in told.items():  # as it is said: under the names of their items
        shutil.copy(path, folder / f"{item}.jpg")
    sent = requests(url)
    assert batchgen("run", str(manifest)).code == 5
    assert batchgen(*remedy(said)).code == 0
    assert batchgen("run", str(manifest)).code == 0
    assert requests(url) == sent + COUNT - len(told)


@pytest.mark.parametrize(("limits", "code"), [("", 0), (", budget_usd_per_day: 50", 5), (", usd_per_10_min: 50", 5)])
def test_money_that_other_jobs_spend_too_is_never_counted_alone_from_the_middle_of_a_run_on(
    batchgen, running, limits, code, tmp_path
):
    manifest, process, url = running(limits)
    (tmp_path / "state" / "batchgen" / "quota.sqlite").unlink()
    found, said = ended(process)
    assert found == code, said
    if code:
        assert "counts what all jobs spend. That is counted in" in said and "quota.sqlite" in said
        assert requests(url) < COUNT and len(pictures(manifest.with_name("job"))) == requests(url)
        assert batchgen("run", str(manifest)).code == 0  # the file is made again, with what this job has spent
    else:
        assert "not shared with other runs from here on" in said
    assert (requests(url), len(pictures(manifest.with_name("job")))) == (COUNT, COUNT)
