"""What an assistant may spend: a plan as it was shown, its price, whether it is still the same later; and the server's
budget, from which its runs have spent, may have spent and may still spend."""

from __future__ import annotations

import hashlib
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import batchgen
from batchgen.cli.plan import PlanRows, ShownPlan, step_json
from batchgen.errors import BatchgenError, UsageError
from batchgen.ledger.reader import Reader
from batchgen.ledger.runs import RunRow
from batchgen.money import STEP_USD, rounded, usd, within
from batchgen.planning.plan import RETRY_STATES, RetrySelection, Step
from batchgen.profiles.catalogue import load_catalogue
from batchgen.report import formatting
from batchgen.report.dashboard.actions import BackgroundRun
from batchgen.report.dashboard.job_card import JobLocation

MAX_STEPS = 100  # listed steps; the totals count all
# Prompt and thoughts are billed by use, and a request is reserved at more than its estimate.
HEADROOM = 1.25
UNSETTLED = ("open", "submitted")  # requests whose end is not recorded
POLL_S = 0.05
CLOCK_STEP_S = 60.0  # an older run with the same process id is another process's


@dataclass(frozen=True, slots=True)
class PlanRequest:
    """What a plan was requested for. manifest: as named by the assistant. retry: states to request again, and nothing
    else then. max_usd: the most that its run may spend."""

    manifest: str
    only: tuple[str, ...] = ()
    limit: int | None = None
    retry: tuple[str, ...] = ()
    max_usd: float | None = None


@dataclass(frozen=True, slots=True)
class PricedPlan:
    """A plan as it is now. digest: of manifest, folder and every step with its price. wanted_usd: an estimate of what
    its run may spend, None if a price is unknown. at_most_usd: its limit. unpriced: models without a price.
    self_priced: models whose price the manifest itself sets."""

    request: PlanRequest
    location: JobLocation
    shown: ShownPlan
    digest: str
    wanted_usd: float | None
    at_most_usd: float
    unpriced: str
    self_priced: str

    @property
    def totals(self) -> str:
        found = self.shown.plan.forecast
        return f"{formatting.count(found.images, 'image')} estimated at {usd(found.usd)}"

    def problem(self, left_usd: float, budget_usd: float, *, manifest_prices: bool) -> str:
        """Why it may not be run; empty if it may. left_usd: of the server's budget. manifest_prices: whether prices
        that a manifest sets count."""
        if self.self_priced and not manifest_prices:
            return (
                f"the manifest itself sets the price of {self.self_priced}, and this server's budget is not counted by that:"
                " whoever starts it can add --manifest-prices"
            )
        if self.unpriced or self.wanted_usd is None:
            return (
                f"no price is known for {self.unpriced}, so it cannot be kept within a budget: whoever starts this server can"
                " give it under models: …: prices, and add --manifest-prices"
            )
        if within(self.wanted_usd, left_usd):
            return ""
        return (
            f"it is estimated at {usd(self.wanted_usd)}, and {usd(left_usd)} of this server's budget of {usd(budget_usd)} is"
            " left: plan fewer with only, limit or max_cost"
        )

    def command(self) -> list[str]:
        """The arguments for the command line."""
        request, location = self.request, self.location
        cap = f"--max-cost={max(self.at_most_usd, STEP_USD):.6f}"  # what is free needs a limit too
        options = [*(f"--only={pattern}" for pattern in request.only), cap, "--yes", "--no-progress"]
        options += [f"--limit={request.limit}"] if request.limit else []
        if request.retry:
            # With its folder given, an emulated job stays emulated.
            folder = ["--output", str(location.folder)]
            return ["retry", location.manifest, *folder, *(f"--{state}" for state in request.retry), *options]
        return ["run", location.manifest, *(["--emulate"] if self.shown.job.emulated else []), *options]


