"""What a hostile or broken server can make of memory: each way of reading an answer, in a process of its own."""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
import sys
import zlib
from collections.abc import Awaitable, Callable, Iterator

import pytest

from batchgen.http.base64_stream import ENVELOPE_MAX_BYTES, MAX_TOKENS, SIGNATURES_MAX_BYTES
from batchgen.ledger.reader import Reader
from tests.support.http_server import speaking
from tests.support.marked_key import KEY
from tests.support.paths import ROOT

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the peak of a process is read from /proc")
MOST_MB = 40
MB = 1 << 20
Pieces = Callable[[], Iterator[bytes]]


def values(one: bytes) -> Pieces:
    """20 MB of small values."""

    def pieces() -> Iterator[bytes]:
        yield b'{"candidates":['
        for _ in range(20):
            yield one * (MB // len(one))
        yield b"1]}"

    return pieces


def one_string(start: bytes, piece: bytes, megabytes: int) -> Pieces:
    def pieces() -> Iterator[bytes]:
        yield start
        for _ in range(megabytes):
            yield piece * (MB // len(piece))
        yield b'"}'

    return pieces


def bomb() -> Iterator[bytes]:
    """400 MB of zeros behind a quote; a block that ends with a full flush can be repeated as it is."""
    packer = zlib.compressobj(9, wbits=31)
    yield packer.compress(b'{"a":"') + packer.flush(zlib.Z_FULL_FLUSH)
    block = packer.compress(bytes(MB)) + packer.flush(zlib.Z_FULL_FLUSH)
    for _ in range(400):
        yield block


HOSTILE: dict[str, Pieces] = {
    "strings": values(b'"a",'),
    "numbers": values(b"1,"),
    "lists": values(b"[],"),
    "objects": values(b'{"a":1},'),
    "text": one_string(b'{"a":"', b"wo rd ", 100),
    "escapes": one_string(b'{"a":"', b'\\"', 20),
    "spaces": one_string(b"", b" ", 100),
    "signatures": one_string(b'{"thoughtSignature":"', b"AAAA", 100),
    "bomb": bomb,
}


def server(status: str = "200 OK", requests: list[str] | None = None):
    """Answers `/NAME…` with the hostile answer of that name, as an answer without end that the client has to leave."""

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        name = next(name for name in ANSWERS if f"/{name}" in head.split()[1])
        if requests is not None:
            requests.append(head.split()[1])
        coding = "Content-Encoding: gzip\r\n" if name == "bomb" else ""
        writer.write(
            f"HTTP/1.1 {status}\r\nContent-Type: application/json\r\n{coding}Connection: close\r\n\r\n".encode()
        )
        for piece in ANSWERS[name]():
            writer.write(piece)
            await writer.drain()

    return speaking(talk)


@pytest.fixture(scope="module")
def parent() -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "tests.support.memory_child"]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        yield process
        process.communicate()


@pytest.fixture
def child(parent: subprocess.Popen[str]) -> Callable[..., Awaitable[tuple[int, str]]]:
    """Answers (megabytes by which its peak rose, what it said)."""

    async def ask(*argv: str, **environ: str) -> tuple[int, str]:
        assert parent.stdin is not None and parent.stdout is not None
        print(json.dumps([argv, {**os.environ, **environ}]), file=parent.stdin, flush=True)
        found = json.loads(await asyncio.to_thread(parent.stdout.readline))
        return found["mb"], found["said"]

    return ask


@pytest.mark.parametrize("name", HOSTILE)
async def test_an_answer_that_would_take_gigabytes_takes_some_megabytes_and_says_what_was_too_much(name, child):
    async with server() as url:
        mb, said = await child("send", f"{url}/{name}")
    assert mb < MOST_MB
    assert re.search("the answer holds more than .* (JSON values|MB of text|MB of thought signatures)", said)


@pytest.mark.parametrize("way", ["ask", "fetch"])
@pytest.mark.parametrize("name", ["lists", "bomb"])
async def test_so_does_every_other_way_of_reading_an_answer(way, name, child):
    async with server() as url:
        mb, said = await child(way, f"{url}/{name}")
    assert mb < MOST_MB
    assert re.search("the (answer|image) (holds|is larger than) .*", said)


@pytest.mark.parametrize(
    ("way", "status", "means"), [("send", "500 Broken", "HTTP 500"), ("send", "403 Forbidden", "HTTP 403"),
                                 ("ask", "429 Slow", "429"), ("download", "404 Gone", "404")]
)  # fmt: skip
@pytest.mark.parametrize("name", ["lists", "bomb"])
async def test_an_error_that_never_ends_is_judged_by_its_status_and_its_beginning(way, status, means, name, child):
    async with server(status) as url:
        mb, said = await child(way, f"{url}/{name}")
    assert (mb < MOST_MB, said.startswith(means)) == (True, True), (mb, said)


def dense() -> Iterator[bytes]:
    """As many values as are just let through, each an object."""
    yield b'{"candidates":[' + b'{"a":1},' * (MAX_TOKENS // 3 - 10) + b"1]}"


def no_candidates() -> Iterator[bytes]:
    """As many values as are just let through, each of which is an error to the reader."""
    yield b'{"candidates":[' + b"1," * (MAX_TOKENS - 10) + b"1]}"


def one_megabyte() -> Iterator[bytes]:
    yield b"[" + b"[]," * (MB // 4) + b"1]"


def long_text() -> Iterator[bytes]:
    yield b'{"candidates":[{"content":{"parts":[{"text":"' + b"wo rd " * ((ENVELOPE_MAX_BYTES - 1000) // 6)
    yield b'"}]}}]}'


def long_signatures() -> Iterator[bytes]:
    """Five of 3 MB, as a conversation keeps them."""
    one = b'{"thoughtSignature":"' + b"A" * (3 * MB) + b'"}'
    yield b'{"candidates":[{"content":{"parts":[' + b",".join([one] * (SIGNATURES_MAX_BYTES // (3 * MB))) + b"]}}]}"


LARGE: dict[str, Pieces] = {
    "dense": dense,
    "no_candidates": no_candidates,
    "long_text": long_text,
    "long_signatures": long_signatures,
}
ANSWERS: dict[str, Pieces] = {**HOSTILE, **LARGE, "one_megabyte": one_megabyte}


@pytest.mark.parametrize("name", LARGE)
async def test_the_largest_answer_that_is_read_takes_bounded_memory_too(name, child):
    async with server() as url:
        mb, said = await child("send", f"{url}/{name}")
    assert mb < MOST_MB
    assert "holds more than" not in said


async def test_many_small_values_in_a_short_answer_are_too_much_too(child):
    async with server() as url:
        _, said = await child("ask", f"{url}/one_megabyte")
    assert "holds more than 100,000 JSON values" in said


@pytest.mark.parametrize("name", ["strings", "text"])
async def test_a_line_of_a_batch_is_never_whole_in_memory(tmp_path, name, child):
    with (tmp_path / "results").open("wb") as file:
        file.write(b'{"key": "1", "response": ')
        file.writelines(HOSTILE[name]())
    mb, said = await child("line", str(tmp_path / "results"))
    assert mb < MOST_MB
    assert "the answer holds more than" in said


async def test_a_run_that_is_answered_so_says_so_and_buys_no_more_than_of_any_broken_answer(tmp_path, child):
    (tmp_path / "job.yaml").write_text("items: [{id: a, prompt: A mug, model: gemini-3-pro-image}]\n")
    requests: list[str] = []
    async with server(requests=requests) as url:
        where = {"BATCHGEN_GEMINI_BASE_URL": f"{url}/strings", "GEMINI_API_KEY": KEY}
        mb, said = await child("run", f"{tmp_path}/job.yaml --quiet --yes", XDG_STATE_HOME=str(tmp_path), **where)
    with Reader.open(tmp_path / "job") as reader:
        (result,) = reader.results_by_item(["failed"])
    assert (said, len(requests), result.reason, mb < 2 * MOST_MB) == ("4", 3, "too_large", True), mb


@pytest.mark.parametrize("name", ["objects", "bomb"])
async def test_a_list_of_models_that_never_ends_is_an_answer_that_doctor_does_not_take(name, child):
    async with server() as url:
        where = {"BATCHGEN_GEMINI_BASE_URL": f"{url}/{name}", "GEMINI_API_KEY": KEY}
        mb, said = await child("doctor", "--online", **where)
    assert (said, mb < MOST_MB) == ("5", True), mb
