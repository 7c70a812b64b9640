"""`batchgen daemon`: runs every manifest that has `schedule:`, night after night, as containers want it."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from batchgen.cli.invocation import Invocation
from batchgen.cli.options import duration_option, json_option, ledger_option, option_group, pass_invocation
from batchgen.errors import SettingsError, UsageError
from batchgen.events import ScheduledRunOutput
from batchgen.report import formatting
from batchgen.sanitize import printable_json, redact_secrets
from batchgen.settings import Settings, environment, state_folder

if TYPE_CHECKING:
    from batchgen.daemon.scheduled_jobs import ScheduledJob, ScheduledJobs
    from batchgen.report.log import Log, LogFormat
    from batchgen.schedule.due import DueRun


@click.command("daemon")
@click.argument("manifests", nargs=-1, type=click.Path(), metavar="[MANIFEST|GLOB|FOLDER]...")
@option_group(
    click.option("--jobs", "places", type=click.IntRange(min=1), default=4, show_default=True, metavar="N",
                 help="Nights at the same time; they share quota and budgets in any case."),
    click.option("--grace", callback=duration_option, default="60s", show_default=True, metavar="60s",
                 help="Told to stop, how long runs may finish what is in flight. Give a container 30 s more to stop."),
    click.option("--once", is_flag=True, help="Run what is due now, and leave."),
    click.option("--list", "listing", is_flag=True, help="Show the jobs, their next and their last night, and leave."),
    json_option("With --list: answer with one JSON list on stdout."),
    click.option("--emulate", is_flag=True, help="Run each against a local emulator: nothing billed, NAME.emulated/."),
    ledger_option,
    click.option("--log-format", type=click.Choice(["text", "json"]), default="text", show_default=True,
                 help="Format of the log on stderr; json is also passed to the runs."),
    click.option("--health-file", type=click.Path(path_type=Path), metavar="FILE",
                 help="Touched every minute, for a container's health check."),
)  # fmt: skip
@pass_invocation
def command(invocation: Invocation, manifests: tuple[str, ...], listing: bool, as_json: bool, **given: Any) -> int:
    """Run every MANIFEST that has `schedule:` in its head; without one, those in jobs/ and here.

    A night that was missed is made up for once, within catch_up (24h); one that was killed goes on. A job never overlaps
    itself. Edited manifests are read again each minute and on SIGHUP. SIGTERM lets the runs finish what is in flight.

    \b
    Examples:
      batchgen daemon
      batchgen daemon 'jobs/*.yaml' --log-format json
      batchgen daemon --list
      batchgen daemon --once                    what is due now, for tests and cron
    """
    from batchgen.daemon.scheduled_jobs import ScheduledJobs

    state = state_folder(Settings.load())
    if state is None:
        raise SettingsError("there is no home folder for the daemon's state: set XDG_STATE_HOME")
    if as_json and not listing:
        raise UsageError("--json goes with --list; the log is JSON with --log-format json")
    # An emulated night is none: the real one is still due.
    schedule_state_folder = state / ("daemon.emulated" if given["emulate"] else "daemon")
    if listing:
        _print_jobs(invocation, ScheduledJobs(manifests, schedule_state_folder, persistent=False), as_json)
        return 0
    return _run_daemon(invocation, ScheduledJobs(manifests, schedule_state_folder), **given)


def _run_daemon(
    invocation: Invocation, scheduled_jobs: ScheduledJobs, *, once: bool, log_format: LogFormat, **given: Any
) -> int:
    import asyncio

    from batchgen.daemon.daemon import Daemon, DaemonOptions
    from batchgen.report.log import Log, Stream

    async def watch(log: Log) -> int:
        log_output = OutputLogger(invocation, log, log_format)
        options = DaemonOptions(
            command=RunCommand(given["emulate"], log_format), emit=log, on_line=log_output, max_runs=given["places"],
            grace_s=given["grace"], health_file=given["health_file"],
        )  # fmt: skip
        daemon = Daemon(scheduled_jobs, options)
        return await (daemon.run_once() if once else daemon.run())

    try:
        stream = Stream(invocation.err.stream, plain=not invocation.err.unicode)
        with Log(stream, log_format, lambda: invocation.secrets) as log:
            return asyncio.run(watch(log))
    finally:
        scheduled_jobs.close()


class RunCommand:
    """The command line of a night, and its environment."""

    def __init__(self, emulate: bool, log_format: LogFormat, engine: str = "") -> None:
        """engine: whatever the schedule says."""
        self._engine = engine
        self._extra_options = [
            *(["--emulate"] if emulate else []),
            *(["--log-format", "json"] if log_format == "json" else []),
        ]

    def __call__(self, job: ScheduledJob, due: DueRun) -> tuple[list[str], Mapping[str, str]]:
        from batchgen.schedule.timer_spec import DURATION_S, TimeOfDay, interval_s, parse_duration_s, parse_time_of_day

        wanted = job.schedule
        began = datetime.fromtimestamp(due.at, UTC).astimezone(wanted.zone)
        until = parse_time_of_day(wanted.until or "")
        longest_s = parse_duration_s(wanted.max_duration or "") or DURATION_S
        if until is not None:
            longest_s = min(longest_s, interval_s(TimeOfDay(began.hour, began.minute), until))
        # Both limits hold: a night that is made up for by day lasts no longer than a night.
        limits = ["--max-duration", f"{max(1, int(longest_s // 60))}m", *(["--until", str(until)] if until else [])]
        money = [] if wanted.max_cost is None else ["--max-cost", f"{wanted.max_cost:.10g}"]
        engine = self._engine or wanted.engine
        engine_options = [] if engine == "online" else ["--engine", engine, "--no-wait"]
        # The night's work is done: what has failed in it is left to the next one.
        engine_options += ["--retry", "none"] if due.why == "made" else []
        # -P: a file that lies beside the manifest is no module of ours.
        program = [sys.executable, "-P", "-m", "batchgen", "run", str(job.path)]
        zone = {} if wanted.timezone is None else {"TZ": wanted.timezone}
        return [*program, *limits, *money, *engine_options, "--no-progress", *self._extra_options], {
            **environment(),
            **zone,
        }


class OutputLogger:
    """What a run says goes into the daemon's log, behind the job's name."""

    def __init__(self, invocation: Invocation, log: Log, log_format: LogFormat) -> None:
        self._err = invocation.err
        self._log = log
        self._json = log_format == "json"

    def __call__(self, job: ScheduledJob, line: str) -> None:
        if not line.strip():
            return
        if not self._json:
            self._err.stream.write(f"{self._err.fit(f'{job.name} | {line}')}\n")
            self._err.stream.flush()
        elif (found := _parse_object(line)) is not None:
            self._err.stream.write(redact_secrets(printable_json({**found, "job": job.name}), self._err.secrets) + "\n")
            self._err.stream.flush()
        else:
            self._log(ScheduledRunOutput(at=time.time(), job=job.name, message=self._err.fit(line)))


def _parse_object(line: str) -> dict[str, Any] | None:
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def _print_jobs(invocation: Invocation, scheduled_jobs: ScheduledJobs, as_json: bool) -> None:
    from batchgen.report.event_text import LogWarningPrinter
    from batchgen.schedule.due import DueRun, WaitUntil

    now = time.time()
    with LogWarningPrinter(invocation.err.line):
        scheduled_jobs.reload(now)
    rows: list[dict[str, Any]] = []
    for job in sorted(scheduled_jobs.jobs.values(), key=lambda job: (job.name, job.path)):
        decision, last = job.decide(now), job.schedule_state.last
        # What has not ended runs now or was killed: only the daemon that starts again knows.
        due = job.schedule.cadence.after(now) if isinstance(decision, DueRun) and decision.why == "interrupted" else now
        rows.append(
            {
                "job": job.name,
                "manifest": str(job.path),
                "next": formatting.utc_iso(decision.until if isinstance(decision, WaitUntil) else due),
                "last": None if last is None else {
                    "due": formatting.utc_iso(last.at), "began": formatting.utc_iso(last.began),
                    "ended": formatting.utc_iso(last.ended), "exit_code": last.exit_code,
                },
            }
        )  # fmt: skip
    if as_json:
        invocation.out.json(rows)
    elif rows:
        table = [(row["job"], row["next"], *_last_columns(row["last"]), row["manifest"]) for row in rows]
        invocation.out.table(("job", "next", "last", "end", "manifest"), table, flexible=4)
    else:
        invocation.err.line("no manifest here has `schedule:` in its head", "yellow")


def _last_columns(last: dict[str, Any] | None) -> tuple[str, str]:
    if last is None:
        return "-", "-"
    return last["began"], "not ended" if last["exit_code"] is None else f"exit {last['exit_code']}"
