"""What a run may spend and start, shared with all other runs of the user: the terms of each lane, and what is left of
the budgets."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from pathlib import Path

from batchgen.engine.job import Job
from batchgen.engine.job_state import RunRequest
from batchgen.engine.routes import Route
from batchgen.ledger.location import ledger_url, server_address
from batchgen.ledger.quota_ahead import start_log
from batchgen.ledger.quota_database import no_budget_store_error
from batchgen.ledger.quota_store import TEN_MINUTES_S, QuotaStore, open_quota_store, read_spent
from batchgen.ledger.reader import Reader
from batchgen.manifest import Limits
from batchgen.money import within
from batchgen.planning.plan import LaneLoad
from batchgen.profiles.profile import Profile
from batchgen.scheduling.window import (
    MARGIN_S,
    Budget,
    BudgetPeriod,
    SharedQuota,
    StartLimits,
    account_key,
    period_start,
    quota_day_start,
    quota_key,
)
from batchgen.settings import state_folder, state_folders

PERIOD_S = 60.0 + MARGIN_S


class JobBudgets:
    """One job's side of the shared quota store. emulated: its money is not real and counts for this job alone.

    worker: the name of one of several that work on the job at the same time; '' for the job's run, behind its lock.
    What a worker reserved stays spent if it dies, until `release_worker` is called or a later run of the job asks the
    ledger.
    """

    def __init__(
        self,
        job: str,
        reader: Reader,
        shared: QuotaStore,
        limits: Limits,
        routes: Mapping[str, Route],
        emulated: bool,
        worker: str = "",
    ) -> None:
        self._job = job
        self._reader = reader
        self._shared = shared
        self._limits = limits
        self._routes = routes
        self._money_scope = f"emulated|{job}" if emulated else ""
        self._worker = worker

    async def quota_logs(self, loads: Mapping[str, LaneLoad]) -> dict[str, SharedQuota]:
        """The starts and money of each lane, including everything that this job's ledger knows."""
        if not self._worker:
            self._shared.delete_reservations(self._job, self._money_scope)
            self._shared.delete_lost_reservations(self._job, self._money_scope)
            await self._reconcile_spend()
        quota_logs: dict[str, SharedQuota] = {}
        for lane, load in loads.items():
            quota, account = self._quota_and_account(lane)
            provider = self._routes[lane].profile.provider
            if load.batch:  # it has quotas of its own; only its cost counts with the rest
                budgets = self._limits.shared_budgets(provider, account)
                terms = StartLimits(job=self._job, account=account, spend_scope=self._money_scope, budgets=budgets)
                quota_logs[lane] = self._shared.start_log(f"{quota}|batch", PERIOD_S, terms)
                continue
            self._shared.sent_today(
                quota, self._job, self._reader.sent_count_since(lane, quota_day_start(self._shared.clock()))
            )
            if load.rpd is not None:
                load.rpd_left = max(0, load.rpd - await self._shared.requests_today(quota))
            terms = StartLimits(
                job=self._job,
                account=account,
                spend_scope=self._money_scope,
                worker=self._worker,
                rpd=load.rpd,
                usd_per_10_min=self._limits.spend_rate(provider),
                budgets=self._limits.shared_budgets(provider, account),
            )
            quota_logs[lane] = start_log(self._shared, quota, PERIOD_S, terms)
        return quota_logs

    async def remaining(self, max_usd: float | None) -> tuple[float | None, str]:
        """(USD, run | day | month) of the budget with the least left; (None, "run") if no budget is set."""
        of_run = max_usd if max_usd is not None else self._limits.budget_usd
        found: list[tuple[float, str]] = [] if of_run is None else [(of_run, "run")]
        for budget in {each for lane in self._routes for each in self._budgets(lane)}:
            since = period_start(budget.period, self._shared.clock())
            spent = await self._shared.spent_since(since, account=budget.account, spend_scope=self._money_scope)
            found.append((max(0.0, budget.usd - spent), budget.period))
        return min(found, default=(None, "run"))

    def _budgets(self, lane: str) -> tuple[Budget, ...]:
        return self._limits.shared_budgets(self._routes[lane].profile.provider, self._quota_and_account(lane)[1])

    def _quota_and_account(self, lane: str) -> tuple[str, str]:
        """The keys of the lane's quota and account."""
        route = self._routes[lane]
        quota = quota_key(route.profile.provider, route.base_url, route.account, route.profile.id)
        return quota, account_key(route.base_url, route.account)

    async def release_worker(self, worker: str) -> None:
        """Forget what a worker has reserved: the ledger has settled everything it had in flight, and it will settle
        nothing itself."""
        self._shared.delete_reservations(self._job, self._money_scope, worker)
        await self._reconcile_spend()

    async def _reconcile_spend(self) -> None:
        """Add to the shared spending what only this job's ledger knows: money of a run or worker that was killed, or
        could not write to the quota store.

        What it had reserved is forgotten first, as the ledger says what became of each of its requests. What others
        have reserved is not in the ledger yet and not considered. What is missing from the last ten minutes is dated
        now, the rest to the beginning of the day or the month.
        """
        lanes: dict[str, list[str]] = {}
        for lane in self._routes:
            lanes.setdefault(self._quota_and_account(lane)[1], []).append(lane)
        now = self._shared.clock()
        day, month = period_start("day", now), period_start("month", now)
        for since, at in ((now - TEN_MINUTES_S, now), (day, day), (month, month)):
            missing = self._reader.spent_since(since) - await self._spent_since(since)
            for account, own in lanes.items():
                of_account = self._reader.spent_since(since, own) - await self._spent_since(since, account)
                missing -= self._add_spend(min(missing, of_account), at, account)
            self._add_spend(missing, at, "")

    async def _spent_since(self, since: float, account: str | None = None) -> float:
        return await self._shared.spent_since(
            since, self._job, account=account, spend_scope=self._money_scope, settled=True
        )

    def _add_spend(self, usd: float, at: float, account: str) -> float:
        if within(usd, 0.0):
            return 0.0
        self._shared.spend(self._job, usd, at, account, self._money_scope)
        return usd


