"""The dashboard over real HTTP: who may ask what, what is served, and real runs of other processes watched, stopped and retried."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.request
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import aiohttp
import pytest

import batchgen
from batchgen.cli.commands_look import SERVE
from batchgen.cli.invocation import Invocation
from batchgen.cli.serve import list_job_locations
from batchgen.emulator import BatchOptions as EmulatedBatches
from batchgen.emulator import EmulatorOptions
from batchgen.emulator import serve as emulator
from batchgen.errors import UsageError
from batchgen.ledger.reader import HistoryReader, Reader
from batchgen.ledger.schema import ledger_path
from batchgen.planning.batchable import BatchOptions
from batchgen.profiles.catalogue import load_catalogue
from batchgen.report.dashboard.actions import ActionRefused, holds_lock, stop
from batchgen.report.dashboard.guard import CSRF_HEADER
from batchgen.report.dashboard.job_card import JobLocation, card_of, derivative_counts
from batchgen.report.dashboard.pictures import parse_range
from batchgen.report.gallery_data import ManifestInfo
from batchgen.report.queries import read_lanes
from batchgen.store.lock import JobLock
from tests.support.dashboard import SECRET, site
from tests.support.fork_server import PYTHON
from tests.support.gallery_job import make_family, make_job
from tests.support.paths import ROOT

TOKEN = "a-token-that-nobody-guesses"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_job(tmp_path_factory.mktemp("dashboard"))


@pytest.fixture(scope="module")
def family(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The manifest of a job with thoughts, derivatives, conversations."""
    return make_family(tmp_path_factory.mktemp("family"))


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    """A job of its own for each test, without its manifest."""
    return Path(shutil.copytree(made, tmp_path / "night.emulated"))


def facts_in(page: bytes) -> Any:
    return json.loads(page.split(b'id="facts">')[1].split(b"</script>")[0])


async def events(answer: aiohttp.ClientResponse) -> AsyncIterator[tuple[str, str, Any]]:
    """(name, id, data) of each; comments passed over."""
    fields: dict[str, str] = {}
    async for line in answer.content:
        text = line.decode().rstrip("\n")
        if text:
            name, _, value = text.partition(": ")
            fields[name] = value
        elif "event" in fields:
            yield fields["event"], fields.get("id", ""), json.loads(fields["data"])
            fields = {}


# Who may ask


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1", "localhost.evil.example:PORT", "127.0.0.1:1", ""])
async def test_a_name_that_is_not_ours_gets_nothing_so_rebinding_a_name_leads_nowhere(folder, host):
    async with site(folder) as on:
        for path in ("/", f"/jobs/{on.job}/", f"/jobs/{on.job}/events", "/metrics", "/healthz"):
            status, body, _ = await on.get(path, Host=host.replace("PORT", str(on.port)))
            assert (status, b"night" in body) == (421, False), path


async def test_the_very_address_that_was_reached_is_a_name_and_so_is_one_that_was_given(folder):
    async with site(folder, names=False) as on:
        for host, status in ((f"127.0.0.1:{on.port}", 200), ("DASH.example", 200), (f"localhost:{on.port}", 421)):
            assert (await on.get("/", Host=host))[0] == status


async def test_a_change_needs_our_own_page(folder):
    async with site(folder) as on:
        path, body = f"/jobs/{on.job}/retry", {"states": ["failed"]}
        for wrong in (
            {"Origin": "http://evil.example"},
            {"Origin": ""},
            {"Origin": "null"},
            {"Origin": on.base.replace("127.0.0.1", "localhost")},
            {CSRF_HEADER: ""},
            {CSRF_HEADER: "x" * 43},
            {"Sec-Fetch-Site": "cross-site"},
            {"Sec-Fetch-Site": "same-site"},
        ):
            assert (await on.post(path, body, **wrong))[0] == 403, wrong
        assert (await on.post(path, body, **{"Content-Type": "text/plain"}))[0] == 415
        assert (await on.post(path, ["x"]))[0] == 400
        assert (await on.post(path, {"states": ["everything"]}))[0] == 409
        assert (await on.post(path, {"states": ["failed"], "x": "y" * 9000}))[0] == 413
    with Reader.open(folder) as reader:
        assert len(reader.runs(9)) == 2


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "DELETE", "OPTIONS", "PATCH"])
async def test_nothing_is_changed_but_by_post_and_no_other_site_is_allowed_anything(folder, method):
    async with site(folder) as on:
        for action in ("retry", "stop"):
            headers = {"Origin": on.base, CSRF_HEADER: on.csrf, "Content-Type": "application/json"}
            status, _, got = await on.ask(method, f"/jobs/{on.job}/{action}", headers=headers, data="{}")
            assert status == 405
            assert not [name for name in got if name.lower().startswith("access-control")]
        assert (await on.ask("POST", "/", headers={"Origin": on.base, CSRF_HEADER: on.csrf}, json={}))[0] == 405


