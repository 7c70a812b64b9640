"""The closing words of a run, from its facts: what was made, what was not and why, what it cost, what to do next."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator, Sequence
from typing import Any

from batchgen.errors import LINK_PENDING_REASONS
from batchgen.planning.reason import Reason, ReasonKind
from batchgen.planning.reason_text import reason_text
from batchgen.report import formatting, outage_text
from batchgen.report.billing_check import billing_lines
from batchgen.report.console import Console
from batchgen.report.facts import Facts
from batchgen.sanitize import short_message
from batchgen.scheduling.stop_reason import StopReason

NOT_MADE_STATES = ("refused", "failed", "uncertain", "blocked", "wanted", "running")
LABEL_COLUMNS = 10
MAX_BATCHES = 10
WITH_WORKERS = reason_text(Reason(ReasonKind.WITH_WORKERS))
STOP_REASONS = {
    "budget": "the budget is used up",
    "deadline": "the time is up",
    "stalled": "nothing succeeded any more",
    "cancelled": "it was cancelled",
    "SIGINT": "interrupted (SIGINT)",
    "SIGTERM": "told to stop (SIGTERM)",
    "SIGHUP": "the terminal went away (SIGHUP)",
    "key_rejected": "the API key was rejected",
    "location_unsupported": "the API does not serve this location",
    "account_restricted": "the vendor has restricted this account",
    "billing": "the vendor stopped billing this account",
    "disk": "could not write to the disk or the ledger",
}


def show_summary(console: Console, facts: Facts) -> None:
    """Print it, a label to each block."""
    style = "bold green" if facts["exit_code"] == 0 else "bold yellow"
    console.line(headline(facts), style)
    if facts["emulated"]:
        console.line("EMULATED: the images are a local emulator's, nothing was billed", "bold yellow")
    for label, lines in blocks(facts):
        show_block(console, label, lines)


def show_block(console: Console, label: str, lines: Sequence[str]) -> None:
    """A dim label, and its lines beside it."""
    for number, line in enumerate(lines):
        console.print_labelled((label if number == 0 else "").ljust(LABEL_COLUMNS), line)


def headline(facts: Facts) -> str:
    """One line that says how it went."""
    images, samples, derived = facts["images"], facts["samples"], facts["derivatives"]["made"]
    files = f", {formatting.count(derived, 'file')} made of them" if derived else ""
    files += _missing_files_text(facts["derivatives"])
    files += f", {facts['waiting']:,} not in the bucket yet" if facts["waiting"] else ""
    files += _discrepancy_text(facts["discrepancies"])
    out, where = facts["batches"]["submitted"], "in batches"
    if facts["cluster"] is not None and facts["cluster"]["samples"]:
        out, where = facts["cluster"]["samples"], WITH_WORKERS
    missing = sum(samples.get(state, 0) for state in NOT_MADE_STATES)
    job = facts["job"]
    why = f": stopped, {_stop_text(facts)}" if facts["stopped_by"] else ""
    if why:
        waiting = f", {out:,} {where}" if out else ""
        return f"{job}{why}; {formatting.count(images['made'], 'image')} made{waiting}{files}"
    if out:
        return f"{job}: {formatting.count(out, 'image')} {where}, {images['made']:,} made{files}"
    if not images["made"] and not missing and not images["left"]:
        nothing = "nothing to ask for" if files else "nothing to do"
        return f"{job}: {nothing}, {formatting.count(images['kept'], 'image')} kept{files}"
    if not missing and not images["left"]:
        incomplete = (
            _missing_files_text(facts["derivatives"]) or facts["waiting"] or _discrepancy_text(facts["discrepancies"])
        )
        done = "" if incomplete else "all done, "
        return f"{job}: {done}{formatting.count(images['made'], 'image')} made{files}"
    return f"{job}: {formatting.count(images['made'], 'image')} made, {max(missing, images['left']):,} not"


def _stop_text(facts: Facts) -> str:
    """What ended the run; an outage says more than the limit that it ran into."""
    words = STOP_REASONS.get(facts["stopped_by"], facts["stopped_by"])
    down = outage_text.ongoing_text(facts["outages"]) if facts["stopped_by"] in ("stalled", "deadline") else None
    if down is None:
        return str(words)
    return down if facts["stopped_by"] == "stalled" else f"{words} and {down}"


def _missing_files_text(derived: Facts) -> str:
    """What of `post:` the run leaves behind."""
    if derived["failed"]:
        return f", {formatting.count(derived['failed'], 'file')} could not be made"
    if derived["queued"]:
        return f", files of {formatting.count(derived['queued'], 'picture')} left to workers"
    return "" if derived["finished"] else ", files of them are missing"


def _discrepancy_text(found: Facts) -> str:
    changed, missing = found["changed_total"], found["missing_total"]
    words = f", {formatting.count(changed, 'file')} changed" if changed else ""
    return words + (f", {formatting.count(missing, 'file')} missing" if missing else "")


def blocks(facts: Facts) -> Iterator[tuple[str, list[str]]]:
    """(label, its lines) in the order in which they are read. Foreign text is not cleaned yet."""
    yield from stop_lines(facts)
    yield "images", [_images(facts)]
    if facts["waiting"]:
        yield "waiting", [waiting_line(facts)]
    if lines := derivative_lines(facts["derivatives"]):
        yield "derived", lines
    if facts["requests"]:
        yield "requests", [f"{sum(facts['requests'].values()):,}: {formatting.join_counts(facts['requests'])}"]
    if facts["requests"]:
        yield "money", money_lines(facts["usd"], emulated=facts["emulated"])
    yield from batch_lines(facts["batches"]["out"])
    if saved := facts["batches"]["saved_usd"]:
        yield "saved", [f"{formatting.usd(saved)} against the same requests one by one: batches cost half"]
    yield "time", [_time(facts)]
    if facts["limit"]["binding"] != "nothing" and (facts["images"]["made"] or not facts["stopped_by"]):
        yield "limit", [f"{facts['limit']['binding']}; {facts['limit']['remedy']}"]
    yield from problem_blocks(facts)
    if facts["newest"]:
        yield "newest", facts["newest"]
    yield (
        "folder",
        [facts["folder"], "results.jsonl there has one line for each item"],
    )
    if facts["bucket"]:
        yield "bucket", [facts["bucket"]]
    steps = next_steps(facts)
    if steps:
        yield "next", steps


def stop_lines(facts: Facts) -> Iterator[tuple[str, list[str]]]:
    """Why a run came to its end before its work did, and what helps. facts: of the run."""
    if facts["message"]:
        yield "stopped", [facts["message"], *([f"    → {facts['remedy']}"] if facts["remedy"] else [])]


def waiting_line(facts: Facts) -> str:
    """Of pictures that a bucket did not take."""
    count = formatting.count(facts["waiting"], "picture")
    return f"{count} in the spool for {facts['bucket']}: the next run uploads them first, and nothing is bought again"


def batch_lines(batches: Sequence[Facts]) -> Iterator[tuple[str, list[str]]]:
    """Those that are out, newest last."""
    lines = [
        f"{one['batch'] or one['model']}: {one['state']}, {one['succeeded'] + one['failed']:,} of"
        f" {formatting.count(one['requests'], 'request')} answered, since {one['since']}"
        for one in batches[:MAX_BATCHES]
    ]
    if len(batches) > MAX_BATCHES:
        lines.append(f"… and {len(batches) - MAX_BATCHES:,} more")
    if lines:
        yield "batches", lines


def cluster_lines(cluster: Facts | None) -> Iterator[tuple[str, list[str]]]:
    if cluster is None or not (cluster["samples"] or cluster["stopped_by"]):
        return
    why = f"stopped: {STOP_REASONS.get(cluster['stopped_by'], cluster['stopped_by'])}" if cluster["stopped_by"] else ""
    words = f"{formatting.count(cluster['samples'], 'sample')} {WITH_WORKERS}, {cluster['taken']:,} of them taken up"
    alive = f"{formatting.count(cluster['workers'], 'worker')} alive"
    yield "cluster", ["; ".join(filter(None, [words if cluster["samples"] else "", why, alive]))]


def problem_blocks(facts: Facts) -> Iterator[tuple[str, list[str]]]:
    """What went wrong and what helps; the same for a closing run and for `status`."""
    yield from discrepancy_lines(facts["discrepancies"])
    lines = [line for reason in facts["reasons"] for line in _reason(reason)]
    if lines:
        yield "why", lines
    if facts["uncertain"]:
        yield "uncertain", _uncertain(facts)
    if lines := billing_lines(facts["account"]):
        yield "account", lines
    if facts["outages"]:
        yield "down", [outage_text.summary_line(outage) for outage in facts["outages"]]
    for model, reason in facts.get("stopped_models", {}).items():
        yield "stopped", [f"{model}: {reason}"]
    for model, until in facts["parked"].items():
        at = until["until"] if isinstance(until, dict) else until
        yield "parked", [f"{model} until {at}: its daily quota is used up"]
    if facts.get("flagged"):
        yield "unlike", _flagged(facts)


def derivative_lines(derived: Facts) -> list[str]:
    """Empty when there was nothing to do."""
    words = {
        "made": "made",
        "skipped": "left out, larger than their picture",
        "removed": "no longer wanted, removed",
        "failed": "failed",
    }
    parts = [f"{derived[name]:,} {word}" for name, word in words.items() if derived[name]]
    lines = [" · ".join(parts)] if parts else []
    lines += [f"    {failure['path']}: {short_message(failure['message'])}" for failure in derived["failures"]]
    if derived["queued"]:
        return [*lines, f"workers go on with the files of {formatting.count(derived['queued'], 'picture')}"]
    return lines + ([] if derived["finished"] else ["the rest is made by the next run, or by batchgen post"])


def discrepancy_lines(found: Facts) -> Iterator[tuple[str, list[str]]]:
    """Of the images that the last run did not find as the ledger has them."""
    for kind, words, remedy in (
        (
            "changed",
            "not what the ledger recorded",
            "put the original back; or --fresh --only ID makes it again, and the file goes to superseded/",
        ),
        ("missing", "no longer there", "the next run makes it again"),
    ):
        if total := found[f"{kind}_total"]:
            lines = [f"{formatting.count(total, 'image')} {'is' if total == 1 else 'are'} {words}:"]
            lines += [f"    {path}" for path in found[kind]]
            lines += [f"    … and {total - len(found[kind]):,} more"] if total > len(found[kind]) else []
            yield kind, [*lines, f"    → {remedy}"]


def _images(facts: Facts) -> str:
    images, samples = facts["images"], facts["samples"]
    parts = [f"{images['made']:,} made", f"{images['kept']:,} kept"]
    parts += [f"{images['moved']:,} moved"] if images["moved"] else []
    parts += [
        f"{samples[state]:,} {state}" for state in ("refused", "failed", "uncertain", "blocked") if samples.get(state)
    ]
    parts += [f"{images['left']:,} not tried"] if images["left"] else []
    return " · ".join(parts)


def money_lines(usd: Facts, *, emulated: bool) -> list[str]:
    """Charged, estimated, perhaps charged and unknown are four things and never one sum."""
    charged = "that a vendor would have charged" if emulated else "charged, by the usage that the vendor reported"
    parts = [f"{formatting.usd(usd['spent'])} {charged}"] if usd["spent"] else []
    if usd["estimated"]:
        parts.append(f"{formatting.usd(usd['estimated'])} estimated ({_why_estimated(usd)})")
    if unpriced := usd["requests_of_unknown_price"]:
        parts.append(f"{'' if parts else 'unknown: '}{formatting.count(unpriced, 'request')} of unknown price")
    if usd["maybe_billed_requests"]:
        parts.append(_maybe_billed(usd, "maybe billed on top" if parts else "maybe billed"))
    if not parts:
        parts = [f"{formatting.usd(0)} charged"]
    if usd["searched_requests"]:
        requests = formatting.count(usd["searched_requests"], "request")
        parts.append(f"searches in {requests} are priced in full; some may have been free (monthly allowance)")
    return parts


def _why_estimated(usd: Facts) -> str:
    guess = "the price of the service tier is a guess"
    if usd["guessed"] >= usd["estimated"]:
        return guess
    return f"no usage was reported, or {guess}" if usd["guessed"] else "no usage was reported"


def _maybe_billed(usd: Facts, words: str) -> str:
    """For requests that brought no image."""
    requests = formatting.count(usd["maybe_billed_requests"], "request")
    if usd["maybe_billed"] is None:
        return f"an unknown amount {words} ({requests} that brought no image)"
    unpriced = usd["maybe_billed_of_unknown_price"]
    rest = f", {unpriced:,} of them of unknown price" if unpriced else ""
    amount = formatting.usd(usd["maybe_billed"])
    return f"{amount} {words}, an estimate ({requests} that brought no image{rest})"


def _time(facts: Facts) -> str:
    best = facts["limit"]["seconds_at_best"]
    at_best = f" (forecast: {formatting.duration(best)} at best)" if best and not facts["emulated"] else ""
    return formatting.duration(facts["seconds"]) + at_best


def _reason(reason: Facts) -> Iterator[str]:
    message = f": {short_message(reason['message'])}" if reason["message"] else ""
    yield f"{reason['samples']:,} × {reason['reason'] or 'unknown'}{message}"
    if reason["remedy"]:
        yield f"    → {reason['remedy']}"


def _uncertain(facts: Facts) -> list[str]:
    total = facts["samples"].get("uncertain", len(facts["uncertain"]))
    lines = [f"{formatting.count(total, 'sample')} sent and never answered; each may have been billed:"]
    lines += [f"    {entry['id']}  {formatting.usd(entry['maybe_usd'])}" for entry in facts["uncertain"]]
    if total > len(facts["uncertain"]):
        lines.append(f"    … and {total - len(facts['uncertain']):,} more")
    return lines


def _flagged(facts: Facts) -> list[str]:
    lines = [f"{formatting.count(facts['flagged_total'], 'image')} kept though not as asked for:"]
    lines += [f"    {entry['path']}  ({', '.join(entry['flags'])})" for entry in facts["flagged"]]
    if facts["flagged_total"] > len(facts["flagged"]):
        lines.append(f"    … and {facts['flagged_total'] - len(facts['flagged']):,} more")
    return lines


def next_steps(facts: Facts) -> list[str]:
    """What to type now, by the exit code."""
    manifest = _shell_path(facts["manifest"]) if facts["manifest"] else "MANIFEST"
    output = f" --output {_shell_path(facts['folder'])}" if facts["own_folder"] else ""
    engine = "" if facts.get("engine", "online") == "online" else f" --engine {facts['engine']}"
    run = f"batchgen run {manifest}{output}{engine}" + (" --emulate" if facts["emulated"] else "")
    samples: dict[str, Any] = facts["samples"]
    match facts["exit_code"]:
        case 3 | 4:
            return _steps_after_failures(facts, run, f"batchgen retry {manifest}{output}", samples)
        case 5 if facts["waiting"]:
            return [f"{run} uploads what waits, once {facts['bucket'] or 'the bucket'} takes it"]
        case 5 if facts["discrepancies"]["changed_total"]:
            return [
                f"batchgen verify {manifest}{output} reads every file and lists those that differ",
                f"{run} once the originals are back, or with --fresh --only ID to make an image again",
            ]
        case 5:
            return ["batchgen doctor says what is wrong with key, address and folder", f"{run} goes on from here"]
        case 6:
            stop = StopReason.from_record(facts["stopped_by"], facts.get("message") or "")
            if stop is not None and stop.detail:  # the budget of the day or the month: the message says what to raise
                return [f"{run} goes on from here once there is budget"]
            return [f"{run} --max-cost USD goes on with a new budget"]
        case 7:
            return [f"{run} goes on from here"]
        case 8:
            until = min(facts["parked"].values(), default="the quota resets")
            return [f"{run} after {until}"]
        case 9 if facts["cluster"] is not None:
            return [
                f"{run} watches what the workers do; batchgen cancel {manifest}{output} withdraws what has not begun"
            ]
        case 9:
            return [
                f"{run} collects what the batches have brought; so does batchgen status {manifest}{output} --collect"
            ]
        case 129 | 130 | 143:
            return [f"{run} goes on from here"]
    return []


def _shell_path(path: str) -> str:
    """As a person types it here; whole when the working folder has gone, or is on another drive of Windows."""
    try:
        return shlex.quote(os.path.relpath(path))
    except (OSError, ValueError):
        return shlex.quote(path)


def _steps_after_failures(facts: Facts, run: str, retry: str, samples: dict[str, Any]) -> list[str]:
    steps = []
    if facts["discrepancies"]["missing_total"]:
        steps.append(f"{run} makes what is missing again")
    behind = sum(reason["samples"] for reason in facts["reasons"] if reason["reason"] in LINK_PENDING_REASONS)
    if behind:
        steps.append(f"{run} fetches what is paid for and still behind its link")
    if sum(samples.get(state, 0) for state in ("failed", "uncertain", "wanted")) > behind or facts["images"]["left"]:
        steps.append(f"{run} tries again what failed")
    if samples.get("refused"):
        steps.append(f"change the refused prompts, or {retry} --refused")
    if facts["derivatives"]["failed"]:
        steps.append(f"{retry.replace('retry', 'post', 1)} tries the failed derivatives again, nothing is sent")
    return steps
