"""A ledger that is damaged or gone: found before anything is sent, left alone, and built anew on demand."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shlex
import shutil
import sqlite3
from pathlib import Path

import pytest

from batchgen.engine.recovery.repair_records import record_picture
from batchgen.providers.gemini import Gemini
from tests.support.command_line import ITEMS, remedy, requests


def overwrite_the_middle(ledger: Path) -> bytes:
    """Every page but the first is noise from here on."""
    with sqlite3.connect(ledger) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        page = connection.execute("PRAGMA page_size").fetchone()[0]
    connection.close()
    size = ledger.stat().st_size
    with open(ledger, "r+b") as file:
        file.seek(page)
        file.write(os.urandom(size - page))
    return ledger.read_bytes()


@pytest.mark.parametrize("ended", [True, False], ids=["ended in order", "died"])
def test_a_ledger_with_damaged_pages_is_said_before_anything_is_sent_and_left_as_it_is(
    batchgen, job, ledger, place, ended
):
    if not ended:
        with sqlite3.connect(ledger) as connection:
            connection.execute("UPDATE run SET ended_at = NULL")
        connection.close()
    damaged, sent = overwrite_the_middle(ledger), requests(place)
    for argv in (("run", str(job)), ("status", str(job)), ("plan", str(job)), ("verify", str(job))):
        answer = batchgen(*argv)
        assert (answer.code, remedy(answer.err)) == (5, ["verify", str(job.with_name("job")), "--repair"])
    assert requests(place) == sent
    assert ledger.read_bytes() == damaged
    repaired = batchgen(*remedy(answer.err))
    assert (repaired.code, "6 images back" in repaired.err) == (0, True), repaired.err


def test_after_a_crash_damage_is_found_where_no_command_would_have_read(batchgen, job, ledger, place):
    with sqlite3.connect(ledger) as connection:
        connection.execute("UPDATE run SET ended_at = NULL")
        connection.commit()
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        page = connection.execute("PRAGMA page_size").fetchone()[0]
        root = connection.execute("SELECT rootpage FROM sqlite_master WHERE name = 'attempt_doubtful'").fetchone()[0]
    connection.close()
    with open(ledger, "r+b") as file:
        file.seek((root - 1) * page)
        file.write(b"\x99" * page)
    sent = requests(place)
    answer = batchgen("run", str(job))
    assert (answer.code, "is damaged" in answer.err) == (5, True), answer.err
    assert requests(place) == sent


@pytest.mark.parametrize("gone", [False, True], ids=["damaged", "gone"])
def test_a_ledger_that_was_built_anew_costs_no_request(batchgen, job, ledger, place, gone):
    before = {path.name: path.read_bytes() for path in job.with_name("job").glob("[!.]*.*")}
    sent = requests(place)
    if gone:
        shutil.rmtree(ledger.parent)
    else:
        damaged = overwrite_the_middle(ledger)
    answer = batchgen("verify", str(job), "--repair")
    assert (answer.code, "6 images back" in answer.err) == (0, True), answer.err
    kept = [path.read_bytes() for path in ledger.parent.glob("ledger.sqlite.damaged-*") if path.name[-1] == "Z"]
    assert kept == ([] if gone else [damaged])
    assert batchgen("run", str(job)).code == 0
    assert requests(place) == sent
    after = {path.name: path.read_bytes() for path in job.with_name("job").glob("[!.]*.*")}
    assert after == before


def test_what_was_edited_or_damaged_since_is_not_taken_for_what_is_wanted(batchgen, job, ledger, place, write):
    folder = job.with_name("job")
    (folder / "cup-0.jpg").write_bytes(b"other bytes")
    write({**ITEMS, "cup-1": "A bowl"}, head="defaults: {model: flash}\n")
    overwrite_the_middle(ledger)
    sent = requests(place)
    answer = batchgen("verify", str(job), "--repair")
    assert "missing or changed: cup-0.jpg" in answer.err
    assert "1 of them without a fingerprint" in answer.err
    assert batchgen("run", str(job)).code == 0
    assert requests(place) == sent + 2


def test_a_picture_that_still_lies_in_the_spool_is_placed_and_a_strange_one_is_kept(batchgen, job, ledger, place):
    folder = job.with_name("job")
    picture = (folder / "cup-2.jpg").read_bytes()
    (folder / "cup-2.jpg").rename(ledger.parent / "spool" / "3.0")
    shutil.copy(folder / "cup-3.jpg", ledger.parent / "spool" / "77.0")
    with open(ledger.parent / "spool" / "77.0", "ab") as file:
        file.write(b"\xff\xd9")
    ledger.unlink()
    assert batchgen("verify", str(job), "--repair").code == 0
    assert (folder / "cup-2.jpg").read_bytes() == picture
    assert [path.name.split("-")[0] for path in (folder / "superseded").iterdir()] == ["unassigned"]


def test_half_a_picture_under_an_items_name_is_none_and_stops_no_repair(batchgen, job, ledger, place):
    folder = job.with_name("job")
    (folder / "cup-2.jpg").write_bytes((folder / "cup-2.jpg").read_bytes()[:300])
    (folder / "results.jsonl").unlink()
    ledger.unlink()
    answer = batchgen("verify", str(job), "--repair")
    assert (answer.code, "not a whole image, move it away: cup-2.jpg" in answer.err) == (0, True), answer.err
    assert (batchgen("run", str(job)).code, requests(place)) == (5, 6)
    (folder / "cup-2.jpg").unlink()
    assert (batchgen("run", str(job)).code, requests(place)) == (0, 7)


@pytest.mark.parametrize(("step", "times"), [("record_picture", 1), ("record_picture", 4), ("keep_unassigned", 0)])
def test_a_repair_that_ends_half_way_is_no_ledger_to_a_run_and_the_next_one_builds_all_of_it(
    batchgen, job, ledger, place, monkeypatch, step, times
):
    folder, left = job.with_name("job"), iter(range(times))
    strange = (folder / "cup-3.jpg").read_bytes() + b"\xff\xd9"
    (ledger.parent / "spool" / "77.0").write_bytes(strange)
    ledger.unlink()

    def dies(*given: object) -> None:
        if next(left, None) is None:
            raise MemoryError
        record_picture(*given)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(f"batchgen.engine.recovery.repair.{step}", dies)
        assert batchgen("verify", str(job), "--repair").code != 0
    assert (batchgen("run", str(job)).code, requests(place)) == (5, 6)
    assert batchgen("verify", str(job), "--repair").code == 0
    assert (batchgen("run", str(job)).code, requests(place)) == (0, 6)
    assert [path.read_bytes() for path in (folder / "superseded").iterdir()] == [strange]


@pytest.mark.parametrize("change", [{"files": [1]}, {"usd": "0.1"}, {"sha256": [None]}])
def test_a_line_that_no_run_of_ours_has_written_is_none(batchgen, job, ledger, place, change):
    results = job.with_name("job") / "results.jsonl"
    first, *others = results.read_text().splitlines()
    results.write_text("\n".join([json.dumps({**json.loads(first), **change}), *others]) + "\n")
    ledger.unlink()
    answer = batchgen("verify", str(job), "--repair")
    assert (answer.code, "bug" in answer.err) == (0, False), answer.err
    assert (batchgen("run", str(job)).code, requests(place)) == (0, 6)


def test_a_whole_ledger_is_not_touched_by_repair(batchgen, job, ledger):
    before = hashlib.sha256(ledger.read_bytes()).hexdigest()
    answer = batchgen("verify", str(job), "--repair")
    assert (answer.code, "nothing to repair" in answer.err) == (0, True)
    assert hashlib.sha256(ledger.read_bytes()).hexdigest() == before


def test_pictures_of_a_repair_without_the_manifest_are_taken_by_the_next_run_and_not_bought_again(
    batchgen, job, ledger, place, write
):
    folder, sent = job.with_name("job"), requests(place)
    before = {path.name: path.read_bytes() for path in folder.glob("[!.]*.jpg")}
    shutil.rmtree(ledger.parent)
    job.unlink()
    answer = batchgen("verify", str(folder), "--repair")
    assert (answer.code, "6 of them without a fingerprint" in answer.err) == (0, True), answer.err
    write(ITEMS, head="defaults: {model: flash}\n")
    answer = batchgen("run", str(job))
    assert (answer.code, "only prompt and model could be compared" in answer.err) == (0, True), answer.err
    assert batchgen("run", str(job)).code == batchgen("verify", str(job)).code == 0
    assert requests(place) == sent
    assert {path.name: path.read_bytes() for path in folder.glob("[!.]*.jpg")} == before
    lines = [json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines()]
    assert sorted(path for line in lines for path in line["files"]) == sorted(before)
    write({**ITEMS, "cup-1": "A bowl"}, head="defaults: {model: flash}\n")
    assert batchgen("run", str(job)).code == 0
    assert requests(place) == sent + 1


def test_a_prompt_that_was_edited_since_a_repair_without_the_manifest_is_made_anew(batchgen, job, ledger, place, write):
    sent = requests(place)
    shutil.rmtree(ledger.parent)
    assert batchgen("verify", str(job.with_name("job")), "--repair").code == 0
    write({**ITEMS, "cup-1": "A bowl"}, head="defaults: {model: flash}\n")
    assert batchgen("run", str(job)).code == 0
    assert requests(place) == sent + 1


def test_a_kept_answer_outlives_its_ledger(batchgen, write, place, monkeypatch):
    manifest = write(ITEMS, head="defaults: {model: flash}\n")
    read, broken = Gemini.read, iter([True])

    def read_once_badly(*arguments):
        if next(broken, False):
            raise KeyError("x")
        return read(*arguments)

    monkeypatch.setattr(Gemini, "read", read_once_badly)
    assert batchgen("run", str(manifest)).code == 3
    status = batchgen("status", str(manifest))
    assert "1 answer paid for and not readable yet" in status.out + status.err
    (manifest.with_name("job") / ".batchgen" / "ledger.sqlite").unlink()
    assert batchgen("verify", str(manifest), "--repair").code == 0
    assert batchgen("run", str(manifest)).code == 0
    assert requests(place) == len(ITEMS)
    assert json.loads(batchgen("status", str(manifest), "--json").out)["unread"] == {"answers": 0, "bytes": 0}


@pytest.mark.parametrize("output", [[], ["--output", "else where"]])
def test_what_verify_advises_helps_when_it_is_typed_as_it_stands(batchgen, write, tmp_path, output):
    manifest = str(write({"mug": "A mug"}))
    write({"jug": "A jug"}, name="other.yaml")  # so that a command without a manifest means none
    assert batchgen("run", manifest, "--emulate", *output).code == 0
    folder = tmp_path / (output[-1] if output else "job.emulated")
    (picture,) = folder.glob("mug.*")
    picture.write_bytes(picture.read_bytes() + b"x")
    answer = batchgen("verify", str(folder))
    (command,) = re.findall(r"`batchgen (run [^`]*--only) ID`", answer.out)
    assert batchgen(*shlex.split(command), "mug").code == 0, command
    assert (answer.code, batchgen("verify", str(folder)).code) == (3, 0)
