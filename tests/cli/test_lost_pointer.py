"""The note in the folder that says which server has the ledger: lost, it is missed like a ledger, or found again."""

from __future__ import annotations

import pytest

from batchgen.ledger.location import read_pointer
from tests.support.command_line import FLASH, ITEMS, remedy, requests


@pytest.fixture
def job(batchgen, write, place, database):
    """A job whose ledger is on a server, and whose folder has forgotten so."""
    manifest = write(ITEMS, head=FLASH)
    assert batchgen("run", str(manifest), "--ledger", database).code == 0
    (manifest.with_name("job") / ".batchgen" / "ledger.json").unlink()
    return manifest


def test_where_the_server_is_named_the_next_run_finds_the_ledger_and_notes_it_again(batchgen, job, place, database):
    sent = requests(place)
    answer = batchgen("plan", str(job), "--ledger", database, "--json")
    assert (answer.code, answer.json["kept"]) == (0, len(ITEMS))
    answer = batchgen("run", str(job), "--ledger", database)
    assert (answer.code, "0 made · 6 kept" in answer.err, requests(place)) == (0, True, sent), answer.err
    assert read_pointer(job.with_name("job")) is not None


def test_where_it_is_not_named_nothing_is_bought_and_it_is_asked_for(batchgen, job, place):
    sent = requests(place)
    for command in ("run", "plan", "status"):
        answer = batchgen(command, str(job))
        assert (answer.code, "name the server if the ledger is on one (--ledger)" in answer.err) == (5, True), (
            answer.err
        )
    assert requests(place) == sent


def test_a_repair_with_the_server_named_finds_the_ledger_there(batchgen, job, place, database):
    answer = batchgen("verify", str(job), "--repair", "--ledger", database)
    assert (answer.code, "nothing to repair" in answer.err) == (0, True), answer.err
    assert read_pointer(job.with_name("job")) is not None


def test_a_server_that_does_not_know_the_job_gets_a_ledger_by_the_remedy(batchgen, job, place, postgres):
    other = postgres.new_database("knows_nothing")
    sent = requests(place)
    for engine in ("cluster", "online"):
        answer = batchgen("run", str(job), "--ledger", other, "--engine", engine)
        assert (answer.code, requests(place)) == (5, sent), answer.err
    answer = batchgen(*remedy(answer.err), "--ledger", other)
    assert (answer.code, "6 images back in the ledger" in answer.err) == (0, True), answer.err
    assert read_pointer(job.with_name("job")) is not None
    job.write_text(job.read_text() + '  - {id: "more", prompt: "one more"}\n')
    answer = batchgen("run", str(job), "--ledger", other)
    assert (answer.code, "1 made · 6 kept" in answer.err, requests(place)) == (0, True, sent + 1), answer.err
