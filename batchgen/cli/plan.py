"""`batchgen plan`: what a run would do, why, and for how much. Nothing is sent and nothing is written."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from batchgen.cli.invocation import Invocation
from batchgen.cli.options import (
    engine_option,
    json_option,
    limit_options,
    manifest_argument,
    option_group,
    output_options,
    pass_invocation,
    selection_options,
)
from batchgen.planning.reason_text import reason_text
from batchgen.report import formatting

if TYPE_CHECKING:
    from batchgen.api import Job, Plan
    from batchgen.cli.run_job import RunArguments
    from batchgen.planning.plan import LaneLoad, Step
    from batchgen.planning.reason import Reason

MAX_ROWS = 40
BATCH_TIME_NOTE = "batches within 24 hours, by the vendor's aim"


class PlanRows:
    """Keeps the first steps for the table and counts the others, so that a plan of a million rows stays small."""

    def __init__(self, max_rows: int | None) -> None:
        self.max_rows = max_rows
        self.steps: list[Step] = []
        self.omitted = 0

    def __call__(self, step: Step) -> None:
        if self.max_rows is None or len(self.steps) < self.max_rows:
            self.steps.append(step)
        else:
            self.omitted += 1


@click.command("plan")
@manifest_argument
@output_options
@selection_options
@limit_options
@option_group(
    engine_option,
    json_option(),
    click.option("--all", "show_all", is_flag=True, help=f"Every row, not only the first {MAX_ROWS}."),
)
@pass_invocation
def command(invocation: Invocation, manifest: str, show_all: bool, **options: Any) -> None:
    """Show what a run of MANIFEST would do, and why: new, changed, again, or nothing.

    \b
    Examples:
      batchgen plan catalog.yaml
      batchgen plan catalog.yaml --fresh --only 'mug-*'
      batchgen plan catalog.yaml --json | jq .usd
    """
    import batchgen
    from batchgen.cli.run_job import RunArguments, load_job

    arguments = RunArguments(**options)
    job = load_job(invocation, manifest, arguments.output, emulate=arguments.emulate)
    rows = PlanRows(None if show_all or invocation.json else MAX_ROWS)
    found = batchgen.plan(
        job, retry_selection=arguments.retry_selection, only=arguments.only, limit=arguments.limit,
        concurrency=arguments.concurrency, max_usd=arguments.max_cost, on_step=rows, engine=arguments.engine,
    )  # fmt: skip
    online = _plan_online(job, found, arguments)
    for warning in (*job.settings.warnings, *found.warnings):
        invocation.err.line(f"warning: {warning}", "yellow")
    if invocation.json:
        invocation.out.json(
            plan_json(job.manifest.name, str(job.folder), found, rows, emulated=job.emulated, online=online)
        )
        return
    print_plan(invocation, job.manifest.name, found, rows, emulated=job.emulated, online=online)


def _plan_online(job: Job, found: Plan, arguments: RunArguments) -> Plan | None:
    """The same without batches, to compare; None when this plan has none."""
    import batchgen

    if not any(load.batch and load.images for load in found.forecast.by_model.values()):
        return None
    return batchgen.plan(
        job, retry_selection=arguments.retry_selection, only=arguments.only, limit=arguments.limit,
        concurrency=arguments.concurrency, max_usd=arguments.max_cost,
    )  # fmt: skip


def print_plan(
    invocation: Invocation, name: str, found: Plan, rows: PlanRows, *, emulated: bool, online: Plan | None = None
) -> None:
    """The table, then the totals."""
    out, reconciliation, forecast = invocation.out, found.reconciliation, found.forecast
    if rows.steps:
        head = ("id", "model", "why", "images", "USD")
        out.table(head, [_row(step) for step in rows.steps], right=(3, 4), flexible=2)
        if rows.omitted:
            out.line(f"… and {rows.omitted:,} more (--all shows them)", "dim")
        out.line()
    kept = [f"{reconciliation.kept:,} kept"]
    kept += [f"{len(reconciliation.moves):,} moved, no cost"] if reconciliation.moves else []
    kept += [f"{reconciliation.skipped:,} left as they are"] if reconciliation.skipped else []
    kept += [f"{len(reconciliation.removed):,} no longer in the manifest"] if reconciliation.removed else []
    mark = " EMULATED" if emulated else ""
    out.line(f"{name}{mark}: {formatting.count(forecast.images, 'image')} to make · {' · '.join(kept)}", "bold")
    for reason, number in reconciliation.counts_by_reason.most_common(12):
        out.line(f"  {number:>6,}  {reason_text(reason)}")
    if found.derivatives:
        out.line(f"derive {formatting.count(found.derivatives, 'file')} to make of the pictures, at most")
    if not forecast.images:
        return
    out.line(f"cost   {_cost(found)}")
    for line in _caveats(found):
        out.line(f"       {line}")
    for line in _engine_lines(found):
        out.line(f"way    {line}")
    if online is None:
        out.line(f"time   {formatting.duration(forecast.seconds)} at best, estimated")
    else:
        out.line(
            f"time   {BATCH_TIME_NOTE}; what goes online {formatting.duration(forecast.seconds)} at best, estimated"
        )
        alone = f"{_cost(online)}, {formatting.duration(online.forecast.seconds)} at best"
        out.line(f"else   all online: {alone}")
    out.line(f"limit  {forecast.limit.binding}: {forecast.limit.advice}")


def _engine_lines(found: Plan) -> list[str]:
    """How much goes by batch, and of what goes online why."""
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


def _row(step: Step) -> tuple[str, str, str, str, str]:
    sample = step.sample
    if step.action != "generate":
        return sample.key, sample.item.model, reason_text(step.reason), "-", "-"
    price = "unknown" if step.usd is None else f"{step.usd:.4f}"
    return sample.key, sample.item.model, reason_text(step.reason), str(sample.images), price


def _cost(found: Plan) -> str:
    forecast = found.forecast
    if forecast.usd is not None:
        return f"{formatting.usd(forecast.usd)}, estimated"
    why = f"no price is known for {_models(found, lambda load: load.unpriced > 0)}"
    if not forecast.known_usd:
        return f"unknown: {why}"
    return f"{formatting.usd(forecast.known_usd)}, estimated, + {formatting.count(forecast.unpriced, 'request')} of unknown price: {why}"


def _caveats(found: Plan) -> list[str]:
    """What a person should know of the figure."""
    lines = []
    if guessed := _models(found, lambda load: load.guessed > 0):
        lines.append(f"includes a guess: no price for that service tier is published for {guessed}")
    if searching := sum(load.searches for load in found.forecast.by_model.values() if not load.unpriced):
        requests = formatting.count(searching, "request")
        lines.append(f"searches in {requests} are priced in full; some may be free (monthly allowance)")
    if fallbacks := _models(found, lambda load: load.may_be_unpriced):
        lines.append(f"may cost more if a fallback is used: no price is known for {fallbacks}")
    return lines


def _models(found: Plan, chosen: Callable[[LaneLoad], bool]) -> str:
    return ", ".join(dict.fromkeys(load.model for load in found.forecast.by_model.values() if chosen(load)))


def _counts_by_text(counts: Counter[Reason]) -> dict[str, int]:
    return {reason_text(reason): number for reason, number in counts.most_common()}


def plan_json(
    name: str, folder: str, found: Plan, rows: PlanRows, *, emulated: bool, online: Plan | None = None
) -> dict[str, Any]:
    """usd is null when a price is unknown; `known_usd` is the rest, `requests_of_unknown_price` what is not in it, and
    `requests_at_guessed_price` says how many are priced by a guess. Every USD figure here is an estimate."""
    reconciliation, forecast = found.reconciliation, found.forecast
    return {
        "job": name,
        "folder": folder,
        "emulated": emulated,
        "images": forecast.images,
        "requests": forecast.requests,
        "usd": None if forecast.usd is None else round(forecast.usd, 6),
        "known_usd": round(forecast.known_usd, 6),
        "requests_of_unknown_price": forecast.unpriced,
        "requests_at_guessed_price": sum(load.guessed for load in forecast.by_model.values()),
        "seconds_at_best": round(forecast.seconds, 1),
        "all_online": None if online is None else {
            "usd": None if online.forecast.usd is None else round(online.forecast.usd, 6),
            "seconds_at_best": round(online.forecast.seconds, 1),
        },
        "online_because": _counts_by_text(reconciliation.online),
        "limit": {"binding": forecast.limit.binding, "advice": forecast.limit.advice},
        "kept": reconciliation.kept,
        "moved": len(reconciliation.moves),
        "removed": len(reconciliation.removed),
        "skipped": reconciliation.skipped,
        "derivatives": found.derivatives,
        "by_reason": _counts_by_text(reconciliation.counts_by_reason),
        "by_model": {
            name: {"requests": load.requests, "images": load.images, "rpm": load.rpm,
                         "usd": None if load.unpriced else round(load.usd, 6)}
            for name, load in forecast.by_model.items()
        },
        "steps": [
            {"id": step.sample.key, "model": step.sample.item.model, "action": step.action, "why": reason_text(step.reason),
             "images": step.sample.images if step.action == "generate" else 0,
             "usd": (None if step.usd is None else round(step.usd, 6)) if step.action == "generate" else 0.0}
            for step in rows.steps
        ],
        "warnings": list(found.warnings),
    }  # fmt: skip