def price(job: batchgen.Job, location: JobLocation, request: PlanRequest, left_usd: float) -> PricedPlan:
    """Price a request, with the manifest, files and ledger as they are now. Raises ManifestError, LedgerError,
    UsageError.

    A run reads the manifest again when it begins: a change in that moment is bought instead, up to the same
    `at_most_usd`.
    """
    if wrong := [state for state in request.retry if state not in RETRY_STATES]:
        raise UsageError(f"{wrong[0]!r} cannot be retried: choose from {', '.join(RETRY_STATES)}")
    digest, rows = hashlib.sha256(Path(location.manifest).read_bytes()), PlanRows(MAX_STEPS, step_json)
    digest.update(repr((job.folder, job.bucket, job.emulated)).encode())

    def on_step(step: Step) -> None:
        rows(step)
        sample = step.sample
        facts = (sample.key, sample.images, sample.fingerprint, sample.wire, step.action, step.usd)
        digest.update(repr(facts).encode())

    retry = RetrySelection(explicit=True, states=frozenset(request.retry)) if request.retry else RetrySelection()
    options = batchgen.RunOptions(retry_selection=retry, only=request.only, limit=request.limit)
    found = batchgen.plan(job, options=options, on_step=on_step)
    estimate, known = found.forecast.usd, load_catalogue()
    limits = [max_usd for max_usd in (request.max_usd, job.manifest.limits.budget_usd) if max_usd is not None]
    cap = request.max_usd or (estimate or 0.0) * HEADROOM
    unpriced = [load.model for load in found.forecast.by_model.values() if load.price_unknown and load.requests]
    own_catalogue = job.manifest.catalogue
    self_priced = [
        own.id for own in (*own_catalogue, *own_catalogue.judges) if own.prices != known.resolve(own.id).prices
    ]
    return PricedPlan(
        request=request,
        location=location,
        shown=ShownPlan(job, found, rows, online=None),
        digest=digest.hexdigest(),
        wanted_usd=None if estimate is None else min([estimate, *limits]),
        at_most_usd=min([cap, *limits, left_usd]),
        unpriced=", ".join(dict.fromkeys(unpriced)),
        self_priced=", ".join(self_priced),
    )


@dataclass(frozen=True, slots=True)
class BudgetedRun:
    """A run that this server began. at_most_usd: its limit; began_at: UTC seconds."""

    location: JobLocation
    child: BackgroundRun
    at_most_usd: float
    began_at: float = field(default_factory=time.time)

    def counted_usd(self) -> float:
        """What its ledger says was billed or may have been, or its whole limit while that is not settled or not
        known."""
        if self.child.process.poll() is None:
            return self.at_most_usd
        try:
            with Reader.open(self.location.folder) as ledger:
                return self._recorded_usd(ledger)
        except (BatchgenError, OSError):
            return self.at_most_usd

    def wait_until_begun(self, timeout_s: float) -> None:
        """Wait until its ledger has it or it has ended, so that whatever keeps it from beginning can be reported at
        once."""
        until_s = time.monotonic() + timeout_s
        while self.child.process.poll() is None and time.monotonic() < until_s:
            with suppress(BatchgenError, OSError), Reader.open(self.location.folder) as ledger:
                if self._row(ledger) is not None:
                    return
            time.sleep(POLL_S)

    def _recorded_usd(self, ledger: Reader) -> float:
        run = self._row(ledger)
        if run is None:
            return 0.0  # it ended before recording anything, and nothing is sent before that
        money, requests = ledger.money(run.id), ledger.attempts(run.id)
        usd = money.spent + money.estimated + money.maybe
        unsettled = any(requests.get(state) for state in UNSETTLED) or money.unknown or money.maybe_unknown
        return max(usd, self.at_most_usd) if unsettled else usd

    def _row(self, ledger: Reader) -> RunRow | None:
        pid, since = self.child.process.pid, self.began_at - CLOCK_STEP_S
        return next((run for run in ledger.runs() if run.pid == pid and run.started_at >= since), None)


class SessionBudget:
    """The budget for the life of one server. limit_usd: set by its user."""

    def __init__(self, limit_usd: float) -> None:
        self.limit_usd = limit_usd
        self._runs: list[BudgetedRun] = []

    def add(self, run: BudgetedRun) -> None:
        self._runs.append(run)

    @property
    def left_usd(self) -> float:
        """What is left, never below 0."""
        return max(0.0, self.limit_usd - sum(run.counted_usd() for run in self._runs))

    def as_json(self) -> dict[str, float | None]:
        left = self.left_usd
        return {"limit_usd": self.limit_usd, "counted_usd": rounded(self.limit_usd - left), "left_usd": rounded(left)}
