"""Lifting: long base64 strings leave a JSON body for disk, whatever the chunks, and the rest stays as it was."""

from __future__ import annotations

import base64
import json
import os
import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batchgen.errors import Malformed
from batchgen.http.base64_stream import MAX_TOKENS, StreamingBase64Decoder


class MemorySink:
    def __init__(self) -> None:
        self.data = b""

    def write(self, data: bytes) -> None:
        self.data += data


def lift(body: bytes, chunk: int = 1 << 20, threshold: int = 1024) -> tuple[bytes, list[bytes]]:
    sinks: list[MemorySink] = []

    def open_sink(k: int) -> MemorySink:
        assert k == len(sinks)
        sinks.append(MemorySink())
        return sinks[-1]

    lifter = StreamingBase64Decoder(open_sink, threshold)
    for start in range(0, len(body), chunk):
        lifter.feed(body[start : start + chunk])
    return lifter.close(), [sink.data for sink in sinks]


def answer(*pictures: bytes, text: str = 'a 3" wide "quoted" text \\ with ümlauts') -> bytes:
    parts = [
        {"text": text},
        *({"inlineData": {"mimeType": "image/png", "data": base64.b64encode(p).decode()}} for p in pictures),
    ]
    return json.dumps({"candidates": [{"content": {"parts": parts}}], "usageMetadata": {"totalTokenCount": 7}}).encode()


@settings(deadline=None, max_examples=60)
@given(sizes=st.lists(st.integers(0, 9000), max_size=4), chunk=st.integers(1, 5000))
def test_whatever_the_chunks_pictures_and_envelope_come_out_whole(sizes, chunk):
    pictures = [os.urandom(size) for size in sizes]
    envelope, lifted = lift(answer(*pictures), chunk)
    parts = json.loads(envelope)["candidates"][0]["content"]["parts"]
    found = []
    for part in parts[1:]:
        data = part["inlineData"]["data"]
        found.append(
            lifted[int(data.removeprefix("\x00lifted:"))] if data.startswith("\x00lifted:") else base64.b64decode(data)
        )
    assert found == pictures
    assert parts[0]["text"] == 'a 3" wide "quoted" text \\ with ümlauts'


def test_short_strings_stay_where_they_are():
    body = answer(b"tiny")
    assert lift(body) == (body, [])


@pytest.mark.parametrize("text", ["word " * 2000, 'a "b" \\ ' * 800, "\\" * 5000, '"' * 5000])
@pytest.mark.parametrize("chunk", [1, 7, 1000, 1 << 20])
def test_a_long_text_that_is_no_base64_stays_where_it_is(text, chunk):
    body = answer(b"x" * 3000, text=text)
    envelope, lifted = lift(body, chunk)
    parts = json.loads(envelope)["candidates"][0]["content"]["parts"]
    assert (parts[0]["text"], parts[1]["inlineData"]["data"], lifted) == (text, "\x00lifted:0", [b"x" * 3000])


def test_escaped_slashes_in_base64_are_understood():
    picture = b"\xff\xff\xff" * 2000  # base64 of nothing but slashes
    body = answer(picture).replace(b"/", b"\\/")
    for chunk in (1, 2, 3, 1000, 1 << 20):
        assert lift(body, chunk)[1] == [picture]


def test_a_picture_that_is_not_base64_further_on_is_marked_and_read_as_broken():
    text = "A" * 5000 + "!!!!" + "A" * 5000
    envelope, _ = lift(json.dumps({"data": text}).encode())
    assert json.loads(envelope) == {"data": "\x00lifted:bad"}


def test_a_body_cut_off_inside_a_picture_does_not_become_json():
    envelope, _ = lift(answer(os.urandom(9000))[:6000])
    with pytest.raises(json.JSONDecodeError):
        json.loads(envelope)


def test_a_picture_in_a_data_url_is_lifted_too():
    picture = os.urandom(9000)
    url = f"data:image/png;base64,{base64.b64encode(picture).decode()}"
    for body in (json.dumps({"url": url}).encode(), json.dumps({"url": url}).replace("/", "\\/").encode()):
        envelope, lifted = lift(body)
        assert (json.loads(envelope), lifted) == ({"url": "\x00lifted:0"}, [picture])


def test_thought_signatures_that_a_conversation_keeps_stay_as_they_are():
    said = {"parts": [{"thoughtSignature": "A" * 3_000_000 + letter} for letter in "BCDEF"]}
    lifter = StreamingBase64Decoder(lambda _: MemorySink(), signatures=True)
    lifter.feed(json.dumps(said).encode())
    assert json.loads(lifter.close()) == said


@pytest.mark.parametrize("one", ['"a",', "1,", "[],", '{"a":1},', '"a" '])
@pytest.mark.parametrize("chunk", [100, 1 << 20])
def test_more_small_values_than_an_answer_can_have_are_refused(one, chunk):
    with pytest.raises(Malformed) as error:
        lift(b"[" + one.encode() * MAX_TOKENS, chunk)
    assert error.value.reason == "too_large"


def test_values_inside_of_a_text_are_none():
    body = answer(text="1,[{" * MAX_TOKENS)
    assert lift(body) == (body, [])


def test_thought_signatures_are_dropped_without_being_written():
    body = json.dumps({"thoughtSignature": "A" * 8000, "data": base64.b64encode(b"x" * 3000).decode()}).encode()
    envelope, lifted = lift(body)
    assert json.loads(envelope) == {"thoughtSignature": "\x00lifted:dropped", "data": "\x00lifted:0"}
    assert lifted == [b"x" * 3000]


def test_memory_stays_flat_whatever_the_size_of_the_picture():
    class Counter:
        def write(self, data: bytes) -> None:
            pass

    def peak_bytes(megabytes: int) -> int:
        piece = base64.b64encode(bytes(768 * 1024))
        tracemalloc.start()
        lifter = StreamingBase64Decoder(lambda _: Counter())
        lifter.feed(b'{"data": "')
        for _ in range(megabytes):
            lifter.feed(piece)
        lifter.feed(b'"}')
        lifter.close()
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return peak

    assert peak_bytes(64) < peak_bytes(4) * 1.1
