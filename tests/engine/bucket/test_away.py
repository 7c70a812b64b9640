"""A bucket that goes away in the night, and processes that die on the way to it: nothing is lost, nothing bought twice."""

from __future__ import annotations

import asyncio
import hashlib
import json

import pytest

import batchgen
from batchgen.store.blobs import BucketUnavailable
from batchgen.store.objects import ObjectStorage
from batchgen.store.store import open_store
from tests.support.bench import items
from tests.support.bucket_bench import ADDRESS
from tests.support.https import proxy

THREE = items("a", "b", "c")


def digests(found: dict[str, bytes]) -> dict[str, set[str]]:
    return {name: {hashlib.sha256(data).hexdigest()} for name, data in found.items()}


async def all_three(bench, gate) -> None:
    """Each picture is in the bucket, as it was served, and nothing is left over."""
    served = await bench.served()
    found = digests(gate.objects())
    assert sorted(found) == ["i0.jpg", "i1.jpg", "i2.jpg"]
    assert all(found[f"i{n}.jpg"] <= served[prompt] for n, prompt in enumerate("abc"))
    assert bench.spooled == []


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("batchgen.engine.pipeline.FIRST_RETRY_DELAY_S", 0.01)
    monkeypatch.setattr("batchgen.engine.pipeline.MAX_RETRY_DELAY_S", 0.05)


def refuse_pictures(status: int):
    return lambda method, path: status if method == "PUT" and not path.startswith(".batchgen/probe") else None


@pytest.mark.parametrize("status", [403, 503])
async def test_pictures_wait_in_the_spool_while_the_bucket_refuses_them(bench, gate, status, monkeypatch):
    monkeypatch.setattr("batchgen.store.objects.RETRIES", 0)
    gate.refuse = refuse_pictures(status)
    outcome = await bench.run(THREE)
    assert (outcome.exit_code, outcome.made, outcome.waiting) == (5, 3, 3)
    assert (gate.objects(), bench.spooled) == ({}, ["1.0", "2.0", "3.0"])
    assert f"HTTP {status}" in bench.notes
    with bench.reader() as ledger:
        assert (ledger.counts(), len(ledger.unplaced())) == ({"succeeded": 3}, 3)
    gate.refuse = lambda method, path: None
    outcome = await bench.run(THREE)
    assert (outcome.exit_code, outcome.kept, outcome.waiting, await bench.requests()) == (0, 3, 0, 3)
    await all_three(bench, gate)


async def test_pictures_go_up_as_soon_as_the_bucket_is_back(bench, gate):
    tries = 0

    def once(method: str, path: str) -> int | None:
        nonlocal tries
        tries += method == "PUT" and path.endswith(".jpg")
        return 403 if tries == 1 else None

    gate.refuse = once
    outcome = await bench.run(THREE)
    assert (outcome.exit_code, outcome.waiting) == (0, 0)
    await all_three(bench, gate)


async def test_what_waits_is_neither_planned_nor_bought_again_while_the_bucket_stays_away(bench, gate):
    gate.refuse = refuse_pictures(403)
    await bench.run(THREE)
    planned = batchgen.plan(batchgen.load(bench.manifest(THREE), output=ADDRESS, emulate=True))
    assert (planned.reconciliation.kept, planned.reconciliation.wanted) == (3, 0)
    outcome = await bench.run(THREE)
    assert (outcome.exit_code, outcome.kept, outcome.waiting, await bench.requests()) == (5, 3, 3, 3)
    assert bench.spooled == ["1.0", "2.0", "3.0"]


async def test_while_the_bucket_is_away_no_answer_waits_for_it(bench, gate, monkeypatch):
    """One refusal is enough: the next answers go to the spool and the ledger at once."""
    monkeypatch.setattr("batchgen.engine.pipeline.FIRST_RETRY_DELAY_S", 60.0)
    gate.refuse = refuse_pictures(403)
    many = items(*(f"thing {n}" for n in range(20)))
    outcome = await bench.run(many, head="defaults: {model: flash}\nlimits: {concurrency: 1}\nitems:\n")
    assert (outcome.made, outcome.waiting, len(bench.spooled)) == (20, 20, 20)
    with bench.reader() as ledger:
        assert len(ledger.unplaced()) == 20
    assert sum(path.endswith(".jpg") for _, path in gate.seen) == 2  # the first, and once more at the end


async def test_a_server_that_is_gone_is_one_that_is_away(bench, gate, monkeypatch):
    monkeypatch.setattr("batchgen.store.objects.RETRIES", 0)
    stopped = False

    def stop(method: str, path: str) -> int | None:
        nonlocal stopped
        if path.endswith(".jpg") and not stopped:
            stopped = True
            gate.stop()
        return 503 if stopped else None

    gate.refuse = stop
    outcome = await bench.run(THREE)
    gate.refuse = lambda method, path: None
    gate.start()
    assert (outcome.exit_code, outcome.waiting) == (5, 3)
    assert "cannot be reached" in bench.notes or "HTTP 503" in bench.notes
    outcome = await bench.run(THREE)
    assert (outcome.exit_code, await bench.requests()) == (0, 3)
    await all_three(bench, gate)


