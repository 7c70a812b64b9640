"""What tests of whole jobs share: a job against the emulator, a bucket on loopback, a process that forks cluster workers."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from batchgen.emulator import serve
from tests.support.bench import FAST, Bench
from tests.support.cluster import Nursery

if TYPE_CHECKING:
    from tests.support.s3_server import Gate


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    async with await serve(FAST) as emulator:
        yield Bench(emulator.base_url, tmp_path)


@pytest.fixture(scope="session")
def _server() -> Iterator[Gate]:
    from tests.support import s3_server  # moto is slow to import, and few tests need it

    with s3_server.running() as gate:
        yield gate


@pytest.fixture
def gate(_server: Gate, monkeypatch: pytest.MonkeyPatch) -> Iterator[Gate]:
    """An empty bucket, and its address and credentials in the environment."""
    from tests.support import s3_server

    with s3_server.empty_bucket(_server, monkeypatch):
        yield _server


@pytest.fixture(scope="module")
def nursery() -> Iterator[Nursery]:
    each = Nursery()
    yield each
    each.close()