async def test_another_site_can_neither_read_nor_embed_but_link_here(folder):
    async with site(folder) as on:
        assert (await on.get(f"/jobs/{on.job}/pictures/1-0", **{"Sec-Fetch-Site": "cross-site"}))[0] == 403
        link = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}
        status, _, got = await on.get("/", **link)
        assert (status, got["X-Frame-Options"], got["X-Content-Type-Options"]) == (200, "DENY", "nosniff")
        assert "frame-ancestors 'none'" in got["Content-Security-Policy"]
        assert "unsafe" not in got["Content-Security-Policy"]
        assert (got["Cache-Control"], got["Cross-Origin-Resource-Policy"]) == ("no-store", "same-origin")


async def test_a_token_is_wanted_by_every_page_but_the_one_for_keepers_alive(folder):
    async with site(folder, token=TOKEN) as on:
        for path in ("/", f"/jobs/{on.job}/", f"/jobs/{on.job}/pictures/1-0", "/events", "/metrics"):
            status, body, _ = await on.get(path)
            assert (status, b"night" in body) == (401, False)
        assert (await on.get("/?token=wrong"))[0] == 401
        assert (await on.get("/healthz"))[:2] == (200, b"ok\n")
        assert (await on.get("/", Authorization=f"Bearer {TOKEN}"))[0] == 200
        assert (await on.get(f"/?token={TOKEN}", Host="evil.example"))[0] == 401
        status, _, got = await on.get(f"/?token={TOKEN}")
        assert (status, got["Location"]) == (303, "/")
        assert (await on.ask("GET", f"//evil.example/?token={TOKEN}"))[2].get("Location", "/") == "/evil.example/"
        assert all(word in got["Set-Cookie"] for word in ("HttpOnly", "SameSite=Strict"))
        status, body, _ = await on.get("/")
        assert (status, TOKEN.encode() in body) == (200, False)


async def test_a_browser_without_the_token_gets_a_page_that_asks_for_it_and_a_foreign_name_none(folder):
    html = {"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"}
    async with site(folder, token=TOKEN) as on:
        for path, why in (("/", b"A token is needed."), ("/?token=wrong", b"That is not the token of this start.")):
            status, body, got = await on.get(path, **html)
            assert (status, why in body, TOKEN.encode() in body) == (401, True, False)
            assert "form-action 'self'" in got["Content-Security-Policy"]
            assert "unsafe" not in got["Content-Security-Policy"]
        _, body, got = await on.get("/?token=wrong", Host="evil.example", **html)
        assert body.startswith(b'{"error"')


async def test_read_only_has_no_actions_at_all(folder):
    async with site(folder, read_only=True) as on:
        assert facts_in((await on.get("/"))[1])["live"]["csrf"] == ""
        for action in ("retry", "stop"):
            assert (await on.post(f"/jobs/{on.job}/{action}", {"states": ["failed"], "run": 2}))[0] == 404


def test_another_address_than_loopback_needs_a_token_and_a_short_one_is_none(batchgen_serve):
    others = ("--host", "0.0.0.0")  # noqa: S104 - refused
    assert "--token" in batchgen_serve(*others)
    assert "guess" in batchgen_serve(*others, BATCHGEN_SERVE_TOKEN="short")


# What is served


