"""What a run says in plain lines: few, whole sentences, fit for the log of a timer or a pipe."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping

from batchgen import events
from batchgen.events import Event, Outage
from batchgen.report import formatting
from batchgen.report.console import Console
from batchgen.report.run_progress import ModelProgress, RunProgress
from batchgen.report.run_state import outage_cause, outage_condition
from batchgen.sanitize import short_message

STATUS_INTERVAL_S = 30.0
MAX_ENDED_LINES = 10  # samples without an image that are listed; the summary counts the others
MAX_NOTES = 20
LONG_IN_FLIGHT_S = 30.0  # longer times in flight are mentioned
WAIT_WORDS = {
    "quota": "waiting for its quota of requests per minute",
    "spend": "waiting for its quota of spending",
    "cooling": "cooling down after a 429",
    "outage": "waiting for the next probe",
    "backoff": "backing off after a failure",
}
Line = tuple[str, str]  # text, style


class EventLines:
    """Decides which events get a line of their own. At most one line each time a model cools, parks or stops."""

    def __init__(self) -> None:
        self._ended = self._reviewed = self._notices = 0
        self._cooling_until: dict[str, float] = {}

    def __call__(self, event: Event) -> Iterator[Line]:
        match event:
            case events.Notice():
                self._notices += 1
                further = "further notes are not shown; --log-file has them all"
                yield from _first(self._notices, MAX_NOTES, (event.message, "dim"), further)
            case events.SampleEnded():
                self._ended += 1
                further = "further samples without an image are counted, not named; the summary says why"
                yield from _first(self._ended, MAX_ENDED_LINES, (ended_line(event), "yellow"), further)
            case events.BatchSubmitted():
                usd = "price unknown" if event.usd is None else f"estimated {formatting.usd(event.usd)}"
                requests = formatting.count(event.requests, "request")
                yield f"{event.model}: {event.batch} submitted with {requests}, {usd}", ""
            case events.BatchCollected():
                rest = f", {event.again:,} to ask for again" if event.again else ""
                rest += f", {event.ended:,} without an image" if event.ended else ""
                made = formatting.count(event.made, "image")
                usd = formatting.total_usd(event.usd, event.unpriced)
                yield f"{event.model}: {event.batch} collected: {made}{rest}, {usd}", ""
            case events.ImageReviewed(ruling="warned" | "rejected" | "again") if event.reason != "not_chosen":
                self._reviewed += 1
                what = "rejected, another is bought" if event.ruling == "again" else event.ruling
                line = f"{event.key}: {what} ({event.reason}): {short_message(event.message)}"
                further = "further warnings and rejections are counted, not named; the summary says why"
                yield from _first(self._reviewed, MAX_ENDED_LINES, (line, "yellow"), further)
            case events.LaneCooled():
                yield from self._lane_cooled(event)
            case events.LaneWaiting(reason="quota" | "backoff") if event.until - event.at >= STATUS_INTERVAL_S:
                yield f"{event.model}: {wait_text(event.reason, event.until, event.at)}", "dim"
            case events.LaneParked():
                until, why = formatting.local_time(event.until, event.at), short_message(event.message)
                yield f"{event.model}: parked until {until}, its daily quota is used up: {why}", "yellow"
            case events.LaneStopped():
                left = f"; {formatting.count(event.left, 'sample')} not tried" if event.left else ""
                yield f"{event.model}: stopped ({event.reason}): {short_message(event.message)}{left}", "red"
            case events.OutageStarted():
                yield outage_started(event), "yellow"
            case events.OutageEnded():
                yield outage_ended(event), ""
            case events.Stopping():
                yield f"stopping ({event.reason}): {short_message(event.message)}", "yellow"

    def _lane_cooled(self, event: events.LaneCooled) -> Iterator[Line]:
        if event.at < self._cooling_until.get(event.model, 0.0):
            self._cooling_until[event.model] = max(self._cooling_until[event.model], event.at + event.seconds)
            return
        self._cooling_until[event.model] = event.at + event.seconds
        slower = f", then at most {event.rpm:.0f} requests a minute" if event.rpm is not None else ""
        yield f"{event.model}: cooling for {formatting.duration(event.seconds)} ({event.reason}){slower}", "dim"


def _first(number: int, most: int, line: Line, further: str) -> Iterator[Line]:
    """The line for each of the first `most`, and `further` once if there is another."""
    if number <= most:
        yield line
    elif number == most + 1:
        yield further, "dim"


class LogWarningPrinter(logging.Handler):
    """Shows a warning of batchgen or a library as one line, never a traceback, in a run without a log. Use it as a
    context manager."""

    def __init__(self, print_line: Callable[[str], None]) -> None:
        super().__init__(logging.WARNING)
        self._print = print_line

    def __enter__(self) -> LogWarningPrinter:
        logging.getLogger().addHandler(self)
        return self

    def __exit__(self, *_: object) -> None:
        logging.getLogger().removeHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        self._print(short_message(record.getMessage()))


class RunLines:
    """The observer for pipes and timers: start, end, notable events, and the status every 30 s.

    It uses the times of events, so nothing is said while nothing happens.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._event_lines = EventLines()
        self._status_at: float | None = None
        self.run_progress = RunProgress()

    def __call__(self, event: Event) -> None:
        self.run_progress(event)
        if isinstance(event, events.RunStarted):
            self._status_at = event.at
            self._console.line(started_line(event))
        for text, style in self._event_lines(event):
            self._console.line(text, style)
        due = self._status_at is not None and event.at - self._status_at >= STATUS_INTERVAL_S
        if due and not isinstance(event, events.RunEnded):
            self._status_at = event.at
            self._console.line(status_line(self.run_progress, event.at))


