"""References on the wire: uploaded once, fetched once, converted once, against the emulator over real HTTP."""

from __future__ import annotations

import asyncio
import hashlib
import io
import json
import os
import signal
import sqlite3
import stat
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from PIL import Image

import batchgen
from batchgen.emulator import EmulatorOptions, serve
from batchgen.engine.outcome import Outcome
from batchgen.engine.reference_inputs import positions_to_upload
from batchgen.events import Event, Notice
from batchgen.http.uploads import FILE_NAME
from batchgen.references import local as local_references
from tests.support.images import noise
from tests.support.marked_key import KEY

LIMIT = 60_000
MODEL = "gemini-nano-banana-2.1"
HEAD = (
    f"defaults: {{model: {MODEL}}}\nlimits: {{concurrency: 8}}\n"
    f"models: {{{MODEL}: {{request_max_bytes: {LIMIT}, rpm: null}}}}\nitems:\n"
)
AIML_HEAD = "defaults: {model: google/nano-banana-edit}\nitems:\n"


class Wire:
    """Stands between batchgen and the emulator, and remembers each request: its path, header names and body."""

    def __init__(self, emulator_url: str) -> None:
        self.emulator_url = emulator_url
        self.requests: list[tuple[str, set[str], bytes, str]] = []
        self.hold: Callable[[web.Request], Awaitable[None]] | None = None
        self.links: dict[str, list[tuple[int, bytes]]] = {}  # answers of this very server, by path; the last one stays
        self.fetched: list[str] = []
        self.answers: dict[
            str, list[tuple[int, bytes]]
        ] = {}  # in the emulator's place, by upload command, one after another
        self.upload_url = ""  # given instead of the emulator's own
        self.url = ""

    async def answer(self, request: web.Request) -> web.Response:
        if (answers := self.links.get(request.path)) is not None:
            assert not {"x-goog-api-key", "Authorization"} & set(request.headers)
            self.fetched.append(request.path)
            status, body = answers.pop(0) if len(answers) > 1 else answers[0]
            return web.Response(status=status, body=body)
        body = await request.read()
        command = request.headers.get("X-Goog-Upload-Command", "")
        self.requests.append((request.path, {name.lower() for name in request.headers}, body, command))
        if self.hold is not None:
            await self.hold(request)
        if spoilt := self.answers.get(command):
            status, body = spoilt.pop(0)
            return web.Response(status=status, body=body)
        async with (
            aiohttp.ClientSession() as session,
            session.request(
                request.method, self.emulator_url + request.path_qs, data=io.BytesIO(body), headers=request.headers
            ) as answer,
        ):
            kept = {name: value for name, value in answer.headers.items() if name.startswith(("X-", "Content-Type"))}
            if self.upload_url and "X-Goog-Upload-URL" in kept:
                kept["X-Goog-Upload-URL"] = self.upload_url
            return web.Response(status=answer.status, body=await answer.read(), headers=kept)

    def asked(self) -> list[list[dict[str, Any]]]:
        """The parts of each request for content, the prompt left out."""
        bodies = [json.loads(body) for path, _, body, _ in self.requests if path.endswith(":generateContent")]
        return [body["contents"][0]["parts"][1:] for body in bodies]

    def commands(self) -> list[str]:
        return [command for _, _, _, command in self.requests if command]


class Bench:
    def __init__(self, wire: Wire, folder: Path) -> None:
        self.wire = wire
        self.folder = folder
        self.out = folder / "out"
        self.memory = folder / "state" / "batchgen" / FILE_NAME
        self.events: list[Event] = []

    def load(self, items: str, head: str = HEAD) -> batchgen.Job:
        (self.folder / "job.yaml").write_text(head + items)
        environ = {
            "GEMINI_API_KEY": KEY,
            "AIMLAPI_API_KEY": KEY,
            "BATCHGEN_GEMINI_BASE_URL": self.wire.url,
            "BATCHGEN_AIMLAPI_BASE_URL": self.wire.url,
            "XDG_STATE_HOME": str(self.folder / "state"),
        }
        return batchgen.load(self.folder / "job.yaml", output=self.out, environ=environ)

    async def run(self, items: str, head: str = HEAD, **options: Any) -> Outcome:
        self.wire.requests.clear()
        self.events.clear()
        job = self.load(items, head)
        return await batchgen.run(job, observers=[self.events.append], options=batchgen.RunOptions(**options))

    def write(self, name: str, data: bytes) -> str:
        (self.folder / name).write_bytes(data)
        return hashlib.sha256(data).hexdigest()

    def notes(self) -> list[str]:
        return [event.message for event in self.events if isinstance(event, Notice)]

    def results(self) -> dict[str, dict[str, Any]]:
        lines = map(json.loads, (self.out / "results.jsonl").read_text().splitlines())
        return {line["id"]: line for line in lines}

    def remembered(self) -> list[tuple[str, str, float]]:
        with sqlite3.connect(self.memory) as connection:
            rows = connection.execute("SELECT owner, uri, until FROM upload").fetchall()
        connection.close()
        return rows