async def test_pictures_are_served_by_number_with_their_sniffed_type_and_in_parts(folder):
    async with site(folder) as on:
        page = facts_in((await on.get(f"/jobs/{on.job}/"))[1])
        address = next(s["pictures"][0]["thumbnail"] for s in page["samples"] if s["id"] == "mug")
        bytes_ = (folder / "mug.jpg").read_bytes()
        status, body, got = await on.get(f"/jobs/{on.job}/pictures/{address}")
        assert (status, body == bytes_, got["Content-Type"]) == (200, True, "image/jpeg")
        assert got["X-Content-Type-Options"] == "nosniff"
        same = await on.get(f"/jobs/{on.job}/pictures/{address}", **{"If-None-Match": got["ETag"]})
        assert same[:2] == (304, b"")
        status, body, got = await on.get(f"/jobs/{on.job}/pictures/{address}", Range="bytes=10-19")
        assert (status, body, got["Content-Range"]) == (206, bytes_[10:20], f"bytes 10-19/{len(bytes_)}")
        assert (await on.get(f"/jobs/{on.job}/pictures/{address}", Range="bytes=99999999-"))[0] == 416
        status, body, got = await on.get(f"/jobs/{on.job}/thumbnails/{address}")
        assert (status, body[8:12], got["Content-Type"]) == (200, b"WEBP", "image/webp")
        assert len(list((folder / ".batchgen" / "thumbnails").rglob("*.webp"))) == 1  # where `report` keeps them


@pytest.mark.parametrize(
    ("header", "span"),
    [("", (0, 99)), ("bytes=0-", (0, 99)), ("bytes=5-7", (5, 7)), ("bytes=90-400", (90, 99)), ("bytes=-4", (96, 99)),
     ("bytes=-0", None), ("bytes=100-", None), ("bytes=7-5", None), ("bytes=1-2,4-5", (0, 99)), ("bytes=-", (0, 99))],
)  # fmt: skip
def test_a_range_is_read_as_the_standard_says(header, span):
    assert parse_range(header, 100) == span


def derivative(sample: dict[str, Any], path: str) -> str:
    sha = next(made[4] for made in sample["derivatives"] if made[0] == path)
    return f"derivatives/{sha}?id={sample['id']}&n={sample['n']}"


async def test_thoughts_and_derivatives_of_a_picture_are_served_and_no_other_file(family):
    job = family.parent / "family.emulated"
    async with site(job) as on:
        mug, *others = sorted(
            facts_in((await on.get(f"/jobs/{on.job}/"))[1])["samples"], key=lambda sample: sample["id"] != "mug"
        )
        assert mug["files"] == ["mug.thoughts.md"]
        assert mug["thoughts"] == (job / "mug.thoughts.md").read_text().strip()
        thought = next(picture for picture in mug["pictures"] if picture["kind"] == "thought")
        for kind in ("pictures", "thumbnails"):
            assert (await on.get(f"/jobs/{on.job}/{kind}/{thought['thumbnail']}"))[0] == 200
        for path, kind in {"thumb/mug.avif": "image/avif", "web-16/mug.webp": "image/webp"}.items():
            address = f"/jobs/{on.job}/{derivative(mug, f'derivatives/{path}')}"
            status, body, got = await on.get(address)
            assert (status, body, got["Content-Type"]) == (200, (job / "derivatives" / path).read_bytes(), kind)
            for other in (
                address.replace("id=mug", "id=lamp"),
                address.replace("n=1", "n=2"),
                address.replace("n=1", "n=x"),
            ):
                assert (await on.get(other))[0] == 404
        assert (await on.get(f"/jobs/{on.job}/{derivative(mug, 'derivatives/mug.json')}"))[0] == 404  # no picture
        assert not any("derivatives" in sample for sample in others if sample["id"] in ("lamp", "gone", "waits"))


async def test_a_derivative_that_was_swapped_for_a_link_is_not_served(family, tmp_path):
    job = Path(shutil.copytree(family.parent / "family.emulated", tmp_path / "family.emulated"))
    file = job / "derivatives" / "web-16" / "mug.webp"
    file.rename(tmp_path / "outside.webp")
    file.symlink_to(tmp_path / "outside.webp")
    async with site(job) as on:
        samples = facts_in((await on.get(f"/jobs/{on.job}/"))[1])["samples"]
        mug = next(sample for sample in samples if sample["id"] == "mug")
        assert (await on.get(f"/jobs/{on.job}/{derivative(mug, 'derivatives/web-16/mug.webp')}"))[0] == 404


