"""What tests of whole jobs share: a job against the emulator."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from batchgen.emulator import serve
from tests.support.bench import FAST, Bench


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    async with await serve(FAST) as emulator:
        yield Bench(emulator.base_url, tmp_path)