Start = Callable[..., Awaitable[Bench]]


@pytest.fixture
async def start(tmp_path: Path) -> AsyncIterator[Start]:
    async with AsyncExitStack() as open_ones:

        async def begin(**options: Any) -> Bench:
            told = {"latency_s": (0.0, 0.0), "picture": "tiny", "rpm": 0, "upload_granularity_bytes": 1024, **options}
            emulator = await open_ones.enter_async_context(await serve(EmulatorOptions(**told)))
            wire = Wire(emulator.base_url)
            app = web.Application(client_max_size=1 << 30)
            app.router.add_route("*", "/{rest:.*}", wire.answer)
            runner = web.AppRunner(app, shutdown_timeout=0.1)
            await runner.setup()
            open_ones.push_async_callback(runner.cleanup)
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            wire.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
            return Bench(wire, tmp_path)

        yield begin


def items(count: int, *references: str) -> str:
    return "".join(
        f"  - {{id: i{n}, prompt: picture {n}, references: {json.dumps(references)}}}\n" for n in range(count)
    )


# ------------------------------------------------------------------------------------------------------- uploads


@pytest.mark.parametrize(
    ("sizes", "room", "out"),
    [
        ([], 0, set()),
        ([5, 5], 10, set()),
        ([5, 6], 10, {1}),
        ([1, 9, 5], 6, {1}),
        ([1, 9, 5], 5, {1, 2}),
        ([7], 6, {0}),
    ],
)
def test_the_largest_leave_until_the_rest_fits(sizes, room, out):
    assert positions_to_upload(sizes, room) == out


async def test_what_is_too_large_for_a_request_is_uploaded_once_for_all_items_at_once(start):
    bench = await start()
    bench.write("large.png", noise(LIMIT))
    bench.write("small.png", noise(3000))
    outcome = await bench.run(items(20, "small.png", "large.png"))
    assert (outcome.exit_code, outcome.made) == (0, 20)
    assert bench.wire.commands() == ["start", "upload, finalize"]
    assert {tuple(next(iter(part)) for part in parts) for parts in bench.wire.asked()} == {("inlineData", "fileData")}


async def test_a_later_run_and_another_job_use_what_was_uploaded(start):
    bench = await start()
    bench.write("large.png", noise(LIMIT))
    await bench.run(items(1, "large.png"))
    outcome = await bench.run(items(2, "large.png"))
    assert (outcome.made, bench.wire.commands()) == (1, [])
    ((owner, _, _),) = bench.remembered()
    assert stat.S_IMODE(bench.memory.stat().st_mode) == 0o600
    assert owner == f"{bench.wire.url[7:]}|{hashlib.sha256(KEY.encode()).hexdigest()[:12]}"


async def test_only_the_start_of_an_upload_carries_the_key(start):
    bench = await start()
    bench.write("large.png", noise(LIMIT))
    await bench.run(items(1, "large.png"))
    with_key = [command for _, headers, _, command in bench.wire.requests if command and "x-goog-api-key" in headers]
    assert with_key == ["start"]


async def test_bodies_sent_in_pieces_say_their_length(start, monkeypatch):
    monkeypatch.setattr("batchgen.http.transport.BATCH_BYTES", 1000)
    bench = await start()
    bench.write("large.png", noise(LIMIT))
    bench.write("small.png", noise(3000))
    outcome = await bench.run(items(1, "small.png", "large.png"))
    assert outcome.exit_code == 0
    assert all("transfer-encoding" not in headers for _, headers, body, _ in bench.wire.requests if body)


async def test_a_file_that_is_gone_at_the_vendor_is_uploaded_again_without_an_attempt_lost(start):
    bench = await start(file_life_s=0.0)  # never there when it is asked for
    bench.write("large.png", noise(LIMIT))
    outcome = await bench.run(items(1, "large.png"))
    result = bench.results()["i0"]
    assert (outcome.exit_code, result["state"], result["reason"]) == (4, "failed", "file_unavailable")
    assert (bench.wire.commands().count("start"), len(bench.wire.asked())) == (2, 2)