def test_what_was_made_or_said_of_a_picture_is_a_change_of_its_item(family, tmp_path):
    job = Path(shutil.copytree(family.parent / "family.emulated", tmp_path / "family.emulated"))
    change(job, "UPDATE sample SET updated_at = 100")
    change(job, "UPDATE derivative SET mtime_ns = iif(item_id = 'mug', 200, 50) * 1000000000")
    change(job, "UPDATE verdict SET at = iif(item_id = 'lamp', 300, 50)")
    with HistoryReader.open(job) as ledger:
        assert [ledger.changed_since(at) for at in (150, 250, 350)] == [{"mug", "lamp"}, {"lamp"}, set()]


async def test_no_way_leads_out_of_the_job_folder(folder, tmp_path):
    outside = tmp_path / "outside.jpg"
    shutil.copy(folder / "mug.jpg", outside)
    (folder / "lamp.jpg").unlink()
    (folder / "lamp.jpg").symlink_to(outside)
    (folder / "chair.jpg").write_text("<script>alert(1)</script>")
    async with site(folder) as on:
        samples = facts_in((await on.get(f"/jobs/{on.job}/"))[1])["samples"]
        by_id = {sample["id"]: sample["pictures"][0]["thumbnail"] for sample in samples if sample["pictures"]}
        for kind in ("pictures", "thumbnails"):
            assert (await on.get(f"/jobs/{on.job}/{kind}/{by_id['lamp']}"))[0] == 404
            assert (await on.get(f"/jobs/{on.job}/{kind}/{by_id['chair']}"))[0] == 404
            for way in (
                "../../../../etc/passwd",
                "..%2f..%2fetc%2fpasswd",
                "%2e%2e/1-0",
                "mug.jpg",
                "999-0",
                "1-99",
                "1-0/x",
            ):
                assert (await on.get(f"/jobs/{on.job}/{kind}/{way}"))[0] == 404, way
        assert (await on.get("/jobs/..%2f..%2fetc/pictures/1-0"))[0] == 404


@pytest.mark.parametrize("path", ["../outside.jpg", "/etc/passwd", "sub/../../outside.jpg"])
async def test_a_ledger_that_names_a_file_outside_is_not_believed(folder, tmp_path, path):
    shutil.copy(folder / "mug.jpg", tmp_path / "outside.jpg")
    change(folder, "UPDATE image SET path = ? WHERE attempt_id = 1", path)
    async with site(folder) as on:
        assert (await on.get(f"/jobs/{on.job}/pictures/1-0"))[0] == 404
        assert (await on.get(f"/jobs/{on.job}/thumbnails/1-0"))[0] == 404


async def test_a_thumbnail_that_was_swapped_for_a_link_or_another_file_is_not_served(folder):
    async with site(folder) as on:
        assert (await on.get(f"/jobs/{on.job}/thumbnails/1-0"))[0] == 200
        kept = next((folder / ".batchgen" / "thumbnails").rglob("*.webp"))
        kept.unlink()
        kept.symlink_to("/etc/passwd")
        assert (await on.get(f"/jobs/{on.job}/thumbnails/1-0"))[0] == 404


async def test_what_must_stay_secret_is_on_no_page(folder):
    change(folder, "UPDATE attempt SET message = ? WHERE outcome <> 'succeeded'", f"key {SECRET} is bad")
    async with site(folder) as on:
        for path in ("/", f"/jobs/{on.job}/", f"/jobs/{on.job}/nights"):
            status, body, _ = await on.get(path)
            assert (status, SECRET.encode() in body) == (200, False), path
        async with on.client.get(f"{on.base}/jobs/{on.job}/events") as answer:
            async for name, _, data in events(answer):
                assert SECRET not in json.dumps(data)
                if name == "samples":
                    break


async def test_markup_in_a_prompt_cannot_end_the_script_it_stands_in(folder):
    async with site(folder) as on:
        body = (await on.get(f"/jobs/{on.job}/"))[1]
        assert body.count(b"</script>") == 2
        assert "onerror=" in next(s["prompt"] for s in facts_in(body)["samples"] if s["id"] == "markup")


async def test_a_job_that_has_not_begun_says_so_and_appears_when_it_does(made, tmp_path):
    folder = tmp_path / "later"
    async with site(folder) as on:
        card = facts_in((await on.get("/"))[1])["jobs"][0]
        assert (card["begun"], "Nothing has run" in card["problem"]) == (False, True)
        assert facts_in((await on.get(f"/jobs/{on.job}/"))[1])["samples"] == []
        async with on.client.get(f"{on.base}/jobs/{on.job}/events") as answer:
            told = events(answer)
            assert (await anext(told))[0] == "card"
            shutil.copytree(made, folder)
            async with asyncio.timeout(20):
                async for name, _, data in told:
                    if name == "samples":
                        assert len(data["samples"]) == 10
                        break


