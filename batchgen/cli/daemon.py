"""`batchgen daemon`: runs every manifest with `schedule:`, night after night, in a way that suits containers."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from batchgen.cli.invocation import Invocation
from batchgen.daemon.daemon import Daemon, DaemonOptions
from batchgen.daemon.scheduled_jobs import ScheduledJob, ScheduledJobs
from batchgen.errors import SettingsError, UsageError
from batchgen.events import ScheduledRunOutput
from batchgen.report import formatting
from batchgen.report.console import Console
from batchgen.report.event_text import LogWarningPrinter
from batchgen.report.log import Log, LogFormat, Stream
from batchgen.sanitize import printable_json, redact_secrets
from batchgen.schedule.due import DueRun, WaitUntil
from batchgen.schedule.timer_spec import DURATION_S, TimeOfDay, interval_s, parse_duration_s, parse_time_of_day
from batchgen.settings import Settings, environment, state_folder


@dataclass(frozen=True, slots=True, kw_only=True)
class DaemonArguments:
    """The parsed options. places: runs at the same time; grace: seconds."""

    places: int
    grace: float
    once: bool
    listing: bool
    as_json: bool
    emulate: bool
    log_format: LogFormat
    health_file: Path | None


def daemon_command(invocation: Invocation, manifests: tuple[str, ...], **given: Any) -> int:
    arguments = DaemonArguments(**given)
    state = state_folder(Settings.load())
    if state is None:
        raise SettingsError("there is no home folder for the daemon's state: set XDG_STATE_HOME")
    if arguments.as_json and not arguments.listing:
        raise UsageError("--json goes with --list; the log is JSON with --log-format json")
    # An emulated run does not count: the real one is still due.
    schedule_state_folder = state / ("daemon.emulated" if arguments.emulate else "daemon")
    scheduled_jobs = ScheduledJobs(manifests, schedule_state_folder, persistent=not arguments.listing)
    if arguments.listing:
        _print_jobs(invocation, scheduled_jobs, arguments.as_json)
        return 0
    return _run_daemon(invocation, scheduled_jobs, arguments)


def _run_daemon(invocation: Invocation, scheduled_jobs: ScheduledJobs, arguments: DaemonArguments) -> int:
    async def watch(log: Log) -> int:
        options = DaemonOptions(
            command=partial(run_command, emulate=arguments.emulate, log_format=arguments.log_format),
            emit=log,
            on_line=partial(_log_output, invocation.err, log, arguments.log_format),
            max_runs=arguments.places,
            grace_s=arguments.grace,
            health_file=arguments.health_file,
        )
        daemon = Daemon(scheduled_jobs, options)
        return await (daemon.run_once() if arguments.once else daemon.run())

    try:
        stream = Stream(invocation.err.stream, plain=not invocation.err.unicode)
        with Log(stream, arguments.log_format, lambda: invocation.secrets) as log:
            return asyncio.run(watch(log))
    finally:
        scheduled_jobs.close()


def run_command(
    job: ScheduledJob, due: DueRun, *, emulate: bool, log_format: LogFormat
) -> tuple[list[str], Mapping[str, str]]:
    """The command line of a scheduled run, and its environment."""
    wanted = job.schedule
    began = datetime.fromtimestamp(due.at, UTC).astimezone(wanted.zone)
    until = parse_time_of_day(wanted.until or "")
    longest_s = parse_duration_s(wanted.max_duration or "") or DURATION_S
    for latest in filter(None, (until, parse_time_of_day(wanted.by or ""))):
        longest_s = min(longest_s, interval_s(TimeOfDay(began.hour, began.minute), latest))
    # Both limits hold: a run that is made up for during the day lasts no longer than a night.
    limits = ["--max-duration", f"{max(1, int(longest_s // 60))}m", *(["--until", str(until)] if until else [])]
    money = [] if wanted.max_cost is None else ["--max-cost", f"{wanted.max_cost:.10g}"]
    money += [] if wanted.by is None else ["--by", wanted.by]
    engine_options = [] if wanted.engine == "online" else ["--engine", wanted.engine, "--no-wait"]
    # Workers have this night's work: what failed in it is left to the next night.
    engine_options += ["--retry", "none"] if wanted.engine == "cluster" and due.why == "batches" else []
    # -P: a file beside the manifest must not be imported as a module.
    program = [sys.executable, "-P", "-m", "batchgen", "run", str(job.path)]
    own = ["--no-progress", *(["--emulate"] if emulate else [])]
    own += ["--log-format", "json"] if log_format == "json" else []
    zone = {} if wanted.timezone is None else {"TZ": wanted.timezone}
    return [*program, *limits, *money, *engine_options, *own], {**environment(), **zone}


def _log_output(err: Console, log: Log, log_format: LogFormat, job: ScheduledJob, line: str) -> None:
    """Write what a run prints into the daemon's log, with the job's name."""
    if not line.strip():
        return
    if log_format != "json":
        err.stream.write(f"{err.fit(f'{job.name} | {line}')}\n")
        err.stream.flush()
    elif (found := _parse_object(line)) is not None:
        err.stream.write(redact_secrets(printable_json({**found, "job": job.name}), err.secrets) + "\n")
        err.stream.flush()
    else:
        log(ScheduledRunOutput(at=time.time(), job=job.name, message=err.fit(line)))


def _parse_object(line: str) -> dict[str, Any] | None:
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def _print_jobs(invocation: Invocation, scheduled_jobs: ScheduledJobs, as_json: bool) -> None:
    now = time.time()
    with LogWarningPrinter(invocation.err.line):
        scheduled_jobs.reload(now)
    jobs = sorted(scheduled_jobs.jobs.values(), key=lambda job: (job.name, job.path))
    rows = [_listed(job, now) for job in jobs]
    if as_json:
        invocation.out.json(rows)
    elif rows:
        table = [(row["job"], row["next"], *_last_columns(row["last"]), row["manifest"]) for row in rows]
        invocation.out.table(("job", "next", "last", "end", "manifest"), table, flexible=4)
    else:
        invocation.err.line("no manifest here has `schedule:` in its head", "yellow")


def _listed(job: ScheduledJob, now: float) -> dict[str, Any]:
    decision, last = job.decide(now), job.schedule_state.last
    # What has not ended is running or was killed: only the daemon that starts again knows.
    due = job.schedule.cadence.after(now) if isinstance(decision, DueRun) and decision.why == "interrupted" else now
    following = formatting.utc_iso(decision.until if isinstance(decision, WaitUntil) else due)
    shown = last and {
        "due": formatting.utc_iso(last.at),
        "began": formatting.utc_iso(last.began),
        "ended": formatting.utc_iso(last.ended),
        "exit_code": last.exit_code,
    }
    return {"job": job.name, "manifest": str(job.path), "next": following, "last": shown}


def _last_columns(last: dict[str, Any] | None) -> tuple[str, str]:
    if last is None:
        return "-", "-"
    return last["began"], "not ended" if last["exit_code"] is None else f"exit {last['exit_code']}"
