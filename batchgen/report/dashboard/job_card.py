"""How a job stands, on one card: what `status` knows, and beside it lanes, budgets, pace, the last trouble and the last nights."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from batchgen.errors import LedgerError
from batchgen.ledger.history import HistoryReader
from batchgen.ledger.quota_store import read_spent
from batchgen.ledger.requests import Money
from batchgen.ledger.runs import RunRow
from batchgen.records import sample_key
from batchgen.report.facts import Facts, job_facts, lane_model, run_facts, run_state
from batchgen.report.gallery_data import ManifestInfo
from batchgen.report.summary import STOP_REASONS
from batchgen.scheduling.window import period_start

MAX_RUNS = 14
MAX_IN_FLIGHT = 10
MAX_BATCHES = 10
EndedRuns = dict[tuple[int, float | None], Facts]


def card_of(
    ledger: HistoryReader,
    folder: Path,
    manifest_info: ManifestInfo,
    alive: bool | None,
    ended_runs: EndedRuns,
    now: float,
) -> Facts:
    """alive: as `process_lives` says it. nights: those that have ended, remembered from card to card; now: UTC seconds."""
    facts, last = job_facts(ledger, str(folder), now, alive), ledger.last_run()
    running = last is not None and facts["run"]["state"] in ("running", "unknown")
    seen = sum(number for state, number in facts["samples"].items() if state != "superseded")
    return {
        **{name: facts[name] for name in ("job", "folder", "emulated", "samples", "usd", "uncertain", "unread", "run")},
        "files": derivative_counts(facts["derivatives"]),
        "manifest": Path(facts["manifest"]).name,
        "total": max(seen, last.wanted + last.kept) if last else seen,
        "lanes": lanes(ledger, facts, running, now),
        "batches": facts["batches"][:MAX_BATCHES],
        "in_flight": facts["in_flight"][:MAX_IN_FLIGHT],
        "budgets": budgets(ledger, manifest_info, last, now, emulated=facts["emulated"]),
        "left_s": remaining_s(ledger, last, now) if last is not None and running else None,
        "trouble": last_failure(ledger, last),
        "nights": [
            _run_entry(ledger, run, run_state(run, alive if last and run.id == last.id else False), ended_runs)
            for run in reversed(ledger.runs(MAX_RUNS))
        ],
        "at": now,
    }


def lanes(ledger: HistoryReader, facts: Facts, running: bool, now: float) -> list[Facts]:
    """A line for each AI model. until: UTC seconds; 0 when it does not wait. A model waits only while a run lasts."""
    in_flight = Counter(entry["model"] for entry in facts["in_flight"])
    cooling_lanes = {
        lane_model(lane): until for lane, until in ledger.cooling_lanes().items() if running and until > now
    }
    parked = {lane_model(lane): (until, why) for lane, (until, why) in ledger.parked().items() if until > now}
    down = {model: outage for outage in ledger.outages() if running and outage.retry_at for model in outage.models}
    names = sorted({*facts["by_model"], *in_flight, *cooling_lanes, *parked, *down})
    return [
        {"model": name, "samples": facts["by_model"].get(name, {}), "in_flight": in_flight[name],
         "cooling_until": cooling_lanes.get(name, 0), "parked_until": parked.get(name, (0, ""))[0],
         "retry_at": (down[name].retry_at or 0) if name in down else 0,
         "message": down[name].message if name in down else parked.get(name, (0, ""))[1]}
        for name in names
    ]  # fmt: skip


def derivative_counts(derivatives: Facts) -> dict[str, int]:
    """What `post:` asks for, by state, such as made or failed."""
    return dict(sum((Counter(states) for states in derivatives.values()), Counter[str]()))


def budgets(
    ledger: HistoryReader, manifest_info: ManifestInfo, last: RunRow | None, now: float, *, emulated: bool
) -> list[Facts]:
    """USD spent of each budget that the manifest sets: in the last run by this job, in the day and month by all jobs of the
    user; None when that cannot be read.

    unpriced: requests of this job that were or may have been billed and are not in `spent`, for want of a price.
    """
    found: list[Facts] = []
    for span, limit in manifest_info.budgets.items():
        if span == "run":
            money = ledger.money(last.id) if last else Money()
            spent: float | None = money.spent + money.estimated + money.maybe
            unpriced = money.unknown + money.maybe_unknown
        else:
            since = period_start("day" if span == "day" else "month", now)
            unpriced = ledger.unpriced_count_since(since)
            try:
                spent = max(ledger.spent_since(since), 0.0 if emulated else read_spent(manifest_info.state, since))
            except LedgerError:
                spent = None
        found.append(
            {"span": span, "limit": limit, "spent": None if spent is None else round(spent, 6), "unpriced": unpriced}
        )
    return found


def remaining_s(ledger: HistoryReader, run: RunRow, now: float) -> float | None:
    """Seconds to go at the pace of the run so far; None while that says nothing, or something waits for another day."""
    done = min(run.wanted, ledger.ended_count_since(run.started_at))
    if not done or any(until > now for until, _ in ledger.parked().values()):
        return None
    return round((now - run.started_at) / done * (run.wanted - done), 1)


def last_failure(ledger: HistoryReader, last: RunRow | None) -> Facts | None:
    """What last went wrong in the last run, in the vendor's words."""
    row = ledger.last_unsuccessful_attempt(last.id) if last else None
    if row is None:
        return None
    return {"id": sample_key(row.item_id, row.n), "model": lane_model(row.lane), "outcome": row.outcome,
            "reason": row.reason or "", "message": row.message or "", "status": row.http_status, "at": row.ended_at}  # fmt: skip


def _run_entry(ledger: HistoryReader, run: RunRow, state: str, known: EndedRuns) -> Facts:
    key = (run.id, run.ended_at)
    if key not in known:
        run_entry = run_facts(ledger, run, state) | {"why": STOP_REASONS.get(run.stopped_by, run.stopped_by)}
        if run.ended_at is None:
            return run_entry
        known[key] = run_entry
    return known[key]