async def test_many_items_whose_file_is_gone_share_one_upload_and_all_succeed(start):
    bench = await start()
    bench.write("large.png", noise(LIMIT))
    await bench.run(items(1, "large.png"))
    ((_, uri, _),) = bench.remembered()
    async with aiohttp.ClientSession() as session:
        await session.delete(
            f"{bench.wire.emulator_url}/v1beta/files/{uri.rpartition('/')[2]}", headers={"x-goog-api-key": KEY}
        )
    outcome = await bench.run(items(9, "large.png"))
    assert (outcome.exit_code, outcome.made, bench.wire.commands().count("start")) == (0, 8, 1)


async def test_of_several_files_only_the_one_that_is_gone_is_uploaded_again(start):
    bench = await start()
    bench.write("one.png", noise(LIMIT))
    bench.write("two.png", noise(LIMIT + 999))
    await bench.run(items(1, "one.png", "two.png"))
    gone, kept = (uri for _, uri, _ in bench.remembered())
    async with aiohttp.ClientSession() as session:
        await session.delete(
            f"{bench.wire.emulator_url}/v1beta/files/{gone.rpartition('/')[2]}", headers={"x-goog-api-key": KEY}
        )
    outcome = await bench.run(items(2, "one.png", "two.png"))
    assert (outcome.exit_code, bench.wire.commands().count("start")) == (0, 1)
    uris = {uri for _, uri, _ in bench.remembered()}
    assert (len(uris), kept in uris, gone in uris) == (2, True, False)


async def test_what_has_expired_is_uploaded_anew(start):
    bench = await start()
    bench.write("large.png", noise(LIMIT))
    await bench.run(items(1, "large.png"))
    ((_, first, until),) = bench.remembered()
    assert time.time() + 44 * 3600 < until < time.time() + 46 * 3600  # of 48 hours
    with sqlite3.connect(bench.memory) as connection:
        connection.execute("UPDATE upload SET until = ?", (time.time() - 1,))
    connection.close()
    await bench.run(items(2, "large.png"))
    ((_, second, _),) = bench.remembered()
    assert (first == second, bench.wire.commands().count("start")) == (False, 1)


async def test_a_state_folder_that_cannot_be_used_is_said_and_each_file_still_goes_up_once(start):
    bench = await start()
    bench.write("large.png", noise(LIMIT))
    bench.memory.mkdir(parents=True)
    outcome = await bench.run(items(5, "large.png"))
    assert (outcome.made, bench.wire.commands().count("start")) == (5, 1)
    assert len([note for note in bench.notes() if "not remembered" in note]) == 1


async def test_an_upload_goes_in_pieces_and_after_a_fault_goes_on_where_the_server_is(start, monkeypatch):
    monkeypatch.setattr("batchgen.http.uploads.PIECE_BYTES", 16 * 1024)
    bench = await start()
    data = noise(LIMIT)
    bench.write("large [[fault:reset*1]].png", data)
    outcome = await bench.run(items(1, "large [[fault:reset*1]].png"))
    commands = bench.wire.commands()
    assert (outcome.exit_code, commands[1:3], commands[-1]) == (0, ["upload", "query"], "upload, finalize")
    pieces = [len(body) for _, _, body, command in bench.wire.requests if command.startswith("upload")]
    assert max(pieces) == 16 * 1024
    assert sum(pieces) < len(data) + 16 * 1024  # half a piece twice


async def test_an_upload_that_keeps_failing_is_retried_and_never_billed(start):
    bench = await start()
    bench.write("large [[fault:503]].png", noise(LIMIT))
    outcome = await bench.run(
        items(1, "large [[fault:503]].png"), HEAD.replace("concurrency: 8", "concurrency: 8, attempts: 2")
    )
    result = bench.results()["i0"]
    assert (result["state"], result["reason"], outcome.attempts) == ("failed", "upload_failed", {"failed": 2})
    assert (outcome.maybe_requests, bench.wire.asked(), bench.wire.commands().count("start")) == (0, [], 2)


PAGE = b"<!DOCTYPE html><html>Sign in</html>"