def damage(ledger: Path) -> None:
    with open(ledger, "r+b") as file:
        file.seek(4096)
        file.write(b"\x00" * 20_000)
    for name in ("-wal", "-shm"):
        Path(f"{ledger}{name}").unlink(missing_ok=True)


async def test_a_damaged_ledger_shows_a_message_and_the_other_jobs_go_on(folder, tmp_path):
    other = Path(shutil.copytree(folder, tmp_path / "other.emulated"))
    damage(ledger_path(folder))
    async with site(folder, other) as on:
        broken, whole = facts_in((await on.get("/"))[1])["jobs"]
        assert "damaged" in broken["problem"]
        assert "Traceback" not in broken["problem"]
        assert whole["samples"]["succeeded"] == 7
        assert (await on.get(f"/jobs/{on.job}/"))[0] == 200
        assert (await on.get("/jobs/0123456789/"))[0] == 404


async def test_who_looks_at_a_job_whose_folder_is_renamed_is_told(folder, tmp_path):
    async with site(folder) as on, on.client.get(f"{on.base}/jobs/{on.job}/events") as answer:
        stream = events(answer)
        await anext(stream)
        on.hub._list_locations, on.hub._discovered_s = list, -60.0  # nobody finds it there any more
        folder.rename(tmp_path / "moved.emulated")
        async for name, _, data in stream:
            if name == "card" and data.get("problem"):
                assert "has gone" in data["problem"]
                break


async def test_a_run_that_died_is_not_shown_as_going_on_because_a_later_one_does(folder):
    with sqlite3.connect(ledger_path(folder)) as db:
        db.execute("UPDATE run SET ended_at = NULL, exit_code = NULL")
    db.close()
    with HistoryReader.open(folder) as ledger:
        card = card_of(ledger, JobLocation(folder), ManifestInfo(load_catalogue()), True, None, {}, time.time())
    assert [night.state for night in card.nights] == ["died", "running"]


def test_the_card_sums_up_the_files_of_the_pictures():
    assert derivative_counts({"web": {"made": 3, "failed": 1}, "thumb": {"made": 2}}) == {"made": 5, "failed": 1}


async def test_the_card_tells_lanes_budgets_trouble_and_nights(folder):
    async with site(folder) as on:
        card = facts_in((await on.get("/"))[1])["jobs"][0]
    assert [lane["model"] for lane in card["lanes"]] == ["gemini-3-pro-image", "gemini-nano-banana-2.1"]
    assert {budget["span"]: budget["limit"] for budget in card["budgets"]} == {"run": 1.0, "day": 2.0}
    assert card["budgets"][1]["spent"] >= card["budgets"][0]["spent"] > 0
    assert card["trouble"]["message"]
    assert [(night["exit_code"], night["state"]) for night in card["nights"]] == [(3, "ended")] * 2


async def test_batches_that_are_out_are_told(tmp_path):
    job = batchgen.load(manifest(tmp_path, 3), emulate=True, environ={})
    async with await emulator(EmulatorOptions(picture="tiny", batch=EmulatedBatches(running_s=60.0))) as at:
        options = batchgen.RunOptions(emulator_url=at.base_url, batches=BatchOptions(wait=False))
        assert (await batchgen.run(job, engine="batch", options=options)).exit_code == 9
    async with site(job.folder) as on:
        card = facts_in((await on.get("/"))[1])["jobs"][0]
    assert [(batch["requests"], batch["succeeded"]) for batch in card["batches"]] == [(3, 0)]
    assert (card["samples"], card["in_flight"]) == ({"submitted": 3}, [])


