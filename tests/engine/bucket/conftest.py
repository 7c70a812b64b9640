"""A real S3 server of moto's on loopback, and a gate before it that counts requests, refuses, or lets one hang."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from batchgen.emulator import serve
from tests.support.bucket_bench import FAST, BucketBench
from tests.support.s3_server import Gate


@pytest.fixture
async def bench(gate: Gate, tmp_path: Path) -> AsyncIterator[BucketBench]:
    async with await serve(FAST) as emulator:
        yield BucketBench(emulator.base_url, tmp_path)
