"""The options of `run`, `retry` and `plan`, and the job that they are for."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import batchgen
from batchgen.cli.invocation import Invocation
from batchgen.errors import UsageError
from batchgen.ledger.location import ledger_url
from batchgen.planning.batchable import BatchOptions, ChunkLimits
from batchgen.planning.plan import RetrySelection, Step
from batchgen.settings import set_ledger_url

if TYPE_CHECKING:
    from batchgen.cli.post_run import PostRun


@dataclass(frozen=True, slots=True, kw_only=True)
class RunArguments:
    """The parsed options, by their names on the command line. Those with defaults do not exist for every command.

    check_only: check everything and ask, but send nothing. by, until, fallback_at: UTC seconds; max_duration, stall:
    seconds. selection: used instead of --retry and --fresh.
    """

    output: str | None
    only: tuple[str, ...]
    limit: int | None
    concurrency: int | None
    max_cost: float | None
    engine: str
    as_json: bool
    emulate: bool = False
    dry_run: bool = False
    check_only: bool = False
    fresh: bool = False
    retry_states: frozenset[str] | None = None
    on_uncertain: str = "retry"
    by: float | None = None
    until: float | None = None
    max_duration: float | None = None
    stall: float | None = None
    no_wait: bool = False
    fallback_at: float | None = None
    batch_size: int | None = None
    yes: bool = False
    quiet: bool = False
    no_progress: bool = False
    summary: str | None = None
    notify: tuple[str, ...] = ()
    metrics_file: str | None = None
    selection: RetrySelection | None = None
    with_comments: bool = False

    @property
    def hold_uncertain(self) -> bool:
        return self.on_uncertain == "hold"

    @property
    def retry_selection(self) -> RetrySelection:
        """What to retry. By default, uncertain requests are included unless they are held."""
        if self.selection is not None:
            return replace(self.selection, with_comments=self.with_comments)
        return RetrySelection.of(self.retry_states, fresh=self.fresh, hold_uncertain=self.hold_uncertain)

    def deadline(self, now: float) -> float | None:
        """The earlier of --until and --max-duration, in UTC seconds."""
        latest = None if self.max_duration is None else now + self.max_duration
        return min((at for at in (self.until, latest) if at is not None), default=None)

    @property
    def plan_options(self) -> batchgen.RunOptions:
        """Which samples are wanted, and within what limits."""
        return batchgen.RunOptions(
            retry_selection=self.retry_selection,
            only=self.only,
            limit=self.limit,
            concurrency=self.concurrency,
            max_usd=self.max_cost,
            by=self.by,
        )

    def plan(self, job: batchgen.Job, engine: str, on_step: Callable[[Step], None] | None = None) -> batchgen.Plan:
        """Plan a run by this engine."""
        return batchgen.plan(job, options=self.plan_options, on_step=on_step, engine=engine)

    def run_options(self) -> batchgen.RunOptions:
        """Raises UsageError for options that contradict each other."""
        at, size = self.fallback_at, self.batch_size
        asked = {"--fallback-at": at, "--batch-size": size}
        if self.engine == "online" and self.by is None and (given := [name for name, value in asked.items() if value]):
            raise UsageError(f"{given[0]} is about batches: add --engine batch, --engine auto or --by")
        if at is not None and self.no_wait:
            raise UsageError("--fallback-at waits until then: leave --no-wait out")
        limits = ChunkLimits(requests=size) if size else ChunkLimits()
        return replace(
            self.plan_options,
            deadline=self.deadline(time.time()),
            stall_s=self.stall,
            hold_uncertain=self.hold_uncertain,
            install_signal_handlers=True,
            batches=BatchOptions(wait=not self.no_wait, fallback_at=at, limits=limits),
        )


def load_job(
    invocation: Invocation,
    manifest: str,
    output: str | None = None,
    *,
    emulate: bool = False,
    post_run: PostRun | None = None,
) -> batchgen.Job:
    """Open a job and hide its keys from all output. Raises ManifestError, SettingsError.

    post_run: given the manifest's recipients of messages, even if its key file cannot be read.
    """
    job = batchgen.load(manifest, output=output, emulate=emulate)
    if post_run is not None:
        post_run.configure(job)
    invocation.hide_keys(job.settings, job.manifest.catalogue.providers)
    set_ledger_url(ledger_url(job.settings))  # for everything else that looks at this job, wherever its folder is
    if invocation.log is not None:
        invocation.log.bind(job=job.manifest.name)
    return job


def collect_batches(invocation: Invocation, manifest: str, output: str | None) -> None:
    """Run a job without requesting anything new. Raises what a run raises."""
    job = load_job(invocation, manifest, output)
    nothing_new = RetrySelection(states=frozenset(), explicit=True)
    batches = BatchOptions(wait=False, resend=False)
    batchgen.run_sync(job, options=batchgen.RunOptions(retry_selection=nothing_new, batches=batches))