async def test_a_model_that_waits_for_its_quota_is_shown_with_until_when(tmp_path):
    path = manifest(tmp_path, 3)
    path.write_text(path.read_text().replace("A mug 0", "[[fault:429]] x"))
    job = batchgen.load(path, emulate=True, environ={})
    options = EmulatorOptions(latency_s=(0.0, 0.01), picture="tiny", rpm=0, fault_delay_s=0.6)
    async with await emulator(options) as server:
        await batchgen.run(job, options=batchgen.RunOptions(emulator_url=server.base_url, deadline=time.time() + 1))
    with HistoryReader.open(job.folder) as ledger:
        (until,) = ledger.cooling_lanes().values()
        started = ledger.runs(1)[0].started_at
        assert started + 0.5 < until
        shown = {now: read_lanes(ledger, {}, {}, True, now) for now in (until - 0.1, until + 0.1)}
        assert [[lane.cooling_until for lane in each] for each in shown.values()] == [[until], [0]]
        assert read_lanes(ledger, {}, {}, False, until - 0.1)[0].cooling_until == 0


async def test_metrics_are_those_of_every_job_and_without_the_library_the_answer_names_it(folder, monkeypatch):
    parser = pytest.importorskip("prometheus_client.parser", reason="NOT TESTED: prometheus_client is not installed")
    async with site(folder) as on:
        status, body, got = await on.get("/metrics")
        assert (status, got["Content-Type"].startswith("text/plain")) == (200, True)
        families = {family.name: family.samples for family in parser.text_string_to_metric_families(body.decode())}
        assert sum(sample.value for sample in families["batchgen_images"]) == 8
        assert families["batchgen_run_exit_code"][0].labels == {"job": "night.emulated"}
        monkeypatch.setitem(sys.modules, "prometheus_client", None)
        status, body, _ = await on.get("/metrics")
        assert (status, b"batchgen[metrics]" in body) == (501, True)


# Events


async def test_a_client_that_comes_back_gets_what_it_missed_and_one_of_another_start_everything(folder):
    async with site(folder) as on:
        at = facts_in((await on.get(f"/jobs/{on.job}/"))[1])["live"]["at"]
        touch(folder, "lamp", "edited")
        async with on.client.get(f"{on.base}/jobs/{on.job}/events", headers={"Last-Event-ID": at}) as answer:
            assert answer.headers["Content-Type"].startswith("text/event-stream")
            async for name, _, data in events(answer):
                if name == "samples":
                    assert [(sample["id"], sample["text"]) for sample in data["samples"]] == [("lamp", "edited")]
                    break
        async with on.client.get(f"{on.base}/jobs/{on.job}/events?at=other-9") as answer:
            async for name, again, data in events(answer):
                if name == "samples":
                    assert (len(data["samples"]), again.split("-")[0]) == (10, at.split("-")[0])
                    break


def touch(folder: Path, item: str, text: str) -> None:
    change(folder, "UPDATE sample SET text = ?, updated_at = ? WHERE item_id = ?", text, time.time(), item)


def change(folder: Path, sql: str, *values: Any) -> None:
    with sqlite3.connect(ledger_path(folder)) as database:
        database.execute(sql, values)
    database.close()


@pytest.mark.skipif(sys.platform != "linux", reason="asks /proc")
async def test_nobody_looks_at_a_ledger_when_nobody_looks_at_the_page(folder):
    async with site(folder) as on:
        await on.get("/")
        ledger = ledger_path(folder)
        before = os.stat(ledger).st_atime_ns, open_files(ledger.parent)
        touch(folder, "lamp", "edited")
        await asyncio.sleep(1.5)
        assert open_files(ledger.parent) == before[1] == []
        async with on.client.get(f"{on.base}/events") as answer:
            async for _, _, data in events(answer):
                assert data["jobs"][0]["id"] == on.job
                break
        async with asyncio.timeout(30):  # a look that had begun may take a moment yet
            while open_files(ledger.parent):
                await asyncio.sleep(0.05)


def open_files(folder: Path) -> list[str]:
    """Of this process: a connection that stays open would keep a run from folding its WAL away."""
    found = []
    for name in os.listdir("/proc/self/fd"):
        with suppress(OSError):
            found.append(os.readlink(f"/proc/self/fd/{name}"))
    return [path for path in found if path.startswith(str(folder))]