def open_shared_quota(request: RunRequest, routes: Mapping[str, Route]) -> QuotaStore:
    """Open the shared quota: a ledger's server counts for all machines, the state folder for this host. Raises
    LedgerError."""
    settings = request.job.settings
    location = request.server_url or state_folder(settings)
    usual = next(state_folders(settings), None)
    if location is None and settings.from_process:
        request.note(
            "quota and spend are not shared with other runs: no home folder is set (HOME) or known to the system"
        )
    elif isinstance(location, Path) and location != usual:
        request.note(f"quota and spend are counted in {location}: {usual} cannot be written")
    providers = {route.profile.provider for route in routes.values()}
    money = counts_all_jobs(request.job.manifest.limits, providers, emulated=request.emulated)
    return open_quota_store(location, request.note, counts_money=money)


def counts_all_jobs(limits: Limits, providers: Iterable[str], *, emulated: bool) -> bool:
    """Whether what other jobs spend counts for this one. An emulator's money is not real, so each emulated job counts
    its own."""
    return not emulated and any(map(limits.counts_all_jobs, set(providers)))


def remaining_budget(
    job: Job, profiles: Iterable[Profile], reader: Reader | None, max_usd: float | None
) -> tuple[float | None, str]:
    """What `JobBudgets.remaining` will return, for read-only commands: from the shared quota as it is, or from the
    job's ledger if that knows of more. A tier's monthly limit is left out: it belongs to one account, and looking needs
    no key. Raises LedgerError if a budget counts all jobs and their spending cannot be read."""
    limits, state = job.manifest.limits, None
    if not job.emulated:
        state = server_address(job.folder, None) or ledger_url(job.settings) or state_folder(job.settings)
    if counts_all_jobs(limits, {profile.provider for profile in profiles}, emulated=job.emulated):
        if state is None:
            raise no_budget_store_error(None)
        read_spent(state, time.time())
    of_run = max_usd if max_usd is not None else limits.budget_usd
    found: list[tuple[float, str]] = [] if of_run is None else [(of_run, "run")]
    spans: tuple[tuple[BudgetPeriod, float | None], ...] = (
        ("day", limits.budget_usd_per_day),
        ("month", limits.budget_usd_per_month),
    )
    for period, usd in spans:
        if usd is not None:
            since = period_start(period, time.time())
            own = reader.spent_since(since) if reader is not None else 0.0
            found.append((max(0.0, usd - max(own, read_spent(state, since))), period))
    return min(found, default=(None, "run"))