async def test_a_picture_that_waits_serves_as_reference(bench, gate):
    gate.refuse = refuse_pictures(403)
    text = items("a mug") + '  - {id: snow, prompt: in snow, references: ["@i0"]}\n'
    outcome = await bench.run(text)
    assert (outcome.made, outcome.waiting) == (2, 2)


async def test_a_picture_that_waited_and_is_replaced_keeps_aside_what_came_before(bench, gate):
    gate.refuse = refuse_pictures(403)
    await bench.run(items("a"))
    outcome = await bench.run(items("a at night"))
    assert (outcome.made, outcome.waiting) == (1, 2)
    gate.refuse = lambda method, path: None
    outcome = await bench.run(items("a at night"))
    served, found = await bench.served(), digests(gate.objects())
    assert (outcome.exit_code, outcome.kept, found["i0.jpg"]) == (0, 1, served["a at night"])
    assert [found[name] for name in found if name.startswith("superseded/i0")] == [served["a"]]


async def test_what_made_way_is_known_even_when_its_successor_has_to_wait(bench, gate):
    await bench.run(items("a"))
    before, puts = gate.objects()["i0.jpg"], 0

    def after_the_first(method: str, path: str) -> int | None:
        nonlocal puts
        puts += (method, path) == ("PUT", "i0.jpg")
        return 403 if (method, path) == ("PUT", "i0.jpg") and puts > 1 else None  # the first finds the name taken

    gate.refuse = after_the_first
    outcome = await bench.run(items("a at night"))
    assert (outcome.exit_code, outcome.waiting, gate.objects()) == (5, 1, {"superseded/i0.1.jpg": before})
    gate.refuse = lambda method, path: None
    await bench.run(items("a at night"))
    outcome = await bench.run(items("a"))  # bought before, and found where it lies
    assert (outcome.moved, outcome.made, await bench.requests(), gate.objects()["i0.jpg"]) == (1, 0, 2, before)


async def test_a_waiting_picture_takes_its_name_from_the_one_that_the_bucket_has(bench, gate):
    await bench.run(items("a"))
    before = gate.objects()["i0.jpg"]
    gate.refuse = refuse_pictures(403)
    outcome = await bench.run(items("a at night"))
    assert (outcome.waiting, gate.objects()) == (1, {"i0.jpg": before})
    gate.refuse = lambda method, path: None
    outcome = await bench.run(items("a at night"))
    served = await bench.served()
    assert (outcome.exit_code, outcome.waiting, outcome.kept, bench.spooled) == (0, 0, 1, [])
    assert digests(gate.objects())["i0.jpg"] == served["a at night"] and gate.objects()["superseded/i0.1.jpg"] == before
    with bench.reader() as ledger:
        assert {path for path, *_ in ledger.expected_files()} == {"i0.jpg", "superseded/i0.1.jpg"}


def test_an_earlier_picture_that_waits_never_takes_the_name_from_a_later_one(gate, tmp_path):
    store = open_store(tmp_path / "job", ADDRESS)
    store.prepare()
    for name in ("1.0", "2.0"):
        (tmp_path / "job" / ".batchgen" / "spool" / name).write_bytes(name.encode())
    store.add_pending(1, [("1.0", "i0.jpg")], BucketUnavailable("away"))
    assert store.uploads.displace_pending([("2.0", "i0.jpg")]) == [("superseded/i0.1.0.jpg", "1.0")]
    assert store.move_into_place("2.0", "i0.jpg") is None
    assert store.pending_uploads == {"superseded/i0.1.0.jpg": "1.0"}
    store.move_into_place("1.0", "superseded/i0.1.0.jpg")
    assert gate.objects() == {"i0.jpg": b"2.0", "superseded/i0.1.0.jpg": b"1.0"}


# --- processes that die


@pytest.mark.parametrize(
    "place",
    [
        "batchgen.engine.settle:deposit",
        "batchgen.store.objects:ObjectStorage.put_new",  # of the picture or the receipt: prepare takes the first two
        "batchgen.engine.settle:deposit!",
        "batchgen.engine.settle:Ledger.attempt_succeeded!",
        "batchgen.engine.settle:Ledger.record_placed",
        "batchgen.store.store:Store.discard_spooled",
    ],
)
async def test_a_crash_on_the_way_to_the_bucket_buys_nothing_twice(bench, gate, place):
    child = await bench.child(place, 5 if "put_new" in place else 2)
    assert await child.wait() == 9
    with bench.reader() as ledger:
        in_the_air = len(ledger.open_attempts())
    outcome = await bench.run(THREE)
    assert outcome.exit_code == 0
    await all_three(bench, gate)
    with bench.reader() as ledger:
        uncertain = ledger.attempts().get("uncertain", 0)
        assert await bench.requests() <= 3 + uncertain
    # At least the one on its way was taken up; one that the ledger had by then was not open any more.
    recorded = place.startswith(("batchgen.engine.settle:Ledger", "batchgen.store.store:"))
    assert uncertain < in_the_air + recorded or in_the_air == 0


