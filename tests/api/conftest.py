"""An emulator in a thread of its own, so that a program without an event loop can ask it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import batchgen
from batchgen.emulator import serve
from tests.support.bench import FAST

Made = tuple[batchgen.Job, batchgen.Outcome]


@pytest.fixture(scope="module")
def emulator_url() -> Iterator[str]:
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    emulator = asyncio.run_coroutine_threadsafe(serve(FAST), loop).result()
    yield emulator.base_url
    asyncio.run_coroutine_threadsafe(emulator.close(), loop).result()
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()


@pytest.fixture
def make(emulator_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Made]:
    """Run data as a job in the current folder."""
    monkeypatch.chdir(tmp_path)

    def run(data: Any, **keywords: Any) -> Made:
        job = batchgen.load(data, name="mugs", emulate=True, environ={})
        return job, batchgen.run_sync(job, options=batchgen.RunOptions(emulator_url=emulator_url), **keywords)

    return run
