"""What handling batches needs from a run, and where chunks have their files."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

from batchgen.engine.context import RunContext
from batchgen.engine.outstanding import OutstandingBatches
from batchgen.engine.pipeline import Pipeline
from batchgen.engine.recovery.open_attempts import BATCH_FOLDER, CHUNK_FILE_KINDS
from batchgen.engine.routes import Route
from batchgen.http.uploads import Destination
from batchgen.ledger.chunk_writer import ChunkWriter
from batchgen.ledger.chunks import Chunk
from batchgen.ledger.schema import STATE_FOLDER
from batchgen.planning.batchable import BatchOptions
from batchgen.profiles.price import estimate_usd
from batchgen.providers.contract import BatchCodec, SupportsBatches
from batchgen.records import Request, Response, Sample
from batchgen.scheduling.window import SharedQuota


def display_name_prefix(run: RunContext) -> str:
    """The beginning of the display names of a job's batches, by which they are recognised. It differs from that of any
    other ledger."""
    token = run.ledger.reader.meta("batches") or secrets.token_hex(6)
    run.ledger.set_meta(batches=token)
    return f"batchgen {token}"


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchContext:
    """What handling batches needs. tier: the vendor's usage tier, None if the manifest does not say. prefix: begins the
    display names of this job's batches. quota_logs: the money of all processes, by lane."""

    run: RunContext
    pipeline: Pipeline
    outstanding: OutstandingBatches
    options: BatchOptions
    tier: int | None
    prefix: str
    quota_logs: Mapping[str, SharedQuota]

    @property
    def routes(self) -> Mapping[str, Route]:
        return self.run.routes

    @property
    def chunks(self) -> ChunkWriter:
        return ChunkWriter(self.run.ledger)

    def codec(self, lane: str) -> BatchCodec:
        return cast(SupportsBatches, self.routes[lane].codec).batch

    async def ask(self, lane: str, request: Request) -> Response:
        """Send a short request in a lane. Raises ConnectFailed, Unanswered, Malformed."""
        route = self.routes[lane]
        return await self.run.transport.request(route.base_url, request, route.credentials)

    def destination(self, lane: str) -> Destination:
        route = self.routes[lane]
        return Destination(cast(SupportsBatches, route.codec).files, route.base_url, route.credentials)

    def price_usd(self, sample: Sample, lane: str) -> float | None:
        """The estimated USD at the batch price."""
        return estimate_usd(self.routes[lane].profile, sample, batch=True)

    def batch_folder(self) -> str:
        """The folder for chunks' files. Raises StoreError."""
        return self.run.store.plain_folder(os.path.join(STATE_FOLDER, BATCH_FOLDER), 0o700)

    def file(self, chunk: Chunk, kind: str) -> str:
        """The path of a chunk's file. kind: `jsonl` for what is sent, `results` for what came back, `inline` for an
        operation that contains it, `strange` for lines that belong to nothing."""
        return os.path.join(self.batch_folder(), f"{chunk.id}.{kind}")

    def delete_files(self, chunk: Chunk) -> None:
        for kind in CHUNK_FILE_KINDS:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self.file(chunk, kind))