@pytest.mark.parametrize("place", ["batchgen.engine.settle:deposit!", "batchgen.store.objects:ObjectStorage.put_new"])
async def test_what_an_attempt_cost_is_known_after_a_crash_between_bucket_and_ledger(bench, gate, place):
    child = await bench.child(place, 3 if "put_new" in place else 1, items("only one"))
    assert await child.wait() == 9
    outcome = await bench.run(items("only one"))
    assert (outcome.exit_code, outcome.made, await bench.requests()) == (0, 0, 1)
    with bench.reader() as ledger:
        (result,) = ledger.results_by_item(("succeeded",))
    assert result.usd_source == "usage"
    assert digests(gate.objects())["i0.jpg"] == (await bench.served())["only one"]


async def test_a_picture_is_found_by_its_receipt_where_the_spool_is_another_machines(bench, gate):
    child = await bench.child("batchgen.engine.settle:deposit!", 1, items("only one"))
    assert await child.wait() == 9
    for path in (bench.job / ".batchgen" / "spool").iterdir():
        path.unlink()
    outcome = await bench.run(items("only one"))
    assert (outcome.exit_code, await bench.requests()) == (0, 1)
    assert digests(gate.objects())["i0.jpg"] == (await bench.served())["only one"]


async def test_a_receipt_whose_picture_is_another_one_now_is_not_believed(bench, gate):
    child = await bench.child("batchgen.engine.settle:deposit!", 1, items("only one"))
    assert await child.wait() == 9
    for path in (bench.job / ".batchgen" / "spool").iterdir():
        path.unlink()
    objects = ObjectStorage(ADDRESS)
    size = len(gate.objects()["i0.jpg"])
    objects.delete("i0.jpg")
    objects.put_new("i0.jpg", bytes(size))
    outcome = await bench.run(items("only one"))
    with bench.reader() as ledger:
        assert ledger.attempts()["uncertain"] == 1
    assert (outcome.made, await bench.requests(), gate.objects()["superseded/i0.1.jpg"]) == (1, 2, bytes(size))


@pytest.mark.parametrize(
    "forged",
    [{"spool": "../../../kept.txt"}, {"file": {"path": "../kept.txt"}}, {"k": "0"}, {"file": {"path": "/etc/x"}}],
)
async def test_a_receipt_that_names_other_files_is_not_believed(bench, gate, forged):
    """Whoever may write into the bucket must not reach this machine's files by it."""
    child = await bench.child("batchgen.engine.settle:deposit!", 1, items("only one"))
    assert await child.wait() == 9
    (bench.folder / "kept.txt").write_text("mine")
    for path in (bench.job / ".batchgen" / "spool").iterdir():
        path.unlink()
    objects = ObjectStorage(ADDRESS)
    (name,) = [found.path for found in objects.list() if "receipts" in found.path]
    receipt = json.loads(objects.open(name).read())
    picture = receipt["pictures"][0]
    picture |= {**forged, "file": {**picture["file"], **forged.get("file", {})}}
    objects.delete(name)
    objects.put_new(name, json.dumps(receipt).encode())
    await bench.run(items("only one"))
    with bench.reader() as ledger:
        assert ledger.attempts()["uncertain"] == 1
    assert (bench.folder / "kept.txt").read_text() == "mine"


async def test_sigkill_in_the_middle_of_an_upload_is_finished_by_the_next_run(bench, gate):
    gate.holds = lambda method, path: method == "PUT" and path == "i1.jpg"
    child = await bench.child(entries=THREE)
    assert await asyncio.to_thread(gate.held.wait, 20)
    child.kill()
    await child.wait()
    gate.holds = lambda method, path: False
    outcome = await bench.run(THREE)
    assert outcome.exit_code == 0
    await all_three(bench, gate)
    with bench.reader() as ledger:
        assert await bench.requests() <= 3 + ledger.attempts().get("uncertain", 0)
        assert "i1" in bench.notes


async def test_a_bucket_on_this_machine_is_reached_directly_whatever_proxy_the_environment_names(
    bench, gate, monkeypatch
):
    with monkeypatch.context() as patch:
        for name in ("HTTPS_PROXY", "HTTP_PROXY", "ALL_PROXY", "http_proxy", "https_proxy"):
            patch.setenv(name, "http://127.0.0.1:9")
        outcome = await bench.run(THREE)
    assert outcome.exit_code == 0
    await all_three(bench, gate)


async def test_a_bucket_elsewhere_is_reached_through_the_proxy_whose_password_is_not_shown(gate, monkeypatch):
    monkeypatch.setattr("batchgen.store.objects.RETRIES", 0)
    monkeypatch.delenv("AWS_ENDPOINT_URL")
    refuses = b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n"
    async with proxy(0, answer=refuses) as through:
        monkeypatch.setenv("HTTPS_PROXY", through.url("me:hush@"))
        with pytest.raises(BucketUnavailable) as error:
            await asyncio.to_thread(ObjectStorage(ADDRESS).stat, "a.png")
    assert through.asked[0] == "CONNECT s3.us-east-1.amazonaws.com:443 HTTP/1.1"
    assert "hush" not in str(error.value)
