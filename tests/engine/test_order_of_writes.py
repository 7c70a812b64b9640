"""The order of writes: what is synced and recorded when, read off the calls themselves. Killing a process cannot show a power cut."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from batchgen.emulator import EmulatorOptions, serve
from batchgen.http.transport import Transport
from batchgen.ledger.ledger import Ledger
from tests.support.bench import LIFTED_PX, Bench, items


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/self/fd to see which file was synced")
@pytest.mark.parametrize("px", [64, LIFTED_PX])
async def test_a_picture_is_durable_before_the_ledger_says_so_and_recorded_before_it_is_moved(
    tmp_path, monkeypatch, px
):
    steps: list[str] = []

    def record(owner: object, name: str, say: object) -> None:
        real = getattr(owner, name)

        def wrapped(*args: object, **kwargs: object) -> object:
            word = say(*args) if callable(say) else say
            if word:
                steps.append(str(word))
            return real(*args, **kwargs)

        monkeypatch.setattr(owner, name, wrapped)

    def synced(fd: int) -> str:
        path = Path(os.readlink(f"/proc/self/fd/{fd}"))
        if path.parent.name == "spool" and path.name[0].isdigit():
            return "sync the spooled picture"
        return {"spool": "sync the spool's names", "out": "sync the folder's names"}.get(path.name, "")

    record(os, "fsync", synced)
    record(Ledger, "attempt_started", "record the intent")
    record(Transport, "send", "send")
    record(Ledger, "attempt_succeeded", "record the success")
    record(os, "replace", lambda source, _: "move to its name" if "spool" in str(source) else "")
    record(Ledger, "record_placed", "record the place")
    async with await serve(EmulatorOptions(latency_s=(0, 0), picture_px=px, rpm=0)) as emulator:
        bench = Bench(emulator.base_url, tmp_path)
        await bench.run(items("one"))
    steps = steps[steps.index("record the intent") :]
    assert steps == [
        "record the intent",
        "send",
        "sync the spooled picture",
        "sync the spool's names",
        "record the success",
        "move to its name",
        "sync the folder's names",
        "record the place",
        "sync the folder's names",  # of results.jsonl, before the ledger says that it is tidy
    ]
