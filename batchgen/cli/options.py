"""Options that several commands share, and how the values of all options are read."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

import click
from click import Choice, FloatRange, IntRange, Option

from batchgen.cli.invocation import Invocation
from batchgen.manifest.addresses import ALLOWED_VARIABLE
from batchgen.schedule.timer_spec import parse_duration_s, parse_time_of_day, parse_weekdays
from batchgen.settings import LEDGER_VARIABLE, Settings, set_ledger_url

_UNITS = {"KB": 10**3, "MB": 10**6, "GB": 10**9}
_SIZE = re.compile(r"([0-9]{1,6}(?:\.[0-9]{1,3})?) ?([KMG]B)", re.IGNORECASE)
_ADDRESS = re.compile(r"(?:(?:\[([0-9A-Fa-f:.]+)\]|([^\s:\[\]]+)):)?([0-9]{1,5})")
MAX_PORT = 65535
T = TypeVar("T")
RETRY_STATES = ("failed", "refused", "uncertain", "rejected")


# --- how values are read


def read_retry_states(ctx: click.Context, param: click.Parameter, value: str | None) -> frozenset[str] | None:
    """States to retry: `failed,refused` or `none`; None if the option was not given."""
    if value is None:
        return None
    names = [name.strip() for name in value.split(",") if name.strip()]
    if names == ["none"]:
        return frozenset()
    wrong = [name for name in names if name not in RETRY_STATES]
    if wrong or not names:
        raise click.BadParameter(
            f"{(', '.join(wrong) or value)!r}: choose from {', '.join(RETRY_STATES)}, or none", ctx, param
        )
    return frozenset(names)


def _reader(
    parse: Callable[[str], T | None], problem: str
) -> Callable[[click.Context, click.Parameter, str | None], T | None]:
    """A callback that reads a value. parse: returns None for what it does not understand, which is reported with
    `problem`."""

    def read(ctx: click.Context, param: click.Parameter, value: str | None) -> T | None:
        if value is None:
            return None
        if (found := parse(value)) is None:
            raise click.BadParameter(f"{value!r}{problem}", ctx, param)
        return found

    return read


def _parse_size(text: str) -> int | None:
    """Bytes from `500MB`, `2GB`."""
    found = _SIZE.fullmatch(text)
    return round(float(found[1]) * _UNITS[found[2].upper()]) or None if found else None


def _parse_address(text: str) -> tuple[str, int] | None:
    """(host, port) from `9464`, on this machine alone, `0.0.0.0:9464` or `[::]:9464`."""
    found = _ADDRESS.fullmatch(text)
    if found is None or int(found[3]) > MAX_PORT:
        return None
    return found[1] or found[2] or "127.0.0.1", int(found[3])


def _parse_deadline(text: str) -> float | None:
    """UTC seconds from `06:00`: the next time the local clock shows it."""
    clock = parse_time_of_day(text)
    return None if clock is None else next_local_time(clock.hour, clock.minute, time.time())


read_duration = _reader(parse_duration_s, " is not a valid duration (try 90m, 4h or 1h30m)")
read_size = _reader(_parse_size, " is not a valid size (try 500MB or 2GB)")
read_address = _reader(_parse_address, " is not an address; write 9464, 0.0.0.0:9464 or [::]:9464")
read_deadline = _reader(_parse_deadline, " is not a time of day; write 06:00")
read_time_of_day = _reader(parse_time_of_day, " is not a time of day; write 01:30")
read_weekdays = _reader(parse_weekdays, ": write mon,thu or mon-fri")


def read_by(ctx: click.Context, param: click.Parameter, value: str | None) -> float | None:
    """UTC seconds, in the future, from `06:00`, `8h` from now, or `2026-12-01T06:00`, which is local unless it names a
    zone."""
    if value is None:
        return None
    now = time.time()
    if (deadline := _parse_deadline(value)) is not None:
        return deadline
    if (seconds := parse_duration_s(value)) is not None:
        return now + seconds
    try:
        at = datetime.fromisoformat(value).timestamp()
    except (ValueError, OverflowError, OSError):
        raise click.BadParameter(f"{value!r} is not a time; write 06:00, 8h or 2026-12-01T06:00", ctx, param) from None
    if at <= now:
        raise click.BadParameter(f"{value} has passed", ctx, param)
    return at


def next_local_time(hour: int, minute: int, now: float) -> float:
    """UTC seconds of the next local hour:minute after `now`, going by the wall clock if the clocks change in
    between."""
    today = time.localtime(now)
    for days in (0, 1, 2):
        # -1: let the system find out whether daylight saving applies then.
        at = time.mktime((today.tm_year, today.tm_mon, today.tm_mday + days, hour, minute, 0, 0, 0, -1))
        if at > now:
            return at
    raise AssertionError("some local midnight lies ahead")


def read_key_files(ctx: click.Context, param: click.Parameter, values: tuple[str, ...]) -> tuple[tuple[str, Path], ...]:
    """(the variable, empty for that of the default model; the file) from `PATH` or `NAME_API_KEY=PATH`."""
    from batchgen.providers.registry import endpoints, provider_names  # `--help` needs no provider

    found = []
    for value in values:
        name, equals, path = value.partition("=")
        if not equals:
            name, path = "", value
        known = name == LEDGER_VARIABLE or bool(
            re.fullmatch(r"[A-Z0-9_]+_API_KEY", name) or ALLOWED_VARIABLE.fullmatch(name)
        )
        declared = endpoints(provider_names()) if equals and not known else []
        known = known or any(name in (*each.key_names, *each.credential_names) for each in declared)
        if (equals and not known) or not path:
            raise click.BadParameter(f"{value!r}: write PATH or NAME_API_KEY=PATH", ctx, param)
        found.append((name, Path(path).expanduser().absolute()))
    return tuple(found)


def _set_json(ctx: click.Context, param: click.Parameter, value: bool) -> bool:
    ctx.ensure_object(Invocation).json = value
    return value


def _set_log_option(ctx: click.Context, param: click.Parameter, value: str | None) -> None:
    setattr(ctx.ensure_object(Invocation), param.name or "", value)


def _set_later_ok(ctx: click.Context, param: click.Parameter, value: bool) -> bool:
    ctx.ensure_object(Invocation).later_ok = value
    return value


def _set_ledger(ctx: click.Context, param: click.Parameter, value: str | None) -> None:
    if value is not None:
        from batchgen.ledger.location import validated_url  # a quarter of the time of `--help`, which needs no ledger

        set_ledger_url(validated_url(value, "--ledger"))
        ctx.ensure_object(Invocation).hide_passwords(Settings.load())


# --- options


class WordedOption(Option):
    """Describes its range in words: the help shows no `1<=x<=1000`, and `abc` is not called an invalid float range."""

    def __init__(self, *names: Any, **settings: Any) -> None:
        super().__init__(*names, **settings)
        if isinstance(self.type, (IntRange, FloatRange)):
            self.type.name = "whole number" if isinstance(self.type, IntRange) else "number"

    def type_cast_value(self, ctx: click.Context, value: Any) -> Any:
        found = super().type_cast_value(ctx, value)
        if isinstance(found, float) and not math.isfinite(found):  # a cap of nan or inf would be none
            raise click.BadParameter(f"{value!r} is not a finite number", ctx, self)
        if value == "" and isinstance(self.type, click.Path):
            raise click.BadParameter("is empty: give a path, or leave the option out", ctx, self)
        return found

    def get_help_extra(self, ctx: click.Context) -> Any:
        extra, kind = super().get_help_extra(ctx), self.type
        if "range" in extra and isinstance(kind, (IntRange, FloatRange)):
            least = f"{'more than' if kind.min_open else 'at least'} {kind.min}"
            extra["range"] = least if kind.max is None else f"{kind.min} to {kind.max}"
        return extra


def option(usage: str, text: str, name: str = "", **settings: Any) -> Option:
    """Declare an option. usage: as `--help` shows it, `-q, --quiet` or `--limit N`. Without a value, a type or a
    default it is a flag."""
    words = usage.replace(",", "").split()
    names = [word for word in words if word.startswith("-")]
    metavar = next((word for word in words if word not in names), None)
    is_flag = metavar is None and not settings.keys() & {"type", "default"}
    return WordedOption(
        [*names, *([name] if name else [])],
        metavar=metavar,
        help=text,
        # click takes is_flag=False for "the value may be omitted": then `--max-cost` without a value would set no
        # limit.
        **({"is_flag": True} if is_flag else {}),
        **{"show_default": "default" in settings, **settings},
    )


def json_option(text: str = "Answer with one JSON object on stdout.") -> Option:
    # Eager: so an error in another option is reported in JSON too.
    return option("--json", text, "as_json", is_eager=True, callback=_set_json)


LEDGER = option(
    "--ledger URL",
    "postgresql://user@host/database that has the ledger; BATCHGEN_LEDGER and ~/.pgpass hide a password.",
    is_eager=True,
    expose_value=False,
    callback=_set_ledger,
)
EACH_MANIFEST = click.Argument(["manifest"], nargs=-1, type=click.Path(), metavar="[MANIFEST]...")
EACH_JOB = (click.Argument(["job"], nargs=-1, type=click.Path(), metavar="[JOB]..."), LEDGER)
DRY_RUN = option("-n, --dry-run", "Show what would be done, as `plan` does; nothing is sent.")
FOLDER = option("-o, --output DIR", "The job's folder, when it is not the manifest's own.", type=click.Path())
ONLY = option("--only GLOB|tag:NAME", "Only items whose id matches, or with this tag; repeatable.", multiple=True)
LIMIT = option("-l, --limit N", "At most this many requests.", type=IntRange(min=1))
ENGINE = option(
    "--engine NAME",
    "online; batch (half the price, within a day); auto: by batch what can, the rest online; cluster: by `batchgen"
    " worker` on any machine.",
    default="online",
)
# Where the images go.
OUTPUT = (
    option("-o, --output DIR|s3://…", "Folder for images and ledger; or a bucket for the images.", type=click.Path()),
    LEDGER,
    option("--emulate", "Ask a local emulator: no key, nothing billed, into NAME.emulated/."),
)
# Which samples.
SELECTION = (
    ONLY,
    LIMIT,
    option("--fresh", "Make everything again, including what exists. It is paid for again."),
    option(
        "--retry STATES",
        "Ask again for these: failed,refused,uncertain,rejected or none.  [default: failed,uncertain]",
        "retry_states",
        callback=read_retry_states,
    ),
    option(
        "--on-uncertain",
        "A request without an answer may have been billed: ask again, or leave it to you.",
        type=Choice(["retry", "hold"]),
        default="retry",
    ),
)
# How much, for forecasts and runs alike.
CAPS = (
    option("-j, --concurrency N", "Requests in flight at most.", type=IntRange(1, 1000)),
    option(
        "--by HH:MM",
        "Be done by the next local HH:MM (or 8h from now, or 2026-12-01T06:00): batch, flex or online for each item,"
        " whichever is cheapest and in time.",
        callback=read_by,
    ),
    option("--max-cost USD", "Stop before more is spent.", type=FloatRange(min=0, min_open=True)),
)
# Eager: so an error in another option is in the log too.
_OF_THE_LOG: dict[str, Any] = {"is_eager": True, "expose_value": False, "callback": _set_log_option}
LOG = (
    option(
        "--log-file FILE",
        "Append one line for each event; it may be rotated while the run goes on.",
        type=click.Path(),
        **_OF_THE_LOG,
    ),
    option(
        "--log-format",
        "Log format. Without --log-file the log replaces the progress display on stderr.  [default: text]",
        type=Choice(["text", "json"]),
        **_OF_THE_LOG,
    ),
)
QUIET = option("-q, --quiet", "Only print problems.")
# How a run behaves and what it shows.
EXECUTION = (
    option("--until HH:MM", "Start nothing after the next local HH:MM.", callback=read_deadline),
    option("--max-duration 4h", "Start nothing after this long.", callback=read_duration),
    option(
        "--stall 30m",
        "Stop when requests have kept failing for this long without a success."
        "  [default: 30m, or never with --by, --until or --max-duration]",
        callback=read_duration,
    ),
    ENGINE,
    option(
        "--no-wait",
        "Submit jobs, batches or work for a cluster, collect what is there, exit with 9; a later run collects.",
    ),
    option(
        "--fallback-at HH:MM",
        "Cancel batches at the next local HH:MM, and make online what they have not delivered.",
        callback=read_deadline,
    ),
    option("--batch-size N", "Requests in one batch at most.  [default: 2000]", type=IntRange(1, 100_000)),
    option("-y, --yes", "Do not ask about the cost."),
    json_option("Print one JSON object on stdout at the end."),
    option(
        "--later-ok",
        "For timers: exit with 0 instead of 6, 7, 8, 9 and 11, which mean that a later run goes on.",
        callback=_set_later_ok,
        expose_value=False,
    ),
    QUIET,
    option("--no-progress", "Plain lines now and then instead of the live view."),
    option("--summary FILE", "Append the closing summary in Markdown, for a CI job's page.", type=click.Path()),
    option(
        "--notify URL",
        "Send a message to this apprise address unless all went well; repeatable. '${NOTIFY_URL}' keeps the address out of sight.",
        multiple=True,
    ),
    option(
        "--metrics-file FILE.prom",
        "Write metrics for node_exporter's textfile collector; `batchgen metrics` lists them.",
        type=click.Path(),
    ),
    *LOG,
)
