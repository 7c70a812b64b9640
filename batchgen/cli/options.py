"""Options that several commands share, and how their values are read."""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from batchgen.cli.invocation import Invocation
from batchgen.errors import SettingsError
from batchgen.schedule.timer_spec import parse_duration_s
from batchgen.settings import Settings, set_ledger_url

F = TypeVar("F", bound=Callable[..., Any])
RETRY_STATES = ("failed", "refused", "uncertain")


def retry_states_option(ctx: click.Context, param: click.Parameter, value: str | None) -> frozenset[str] | None:
    """`failed,refused` or `none`; None when the option was not given."""
    if value is None:
        return None
    names = [name.strip() for name in value.split(",") if name.strip()]
    if names == ["none"]:
        return frozenset()
    wrong = [name for name in names if name not in RETRY_STATES]
    if wrong or not names:
        raise click.BadParameter(
            f"{', '.join(wrong) or 'nothing'!r}: choose of {', '.join(RETRY_STATES)}, or none", ctx, param
        )
    return frozenset(names)


def duration_option(ctx: click.Context, param: click.Parameter, value: str | None) -> float | None:
    """`4h`, `90m`, `1h30m`, `45s`; seconds."""
    if value is None:
        return None
    if (seconds := parse_duration_s(value)) is None:
        raise click.BadParameter(f"{value!r} is not a valid duration (try 90m, 4h or 1h30m)", ctx, param)
    return seconds


def time_option(ctx: click.Context, param: click.Parameter, value: str | None) -> float | None:
    """`06:00`: the next time the local clock shows it, in UTC seconds."""
    if value is None:
        return None
    match = re.fullmatch(r"([01]?\d|2[0-3]):([0-5]\d)", value.strip())
    if match is None:
        raise click.BadParameter(f"{value!r} is no time of day; write 06:00", ctx, param)
    return next_local_time(int(match[1]), int(match[2]), time.time())


def next_local_time(hour: int, minute: int, now: float) -> float:
    """UTC seconds of the next local hour:minute after `now`; across a change of the clock by the clock on the wall."""
    today = time.localtime(now)
    for days in (0, 1, 2):
        # -1: let the system find out whether daylight saving holds then.
        at = time.mktime((today.tm_year, today.tm_mon, today.tm_mday + days, hour, minute, 0, 0, 0, -1))
        if at > now:
            return at
    raise AssertionError("some local midnight lies ahead")


def _set_json(ctx: click.Context, param: click.Parameter, value: bool) -> bool:
    ctx.ensure_object(Invocation).json = value
    return value


def _set_log_option(ctx: click.Context, param: click.Parameter, value: str | None) -> None:
    # Eager: an error in another option is then in the log too.
    setattr(ctx.ensure_object(Invocation), param.name or "", value)


def _set_later_ok(ctx: click.Context, param: click.Parameter, value: bool) -> bool:
    ctx.ensure_object(Invocation).later_ok = value
    return value


def _set_ledger(ctx: click.Context, param: click.Parameter, value: str | None) -> None:
    if value is not None:
        from batchgen.ledger.location import validated_url

        set_ledger_url(validated_url(value, "--ledger"))
        ctx.ensure_object(Invocation).hide_passwords(Settings.load())


def _load_job_settings(ctx: click.Context, param: click.Parameter, value: str) -> str:
    """A job's `.env` may say where its ledger is; one that cannot be read is for the command itself to complain of."""
    from batchgen.ledger.location import ledger_url

    with contextlib.suppress(SettingsError):
        settings = Settings.load(Path(value).absolute().parent)
        ctx.ensure_object(Invocation).hide_passwords(settings)
        set_ledger_url(ledger_url(settings))
    return value


def option_group(*decorators: Callable[[F], F]) -> Callable[[F], F]:
    """Several options as one decorator, shown in this order."""

    def apply(function: F) -> F:
        for decorator in reversed(decorators):
            function = decorator(function)
        return function

    return apply


def manifest_argument(function: F) -> F:
    return click.argument("manifest", type=click.Path())(function)


def ledger_option(function: F) -> F:
    """Where ledgers are that are in no folder."""
    return click.option(
        "--ledger",
        metavar="URL",
        is_eager=True,
        expose_value=False,
        callback=_set_ledger,
        help="postgresql://user@host/database that has the ledger; BATCHGEN_LEDGER and ~/.pgpass hide a password.",
    )(function)


def job_argument(function: F) -> F:
    return option_group(click.argument("job", type=click.Path(), callback=_load_job_settings), ledger_option)(function)


def json_option(help_text: str = "Answer with one JSON object on stdout.") -> Callable[[F], F]:
    # Eager: an error in another option is then answered in JSON too.
    return click.option("--json", "as_json", is_flag=True, is_eager=True, callback=_set_json, help=help_text)


def folder_option(function: F) -> F:
    """Where an existing job is."""
    return click.option(
        "--output", metavar="DIR", type=click.Path(), help="The job's folder, when it is not the manifest's own."
    )(function)


