"""What tests of whole jobs share: a job against the emulator."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from batchgen.emulator import serve
from tests.support.bench import FAST, Bench
from tests.support.derivatives import needs_proc
from tests.support.fork_server import PYTHON


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    async with await serve(FAST) as emulator:
        yield Bench(emulator.base_url, tmp_path)


@pytest.fixture
def forked_renders(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Worker processes that make derivatives for runs of this process are forked, but where a test looks for them in /proc."""
    if needs_proc.mark not in request.node.own_markers:
        monkeypatch.setattr(sys, "executable", PYTHON)
