"""Where a shared quota is kept: in a file of the user's, or on a PostgreSQL server."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from batchgen.ledger.quota_store import QuotaStore


@pytest.fixture(params=["file", "server"])
def place(request: pytest.FixtureRequest, state_home: Path) -> Path | str:
    """Where a book is kept: each rule holds for both."""
    return state_home if request.param == "file" else str(request.getfixturevalue("database"))


@pytest.fixture
async def shared(place: Path | str) -> AsyncIterator[QuotaStore]:
    book = QuotaStore(place, print)
    yield book
    book.close()
