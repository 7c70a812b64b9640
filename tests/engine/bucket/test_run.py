"""A job whose pictures live in a bucket: what lies where, what makes way for what, what it costs, and what is refused."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from dataclasses import replace

import pytest

import batchgen
from batchgen.errors import SettingsError, StoreError, UsageError
from batchgen.ledger.ledger import Ledger
from batchgen.ledger.pictures import SpooledPicture
from batchgen.ledger.requests import IntendedRequest
from batchgen.records import ImageFile, Reply
from batchgen.store.objects import ObjectStorage
from batchgen.store.store import open_store
from tests.support.bench import items
from tests.support.bucket_bench import ADDRESS
from tests.support.paths import ROOT
from tests.support.samples import make_sample, receipt_of

OWN = {"ledger.sqlite", "ledger.sqlite-wal", "ledger.sqlite-shm", "lock", "bucket"}


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


async def test_pictures_go_to_the_bucket_and_the_records_stay_in_the_folder(bench, gate):
    outcome = await bench.run(items("a", "b", "c"))
    assert (outcome.exit_code, outcome.made, outcome.bucket, outcome.waiting) == (0, 3, ADDRESS, 0)
    served = await bench.served()
    assert {name: {digest(data)} for name, data in gate.objects().items()} == {
        f"i{n}.jpg": served[prompt] for n, prompt in enumerate("abc")
    }
    assert {path.name for path in bench.job.iterdir()} == {".batchgen", "results.jsonl"}
    assert {path.name for path in (bench.job / ".batchgen").iterdir() if path.is_file()} <= OWN
    assert bench.spooled == []


async def test_a_picture_costs_two_puts_and_a_run_three_puts_and_a_listing_at_either_end(bench, gate):
    await bench.run(items("a", "b", "c", "d"))
    assert (gate.count("PUT"), gate.count("HEAD"), gate.count("GET")) == (2 + 2 * 4, 0, 2)
    gate.seen.clear()
    outcome = await bench.run(items("a", "b", "c", "d"))
    assert (outcome.exit_code, outcome.kept, await bench.requests()) == (0, 4, 4)
    assert (gate.count("PUT"), gate.count("GET"), len(gate.seen)) == (2, 2, 5)  # the probe twice, its end, the listings


@pytest.mark.parametrize("size", [0, 5])
async def test_an_object_that_somebody_wrote_over_is_named_and_not_bought_again(bench, gate, size):
    await bench.run(items("a", "b"))
    before = gate.objects()["i1.jpg"]
    gate.put("pictures", "shop/catalog/i1.jpg", b"x" * (len(before) + size))
    for _ in range(2):
        outcome = await bench.run(items("a", "b"))
        assert (outcome.exit_code, outcome.discrepancies.changed, await bench.requests()) == (5, ("i1.jpg",), 2)
    gate.put("pictures", "shop/catalog/i1.jpg", before)
    assert (await bench.run(items("a", "b"))).exit_code == 0


async def test_an_object_with_another_etag_and_the_same_bytes_is_read_once(bench, gate):
    await bench.run(items("a", "b"))
    with bench.writer() as db:
        db.execute("UPDATE image SET stamp = 'of another service' WHERE path = 'i1.jpg'")
    gate.seen.clear()
    for _ in range(2):
        assert (await bench.run(items("a", "b"))).exit_code == 0
    assert [path for method, path in gate.seen if method == "GET" and path.endswith(".jpg")] == ["i1.jpg"]


async def test_a_bucket_that_cannot_be_listed_at_the_end_leaves_the_run_without_success(bench, gate, monkeypatch):
    monkeypatch.setattr("batchgen.store.objects.RETRIES", 0)
    gate.refuse = lambda method, path: 503 if method == "GET" and any(gate.objects()) else None
    outcome = await bench.run(items("a"))
    assert (outcome.exit_code, outcome.made, "HTTP 503" in outcome.message) == (5, 1, True)


async def test_a_deposit_pushes_nothing_aside_and_leaves_a_name_that_the_ledger_gave_to_another(gate, tmp_path):
    """Another worker may have made the picture while this one could not hear from the ledger."""
    store = open_store(tmp_path / "job", ADDRESS)
    store.prepare()
    for name in ("1.0", "2.0"):
        (tmp_path / "job" / ".batchgen" / "spool" / name).write_bytes(name.encode())
    settled = [SpooledPicture(1, 0, name, ImageFile(path=path, sha256="", bytes=3, width=1, height=1, format="jpeg"), None)
               for name, path in (("1.0", "i0.jpg"), ("2.0", "i1.jpg"))]  # fmt: skip
    gate.put("pictures", "shop/catalog/i0.jpg", b"made meanwhile")
    store.bind("ledger")
    store.upload_with_receipt(1, settled[:1], {})
    store.upload_with_receipt(2, settled[1:], {})
    assert gate.objects() == {"i0.jpg": b"made meanwhile", "i1.jpg": b"2.0"}
    for name in ("1.0", "2.0"):
        assert store.move_into_place(name, f"drafts/{name}.jpg") is None
    assert gate.objects() == {"i0.jpg": b"made meanwhile", "drafts/1.0.jpg": b"1.0", "drafts/2.0.jpg": b"2.0"}


def test_a_picture_that_moves_before_anything_was_listed_is_known_by_its_size(gate, tmp_path):
    gate.put("pictures", "shop/catalog/a.jpg", b"eleven bytes")
    store = open_store(tmp_path / "job", ADDRESS)
    store.prepare()
    store._move("a.jpg", "b.jpg")
    assert (store.has_file("b.jpg", 12), store.has_file("a.jpg", 12)) == (True, False)


async def test_a_receipt_says_all_that_settling_needs_and_lies_beside_the_pictures(bench, gate):
    await bench.run(items("a"))
    objects = ObjectStorage(ADDRESS)
    (path,) = [found.path for found in objects.list(".batchgen/receipts")]
    receipt = json.loads(objects.open(path).read())
    picture = receipt["pictures"][0]
    assert (receipt["item"], receipt["n"], picture["file"]["path"]) == ("i0", 1, "i0.jpg")
    assert picture["file"]["sha256"] == digest(gate.objects()["i0.jpg"])
    with bench.reader() as ledger:
        (result,) = ledger.results_by_item(("succeeded",))
    assert (receipt["usd"], receipt["fingerprint"]) == (result.usd, result.fingerprint)
    assert receipt["usage"]["image_tokens"] > 0


@pytest.mark.parametrize("spooled", [True, False], ids=["in the spool", "by its receipt alone"])
async def test_a_deposit_that_is_found_when_its_image_was_made_again_becomes_a_draft_and_leaves_its_name(
    bench, gate, spooled
):
    assert await (await bench.child("batchgen.engine.settle:deposit!", 1, items("only one"))).wait() == 9
    for path in () if spooled else (bench.job / ".batchgen" / "spool").iterdir():
        path.unlink()
    first, again = gate.objects()["i0.jpg"], b"made again"
    gate.put("pictures", "shop/catalog/i0.png", again)
    ledger = Ledger(bench.job)
    (lost,) = ledger.reader.open_attempts()
    sample = replace(make_sample("i0"), fingerprint=lost.fingerprint, wire=ledger.reader.wire("i0", 1))
    attempt = await ledger.attempt_started(IntendedRequest(sample, lost.lane, 2, None))
    file = ImageFile(path="i0.png", sha256=digest(again), bytes=len(again), width=1, height=1, format="png")
    picture = SpooledPicture(1, 0, f"{attempt}.0", file, None)
    ledger.attempt_succeeded(receipt_of(attempt, sample, Reply(), [picture], sent_at=None, usd=None, usd_source=""))
    ledger.record_placed(attempt)
    ledger.close()
    outcome = await bench.run(items("only one"))
    assert (outcome.exit_code, outcome.kept, await bench.requests()) == (0, 1, 1)
    assert gate.objects() == {"i0.png": again, f"drafts/i0.{lost.id}-0.jpg": first}
    with bench.reader() as reader:
        assert {path for path, *_ in reader.expected_files()} == set(gate.objects())


async def test_a_changed_prompt_keeps_the_earlier_picture_aside(bench, gate):
    await bench.run(items("a", "b"))
    before = gate.objects()["i1.jpg"]
    outcome = await bench.run(items("a", "b at night"))
    found = gate.objects()
    assert (outcome.made, sorted(found)) == (1, ["i0.jpg", "i1.jpg", "superseded/i1.1.jpg"])
    assert found["superseded/i1.1.jpg"] == before != found["i1.jpg"]
    with bench.reader() as ledger:
        assert {path for path, *_ in ledger.expected_files()} == set(found)
    outcome = await bench.run(items("a", "b"))  # bought before: it comes back
    assert (outcome.moved, outcome.made, gate.objects()["i1.jpg"]) == (1, 0, before)


async def test_a_name_that_a_stranger_took_makes_way_and_is_not_written_over(bench, gate):
    ObjectStorage(ADDRESS).put_new("i0.jpg", b"somebody's own")
    await bench.run(items("a"))
    found = gate.objects()
    assert found["superseded/i0.1.jpg"] == b"somebody's own"
    assert {digest(found["i0.jpg"])} == (await bench.served())["a"]


async def test_what_the_manifest_no_longer_wants_moves_and_so_do_its_texts(bench, gate):
    head = "defaults: {model: flash, modalities: [text, image]}\nitems:\n"
    await bench.run(items("a", "b"), head=head)
    before = gate.objects()
    assert {"i0.txt", "i1.txt"} <= set(before)
    await bench.run(items("a"), head=head)
    found = gate.objects()
    picture = next(name for name in before if name.startswith("i1.") and name != "i1.txt")
    assert (
        found[f"superseded/i1.1{picture[2:]}"] == before[picture] and found["superseded/i1.1.txt"] == before["i1.txt"]
    )
    assert picture not in found and "i1.txt" not in found


async def test_a_reference_to_a_picture_of_an_earlier_run_is_fetched_from_the_bucket(bench, gate):
    await bench.run(items("a mug"))
    gate.seen.clear()
    text = (
        items("a mug")
        + '  - {id: snow, prompt: in snow, references: ["@i0"]}\n  - {id: rain, prompt: in rain, references: ["@i0"]}\n'
    )
    outcome = await bench.run(text)
    assert (outcome.exit_code, outcome.made, await bench.requests()) == (0, 2, 3)
    assert [path for method, path in gate.seen if method == "GET" and path == "i0.jpg"] == ["i0.jpg"]
    assert not (bench.job / ".batchgen" / "references").exists()


async def test_a_conversation_goes_on_in_a_later_run(bench, gate):
    await bench.run("  - {id: talk, turns: [a fox]}\n")
    outcome = await bench.run("  - {id: talk, turns: [a fox, make it red]}\n")
    assert (outcome.exit_code, outcome.made, sorted(gate.objects())) == (0, 1, ["talk-t1.jpg", "talk-t2.jpg"])


async def test_pictures_that_are_elsewhere_are_not_bought_again_in_silence(bench, gate, tmp_path):
    job = batchgen.load(bench.manifest(items("a", "b")), emulate=True)
    options = batchgen.RunOptions(emulator_url=bench.url)
    await batchgen.run(job, options=options)
    with pytest.raises(UsageError, match=r"2 image\(s\) of this job are in .* and not in s3://pictures/shop/catalog"):
        await bench.run(items("a", "b"))
    with pytest.raises(UsageError, match="would be bought again"):
        batchgen.plan(batchgen.load(bench.manifest(items("a", "b")), output=ADDRESS, emulate=True))
    for picture in bench.job.glob("*.jpg"):  # as `aws s3 sync` would
        ObjectStorage(ADDRESS).put_new(picture.name, picture)
    outcome = await bench.run(items("a", "b"))
    assert (outcome.exit_code, outcome.kept, await bench.requests()) == (0, 2, 2)


async def test_a_job_remembers_its_bucket(bench, gate):
    await bench.run(items("a"))
    assert batchgen.load(bench.folder / "job.yaml", emulate=True).bucket == ADDRESS
    assert batchgen.load(bench.folder / "job.yaml", output=bench.job).bucket == ADDRESS


def test_an_emulated_run_does_not_touch_the_bucket_of_the_manifest(tmp_path):
    path = tmp_path / "job.yaml"
    path.write_text(f"output: {ADDRESS}\nitems: [{{prompt: p}}]\n")
    assert batchgen.load(path, emulate=True).bucket == ""
    real = batchgen.load(path)
    assert (real.bucket, real.folder) == (ADDRESS, tmp_path / "job")


def test_a_job_in_a_folder_never_loads_what_buckets_need(tmp_path):
    (tmp_path / "job.yaml").write_text("defaults: {model: flash}\nitems: [{id: a, prompt: p}]\n")
    code = (
        "import sys, batchgen;"
        "code = batchgen.run_sync(batchgen.load(sys.argv[1], emulate=True, environ={})).exit_code;"
        "sys.exit(code or 'obstore' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "job.yaml")], cwd=ROOT, check=False)
    assert done.returncode == 0


# --- before anything is paid for


async def test_a_storage_that_writes_over_what_is_there_is_refused(bench, gate):
    gate.drops_conditions = True
    with pytest.raises(StoreError, match="writes over what is there"):
        await bench.run(items("a"))
    assert await bench.requests() == 0


@pytest.mark.parametrize(
    ("status", "words"), [(403, "refuses it .HTTP 403 AccessDenied.: check the credentials"), (400, "answers HTTP 400")]
)
async def test_a_bucket_that_cannot_be_written_stops_before_anything_is_sent(bench, gate, status, words):
    gate.refuse = lambda method, path: status if method == "PUT" else None
    with pytest.raises(StoreError, match=words):
        await bench.run(items("a"))
    assert await bench.requests() == 0


async def test_a_bucket_that_is_not_there_is_named(bench, gate):
    job = batchgen.load(bench.manifest(items("a")), output="s3://another-one/x", emulate=True)
    with pytest.raises(StoreError, match="s3://another-one/x: there is no such bucket"):
        await batchgen.run(job, options=batchgen.RunOptions(emulator_url=bench.url))


async def test_without_the_extra_the_remedy_is_one_line(bench, monkeypatch):
    monkeypatch.setitem(sys.modules, "obstore", None)
    with pytest.raises(SettingsError, match=r"buckets need obstore: pip install 'batchgen\[cloud\]'"):
        await bench.run(items("a"))


async def test_plain_http_to_another_host_is_refused_unless_it_is_allowed_in_words(bench, monkeypatch):
    monkeypatch.setattr("batchgen.store.objects.RETRIES", 0)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://0.0.0.0:9")  # leads to this machine, and is not a loopback address
    with pytest.raises(SettingsError, match="AWS_ENDPOINT_URL: plain http"):
        await bench.run(items("a"))
    monkeypatch.setenv("AWS_ALLOW_HTTP", "true")
    with pytest.raises(StoreError, match="it cannot be reached"):
        await bench.run(items("a"))


async def test_without_credentials_it_is_said_which_to_set(bench, gate, monkeypatch):
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    with pytest.raises(SettingsError, match="no usable credentials: set AWS_ACCESS_KEY_ID and"):
        await bench.run(items("a"))


async def test_a_bucket_that_does_not_answer_or_is_not_reached_is_told_apart(bench, gate, monkeypatch):
    monkeypatch.setattr("batchgen.store.objects.RETRIES", 0)
    monkeypatch.setattr("batchgen.store.objects.REQUEST_TIMEOUT_S", 0.2)
    gate.holds = lambda method, path: True
    with pytest.raises(StoreError, match=f"^{ADDRESS}: it does not answer in time$"):
        await bench.run(items("a"))
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(StoreError, match=f"^{ADDRESS}: it cannot be reached"):
        await bench.run(items("a"))


async def test_a_large_answer_goes_up_as_it_came(bench, gate, monkeypatch):
    """Above the bound of one request the upload is in parts, and still never over what is there."""
    monkeypatch.setattr("batchgen.store.objects.SINGLE_PUT_MAX_BYTES", 1000)
    await bench.run(items("a"))
    assert {digest(gate.objects()["i0.jpg"])} == (await bench.served())["a"]
