"""Wires the part of a run that handles its batches."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import replace

from batchgen.engine.batch.context import BatchContext
from batchgen.engine.batch.runner import BatchRunner
from batchgen.engine.context import RunContext
from batchgen.engine.job_state import RunRequest
from batchgen.engine.outstanding import OutstandingBatches
from batchgen.engine.pipeline import Pipeline
from batchgen.engine.reconcile import Survey
from batchgen.ledger.ledger import Ledger
from batchgen.scheduling.window import SharedQuota


def batch_runner(
    request: RunRequest,
    survey: Survey,
    pipeline: Pipeline,
    outstanding: OutstandingBatches,
    run: RunContext,
    quota_logs: Mapping[str, SharedQuota],
) -> BatchRunner:
    """The runner of a run's batches, not started yet. quota_logs: the starts and money of all processes, by lane."""
    local = any(route.loopback for route in run.routes.values())
    context = BatchContext(
        run=run,
        pipeline=pipeline,
        outstanding=outstanding,
        options=replace(
            request.options.batch_options(local=local),
            submit_until=None if survey.ways is None else survey.ways.submit_until,
        ),
        tier=request.job.manifest.limits.tier,
        prefix=_name_prefix(run.ledger),
        quota_logs=quota_logs,
    )
    return BatchRunner(context)


def _name_prefix(ledger: Ledger) -> str:
    """The beginning of the display names of a job's batches, by which they are recognised. It differs from that of any
    other ledger."""
    token = ledger.reader.meta("batches") or secrets.token_hex(6)
    ledger.set_meta(batches=token)
    return f"batchgen {token}"
