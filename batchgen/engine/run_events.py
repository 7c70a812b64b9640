"""What observers are told when a run starts and when it has ended."""

from __future__ import annotations

import time
from collections import Counter

from batchgen.engine.outcome import Outcome, RunOptions
from batchgen.engine.reconciliation import Reconciliation
from batchgen.events import RunEnded, RunStarted
from batchgen.planning.plan import Forecast


def run_started(
    run_id: int, job: str, reconciliation: Reconciliation, run_forecast: Forecast, options: RunOptions
) -> RunStarted:
    by_batch = any(load.batch and load.images for load in reconciliation.loads.values())
    wanted = Counter[str]()
    for load in reconciliation.loads.values():
        wanted[load.model] += load.images
    return RunStarted(
        at=time.time(),
        run_id=run_id,
        job=job,
        kept=reconciliation.kept,
        usd=run_forecast.usd,
        known_usd=run_forecast.known_usd,
        unpriced=run_forecast.unpriced,
        eta_s=None if by_batch else run_forecast.seconds,
        samples={model: number for model, number in wanted.items() if number},
        emulated=options.emulator_url is not None,
    )


def run_ended(outcome: Outcome) -> RunEnded:
    return RunEnded(
        at=time.time(),
        run_id=outcome.run_id,
        exit_code=outcome.exit_code,
        seconds=outcome.seconds,
        counts=dict(outcome.counts),
        derived=outcome.derived.counts,
        discrepancies=outcome.discrepancies.counts,
    )
