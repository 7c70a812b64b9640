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
from batchgen.cli.options import chain, json_option, ledger_option, pass_invocation, read_span
from batchgen.errors import SettingsError, UsageError
from batchgen.events import NightSaid
from batchgen.report import figures
from batchgen.sanitize import json_text, without_secrets
from batchgen.settings import Settings, environment, state_folder

if TYPE_CHECKING:
    from batchgen.daemon.scheduled_jobs import Roster, Scheduled
    from batchgen.report.log import Log, LogFormat
    from batchgen.schedule.due import Due


@click.command("daemon")
@click.argument("manifests", nargs=-1, type=click.Path(), metavar="[MANIFEST|GLOB|FOLDER]...")
@chain(
    click.option("--jobs", "places", type=click.IntRange(min=1), default=4, show_default=True, metavar="N",
                 help="Nights at the same time; they share quota and budgets in any case."),
    click.option("--grace", callback=read_span, default="60s", show_default=True, metavar="60s",
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
    from batchgen.daemon.scheduled_jobs import Roster

    state = state_folder(Settings.load())
    if state is None:
        raise SettingsError("there is no home folder for the daemon's diary: set XDG_STATE_HOME")
    if as_json and not listing:
        raise UsageError("--json goes with --list; the log is JSON with --log-format json")
    # An emulated night is none: the real one is still due.
    diaries = state / ("daemon.emulated" if given["emulate"] else "daemon")
    if listing:
        _show(invocation, Roster(manifests, diaries, writes=False), as_json)
        return 0
    return _carry_out(invocation, Roster(manifests, diaries), **given)


def _carry_out(invocation: Invocation, roster: Roster, *, once: bool, log_format: LogFormat, **given: Any) -> int:
    import asyncio

    from batchgen.daemon.daemon import Orders, Watch
    from batchgen.report.log import Log, Stream

    async def watch(log: Log) -> int:
        ears = Ears(invocation, log, log_format)
        orders = Orders(
            command=Words(given["emulate"], log_format), emit=log, hear=ears, places=given["places"],
            grace_s=given["grace"], health_file=given["health_file"],
        )  # fmt: skip
        daemon = Watch(roster, orders)
        return await (daemon.run_once() if once else daemon.run())

    try:
        stream = Stream(invocation.err.stream, plain=not invocation.err.unicode)
        with Log(stream, log_format, lambda: invocation.secrets) as log:
            return asyncio.run(watch(log))
    finally:
        roster.close()


class Words:
    """The command line of a night, and its environment."""

    def __init__(self, emulate: bool, log_format: LogFormat, engine: str = "") -> None:
        """engine: whatever the schedule says."""
        self._engine = engine
        self._more = [*(["--emulate"] if emulate else []), *(["--log-format", "json"] if log_format == "json" else [])]

    def __call__(self, job: Scheduled, due: Due) -> tuple[list[str], Mapping[str, str]]:
        from batchgen.schedule.timetable import DURATION_S, Clock, read_clock, read_span_s, span_s

        wanted = job.schedule
        began = datetime.fromtimestamp(due.at, UTC).astimezone(wanted.zone)
        until = read_clock(wanted.until or "")
        longest_s = read_span_s(wanted.max_duration or "") or DURATION_S
        if until is not None:
            longest_s = min(longest_s, span_s(Clock(began.hour, began.minute), until))
        # Both limits hold: a night that is made up for by day lasts no longer than a night.
        limits = ["--max-duration", f"{max(1, int(longest_s // 60))}m", *(["--until", str(until)] if until else [])]
        money = [] if wanted.max_cost is None else ["--max-cost", f"{wanted.max_cost:.10g}"]
        engine = self._engine or wanted.engine
        ways = [] if engine == "online" else ["--engine", engine, "--no-wait"]
        # The night's work is done: what has failed in it is left to the next one.
        ways += ["--retry", "none"] if due.why == "made" else []
        # -P: a file that lies beside the manifest is no module of ours.
        program = [sys.executable, "-P", "-m", "batchgen", "run", str(job.path)]
        zone = {} if wanted.timezone is None else {"TZ": wanted.timezone}
        return [*program, *limits, *money, *ways, "--no-progress", *self._more], {**environment(), **zone}


class Ears:
    """What a run says goes into the daemon's log, behind the job's name."""

    def __init__(self, invocation: Invocation, log: Log, log_format: LogFormat) -> None:
        self._err = invocation.err
        self._log = log
        self._json = log_format == "json"

    def __call__(self, job: Scheduled, line: str) -> None:
        if not line.strip():
            return
        if not self._json:
            self._err.stream.write(f"{self._err.fit(f'{job.name} | {line}')}\n")
            self._err.stream.flush()
        elif (found := _object(line)) is not None:
            self._err.stream.write(without_secrets(json_text({**found, "job": job.name}), self._err.secrets) + "\n")
            self._err.stream.flush()
        else:
            self._log(NightSaid(at=time.time(), job=job.name, message=self._err.fit(line)))


def _object(line: str) -> dict[str, Any] | None:
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def _show(invocation: Invocation, roster: Roster, as_json: bool) -> None:
    from batchgen.report.event_text import Faults
    from batchgen.schedule.due import Due, Wait

    now = time.time()
    with Faults(invocation.err.line):
        roster.reread(now)
    rows: list[dict[str, Any]] = []
    for job in sorted(roster.jobs.values(), key=lambda job: (job.name, job.path)):
        verdict, last = job.decide(now), job.entry.last
        # What has not ended runs now or was killed: only the daemon that starts again knows.
        due = job.schedule.cadence.after(now) if isinstance(verdict, Due) and verdict.why == "interrupted" else now
        rows.append(
            {
                "job": job.name,
                "manifest": str(job.path),
                "next": figures.utc_iso(verdict.until if isinstance(verdict, Wait) else due),
                "last": None if last is None else {
                    "due": figures.utc_iso(last.at), "began": figures.utc_iso(last.began),
                    "ended": figures.utc_iso(last.ended), "exit_code": last.exit_code,
                },
            }
        )  # fmt: skip
    if as_json:
        invocation.out.json(rows)
    elif rows:
        table = [(row["job"], row["next"], *_last(row["last"]), row["manifest"]) for row in rows]
        invocation.out.table(("job", "next", "last", "end", "manifest"), table, flexible=4)
    else:
        invocation.err.line("no manifest here has `schedule:` in its head", "yellow")


def _last(last: dict[str, Any] | None) -> tuple[str, str]:
    if last is None:
        return "-", "-"
    return last["began"], "not ended" if last["exit_code"] is None else f"exit {last['exit_code']}"