async def test_a_client_that_takes_nothing_is_dropped(folder, monkeypatch):
    monkeypatch.setattr("batchgen.report.dashboard.server.WRITE_TIMEOUT_S", 0.2)
    touch(folder, "lamp", "x" * 30_000_000)  # more than the buffers of a connection hold
    async with site(folder) as on:
        reader, writer = await asyncio.open_connection("127.0.0.1", on.port, limit=1024)
        writer.write(f"GET /jobs/{on.job}/events HTTP/1.1\r\nHost: 127.0.0.1:{on.port}\r\n\r\n".encode())
        async with asyncio.timeout(20):
            while not on.hub.clients:
                await asyncio.sleep(0.01)
            while on.hub.clients:
                await asyncio.sleep(0.01)
        assert (await on.get("/healthz"))[0] == 200
        got = 0
        with suppress(ConnectionError):
            while piece := await reader.read(1_000_000):
                got += len(piece)
        assert got < 30_000_000  # it was cut off
        writer.close()


# Runs of other processes


@pytest.fixture
def spawn() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """`python -m batchgen`, ended with the test."""
    processes: list[subprocess.Popen[str]] = []

    def start(*argv: str, **environ: str) -> subprocess.Popen[str]:
        environment = {**os.environ, "PYTHONPATH": str(ROOT), **environ}
        process = subprocess.Popen(
            [PYTHON, "-m", "batchgen", *argv], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            stdin=subprocess.DEVNULL, text=True, env=environment,
        )  # fmt: skip
        processes.append(process)
        return process

    yield start
    for process in processes:
        process.kill()
        process.communicate(timeout=10)


@pytest.fixture
def batchgen_serve(spawn, tmp_path) -> Callable[..., str]:
    """What a `serve` that does not begin says."""

    def refused(*argv: str, **environ: str) -> str:
        process = spawn("serve", "--port", "0", *argv, **environ)
        out, err = process.communicate(timeout=20)
        assert (process.returncode in (2, 5), out, "Traceback" in err) == (True, "", False)
        return err

    return refused


def manifest(folder: Path, items: int) -> Path:
    path = folder / "job.yaml"
    lines = "".join(f"  - {{id: i{number}, prompt: 'A mug {number}'}}\n" for number in range(items))
    path.write_text(f"limits: {{concurrency: 2}}\nmodels: {{gemini-nano-banana-2.1: {{rpm: null}}}}\nitems:\n{lines}")
    return path


async def test_a_real_run_is_watched_as_it_goes_and_stopped_by_its_own_process_alone(spawn, tmp_path):
    path = manifest(tmp_path, 60)
    async with site(tmp_path / "job.emulated") as on, asyncio.timeout(60):
        async with on.client.get(f"{on.base}/jobs/{on.job}/events") as answer:
            told, run = events(answer), spawn("run", str(path), "--emulate", "--quiet")
            seen, sent = set[str](), False
            async for name, _, data in told:
                if name == "samples":
                    seen |= {sample["id"] for sample in data["samples"] if sample["state"] == "succeeded"}
                elif data.get("run") and data["run"]["state"] == "running" and seen and not sent:
                    assert data["run"]["pid"] == run.pid
                    assert (await on.post(f"/jobs/{on.job}/stop", {"run": data["run"]["id"] + 1}))[0] == 409
                    status, body, _ = await on.post(f"/jobs/{on.job}/stop", {"run": data["run"]["id"]})
                    assert (status, json.loads(body)) == (200, {"pid": run.pid})
                    sent = True
                elif data.get("run") and data["run"]["state"] == "ended":
                    assert (data["run"]["exit_code"], data["run"]["stopped_by"]) == (143, "SIGTERM")
                    break
        assert await asyncio.to_thread(run.wait, 20) == 143
        assert (await on.post(f"/jobs/{on.job}/stop", {"run": 1}))[0] == 409  # it has ended: nobody is signalled
    with Reader.open(tmp_path / "job.emulated") as reader:
        made = {result.id for result in reader.results(["succeeded"])}
    assert 0 < len(made) < 60
    assert seen <= made


async def test_a_job_that_was_found_and_not_looked_at_yet_has_no_card(folder):
    async with site(folder) as on:
        assert (await on.get("/jobs/nobody/"))[0] == 404  # it was looked for
        assert (list(on.hub.watches), on.hub.loaded) == ([on.job], {})
        await on.get("/")
        assert list(on.hub.loaded) == [on.job]


