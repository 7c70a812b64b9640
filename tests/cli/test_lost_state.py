"""A ledger that was left behind is missed: nothing is bought again, and the remedy that is printed works."""

from __future__ import annotations

import json
import shutil
import sqlite3
import subprocess
from contextlib import closing
from pathlib import Path

import pytest

from batchgen.report.dashboard.actions import ActionRefused, Actions
from batchgen.report.dashboard.job_card import JobLocation
from batchgen.report.dashboard.watched_job import WatchedJob
from batchgen.report.gallery_data import ManifestInfo
from tests.support.command_line import FLASH, ITEMS, remedy, requests


def visible(folder: Path) -> dict[str, bytes]:
    """What `cp folder/* elsewhere` takes."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    }


@pytest.fixture
def copied(job, tmp_path):
    """The manifest of a job whose folder was copied as people do it, and the original is gone."""
    folder = job.with_name("job")
    folder.rename(tmp_path / "original")
    folder.mkdir()
    subprocess.run(["sh", "-c", 'cp -r "$0"/* "$1"', tmp_path / "original", folder], check=True)
    assert not (folder / ".batchgen").exists()
    return job


def test_every_command_says_that_the_ledger_is_missing_and_touches_nothing(batchgen, copied, place):
    folder, sent, before = copied.with_name("job"), requests(place), visible(copied.with_name("job"))
    for_both = ["retry --failed", "status", "post", "export", "report", "verify"]
    lines = [(line, copied) for line in ("run", "plan", *for_both)] + [(line, folder) for line in for_both]
    for line, named in lines:
        command, *options = line.split()
        answer = batchgen(command, str(named), *options)
        assert (answer.code, answer.out) == (5, ""), (line, answer)
        assert f"no ledger in {folder}, but results.jsonl there says what a run has made" in answer.err
        assert remedy(answer.err) == ["verify", str(named), "--repair"]
        assert (requests(place), visible(folder), (folder / ".batchgen").exists()) == (sent, before, False)


@pytest.mark.parametrize("left", ["all", "pictures alone", "results and half of the pictures"])
def test_the_remedy_that_is_printed_brings_the_ledger_back_and_nothing_that_is_there_is_bought(
    batchgen, copied, place, left
):
    folder, bought_again = copied.with_name("job"), 0
    if left == "pictures alone":
        (folder / "results.jsonl").unlink()
    elif left != "all":
        for path in sorted(folder.glob("*.jpg"))[:3]:
            path.unlink()
        bought_again = 3
    sent, before = requests(place), visible(folder)
    answer = batchgen("run", str(copied))
    assert (answer.code, requests(place)) == (5, sent), answer.err
    assert batchgen(*remedy(answer.err)).code == 0
    assert visible(folder) == before
    assert batchgen("run", str(copied)).code == batchgen("verify", str(copied)).code == 0
    assert requests(place) == sent + bought_again
    assert not (folder / "superseded").exists()


def test_pictures_that_only_their_names_tell_of_are_said_to_be_taken_so(batchgen, copied):
    (copied.with_name("job") / "results.jsonl").unlink()
    answer = batchgen("verify", str(copied), "--repair")
    assert answer.err.count("matched by its file name only (nothing records its prompt)") == len(ITEMS)


@pytest.mark.parametrize("holds", ["nothing", "no tables", "no run"])
def test_a_ledger_that_is_empty_is_a_lost_one(batchgen, job, ledger, place, holds):
    with closing(sqlite3.connect(ledger)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        if holds == "no run":
            connection.executescript("DELETE FROM run; DELETE FROM sample; DELETE FROM attempt; DELETE FROM image;")
    if holds != "no run":
        ledger.unlink()
        with closing(sqlite3.connect(ledger)) as connection:
            connection.execute("PRAGMA journal_mode = WAL" if holds == "no tables" else "SELECT 1")
        ledger.touch()
    sent = requests(place)
    assert batchgen("plan", str(job)).code == 5
    answer = batchgen("run", str(job))
    assert (answer.code, requests(place)) == (5, sent), answer.err
    assert batchgen(*remedy(answer.err)).code == 0
    assert (batchgen("run", str(job)).code, requests(place)) == (0, sent)


def test_nor_is_it_new_where_results_name_pictures_that_are_gone(batchgen, job, ledger, place):
    with closing(sqlite3.connect(ledger)) as connection:
        connection.executescript("DELETE FROM run; DELETE FROM sample; DELETE FROM attempt; DELETE FROM image;")
    for path in job.with_name("job").glob("*.jpg"):
        path.unlink()
    sent = requests(place)
    answer = batchgen("run", str(job))
    assert (answer.code, "results.jsonl there says" in answer.err, requests(place)) == (5, True, sent), answer.err


def test_an_older_ledger_that_was_put_back_has_what_it_lacks_added(batchgen, write, place, ledger, job):
    folder = job.with_name("job")
    older = ledger.read_bytes()
    write({**ITEMS, "cup-6": "A cup, number 6", "cup-7": "A cup, number 7"}, head=FLASH)
    assert batchgen("run", str(job)).code == 0
    for path in ledger.parent.glob("ledger.sqlite*"):
        path.unlink()
    ledger.write_bytes(older)
    sent, before = requests(place), visible(folder)
    for command in ("plan", "run"):
        answer = batchgen(command, str(job))
        assert (answer.code, requests(place), visible(folder)) == (5, sent, before), answer.err
        assert "(cup-6.jpg, cup-7.jpg), and the ledger has never seen a request for them" in answer.err
    answer = batchgen(*remedy(answer.err))
    assert (answer.code, "2 images back in the ledger" in answer.err) == (0, True), answer.err
    assert batchgen("run", str(job)).code == batchgen("verify", str(job)).code == 0
    assert (requests(place), visible(folder)) == (sent, before)
    assert "nothing to repair" in batchgen("verify", str(job), "--repair").err


def test_the_emulated_folder_is_missed_like_the_real_one_and_its_remedy_names_it(batchgen, job):
    assert batchgen("run", str(job), "--emulate").code == 0
    emulated = job.with_name("job.emulated")
    shutil.rmtree(emulated / ".batchgen")
    before = visible(emulated)
    answer = batchgen("run", str(job), "--emulate")
    assert answer.code == 5
    assert remedy(answer.err) == ["verify", str(job), "--output", str(emulated), "--repair"]
    assert batchgen("verify", str(job), "--repair").code == 0  # of the two, the one that needs it
    answer = batchgen("run", str(job), "--emulate")
    assert (answer.code, "0 made · 6 kept" in answer.err, visible(emulated)) == (0, True, before)


def test_a_lost_ledger_is_not_hidden_by_the_emulated_job_beside_it(batchgen, job):
    assert batchgen("run", str(job), "--emulate").code == 0
    shutil.rmtree(job.with_name("job") / ".batchgen")
    for command in ("status", "history"):
        answer = batchgen(command, str(job))
        assert (answer.code, "results.jsonl there says what a run has made" in answer.err) == (5, True), answer


def test_a_paid_picture_in_the_spool_of_a_lost_ledger_is_not_cleared_away(batchgen, write, place, job, ledger):
    folder = job.with_name("job")
    (folder / "cup-2.jpg").rename(ledger.parent / "spool" / "3.0")
    for path in [*folder.glob("*.jpg"), folder / "results.jsonl", *ledger.parent.glob("ledger.*")]:
        path.unlink()
    sent = requests(place)
    answer = batchgen("run", str(job))
    assert (answer.code, "an image that was paid for lies in" in answer.err) == (5, True), answer.err
    assert ((ledger.parent / "spool" / "3.0").is_file(), requests(place)) == (True, sent)


def test_what_was_refused_is_not_asked_for_again_after_a_repair(batchgen, write, place):
    manifest = write({"a": "A cup", "b": "[[fault:safety]] B cup"}, head=FLASH)
    assert batchgen("run", str(manifest)).code == 3
    sent = requests(place)
    shutil.rmtree(manifest.with_name("job") / ".batchgen")
    assert batchgen("verify", str(manifest), "--repair").code == 0
    assert (batchgen("run", str(manifest)).code, requests(place)) == (3, sent)
    status = batchgen("status", str(manifest), "--json").json
    assert status["samples"] == {"refused": 1, "succeeded": 1}
    assert status["reasons"][0]["message"]


def test_a_repair_that_finds_no_picture_at_all_builds_no_ledger(batchgen, copied, place):
    folder, sent = copied.with_name("job"), requests(place)
    for path in folder.glob("*.jpg"):
        path.unlink()
    answer = batchgen("verify", str(copied), "--repair")
    assert (answer.code, f"none of the 6 image(s) that {folder}/results.jsonl names is in" in answer.err) == (5, True)
    assert (batchgen("run", str(copied)).code, requests(place)) == (5, sent)


def test_a_repair_finds_pictures_that_were_renamed_too(batchgen, copied, place):
    folder, sent = copied.with_name("job"), requests(place)
    (folder / "best").mkdir()
    (folder / "cup-1.jpg").rename(folder / "best" / "of all.jpeg")
    answer = batchgen("verify", str(copied), "--repair")
    assert (answer.code, "best/of all.jpeg is cup-1.jpg by its bytes" in answer.err) == (0, True), answer.err
    assert (batchgen("run", str(copied)).code, requests(place)) == (0, sent)


def test_results_that_name_files_outside_of_the_folder_are_not_believed(batchgen, copied, tmp_path):
    folder = copied.with_name("job")
    lines = [json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines()]
    shutil.copy(folder / lines[0]["files"][0], tmp_path / "mine.jpg")
    lines[0]["files"] = ["../mine.jpg"]
    (folder / "results.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    answer = batchgen("verify", str(copied), "--repair")
    assert "missing or changed: ../mine.jpg" in answer.err


def test_the_daemon_says_loudly_that_a_ledger_is_missing(batchgen, overdue, emulator):
    emulator("--latency", "0")
    path = overdue({"a": "A mug"})
    assert batchgen("run", str(path)).code == 0
    shutil.rmtree(path.with_name("job") / ".batchgen")
    answer = batchgen("daemon", "--once")
    assert (answer.code, "A PERSON IS NEEDED" in answer.err) == (5, True), answer.err
    assert "job | there is no ledger in" in answer.err


def test_the_dashboard_shows_a_missing_ledger_and_begins_no_retry(batchgen, copied):
    here = JobLocation(copied.with_name("job"), str(copied))
    actions = Actions(lambda place, states: {})
    with pytest.raises(ActionRefused, match="says what a run has made"):
        actions.retry(here, ["failed"])
    watch = WatchedJob(here, lambda place, manifest: ManifestInfo(None), actions.last_retry)
    watch.refresh(samples=False)
    assert (watch.card.begun, "says what a run has made" in watch.card.problem) == (True, True)


# --- files that are not ours


FOREIGN = {
    "text": b"my results\n",
    "a list": b"[1, 2, 3]",
    "other lines": b'{"id": "a", "score": 1}\n{"id": "b", "score": 2}\n',
    "one other line": b'{"id": "a", "score": 1}',
    "no text": bytes(range(256)) * 40,
}


@pytest.mark.parametrize("what", FOREIGN)
def test_a_users_own_results_file_is_never_written_over(batchgen, write, what):
    manifest = write(ITEMS, head=FLASH)
    own = manifest.with_name("job.emulated") / "results.jsonl"
    own.parent.mkdir()
    own.write_bytes(FOREIGN[what])
    for command in ("run", "plan"):
        answer = batchgen(command, str(manifest), "--emulate")
        assert (answer.code, "rename it, or choose another --output" in answer.err) == (5, True), answer.err
    assert visible(own.parent) == {"results.jsonl": FOREIGN[what]}
    own.rename(own.with_name("mine.jsonl"))
    assert batchgen("run", str(manifest), "--emulate").code == 0


@pytest.fixture
def emulated(batchgen, write):
    """The folder of an emulated job."""
    manifest = write(ITEMS, head=FLASH)
    assert batchgen("run", str(manifest), "--emulate").code == 0
    return manifest.with_name("job.emulated")


@pytest.mark.parametrize("command", ["run", "post"])
def test_nor_one_that_has_taken_the_place_of_ours(batchgen, emulated, command):
    own, job = emulated / "results.jsonl", emulated.with_name("job.yaml")
    own.write_text("my results\n")
    job.write_text(job.read_text().replace("defaults", "post: [{name: web, format: webp}]\ndefaults"))
    answer = batchgen(command, str(job), *(["--emulate"] if command == "run" else []))
    assert (answer.code, own.read_text()) == (5, "my results\n"), answer.err


def test_a_link_called_results_is_refused_and_what_it_leads_to_stays(batchgen, write, tmp_path):
    manifest = write(ITEMS, head=FLASH)
    own = manifest.with_name("job.emulated") / "results.jsonl"
    own.parent.mkdir()
    (tmp_path / "mine").touch()
    own.symlink_to(tmp_path / "mine")
    answer = batchgen("run", str(manifest), "--emulate")
    assert (answer.code, "results.jsonl was not written by batchgen" in answer.err) == (5, True), answer.err
    assert ((tmp_path / "mine").read_text(), own.is_symlink()) == ("", True)


@pytest.mark.parametrize(
    "left", [b'{"id": "cup-0", "sta', b'{"i', b"", bytes(4096)], ids=["half", "less", "none", "zeros"]
)
def test_a_line_that_a_crash_has_torn_is_still_ours(batchgen, emulated, left):
    results = emulated / "results.jsonl"

    def lines() -> list[dict[str, object]]:
        """Without the second of their last change: a line and the ledger may have seen it on two sides of its end."""
        found = [json.loads(line) for line in results.read_text().splitlines()]
        return sorted(({**line, "updated_at": ""} for line in found), key=lambda line: line["id"])

    whole = lines()
    results.write_bytes(left)
    with closing(sqlite3.connect(emulated / ".batchgen" / "ledger.sqlite")) as connection, connection:
        connection.execute("UPDATE meta SET value = 'no' WHERE key = 'results_tidy'")
    assert batchgen("run", str(emulated.with_name("job.yaml")), "--emulate").code == 0
    assert lines() == whole


@pytest.mark.parametrize(("name", "argv"), [("report.html", ()), ("contact-sheet.jpg", ("--contact-sheet",))])
def test_a_page_or_sheet_of_somebody_elses_stays_and_one_of_ours_is_replaced(batchgen, emulated, name, argv):
    own, job = emulated / name, emulated
    own.write_bytes(b"<html>mine</html>")
    answer = batchgen("report", str(job), *argv)
    assert (answer.code, own.read_bytes()) == (5, b"<html>mine</html>")
    assert f"{name} was not written by batchgen and stays as it is: rename it, or name another file" in answer.err
    own.unlink()
    assert batchgen("report", str(job), *argv).code == batchgen("report", str(job), *argv).code == 0


def test_a_file_where_a_derivative_goes_is_kept_aside_and_our_own_is_replaced(batchgen, emulated):
    job = emulated.with_name("job.yaml")
    (emulated / "derivatives" / "web").mkdir(parents=True)
    (emulated / "derivatives" / "web" / "cup-0.webp").write_bytes(b"mine")
    text = job.read_text()
    for width in (20, 10):
        job.write_text(text.replace("defaults", f"post: [{{name: web, format: webp, width: {width}}}]\ndefaults"))
        assert batchgen("post", str(emulated)).code == 0
    (emulated / "derivatives" / "web" / "cup-1.webp").write_bytes(b"edited by hand")
    assert batchgen("post", str(emulated)).code == 0
    kept = {str(path.relative_to(emulated)): path.read_bytes() for path in emulated.rglob("superseded/**/*.1")}
    assert kept == {
        "superseded/derivatives/web/cup-0.webp.1": b"mine",
        "superseded/derivatives/web/cup-1.webp.1": b"edited by hand",
    }