only_option = click.option(
    "--only", multiple=True, metavar="GLOB|tag:NAME", help="Only items whose id matches, or with this tag; repeatable."
)
limit_option = click.option("--limit", type=click.IntRange(min=1), metavar="N", help="At most this many requests.")


engine_option = click.option(
    "--engine",
    default="online",
    show_default=True,
    metavar="NAME",
    help="online; batch (half the price, within a day); auto: by batch what can, the rest online; cluster: by `batchgen"
    " worker` on any machine.",
)


def output_options(function: F) -> F:
    """Where the images go."""
    return option_group(
        click.option(
            "--output",
            metavar="DIR|s3://…",
            type=click.Path(),
            help="Folder for images and ledger; or a bucket for the images.",
        ),
        ledger_option,
        click.option(
            "--emulate", is_flag=True, help="Ask a local emulator: no key, nothing billed, into NAME.emulated/."
        ),
    )(function)


def selection_options(function: F) -> F:
    """Which samples."""
    return option_group(
        only_option,
        limit_option,
        click.option(
            "--fresh", is_flag=True, help="Make everything again, including what exists. It is paid for again."
        ),
        click.option(
            "--retry",
            "retry_states",
            callback=retry_states_option,
            metavar="STATES",
            help="Take up again: failed,refused,uncertain or none.  [default: failed,uncertain]",
        ),
        click.option(
            "--on-uncertain",
            type=click.Choice(["retry", "hold"]),
            default="retry",
            show_default=True,
            help="A request without an answer may have been billed: ask again, or leave it to you.",
        ),
    )(function)


def limit_options(function: F) -> F:
    """How much, for forecasts and runs alike."""
    return option_group(
        click.option("--concurrency", type=click.IntRange(1, 1000), metavar="N", help="Requests in flight at most."),
        click.option(
            "--max-cost",
            type=click.FloatRange(min=0, min_open=True),
            metavar="USD",
            help="Stop before more is spent.",
        ),
    )(function)


def log_options(function: F) -> F:
    """Where the log goes, and in which form."""
    return option_group(
        click.option(
            "--log-file",
            type=click.Path(),
            metavar="FILE",
            is_eager=True,
            callback=_set_log_option,
            expose_value=False,
            help="Append one line for each event; it may be rotated while the run goes on.",
        ),
        click.option(
            "--log-format",
            type=click.Choice(["text", "json"]),
            is_eager=True,
            callback=_set_log_option,
            expose_value=False,
            help="Log format. Without --log-file the log replaces the progress display on stderr.  [default: text]",
        ),
    )(function)


def execution_options(function: F) -> F:
    """How a run behaves and what it shows."""
    return option_group(
        click.option(
            "--until", callback=time_option, metavar="HH:MM", help="Start nothing after the next local HH:MM."
        ),
        click.option("--max-duration", callback=duration_option, metavar="4h", help="Start nothing after this long."),
        click.option(
            "--stall",
            callback=duration_option,
            metavar="30m",
            help="Stop when requests have kept failing for this long without a success."
            "  [default: 30m, or never with --until or --max-duration]",
        ),
        engine_option,
        click.option(
            "--no-wait",
            is_flag=True,
            help="Submit batches or work for a cluster, collect what is there, leave with 9; a later run collects.",
        ),
        click.option(
            "--fallback-at",
            callback=time_option,
            metavar="HH:MM",
            help="Cancel batches at the next local HH:MM, and make online what they have not delivered.",
        ),
        click.option(
            "--batch-size",
            type=click.IntRange(1, 100_000),
            metavar="N",
            help="Requests in one batch at most.  [default: 2000]",
        ),
        click.option("-y", "--yes", is_flag=True, help="Do not ask about the cost."),
        json_option("Print one JSON object on stdout at the end."),
        click.option(
            "--later-ok",
            is_flag=True,
            callback=_set_later_ok,
            expose_value=False,
            help="For timers: leave with 0 in place of 6, 7, 8, 9 and 11, which mean that a later run goes on.",
        ),
        click.option("-q", "--quiet", is_flag=True, help="Say nothing unless something is amiss."),
        click.option("--no-progress", is_flag=True, help="Plain lines now and then instead of the live view."),
        click.option(
            "--summary",
            type=click.Path(),
            metavar="FILE",
            help="Append the closing summary in Markdown, for a CI job's page.",
        ),
        click.option(
            "--notify",
            multiple=True,
            metavar="URL",
            help="Tell this apprise address of anything but success; repeatable. '${NOTIFY_URL}' keeps it out of sight.",
        ),
        click.option(
            "--metrics-file",
            type=click.Path(),
            metavar="FILE.prom",
            help="Write metrics for node_exporter's textfile collector; `batchgen metrics` lists them.",
        ),
        log_options,
    )(function)


def pass_invocation(function: F) -> F:
    """The Invocation as first argument."""
    return click.make_pass_decorator(Invocation, ensure=True)(function)  # type: ignore[return-value]