async def test_what_failed_is_retried_by_a_process_that_outlives_the_dashboard(spawn, tmp_path):
    path = tmp_path / "job.yaml"
    path.write_text("items:\n  - {id: mug, prompt: A mug}\n  - {id: bad, prompt: '[[fault:empty]] x'}\n")
    assert await asyncio.to_thread(spawn("run", str(path), "--emulate", "--quiet").wait, 30) == 3
    folder = tmp_path / "job.emulated"
    async with site(folder) as on:
        status, body, _ = await on.get(f"/jobs/{on.job}/prospect?states=failed")
        assert (status, json.loads(body)["images"], json.loads(body)["emulated"]) == (200, 1, True)
        status, body, _ = await on.post(f"/jobs/{on.job}/retry", {"states": ["failed"]})
        assert status == 200
        assert (await on.post(f"/jobs/{on.job}/retry", {"states": ["failed"]}))[0] == 409  # one at a time
        pid = json.loads(body)["pid"]
        child = on.hub.actions._children[folder].process
    # The dashboard is closed by now.
    for _ in range(600):
        with Reader.open(folder) as reader:
            last = reader.last_run()
        if last and last.id == 2 and last.ended_at:
            break
        await asyncio.sleep(0.05)
    assert (last.id, last.pid, last.exit_code) == (2, pid, 4)  # the emulator fails it again
    assert "no_image" in (folder / ".batchgen" / "dashboard.log").read_text()
    assert (folder / ".batchgen" / "dashboard.log").stat().st_mode & 0o77 == 0
    assert await asyncio.to_thread(child.wait, 30) == 4


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere nothing is stopped from the page")
def test_a_process_that_does_not_hold_the_lock_is_never_signalled(folder):
    bystander = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    try:
        change(folder, "UPDATE run SET ended_at = NULL, pid = ? WHERE id = 2", bystander.pid)
        note = {"pid": bystander.pid, "host": socket.gethostname()}
        (folder / ".batchgen" / "holder.json").write_text(json.dumps(note))
        with pytest.raises(ActionRefused, match="does not hold the lock"):
            stop(JobLocation(folder), 2)
        with pytest.raises(ActionRefused, match="no longer running"):
            stop(JobLocation(folder), 1)
        assert bystander.poll() is None
        lock = JobLock(folder)
        lock.acquire()
        assert (holds_lock(os.getpid(), folder), holds_lock(bystander.pid, folder)) == (True, False)
        lock.release()
    finally:
        bystander.kill()
        bystander.wait()


def test_serve_prints_its_address_on_one_line_and_ends_at_once_when_told_to(spawn, folder):
    for number, path in ((signal.SIGTERM, ""), (signal.SIGINT, f"jobs/{JobLocation(folder).id}/")):
        process = spawn("serve", str(folder), "--port", "0")
        address = process.stdout.readline().strip()
        stream = urllib.request.urlopen(f"{address}{path}events", timeout=20)  # noqa: S310 - our own
        assert stream.readline() == b"retry: 2000\n"
        process.send_signal(number)
        out, err = process.communicate(timeout=10)
        stream.close()
        assert (process.returncode, out, err) == (0, "", "")


def test_a_port_that_is_taken_is_said_with_a_way_out(batchgen_serve, folder):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        assert "--port 0" in batchgen_serve(str(folder), "--port", str(taken.getsockname()[1]))


def test_jobs_are_looked_for_where_history_finds_them_and_a_manifest_before_it_has_run(made, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert list_job_locations(()) == []
    path = manifest(tmp_path, 1)
    assert list_job_locations((str(path),)) == [JobLocation(tmp_path / "job", str(path))]
    for name in ("job.emulated", "jobs/other"):
        shutil.copytree(made, tmp_path / name)
    assert [place.folder.name for place in list_job_locations((str(path),))] == ["job.emulated"]
    assert {place.folder.name for place in list_job_locations(())} == {"job.emulated", "other"}
    assert list_job_locations(("jobs",)) == [JobLocation(tmp_path / "jobs" / "other")]


def test_the_command_is_lazy_and_a_job_that_is_not_there_is_named():
    code = "import sys; from batchgen.cli.main import run_command_line; run_command_line(['serve', '--help'])"
    heavy = "print([n for n in ('aiohttp', 'pydantic', 'PIL', 'batchgen.report.dashboard') if n in sys.modules])"
    answer = subprocess.run(
        [sys.executable, "-c", f"{code}; {heavy}"], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert answer.stdout.splitlines()[-1] == "[]"
    with pytest.raises(UsageError, match="gone"):
        SERVE.main(["gone.yaml"], standalone_mode=False, obj=Invocation())
