"""What people say of images: a journal that several may write, taken into the ledger by who holds the job, and shown before that."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

import batchgen
from batchgen.emulator import serve
from batchgen.errors import StoreError
from batchgen.ledger.ledger import Ledger
from batchgen.ledger.reader import Reader
from batchgen.ledger.reviews import (
    ABSORBED_META_KEY,
    absorb_reviews,
    append_reviews,
    make_review,
    read_reviews,
    reviewed,
)
from batchgen.ledger.schema import STATE_FOLDER
from batchgen.ledger.verdicts import VerdictReader, review_state, upsert_verdicts
from batchgen.records import Verdict
from tests.support.bench import FAST, Bench, items
from tests.support.postgres import both_ledgers

WRITER = """
import sys
from pathlib import Path
from batchgen.ledger.reviews import append_reviews, make_review
folder, name, number = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
sys.stdin.readline()
for n in range(number):
    append_reviews(folder, [make_review(name, "i0", 1, f"{n:064}", "reject", n % 6, "too dark\\nand small")])
"""
KILLED = """
import os, signal, sys
from pathlib import Path
from batchgen.ledger.reviews import append_reviews, make_review
whole = os.write
def half(fd, data):
    whole(fd, data[: len(data) // 2])
    os.kill(os.getpid(), signal.SIGKILL)
os.write = half
append_reviews(Path(sys.argv[1]), [make_review("Ann", "i1", 1, "0" * 64, "reject", 0, "")])
"""


@pytest.fixture
async def bench(tmp_path):
    async with await serve(FAST) as emulator:
        yield Bench(emulator.base_url, tmp_path)


@pytest.fixture
def folder(tmp_path) -> Path:
    (tmp_path / STATE_FOLDER).mkdir()
    return Path(tmp_path)


def said(bench: Bench, item: str, name: str, ruling: str, stars: int = 0, comment: str = "") -> Verdict:
    return make_review(name, item, 1, bench.lines()[item]["sha256"][0], ruling, stars, comment)


def ends(reader: Reader) -> list[tuple[str, str, str, str]]:
    return [(each.id, each.state, each.reason, each.message) for each in reader.results()]


def absorbed(bench: Bench) -> list[tuple[str, str, str, str]]:
    ledger = Ledger(bench.folder / "out")
    try:
        absorb_reviews(bench.folder / "out", ledger)
        return ends(ledger.reader)
    finally:
        ledger.close()


@both_ledgers
async def test_what_people_say_is_seen_before_it_is_in_the_ledger_and_then_it_is_there(bench):
    await bench.run(items("a mug", "a hat", "a cat"))
    folder = bench.folder / "out"
    append_reviews(folder, [said(bench, "i0", "Ann", "reject", 2, "too dark"), said(bench, "i1", "Ben", "accept", 5)])
    append_reviews(folder, [said(bench, "i2", "Ben", "reject")])
    with Reader.open(folder) as plain:
        assert {end[1] for end in ends(plain)} == {"succeeded"}
        assert plain.counts() == {"succeeded": 3}
    with reviewed(VerdictReader.open(folder), folder) as reader:
        seen = (ends(reader), reader.counts(), list(reader.all_verdicts()), reader.verdicts(["i1"]))
    assert seen[0] == [
        ("i0", "rejected", "person", "Ann: too dark"),
        ("i1", "succeeded", "", ""),
        ("i2", "rejected", "person", "rejected by Ben"),
    ]
    assert [(each.name, each.ruling, each.score) for each in seen[2] if each.by == "person"] == [
        ("Ann", "reject", 2.0),
        ("Ben", "accept", 5.0),
        ("Ben", "reject", None),
    ]
    assert absorbed(bench) == seen[0]
    for reader in (VerdictReader.open(folder), reviewed(VerdictReader.open(folder), folder)):
        with reader:
            assert (ends(reader), reader.counts(), list(reader.all_verdicts()), reader.verdicts(["i1"])) == seen


@both_ledgers
async def test_the_later_word_of_two_people_counts_and_one_that_is_taken_back_leaves_what_was_before(bench):
    await bench.run(items("a mug"))
    folder, ledger = bench.folder / "out", Ledger(bench.folder / "out")
    sha256 = bench.lines()["i0"]["sha256"][0]
    blurred = Verdict(item_id="i0", n=1, sha256=sha256, by="check", name="sharp", ruling="reject", reason="blurred")

    def now(name: str, ruling: str, stars: int = 0) -> tuple[str, str]:
        append_reviews(folder, [said(bench, "i0", name, ruling, stars)])
        with reviewed(Reader.open(folder), folder) as reader:
            shown = ends(reader)
        pending = absorb_reviews(folder, ledger)
        assert ends(ledger.reader) == shown and len(pending.verdicts) == 1
        return shown[0][1:3]

    try:
        assert now("Ann", "accept") == ("succeeded", "")
        assert now("Ben", "reject") == ("rejected", "person")
        assert now("Ann", "none", 3) == ("rejected", "person")
        assert now("Ann", "accept") == ("succeeded", "")
        ledger.writer.submit(upsert_verdicts([blurred])).result()
        assert now("Ben", "none") == ("succeeded", "")  # Ann accepts it, whatever a check says
        assert now("Ann", "none") == ("rejected", "blurred")
        ledger.run_statements([("UPDATE sample SET message = 'of the check'", ())])
        assert now("Ann", "none", 4) == ("rejected", "blurred")  # stars alone change nothing
        assert ends(ledger.reader)[0][3] == "of the check"
        assert absorb_reviews(folder, ledger).verdicts == ()
        ledger.set_meta(**{ABSORBED_META_KEY: ""})  # as after a repair: all of it again
        assert [each.name for each in absorb_reviews(folder, ledger).verdicts] == ["Ann", "Ben"]
        assert ends(ledger.reader)[0][1:] == ("rejected", "blurred", "of the check")
    finally:
        ledger.close()


async def test_a_word_is_of_one_image_and_says_nothing_of_the_one_that_is_made_in_its_place(bench):
    await bench.run(items("a mug"))
    old = said(bench, "i0", "Ann", "reject")
    await bench.run(items("a red mug"))
    append_reviews(bench.folder / "out", [old])
    with reviewed(Reader.open(bench.folder / "out"), bench.folder / "out") as reader:
        assert ends(reader) == [("i0", "succeeded", "", "")]
    assert absorbed(bench) == [("i0", "succeeded", "", "")]


async def test_people_judge_beside_a_run_that_has_the_ledger(bench):
    await bench.run(items("a mug"))
    folder = bench.folder / "out"
    seen: list[str] = []

    def observer(event: object) -> None:
        if type(event).__name__ == "SampleSucceeded" and not seen:
            append_reviews(folder, [said(bench, "i0", "Ann", "reject")])
            with reviewed(Reader.open(folder), folder) as reader:
                seen.extend(f"{each.id} {each.state}" for each in reader.results(["rejected"]))

    job = batchgen.load(bench.manifest(items("a mug", "a hat")), output=folder, emulate=True, environ={})
    outcome = await batchgen.run(job, observers=[observer], options=batchgen.RunOptions(emulator_url=bench.url))
    assert (outcome.exit_code, seen) == (0, ["i0 rejected"])
    assert absorbed(bench)[0][:2] == ("i0", "rejected")


def test_nothing_is_lost_that_two_processes_write_at_once(folder):
    writers = [
        subprocess.Popen([sys.executable, "-c", WRITER, str(folder), name, "150"], stdin=subprocess.PIPE)
        for name in ("Ann", "Ben")
    ]
    for writer in writers:
        writer.communicate(b"\n", timeout=60)
    part = read_reviews(folder)
    assert (len(part.verdicts), part.unreadable) == (300, 0)
    for name in ("Ann", "Ben"):
        assert [int(each.sha256) for each in part.verdicts if each.name == name] == list(range(150))
    times = [each.at for each in part.verdicts]
    assert times == sorted(set(times))


def test_a_writer_killed_in_the_middle_of_a_line_costs_that_line_alone(folder):
    first, last = (make_review("Ann", item, 1, "0" * 64, "reject", 0, "") for item in ("i0", "i2"))
    append_reviews(folder, [first])
    for _ in range(2):
        killed = subprocess.run([sys.executable, "-c", KILLED, str(folder)], check=False, timeout=60)
        assert killed.returncode == -signal.SIGKILL
    part = read_reviews(folder)
    assert ([each.item_id for each in part.verdicts], part.unreadable) == (["i0"], 1)  # the other may be being written
    assert read_reviews(folder, to_end=True).unreadable == 2
    append_reviews(folder, [last])
    later = read_reviews(folder, part.mark)
    assert ([each.item_id for each in later.verdicts], later.unreadable) == (["i2"], 1)
    assert read_reviews(folder, later.mark) == ((), later.mark, 0)


def test_who_takes_the_journal_in_goes_on_behind_a_line_that_was_cut_off(folder):
    ledger = Ledger(folder)
    try:
        append_reviews(folder, [make_review("Ann", "i0", 1, "0" * 64, "reject", 0, "")])
        subprocess.run([sys.executable, "-c", KILLED, str(folder)], check=False, timeout=60)
        pending = absorb_reviews(folder, ledger)
        assert (len(pending.verdicts), pending.unreadable) == (1, 1)
        assert absorb_reviews(folder, ledger).unreadable == 0
        append_reviews(folder, [make_review("Ben", "i0", 1, "0" * 64, "accept", 0, "")])
        assert [each.name for each in absorb_reviews(folder, ledger).verdicts] == ["Ben"]
    finally:
        ledger.close()


def test_a_line_that_the_disk_does_not_take_leaves_the_journal_as_it_was(folder, monkeypatch):
    review = make_review("Ann", "i0", 1, "0" * 64, "reject", 0, "")
    append_reviews(folder, [review])
    before, write = (folder / STATE_FOLDER / "reviews.jsonl").read_bytes(), os.write
    monkeypatch.setattr(os, "write", lambda fd, data: write(fd, data[:20]))
    with pytest.raises(StoreError, match=r"reviews\.jsonl"):
        append_reviews(folder, [review])
    assert (folder / STATE_FOLDER / "reviews.jsonl").read_bytes() == before


def test_a_journal_is_its_owners_alone_and_one_that_was_replaced_is_read_from_its_beginning(folder):
    review = make_review("Ann", "i0", 1, "0" * 64, "reject", 0, "")
    append_reviews(folder, [review])
    path, mark = folder / STATE_FOLDER / "reviews.jsonl", read_reviews(folder).mark
    assert path.stat().st_mode & 0o777 == 0o600
    copy = path.with_name("copy")
    copy.write_bytes(path.read_bytes() * 2)
    copy.replace(path)
    assert len(read_reviews(folder, mark).verdicts) == 2
    path.write_text(json.dumps({"at": 1}) + "\n[]\n{}\n" + '{"at": 1, "name": "A", "n": "x"}\nnull\n')
    assert read_reviews(folder) == ((), read_reviews(folder).mark, 5)


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        ({"name": " \n "}, "name"),
        ({"name": "x" * 61}, "name"),
        ({"ruling": "maybe"}, "'maybe' is not one of accept, reject, none"),
        ({"stars": 6}, "stars"),
        ({"stars": -1}, "stars"),
        ({"comment": "x" * 1001}, "1,001 characters"),
    ],
)
def test_what_is_no_review_is_refused_in_words(wrong, why):
    given = {"name": "Ann", "item_id": "i0", "n": 1, "sha256": "s", "ruling": "none", "stars": 0, "comment": ""}
    with pytest.raises(ValueError, match=why):
        make_review(**{**given, **wrong})


def test_nothing_that_acts_upon_a_terminal_gets_into_a_journal():
    found = make_review(" An\x1bn\u202e ", "i0", 1, "s", "reject", 0, " too\x07 dark\r\nand\tsmall ")
    assert (found.name, found.message) == ("An\\x1bn\\u202e", "too\\x07 dark\nand small")


def test_one_that_is_accepted_by_a_check_is_rejected_by_another():
    by_check = Verdict(item_id="i", n=1, sha256="s", by="check", name="blank", ruling="accept")
    rejects = replace(by_check, name="twin", ruling="reject", reason="twin", message="of mug-2.png")
    assert review_state([by_check]) == ("succeeded", "", "")
    assert review_state([by_check, rejects]) == ("rejected", "twin", "of mug-2.png")


def test_a_clock_that_is_set_back_makes_no_later_word_an_earlier_one(folder, monkeypatch):
    accepts, rejects = (
        make_review(name, "i0", 1, "0" * 64, ruling, 0, "") for name, ruling in (("Ann", "accept"), ("Ben", "reject"))
    )
    append_reviews(folder, [accepts])
    monkeypatch.setattr("time.time", lambda: 5.0)
    append_reviews(folder, [rejects])
    first, second = read_reviews(folder).verdicts
    assert first.at < second.at
    assert review_state([second, first]).state == "rejected"
