"""What tests of whole jobs share: a job against the emulator, a process that forks cluster workers."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from batchgen.emulator import serve
from tests.support.bench import FAST, Bench
from tests.support.cluster import Nursery


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    async with await serve(FAST) as emulator:
        yield Bench(emulator.base_url, tmp_path)


@pytest.fixture(scope="module")
def nursery() -> Iterator[Nursery]:
    each = Nursery()
    yield each
    each.close()
