"""What handling batches needs of a run, and what it was told."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeVar, cast

from batchgen.engine.context import RunContext
from batchgen.engine.pipeline import Pipeline
from batchgen.engine.routes import Route
from batchgen.http.uploads import Destination
from batchgen.ledger.backlog import Backlog
from batchgen.ledger.chunk_writer import ChunkWriter
from batchgen.ledger.chunks import Chunk
from batchgen.ledger.schema import STATE_FOLDER
from batchgen.planning.batchable import BatchOptions
from batchgen.profiles.price import estimate_usd
from batchgen.providers.contract import SupportsBatches
from batchgen.providers.remote import BatchCodec
from batchgen.records import Request, Sample
from batchgen.scheduling.dispatcher import Dispatcher
from batchgen.scheduling.lane import RESERVATION_FACTOR
from batchgen.scheduling.retry import RetryPolicy
from batchgen.scheduling.window import SharedQuota

T = TypeVar("T")
BATCH_FOLDER = "batch"  # beside the spool: the lines of chunks on their way, and of results not yet settled


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchContext:
    """tier: the vendor's usage tier, None when the manifest does not say. prefix: of the display names of this job's batches.

    routes: of the lanes of this run. quota_logs: money of all processes, by lane.
    """

    run: RunContext
    pipeline: Pipeline
    options: BatchOptions
    tier: int | None
    prefix: str
    chunks: ChunkWriter
    backlog: Backlog
    dispatcher: Dispatcher
    routes: Mapping[str, Route]
    quota_logs: Mapping[str, SharedQuota]
    policy: RetryPolicy

    def codec(self, lane: str) -> BatchCodec:
        return cast(SupportsBatches, self.routes[lane].codec).batch

    async def ask(self, lane: str, request: Request) -> tuple[int, Mapping[str, str], bytes]:
        """Raises ConnectFailed, Unanswered, Malformed."""
        route = self.routes[lane]
        return await self.run.transport.request(route.base_url, request, route.auth)

    def destination(self, lane: str) -> Destination:
        route = self.routes[lane]
        return Destination(cast(SupportsBatches, route.codec).files, route.base_url, route.auth)

    def price_usd(self, sample: Sample, lane: str) -> float | None:
        """USD at the batch price, estimated."""
        return estimate_usd(self.routes[lane].profile, sample, batch=True)

    def batch_folder(self) -> str:
        """Raises StoreError."""
        return self.run.store.plain_folder(os.path.join(STATE_FOLDER, BATCH_FOLDER), 0o700)

    def file(self, chunk: Chunk, kind: str) -> str:
        """kind: `jsonl` for what is sent, `results` for what came back, `inline` for an operation that holds it, `strange` for
        lines that belong to nothing."""
        return os.path.join(self.batch_folder(), f"{chunk.id}.{kind}")


def reserved_usd(chunk: Chunk) -> float:
    """What budgets must have room for while a chunk is out."""
    return (chunk.estimate_usd or 0.0) * RESERVATION_FACTOR