@pytest.mark.parametrize("command", ["start", "upload, finalize", "query"])
@pytest.mark.parametrize("answer", [(200, PAGE), (200, b""), (200, b"{}"), (200, b"x" * 2_000_000), (503, PAGE)])
async def test_whatever_answers_an_upload_in_the_vendors_place_costs_nothing(start, monkeypatch, command, answer):
    monkeypatch.setattr("batchgen.scheduling.retry.backoff_s", lambda *_: 0.01)
    bench = await start()
    bench.write("large.png", noise(LIMIT))
    bench.wire.answers = {command: [answer] * 2}
    if command == "query":  # which is asked after a fault
        bench.wire.answers["upload, finalize"] = [(503, PAGE)] * 3
    outcome = await bench.run(items(1, "large.png"))
    assert (outcome.exit_code, outcome.made, len(bench.wire.asked())) == (0, 1, 1)
    with batchgen.Ledger.open(bench.out) as ledger:
        assert (ledger.money().maybe_requests, ledger.billed_request_count()) == (0, 1)


@pytest.mark.parametrize(
    "address",
    ["http://example.com/u", "https://10.0.0.1/u", "http://127.0.0.1:1/u", "http://[::1/", "https://storage.example/u"],
)
async def test_a_file_is_not_sent_to_an_address_that_is_not_safe(start, address):
    bench = await start()
    bench.write("large.png", noise(LIMIT))
    bench.wire.upload_url = address
    await bench.run(items(1, "large.png"), HEAD.replace("concurrency: 8", "attempts: 1"))
    result = bench.results()["i0"]
    assert (result["reason"], "not on the API's own server" in result["message"]) == ("upload_refused", True)


async def test_a_file_that_is_still_processed_is_waited_for(start):
    bench = await start(file_processing_s=0.5)
    bench.write("large.png", noise(LIMIT))
    outcome = await bench.run(items(1, "large.png"))
    looks = [path for path, _, _, command in bench.wire.requests if not command and "/files/" in path]
    assert outcome.exit_code == 0
    assert looks


async def test_a_file_that_the_vendor_cannot_process_ends_its_item(start):
    bench = await start()
    bench.write("large [[fault:failed]].png", noise(LIMIT))
    outcome = await bench.run(items(1, "large [[fault:failed]].png"))
    assert (outcome.made, bench.results()["i0"]["reason"], bench.wire.asked()) == (0, "input_rejected", [])


async def test_ctrl_c_ends_an_upload_at_once_and_its_item_is_left_for_the_next_run(start):
    bench = await start()
    bench.write("large.png", noise(LIMIT))
    never = asyncio.Event()

    async def interrupt(_: web.Request) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        await never.wait()

    bench.wire.hold = interrupt
    async with asyncio.timeout(30):  # else it would wait for ever
        outcome = await bench.run(items(3, "large.png"), install_signal_handlers=True)
    assert (outcome.exit_code, outcome.left, sum(outcome.attempts.values())) == (130, 3, 0)
    bench.wire.hold = None
    assert (await bench.run(items(3, "large.png"))).made == 3


# --------------------------------------------------------------------------------------------------------- links


async def test_a_link_is_fetched_once_for_all_items_and_leaves_nothing_behind(start):
    bench = await start()
    data = noise(3000)
    bench.wire.links["/logo.png"] = [(200, data)]
    outcome = await bench.run(items(12, f"{bench.wire.url}/logo.png"))
    assert (outcome.exit_code, outcome.made, bench.wire.fetched) == (0, 12, ["/logo.png"])
    assert {part["inlineData"]["mimeType"] for (part,) in bench.wire.asked()} == {"image/png"}
    assert not (bench.out / ".batchgen" / "references").exists()


async def test_half_a_picture_that_a_killed_run_had_fetched_is_in_nobodys_way(start):
    bench = await start()
    bench.wire.links["/logo.png"] = [(200, noise(3000))]
    link = f"{bench.wire.url}/logo.png"
    left = bench.out / ".batchgen" / "references"
    left.mkdir(parents=True)
    (left / f"{hashlib.sha256(link.encode()).hexdigest()}.part").write_bytes(b"half")
    assert (await bench.run(items(1, link))).made == 1


async def test_a_link_that_fails_is_tried_again(start):
    bench = await start()
    bench.wire.links["/logo.png"] = [(503, b""), (200, noise(3000))]
    outcome = await bench.run(items(1, f"{bench.wire.url}/logo.png"))
    assert (outcome.exit_code, outcome.made) == (0, 1)


