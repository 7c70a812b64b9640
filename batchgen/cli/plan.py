"""`batchgen plan` and `validate`: what a run would do, why, and for how much. Nothing is sent or written."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import batchgen
from batchgen.cli.commands_make import PLAN_ROWS
from batchgen.cli.invocation import Invocation
from batchgen.cli.plan_by import by_json, by_lines
from batchgen.cli.run_arguments import RunArguments, load_job
from batchgen.engine.plan import check
from batchgen.money import rounded
from batchgen.planning.plan import Forecast, LaneLoad, Step
from batchgen.planning.reason import Reason, reason_text
from batchgen.report import formatting
from batchgen.report.console import Console
from batchgen.report.summary import BINDING_WORDS

BATCH_TIME_NOTE = "batches within 24 hours, by the vendor's aim"


class PlanRows:
    """Keeps the rows of the first steps and counts the others. A step itself is large, and not kept."""

    def __init__(self, max_rows: int | None, row_of: Callable[[Step], Any]) -> None:
        self.max_rows = max_rows
        self.row_of = row_of
        self.rows: list[Any] = []
        self.omitted = 0

    def __call__(self, step: Step) -> None:
        if self.max_rows is None or len(self.rows) < self.max_rows:
            self.rows.append(self.row_of(step))
        else:
            self.omitted += 1


@dataclass(frozen=True, slots=True)
class ShownPlan:
    """A plan to show. online: the same plan with every request online at the item's own service tier, to compare; None
    if the plan has nothing else."""

    job: batchgen.Job
    plan: batchgen.Plan
    rows: PlanRows
    online: batchgen.Plan | None


def plan_command(invocation: Invocation, manifest: str, *, show_all: bool, **options: Any) -> None:
    show_plan(invocation, manifest, RunArguments(**options), show_all=show_all)


def show_plan(invocation: Invocation, manifest: str, arguments: RunArguments, *, show_all: bool = False) -> None:
    """Show what these arguments would do, and for how much. Raises what a run raises before anything is sent."""
    job = load_job(invocation, manifest, arguments.output, emulate=arguments.emulate)
    rows = PlanRows(None if show_all or invocation.json else PLAN_ROWS, step_json if invocation.json else _row)
    found = arguments.plan(job, arguments.engine, rows)
    slow = any(load.batch and load.images for load in found.forecast.by_model.values())
    if found.ways is not None:
        slow = any(total.kind != "online" for total in found.ways.totals())
    shown = ShownPlan(job, found, rows, online=replace(arguments, by=None).plan(job, "online") if slow else None)
    for warning in (*job.settings.warnings, *found.warnings):
        invocation.err.line(f"warning: {warning}", "yellow")
    if invocation.json:
        invocation.answer(plan_json(shown))
    else:
        print_plan(invocation.out, shown)


def validate_command(invocation: Invocation, manifest: str, as_json: bool) -> None:
    job = load_job(invocation, manifest)
    items, samples = check(job)
    warnings = [*job.settings.warnings, *job.manifest.warnings]
    for warning in warnings:
        invocation.err.line(f"warning: {warning}", "yellow")
    if as_json:
        invocation.answer({"ok": True, "items": items, "samples": samples, "warnings": warnings})
    else:
        invocation.out.line(f"ok: {formatting.count(items, 'item')}, {formatting.count(samples, 'sample')}", "green")


def print_plan(out: Console, shown: ShownPlan) -> None:
    """Print the table, then the totals."""
    found, online = shown.plan, shown.online
    reconciliation, forecast = found.reconciliation, found.forecast
    if rows := shown.rows.rows:
        if found.ways is None:
            columns = ("id", "model", "why", "images", "cost")
            out.table(columns, [(*row[:2], *row[3:]) for row in rows], right=(3, 4), flexible=2)
        else:
            out.table(("id", "model", "way", "why", "images", "cost"), rows, right=(4, 5), flexible=3)
        if shown.rows.omitted:
            out.line(f"… and {shown.rows.omitted:,} more (--all shows them)", "dim")
        out.line()
    kept = [f"{reconciliation.kept:,} kept"]
    kept += [f"{len(reconciliation.moves):,} moved, no cost"] if reconciliation.moves else []
    kept += [f"{reconciliation.skipped:,} left as they are"] if reconciliation.skipped else []
    kept += [f"{number:,} {formatting.LEFT_OUT_WORDS[why]}" for why, number in reconciliation.untried.items()]
    kept += [f"{len(reconciliation.removed):,} no longer in the manifest"] if reconciliation.removed else []
    name = shown.job.manifest.name + (" EMULATED" if shown.job.emulated else "")
    out.line(f"{name}: {formatting.count(forecast.images, 'image')} to make · {' · '.join(kept)}", "bold")
    for reason, number in reconciliation.counts_by_reason.most_common(12):
        out.line(f"  {number:>6,}  {reason_text(reason)}")
    if found.derivatives:
        out.print_labelled("derive ", f"{formatting.count(found.derivatives, 'file')} to make of the images, at most")
    if not forecast.images:
        return
    emulated = " at the vendor's prices; the emulator bills nothing" if shown.job.emulated else ""
    out.print_labelled("cost   ", f"{_cost(found)}{emulated}")
    for line in _caveats(found):
        out.print_labelled("       ", line)
    if found.ways is not None:
        _print_by(out, found, online)
        return
    for line in _engine_lines(found):
        out.print_labelled("way    ", f"{line}")
    if online is None:
        vendor = " for the vendor; the emulator is faster" if shown.job.emulated else ""
        out.print_labelled("time   ", f"{formatting.duration(forecast.seconds)} at best, estimated{vendor}")
    else:
        online_s = formatting.duration(forecast.seconds)
        out.print_labelled("time   ", f"{BATCH_TIME_NOTE}; what goes online {online_s} at best, estimated")
        alone = f"{_cost(online)}, {formatting.duration(online.forecast.seconds)} at best"
        out.print_labelled("else   ", f"all online: {alone}")
    out.print_labelled("limit  ", f"{BINDING_WORDS[forecast.limit.binding]}: {forecast.limit.advice}")


def _print_by(out: Console, found: batchgen.Plan, online: batchgen.Plan | None) -> None:
    for label, text in by_lines(found.ways) if found.ways is not None else ():
        out.print_labelled(f"{label:<7}", text)
    if online is not None:
        out.print_labelled("else   ", f"all online: {_cost(online)}")
    limit = found.forecast.limit
    if limit.binding in ("budget", "day"):  # otherwise the time binds, and was shown
        out.print_labelled("limit  ", f"{BINDING_WORDS[limit.binding]}: {limit.advice}")


def _engine_lines(found: batchgen.Plan) -> list[str]:
    """How much goes by batch, and why the rest goes online."""
    loads = found.forecast.by_model.values()
    lines = [
        f"{load.model}: {formatting.count(load.images, 'image')} by batch, "
        + formatting.total_usd(load.usd, load.unpriced)
        for load in loads
        if load.batch and load.images
    ]
    return lines + [
        f"{number:,} online: {reason_text(reason)}" for reason, number in found.reconciliation.online.most_common(6)
    ]


def _row(step: Step) -> tuple[str, ...]:
    sample = step.sample
    asked = (str(sample.images), formatting.usd(step.usd)) if step.action == "generate" else ("-", "-")
    return sample.key, sample.item.model, _way(step) or "-", reason_text(step.reason), *asked


def _way(step: Step) -> str | None:
    """The way of a request: batch, flex if that was chosen for it, or online at the item's own service tier; None if
    nothing is requested."""
    if step.action != "generate":
        return None
    return "batch" if step.by_batch else "online" if step.sample.item.tier_until is None else "flex"


def _cost(found: batchgen.Plan) -> str:
    forecast = found.forecast
    if forecast.usd is not None:
        return f"{formatting.usd(forecast.usd)}, estimated"
    why = f"no price is known for {_models(found, lambda load: load.unpriced > 0)}"
    if not forecast.known_usd:
        return f"unknown: {why}"
    return f"{formatting.usd(forecast.known_usd)}, estimated, + {formatting.count(forecast.unpriced, 'request')} of unknown price: {why}"


def _caveats(found: batchgen.Plan) -> list[str]:
    """What a person should know about the figure."""
    lines = []
    if guessed := _models(found, lambda load: load.guessed > 0):
        lines.append(f"includes a guess: no price for that service tier is published for {guessed}")
    if searching := sum(load.searches for load in found.forecast.by_model.values() if not load.unpriced):
        requests = formatting.count(searching, "request")
        lines.append(f"searches in {requests} are priced in full; some may be free (monthly allowance)")
    if fallbacks := _models(found, lambda load: load.may_be_unpriced):
        lines.append(f"may cost more if a fallback is used: no price is known for {fallbacks}")
    return lines


def _models(found: batchgen.Plan, chosen: Callable[[LaneLoad], bool]) -> str:
    return ", ".join(dict.fromkeys(load.model for load in found.forecast.by_model.values() if chosen(load)))


def _counts_by_text(counts: Counter[Reason]) -> dict[str, int]:
    return {reason_text(reason): number for reason, number in counts.most_common()}


def plan_json(shown: ShownPlan) -> dict[str, Any]:
    """The plan as JSON. usd is null if a price is unknown; `known_usd` is the rest, `requests_of_unknown_price` says
    how many it leaves out, and `requests_at_guessed_price` how many are priced by a guess. Every USD figure here is an
    estimate."""
    found, job = shown.plan, shown.job
    reconciliation, forecast = found.reconciliation, found.forecast
    return {
        "job": job.manifest.name,
        "folder": str(job.folder),
        "emulated": job.emulated,
        "images": forecast.images,
        "requests": forecast.requests,
        "usd": rounded(forecast.usd),
        "known_usd": rounded(forecast.known_usd),
        "requests_of_unknown_price": forecast.unpriced,
        "requests_at_guessed_price": sum(load.guessed for load in forecast.by_model.values()),
        "seconds_at_best": round(forecast.seconds, 1),
        "by": None if found.ways is None else by_json(found.ways),
        "all_online": None if shown.online is None else _online_json(shown.online.forecast),
        "online_because": _counts_by_text(reconciliation.online),
        "limit": {"binding": forecast.limit.binding, "advice": forecast.limit.advice},
        "manifest_images": reconciliation.images,
        "left_out": dict(reconciliation.untried),
        "kept": reconciliation.kept,
        "moved": len(reconciliation.moves),
        "removed": len(reconciliation.removed),
        "skipped": reconciliation.skipped,
        "derivatives": found.derivatives,
        "by_reason": _counts_by_text(reconciliation.counts_by_reason),
        "by_model": {name: _load_json(load) for name, load in forecast.by_model.items()},
        "steps": shown.rows.rows,
        "warnings": list(found.warnings),
    }


def _online_json(forecast: Forecast) -> dict[str, Any]:
    return {"usd": rounded(forecast.usd), "seconds_at_best": round(forecast.seconds, 1)}


def _load_json(load: LaneLoad) -> dict[str, Any]:
    usd = None if load.unpriced else rounded(load.usd)
    return {"requests": load.requests, "images": load.images, "rpm": load.rpm, "usd": usd}


def step_json(step: Step) -> dict[str, Any]:
    sample, made = step.sample, step.action == "generate"
    return {
        "id": sample.key,
        "model": sample.item.model,
        "action": step.action,
        "way": _way(step),
        "why": reason_text(step.reason),
        "images": sample.images if made else 0,
        "usd": rounded(step.usd) if made else 0.0,
    }
