"""The summary of a run: what was made, what was not and why, what it cost, and what to do next."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from batchgen.errors import LINK_PENDING_REASONS
from batchgen.ledger.runs import QueueStatus
from batchgen.providers.reasons import REMEDIES
from batchgen.report import formatting, view
from batchgen.report.acceptance import BY_WHOM, ReviewedSample, acceptance_text
from batchgen.report.billing import billing_lines, money_lines
from batchgen.report.console import Console
from batchgen.report.run_state import ongoing_outage, outage_summary, stop_words
from batchgen.report.totals import WITH_WORKERS, manifest_lines, totals_text
from batchgen.sanitize import escape_markdown, short_message
from batchgen.scheduling.stop_reason import StopReason

OUT_STATES = frozenset({"submitted", "with_workers"})
RETRIED_WORDS = {"failed": "failed", "refused": "was refused", "uncertain": "is uncertain", "rejected": "was rejected"}
# Lists in Markdown; the others are rows of a table.
LIST_BLOCKS = ("why", "blocked", "rejected", "uncertain", "newest", "unlike", "next")
LABEL_COLUMNS = 10
MAX_BATCHES = 10
BINDING_WORDS = {
    "budget": "the budget",
    "deadline": "the deadline",
    "day": "the quota of a day",
    "spend": "spending in ten minutes",
    "quota": "requests per minute",
    "cap": "concurrent requests",
    "latency": "the model's own time",
    "nothing": "nothing",
}


def show_summary(console: Console, summary: view.RunSummary) -> None:
    """Print the summary, with a label for each block."""
    style = "bold green" if summary.exit_code == 0 else "bold yellow"
    console.line(headline(summary), style)
    if summary.emulated:
        console.line("EMULATED: the images are a local emulator's, nothing was billed", "bold yellow")
    for label, lines in blocks(summary):
        show_block(console, label, lines)


def show_block(console: Console, label: str, lines: Sequence[str]) -> None:
    """Print a dim label, and its lines beside it."""
    for number, line in enumerate(lines):
        console.print_labelled((label if number == 0 else "").ljust(LABEL_COLUMNS), line)


def headline(summary: view.RunSummary) -> str:
    """One line that says how it went. The totals are the manifest's, not the run's."""
    totals, now, derived = summary.totals, summary.images.made, summary.derivatives.made
    nothing_asked = not summary.requests and not now
    made = "" if nothing_asked or now == totals.made else f" ({f'{now:,}' if now else 'none'} in this run)"
    files = f", {formatting.count(derived, 'file')} made of them" if derived else ""
    files += _missing_files_text(summary.derivatives)
    files += f", {summary.waiting:,} not in the bucket yet" if summary.waiting else ""
    files += _discrepancy_text(summary.discrepancies)
    return f"{summary.job}: {_verdict(summary, nothing_asked, files)}{totals_text(totals, made + files)}"


def _verdict(summary: view.RunSummary, nothing_asked: bool, files: str) -> str:
    """The text before the totals. files: the text about those."""
    if summary.stopped_by:
        return f"stopped, {_stop_text(summary)}; "
    if summary.retried and nothing_asked:
        found = sum(summary.samples.get(state, 0) for state in summary.retried)
        states = " or ".join(RETRIED_WORDS[state] for state in summary.retried)
        return "nothing to retry in this selection: " if found else f"nothing to retry, no image {states}: "
    if summary.totals.complete and summary.exit_code == 0:
        return "nothing to do: " if nothing_asked and not files else "all done: "
    return "nothing to ask for: " if nothing_asked and not summary.totals.not_made.keys() & OUT_STATES else ""


def _stop_text(summary: view.RunSummary) -> str:
    """What ended the run; an outage says more than the limit that it ran into."""
    words = stop_words(summary.stopped_by)
    down = ongoing_outage(summary.outages) if summary.stopped_by in ("stalled", "deadline") else None
    if down is None:
        return str(words)
    return down if summary.stopped_by == "stalled" else f"{words} and {down}"


def _missing_files_text(derived: view.DerivativeView) -> str:
    """What the run leaves undone of `post:`."""
    if derived.failed:
        return f", {formatting.count(derived.failed, 'file')} could not be made"
    if derived.queued:
        return f", files of {formatting.count(derived.queued, 'image')} left to workers"
    return "" if derived.finished else ", files of them are missing"


def _discrepancy_text(found: view.DiscrepancyView) -> str:
    changed, missing = found.changed_total, found.missing_total
    words = f", {formatting.count(changed, 'file')} changed" if changed else ""
    return words + (f", {formatting.count(missing, 'file')} missing" if missing else "")


def blocks(summary: view.RunSummary) -> Iterator[tuple[str, list[str]]]:
    """(label, lines) in the order in which they are read. Text from others is not sanitized yet."""
    yield from stop_lines(summary)
    if lines := manifest_lines(summary.totals, summary.manifest):
        yield "manifest", lines
    yield "images", [_images(summary)]
    if summary.waiting:
        yield "waiting", [waiting_line(summary)]
    if lines := derivative_lines(summary.derivatives):
        yield "derived", lines
    if summary.requests:
        yield "requests", [f"{sum(summary.requests.values()):,}: {formatting.join_counts(summary.requests)}"]
        yield "money", money_lines(summary.usd, emulated=summary.emulated)
    yield from batch_lines(summary.batches.out)
    if saved := summary.batches.saved_usd:
        yield "saved", [f"{formatting.usd(saved)} against the same requests one by one: batches cost half"]
    yield "time", [_time(summary)]
    if summary.limit.binding != "nothing" and (summary.images.made or not summary.stopped_by):
        yield "limit", [f"{BINDING_WORDS[summary.limit.binding]}; {summary.limit.remedy}"]
    yield from problem_blocks(summary)
    for model, reason in summary.stopped_models.items():
        yield "stopped", [f"{model}: {reason}"]
    yield from parked_lines(summary.parked)
    if summary.flagged:
        yield "unlike", _flagged(summary)
    if summary.newest:
        yield "newest", [*summary.newest]
    yield "folder", [summary.folder, "results.jsonl there has one line for each item"]
    if summary.bucket:
        yield "bucket", [summary.bucket]
    if steps := next_steps(summary):
        yield "next", steps
    if summary.requests and (text := acceptance_text(summary, emulated=summary.emulated)):
        yield "accepted", [text]


def stop_lines(ended: view.LastRun | view.RunSummary) -> Iterator[tuple[str, list[str]]]:
    """Why a run ended before its work did, and what helps."""
    if ended.message:
        yield "stopped", _listed(ended.message, remedy=ended.remedy)


def waiting_line(job: view.JobView) -> str:
    """A line about images that a bucket refused."""
    count = formatting.count(job.waiting, "image")
    return f"{count} in the spool for {job.bucket}: the next run uploads them first, and nothing is bought again"


def batch_lines(batches: Sequence[view.BatchView]) -> Iterator[tuple[str, list[str]]]:
    """The batches that are out, newest last."""
    lines = [
        f"{one.batch or one.model}: {one.state}, {one.succeeded + one.failed:,} of"
        f" {formatting.count(one.requests, 'request')} answered, since {one.since.iso}"
        for one in batches[:MAX_BATCHES]
    ]
    if len(batches) > MAX_BATCHES:
        lines.append(f"… and {len(batches) - MAX_BATCHES:,} more")
    if lines:
        yield "batches", lines


def cluster_lines(cluster: QueueStatus | None) -> Iterator[tuple[str, list[str]]]:
    if cluster is None or not (cluster.samples or cluster.stopped_by):
        return
    why = f"stopped: {stop_words(cluster.stopped_by)}" if cluster.stopped_by else ""
    words = f"{formatting.count(cluster.samples, 'sample')} {WITH_WORKERS}, {cluster.taken:,} of them started"
    alive = f"{formatting.count(cluster.workers, 'worker')} alive"
    yield "cluster", ["; ".join(filter(None, [words if cluster.samples else "", why, alive]))]


def problem_blocks(job: view.JobView) -> Iterator[tuple[str, list[str]]]:
    """What went wrong and what helps; the same for a finished run and for `status`."""
    yield from discrepancy_lines(job.discrepancies)
    if lines := [line for each in job.reasons if each.reason != "blocked" for line in _reason(each)]:
        yield "why", lines
    if job.blocked:
        yield "blocked", _blocked(job)
    if job.rejected_samples:
        yield "rejected", _rejected(job)
    if job.warned_samples:
        yield "warned", _warned(job)
    if job.uncertain:
        yield "uncertain", _uncertain(job)
    if lines := billing_lines(job.account_of_run, job.account, job.folder):
        yield "account", lines
    if job.outages:
        yield "down", [outage_summary(outage) for outage in job.outages]


def parked_lines(parked: Mapping[str, view.UtcTime]) -> Iterator[tuple[str, list[str]]]:
    for model, until in parked.items():
        yield "parked", [f"{model} until {until.iso}: its daily quota is used up"]


def derivative_lines(derived: view.DerivativeView) -> list[str]:
    """Lines about derivatives; empty if there was nothing to do."""
    counts = (
        (derived.made, "made"),
        (derived.skipped, "left out, larger than their image"),
        (derived.removed, "no longer wanted, removed"),
        (derived.failed, "failed"),
    )
    parts = [f"{number:,} {words}" for number, words in counts if number]
    lines = [" · ".join(parts)] if parts else []
    lines += [f"    {failure.path}: {short_message(failure.message)}" for failure in derived.failures]
    if derived.queued:
        return [*lines, f"workers go on with the files of {formatting.count(derived.queued, 'image')}"]
    return lines + ([] if derived.finished else ["the rest is made by the next run, or by batchgen post"])


def discrepancy_lines(found: view.DiscrepancyView) -> Iterator[tuple[str, list[str]]]:
    """Lines about the images that the last run found missing or changed."""
    put_back = "put the original back; or --fresh --only ID makes it again, and the file goes to superseded/"
    for kind, paths, total, words, remedy in (
        ("changed", found.changed, found.changed_total, "not what the ledger recorded", put_back),
        ("missing", found.missing, found.missing_total, "no longer there", "the next run makes it again"),
    ):
        if total:
            head = f"{formatting.count(total, 'image')} {'is' if total == 1 else 'are'} {words}:"
            yield kind, _listed(head, paths, total, remedy)


def _listed(head: str, lines: Iterable[str] = (), total: int = 0, remedy: str = "") -> list[str]:
    """A head with the first entries below, how many more there are, and what helps."""
    shown = [f"    {line}" for line in lines]
    more = [f"    … and {total - len(shown):,} more"] if total > len(shown) else []
    return [head, *shown, *more, *([f"    → {remedy}"] if remedy else [])]


def _images(summary: view.RunSummary) -> str:
    images, samples = summary.images, summary.samples
    parts = [f"{images.made:,} made", f"{images.kept:,} kept"]
    parts += [f"{images.moved:,} moved"] if images.moved else []
    parts += [
        f"{samples[state]:,} {state}"
        for state in ("rejected", "refused", "failed", "uncertain", "blocked")
        if samples.get(state)
    ]
    parts += [f"{images.left:,} not tried"] if images.left else []
    return " · ".join(parts)


def _time(summary: view.RunSummary) -> str:
    best = summary.limit.seconds_at_best
    at_best = f" (forecast: {formatting.duration(best)} at best)" if best and not summary.emulated else ""
    return formatting.duration(summary.seconds) + at_best


def _reason(found: view.ReasonView) -> list[str]:
    message = f": {short_message(found.message)}" if found.message else ""
    return _listed(f"{found.samples:,} × {found.reason or 'unknown'}{message}", remedy=found.remedy)


def _uncertain(job: view.JobView) -> list[str]:
    total = job.samples.get("uncertain", len(job.uncertain))
    head = f"{formatting.count(total, 'sample')} sent and never answered; each may have been billed:"
    return _listed(head, (f"{sample.id}  {formatting.usd(sample.maybe_usd)}" for sample in job.uncertain), total)


def _blocked(job: view.JobView) -> list[str]:
    total = job.totals.not_made.get("blocked", len(job.blocked))
    head = f"{formatting.count(total, 'image')} {'waits' if total == 1 else 'wait'} for an image that is not there:"
    lines = (f"{sample.id}  {short_message(sample.message)}" for sample in job.blocked)
    return _listed(head, lines, total, REMEDIES["blocked"])


def _rejected(job: view.JobView) -> list[str]:
    head = f"{formatting.count(job.rejected, 'image')} {'is' if job.rejected == 1 else 'are'} rejected:"
    return _listed(head, map(_reviewed, job.rejected_samples), job.rejected)


def _warned(job: view.JobView) -> list[str]:
    head = f"checks have found something in {formatting.count(job.warned, 'image')}, kept and counted:"
    remedy = "look at them; `check: {NAME: reject}` rejects what a check finds"
    return _listed(head, map(_reviewed, job.warned_samples), job.warned, remedy)


def _reviewed(sample: ReviewedSample) -> str:
    """A sample and its reason: `mug text: reads SALE 05%`, `mug by the judge: the handle is missing`, `mug anna: too
    dark`."""
    if sample.reason == "person" and sample.message:
        why = sample.message  # which says who
    else:
        by = BY_WHOM.get(sample.reason, sample.reason)
        why = f"{by}: {sample.message}" if sample.message else by
    return f"{sample.id}  {short_message(why)}"


def _flagged(summary: view.RunSummary) -> list[str]:
    head = f"{formatting.count(summary.flagged_total, 'image')} kept though not as asked for:"
    return _listed(
        head, (f"{image.path}  ({', '.join(image.flags)})" for image in summary.flagged), summary.flagged_total
    )


def next_steps(summary: view.RunSummary) -> list[str]:
    """What to type now, depending on the exit code."""
    manifest = formatting.shell_path(summary.manifest) if summary.manifest else "MANIFEST"
    output = f" --output {formatting.shell_path(summary.folder)}" if summary.own_folder else ""
    engine = "" if summary.engine == "online" else f" --engine {summary.engine}"
    run = f"batchgen run {manifest}{output}{engine}" + (" --emulate" if summary.emulated else "")
    match summary.exit_code:
        case 0 if left_out := sum(summary.totals.left_out.values()) + summary.totals.outdated:
            return [f"{run} makes the {formatting.count(left_out, 'image')} left out"]
        case 3 | 4:
            return _steps_after_failures(summary, run, f"batchgen retry {manifest}{output}")
        case 5 if summary.waiting:
            return [f"{run} uploads what waits, once {summary.bucket or 'the bucket'} takes it"]
        case 5 if summary.discrepancies.changed_total:
            return [
                f"batchgen verify {manifest}{output} reads every file and lists those that differ",
                f"{run} once the originals are back, or with --fresh --only ID to make an image again",
            ]
        case 5:
            return ["batchgen doctor says what is wrong with key, address and folder", f"{run} goes on from here"]
        case 6:
            stop = StopReason.from_record(summary.stopped_by, summary.message)
            if stop is not None and stop.detail:  # the budget of the day or the month: the message says what to raise
                return [f"{run} goes on from here once there is budget"]
            return [f"{run} --max-cost USD goes on with a new budget"]
        case 8:
            until = min(summary.parked.values()).iso if summary.parked else "the quota resets"
            return [f"{run} after {until}"]
        case 9 if summary.cluster is not None:
            cancel = f"batchgen cancel {manifest}{output}"
            return [f"{run} watches what the workers do; {cancel} withdraws what has not begun"]
        case 9:
            collect = f"batchgen status {manifest}{output} --collect"
            return [f"{run} collects what has been made by then; so does {collect}"]
        case 7 | 129 | 130 | 143:
            return [f"{run} goes on from here"]
    return []


def _steps_after_failures(summary: view.RunSummary, run: str, retry: str) -> list[str]:
    steps, samples = [], summary.samples
    if summary.discrepancies.missing_total:
        steps.append(f"{run} makes what is missing again")
    behind = sum(reason.samples for reason in summary.reasons if reason.reason in LINK_PENDING_REASONS)
    if behind:
        steps.append(f"{run} fetches what is paid for and still behind its link")
    if sum(samples.get(state, 0) for state in ("failed", "uncertain", "wanted")) > behind or summary.images.left:
        steps.append(f"{run} tries again what failed")
    if summary.unreviewed:
        steps.append(f"{run} reviews the {formatting.count(summary.unreviewed, 'image')} left without a verdict")
    if samples.get("rejected"):
        steps.append(f"accept what is good enough on the dashboard, or {retry} --rejected buys another")
    if samples.get("refused"):
        steps.append(f"change the refused prompts, or {retry} --refused")
    if summary.derivatives.failed:
        steps.append(f"{retry.replace('retry', 'post', 1)} tries the failed derivatives again, nothing is sent")
    return steps


def summary_markdown(summary: view.RunSummary, sanitize_line: Callable[[str], str]) -> str:
    """The summary for the page of a CI job. sanitize_line: removes secrets and control characters from a line."""
    lines = [f"### {escape_markdown(sanitize_line(headline(summary)))}", ""]
    if summary.emulated:
        lines += ["**EMULATED: the images are a local emulator's, nothing was billed**", ""]
    found = [(label, [escape_markdown(sanitize_line(line)) for line in block]) for label, block in blocks(summary)]
    lines += ["| | |", "|---|---|"]
    lines += [f"| {label} | {'<br>'.join(block)} |" for label, block in found if label not in LIST_BLOCKS]
    for label, block in found:
        if label in LIST_BLOCKS:
            lines += ["", f"**{label}**", "", *(f"- {line}" for line in block)]
    return "\n".join(lines) + "\n\n"