@pytest.mark.parametrize(
    ("status", "body"),
    [(404, b""), (200, PAGE), (200, b""), (202, b""), (200, noise(3000)[:-20]), (200, noise(3000, kind="JPEG")[:-900])],
)
async def test_a_link_without_a_picture_ends_its_item_by_name_and_nothing_is_sent(start, status, body):
    bench = await start()
    bench.wire.links["/logo.png"] = [(status, body)]
    link = f"{bench.wire.url}/logo.png"
    await bench.run(items(1, link), HEAD.replace("concurrency: 8", "attempts: 1"))
    result = bench.results()["i0"]
    assert (result["state"], result["reason"], link in result["message"]) == ("failed", "reference_link", True)
    assert bench.wire.asked() == []


async def test_a_link_into_a_private_network_is_refused_and_not_tried_again(start):
    bench = await start()
    outcome = await bench.run(items(1, "https://10.0.0.1/logo.png"))
    assert (bench.results()["i0"]["reason"], outcome.attempts) == ("reference_link_refused", {"failed": 1})


async def test_an_api_that_takes_links_gets_them_as_they_are(start):
    bench = await start()
    link = "https://example.com/logo.png?size=2"
    await bench.run(items(1, link), AIML_HEAD)
    ((_, _, body, _),) = [entry for entry in bench.wire.requests if entry[0].endswith("/images/generations")]
    assert json.loads(body)["image_urls"] == [link]


async def test_another_link_makes_its_item_stale(start):
    bench = await start()
    bench.wire.links |= {"/a.png": [(200, noise(3000))], "/b.png": [(200, noise(3000))]}
    await bench.run(items(1, f"{bench.wire.url}/a.png"))
    plan = batchgen.plan(bench.load(items(1, f"{bench.wire.url}/b.png")))
    assert plan.forecast.images == 1


# ------------------------------------------------------------------------------------------------------- formats


async def test_a_gif_is_sent_as_png_and_said_once(start):
    bench = await start()
    frames = [Image.new("RGB", (40, 30), colour) for colour in ("red", "blue")]
    frames[0].save(bench.folder / "moving.gif", save_all=True, append_images=frames[1:])
    outcome = await bench.run(items(5, "moving.gif"))
    assert outcome.exit_code == 0
    ((part,), *others) = bench.wire.asked()
    assert part["inlineData"]["mimeType"] == "image/png"
    assert all(other == [part] for other in others)
    assert len([note for note in bench.notes() if "sent as PNG" in note]) == 1


async def test_many_files_that_are_converted_for_one_reason_are_one_note(start):
    bench = await start()
    turned = Image.Exif()
    turned[0x112] = 6
    for n in range(4):
        Image.new("RGB", (40, 30), (n, 0, 0)).save(bench.folder / f"{n}.jpg", exif=turned)
    outcome = await bench.run("".join(items(1, f"{n}.jpg").replace("i0", f"i{n}") for n in range(4)))
    assert outcome.exit_code == 0
    (note,) = [note for note in bench.notes() if "sent as JPEG" in note]
    assert note.endswith(
        "upright and in RGB, since models ignore EXIF rotation and CMYK; others like it are not listed"
    )


async def test_a_gif_with_more_pixels_than_any_picture_is_not_decoded(start):
    bench = await start()
    bench.write("bomb.gif", b"GIF89a" + b"\xff\xff\xff\xff" + b"\x00" * 40)
    await bench.run(items(1, "bomb.gif"))
    result = bench.results()["i0"]
    assert (result["reason"], "could not be converted" in result["message"]) == ("reference_gone", True)
    assert bench.wire.asked() == []


async def test_a_hundred_items_open_and_encode_their_reference_once_to_send_it(start, monkeypatch):
    bench = await start()
    data = noise(3000)
    bench.write("logo.png", data)
    job = bench.load(items(100, "logo.png"))
    encoded: list[bytes] = []
    opened: list[str] = []
    b64encode, open_regular = local_references.pybase64.b64encode, local_references.open_regular
    monkeypatch.setattr(local_references.pybase64, "b64encode", lambda data: encoded.append(data) or b64encode(data))
    monkeypatch.setattr(local_references, "open_regular", lambda real: opened.append(real) or open_regular(real))
    outcome = await batchgen.run(job)
    assert (outcome.made, encoded.count(data)) == (100, 1)  # the emulator encodes its own pictures
    assert len(opened) == 3  # to find it, to hash it for the plan, to send it