class WorkerLines:
    """The observer for a worker, which has no end and makes images of many runs: errors, and a count now and then."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._made = self._not_made = 0
        self._printed_at = 0.0

    def __call__(self, event: Event, *, job: str = "", **_: object) -> None:
        prefix = f"{job}: " if job else ""
        match event:
            case events.Notice():
                self._console.line(f"{prefix}{event.message}", "dim")
            case events.SampleSucceeded():
                self._made += 1
            case events.SampleEnded():
                self._not_made += 1
                self._console.line(f"{prefix}{ended_line(event)}", "yellow")
            case events.ScheduledRunPlanned():
                self._console.line(f"{event.job}: next night at {event.due}", "dim")
            case events.ScheduledRunSkipped():
                self._console.line(f"{event.job}: the night of {event.due} is too long ago to be made up for", "yellow")
            case events.ScheduledRunStarted():
                self._console.line(f"{event.job}: the night of {event.due} begins ({event.why})")
            case events.ScheduledRunOutput():
                self._console.line(f"{event.job} | {event.message}", "dim")
            case events.ScheduledRunEnded():
                self._console.line(f"{event.job}: exit code {event.exit_code}: {event.meaning}")
            case _:
                for text, style in EventLines()(event):
                    self._console.line(f"{prefix}{text}", style)
        if (self._made or self._not_made) and event.at - self._printed_at >= STATUS_INTERVAL_S:
            self._printed_at = event.at
            self._console.line(f"{formatting.count(self._made, 'image')} made, {self._not_made:,} not made")


def ended_line(event: events.SampleEnded) -> str:
    return f"{event.key}: {event.state} ({event.reason}): {short_message(event.message)}"


def started_line(event: events.RunStarted) -> str:
    """The first line of a run."""
    wanted = sum(event.samples.values())
    emulated = " EMULATED" if event.emulated else ""
    left_out = left_out_text(event.left_out)
    if not wanted:
        return f"{event.job}{emulated}: nothing to ask for, {formatting.count(event.kept, 'image')} kept{left_out}"
    known_usd = event.usd or event.known_usd
    at_the = " at the vendor's prices" if event.emulated else ""
    estimate = f", estimated {formatting.total_usd(known_usd, event.unpriced)}{at_the}"
    if event.usd is None and not event.known_usd:
        estimate = ", price unknown"
    # The forecast uses the vendor's latency, not the emulator's.
    known = event.eta_s is not None and not event.emulated
    time_s = f", at best {formatting.duration(event.eta_s or 0.0)}" if known else ""
    images = f"{formatting.count(wanted, 'image')} to make, {event.kept:,} kept{left_out}"
    return f"{event.job}{emulated}: run {event.run_id}, {images}{estimate}{time_s}"


def in_flight_text(progress: RunProgress | ModelProgress, now: float) -> str:
    """How many requests are in flight, and for how long if that is long."""
    oldest_s = progress.oldest_s(now)
    since = f", the oldest for {formatting.duration(oldest_s)}" if oldest_s >= LONG_IN_FLIGHT_S else ""
    return f"{progress.in_flight} in flight{since}"


def left_out_text(left_out: Mapping[str, int]) -> str:
    """The images of the manifest that a run does not make, after those it makes. Empty if there are none."""
    return "".join(f", {number:,} {formatting.LEFT_OUT_WORDS[why]}" for why, number in left_out.items())


def status_line(run_progress: RunProgress, now: float) -> str:
    """The status of a run in one line."""
    left = run_progress.remaining_s(now)
    spent = formatting.total_usd(run_progress.usd, run_progress.unpriced, "image")
    parts = [f"{run_progress.done:,} of {run_progress.wanted:,}", in_flight_text(run_progress, now), spent]
    parts += [f"{outage.name} {outage_status(outage, now)}" for outage in run_progress.outages.values()]
    parts += [
        f"{name} {wait_text(model.waiting_for, model.waiting_until, now)}"
        for name, model in run_progress.models.items()
        if model.waiting_until > now and model.done < model.wanted and not run_progress.outage_for(name)
    ]
    if run_progress.batches:
        answered, asked = (sum(part) for part in zip(*run_progress.batches.values(), strict=True))
        batches = formatting.count(len(run_progress.batches), "batch", "batches")
        parts.append(f"{batches} out ({answered:,} of {asked:,} answered)")
    if not_made := run_progress.done - run_progress.made:
        parts.insert(1, f"{not_made:,} not made")
    if left is not None and not run_progress.stopping:
        parts.append(f"about {formatting.duration(left)} left")
    return f"{run_progress.job}: " + ", ".join(parts)


def wait_text(reason: str, until: float, now: float) -> str:
    """What a model waits for. reason: from `LaneWaiting`; until: UTC seconds."""
    return f"{WAIT_WORDS[reason]} until {formatting.local_time(until, now)}"


def outage_started(outage: Outage) -> str:
    """A sentence for the moment at which an outage was noticed."""
    since = formatting.local_time(outage.since, outage.at)
    what, why = outage_condition(outage.scope, outage.name), outage_cause(outage.reason, outage.message)
    return f"{what} since {since} ({why}): retrying now and then, without using up any item's attempts"


def outage_ended(outage: Outage) -> str:
    took = formatting.duration(outage.at - outage.since)
    if outage.scope == "account":
        return f"the account at {outage.name} is below its spending limit again, after {took}"
    return f"{outage.name} answers again, after {took}"


def outage_status(outage: Outage, now: float) -> str:
    """A few words beside a model's bar."""
    retry = "" if outage.retry_at is None else f", next try {formatting.local_time(max(now, outage.retry_at), now)}"
    what = "spending limit reached" if outage.scope == "account" else "down"
    return f"{what} since {formatting.local_time(outage.since, now)}{retry}"
