"""A vendor that answers with links, and a job of its pictures."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from batchgen.engine import http_attempt
from tests.support.link_bench import LinkBench
from tests.support.link_vendor import vendor


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the tries of a link, in this process; others are told."""
    monkeypatch.setattr(http_attempt, "FIRST_RETRY_DELAY_S", 0.001)


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[LinkBench]:
    async with vendor() as shop:
        yield LinkBench(shop, tmp_path)
