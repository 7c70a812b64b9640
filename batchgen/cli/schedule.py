"""`batchgen schedule`: the units that run a manifest every night, printed or installed."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from datetime import UTC, datetime, tzinfo
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import click

from batchgen import __version__
from batchgen.cli.invocation import Invocation
from batchgen.cli.options import duration_option, manifest_argument, option_group, pass_invocation
from batchgen.errors import UsageError
from batchgen.manifest.addresses import ALLOWED_VARIABLE, VARIABLE, secrets_in, variable_problem
from batchgen.providers.registry import endpoint_of
from batchgen.schedule.timer_spec import (
    DURATION_S,
    KeyFile,
    TimeOfDay,
    TimerSpec,
    interval_s,
    parse_duration_s,
    parse_time_of_day,
    parse_weekdays,
    unit_name,
)
from batchgen.settings import LEDGER_VARIABLE, Settings, config_home, environment

if TYPE_CHECKING:
    from batchgen.api import Job

UNIT_FORMATS = ("systemd", "cron", "launchd", "kubernetes", "github")
INSTALLABLE = ("systemd", "cron")
ZONE_AWARE = ("systemd", "kubernetes", "github")
RESERVED_OPTIONS = ("--until", "--max-duration", "--later-ok")


def _read_time(ctx: click.Context, param: click.Parameter, value: str | None) -> TimeOfDay | None:
    if value is None:
        return None
    if (clock := parse_time_of_day(value)) is not None:
        return clock
    raise click.BadParameter(f"{value!r} is no time of day; write 01:30", ctx, param)


def _read_days(ctx: click.Context, param: click.Parameter, value: str | None) -> tuple[str, ...]:
    if value is None:
        return ()
    if (days := parse_weekdays(value)) is not None:
        return days
    raise click.BadParameter(f"{value!r}: write mon,thu or mon-fri", ctx, param)


def _read_key_files(ctx: click.Context, param: click.Parameter, values: tuple[str, ...]) -> tuple[KeyFile, ...]:
    """`PATH` or `NAME_API_KEY=PATH`."""
    found = []
    for value in values:
        name, equals, path = value.partition("=")
        if not equals:
            name, path = _default_key_variable(), value
        known = name == LEDGER_VARIABLE or re.fullmatch(r"[A-Z0-9_]+_API_KEY", name) or ALLOWED_VARIABLE.fullmatch(name)
        if not known or not path:
            raise click.BadParameter(f"{value!r}: write PATH or NAME_API_KEY=PATH", ctx, param)
        found.append(KeyFile(name, Path(path).expanduser().absolute()))
    return tuple(found)


def _default_key_variable() -> str:
    """Of the API of a manifest that names no model."""
    from batchgen.profiles.catalogue import DEFAULT_MODEL, load_catalogue  # with the codecs comes pydantic

    return endpoint_of(load_catalogue().resolve(DEFAULT_MODEL).provider).key_names[0]


@click.command("schedule")
@manifest_argument
@option_group(
    click.option("--at", callback=_read_time, metavar="HH:MM",
                 help="When, on the local clock.  [default: `schedule:` in the manifest, with all that it says]"),
    click.option("--days", callback=_read_days, metavar="DAYS", help="mon,thu or mon-fri; every day without it."),
    click.option("--as", "form", type=click.Choice(UNIT_FORMATS), required=True, help="What shall run it."),
    click.option("--until", callback=_read_time, metavar="HH:MM", help="Start nothing after this time."),
    click.option("--max-duration", callback=duration_option, metavar="4h", help="Start nothing after this long.  [default: 22h]"),
    click.option("--key-file", "keys", multiple=True, callback=_read_key_files, metavar="[NAME=]PATH",
                 help="A file with the API key; repeatable. NAME: a variable, by default that of the default model; NOTIFY_URL and"
                      " BATCHGEN_LEDGER too."),
    click.option("--name", metavar="NAME", help="Of the units.  [default: batchgen- and the job's name]"),
    click.option("--timezone", metavar="ZONE", help="Such as Europe/Berlin.  [default: this machine's]"),
    click.option("--image", default="batchgen:latest", show_default=True, help="Container image, for kubernetes."),
    click.option("--claim", default="batchgen", show_default=True, help="Volume claim with the manifest, for kubernetes."),
    click.option("--install", "action", flag_value="install", help="Put it in place (systemd user units, cron)."),
    click.option("--uninstall", "action", flag_value="uninstall", help="Take it away again."),
)  # fmt: skip
@click.argument("options", nargs=-1, type=click.UNPROCESSED, metavar="[-- OPTIONS OF RUN]")
@pass_invocation
def command(invocation: Invocation, manifest: str, **given: Any) -> None:
    """Print what runs MANIFEST every night: units on stdout, what else there is to do on stderr.

    A night that was missed is made up for where the system can. Two runs never overlap. Budget, deadline and daily
    quota are no failures: the next night goes on. Options of `run` follow after `--`.

    \b
    Examples:
      batchgen schedule catalog.yaml --at 01:30 --as systemd --install
      batchgen schedule catalog.yaml --at 01:30 --until 06:00 --days mon-fri --as cron
      batchgen schedule catalog.yaml --at 01:30 --as github -- --max-cost 5
      batchgen schedule catalog.yaml --as kubernetes      when its own `schedule:` says
    """
    form, action, err = given["form"], given["action"], invocation.err
    if action and form not in INSTALLABLE:
        raise UsageError(f"--{action} knows systemd and cron; put what is printed for {form} in place yourself")
    if given["timezone"] and form not in ZONE_AWARE:
        raise UsageError(f"{form} goes by the clock of its machine: leave --timezone out")
    job, notified = _check_run_options(invocation, manifest, given["options"])
    if given["at"] is None:
        given = _options_from_manifest(job, given)
    spec = _timer_spec(job, notified, given)
    messages = bool(notified or (job.manifest.notify and job.manifest.notify.to))
    if action:
        for line in _apply_action(action, form, spec):
            err.line(line)
        if action == "uninstall":
            return
    else:
        invocation.out.stream.write(_render_units(form, spec, given, messages))
        invocation.out.stream.flush()
    for note in _remaining_steps(form, spec, given, messages):
        err.line(f"note: {note}", "yellow")


def _check_run_options(invocation: Invocation, manifest: str, options: tuple[str, ...]) -> tuple[Job, tuple[str, ...]]:
    """The job that `run` would open, and whom `--notify` names. What would be wrong at night is wrong now.

    Raises what `run` would.
    """
    from batchgen.cli.run import command as run
    from batchgen.cli.run_job import load_job

    if taken := next((word for word in options if word.partition("=")[0] in RESERVED_OPTIONS), None):
        raise UsageError(f"{taken} stands before the `--`, or is there already")
    json, later_ok = invocation.json, invocation.later_ok
    with run.make_context("batchgen run", [manifest, *options], obj=invocation) as context:
        asked = dict(context.params)
    invocation.json, invocation.later_ok = json, later_ok
    for address in asked["notify"]:
        if not VARIABLE.search(address) or secrets_in(address):
            raise UsageError("--notify: units are no place for an address; write --notify '${NOTIFY_URL}'")
        if problem := variable_problem(address):
            raise UsageError(f"--notify: {problem}")
    return load_job(invocation, manifest, asked["output"], emulate=asked["emulate"]), asked["notify"]


def _options_from_manifest(job: Job, given: dict[str, Any]) -> dict[str, Any]:
    """The options as `schedule:` in the manifest's head says, where none is given. Raises UsageError."""
    wanted, form = job.manifest.schedule, given["form"]
    if wanted is None:
        raise UsageError(f"when? Give --at 01:30, or write schedule: into the head of {job.manifest.path}")
    time_of_day = wanted.cadence.once_a_day
    if time_of_day is None:
        raise UsageError(
            f"schedule.cron: {wanted.cron!r} is more than one time of day: `batchgen daemon` runs it, or --at"
        )
    if wanted.timezone and form not in ZONE_AWARE and wanted.timezone != _zone_name():
        raise UsageError(f"{form} goes by the clock of its machine, in {_zone_name()}, and schedule.timezone is"
                         f" {wanted.timezone}: give --at, or take a form that knows time zones: {', '.join(ZONE_AWARE)}")  # fmt: skip
    capped = any(word.partition("=")[0] == "--max-cost" for word in given["options"])
    money = () if wanted.max_cost is None or capped else ("--max-cost", f"{wanted.max_cost:.10g}")
    named = any(word.partition("=")[0] == "--engine" for word in given["options"])
    engine_options = () if wanted.engine == "online" or named else ("--engine", wanted.engine)
    return {
        **given,
        "at": time_of_day[0],
        "days": given["days"] or time_of_day[1],
        "until": given["until"] or parse_time_of_day(wanted.until or ""),
        "max_duration": given["max_duration"] or parse_duration_s(wanted.max_duration or ""),
        "timezone": given["timezone"] or (wanted.timezone if form in ZONE_AWARE else None),
        "options": (*money, *engine_options, *given["options"]),
    }


def _required_variables(job: Job, notified: tuple[str, ...], engine: str) -> list[tuple[str, ...]]:
    """The variables that the run needs, each with its other names: keys, and addresses of messages. Those of `.env` apart.

    A run that submits needs its ledger's address, and no key: the workers have those.

    Raises ManifestError.
    """
    providers = {item.provider for item in job.manifest.items()}
    dotenv, wanted = Settings.load(job.manifest.folder, {}), job.manifest.notify
    keys = set[tuple[str, ...]]()
    if engine != "cluster":
        endpoints = () if job.emulated else map(endpoint_of, providers)
        keys = {endpoint.key_names for endpoint in endpoints if dotenv.access(endpoint).key is None}
    elif not dotenv.is_set(LEDGER_VARIABLE):
        keys = {(LEDGER_VARIABLE,)}
    addresses = " ".join([*notified, *(wanted.addresses if wanted else ())])
    return sorted(keys | {(name,) for name in VARIABLE.findall(addresses) if not dotenv.is_set(name)})


def _timer_spec(job: Job, notified: tuple[str, ...], given: dict[str, Any]) -> TimerSpec:
    named = {key.variable for key in given["keys"]}
    missing = [
        names[0] for names in _required_variables(job, notified, _engine(given["options"])) if not named & set(names)
    ]
    keys = (*given["keys"], *(KeyFile(name, config_home() / "batchgen" / name.lower()) for name in missing))
    at, until = given["at"], given["until"]
    spans = [given["max_duration"] or DURATION_S, interval_s(at, until) if until else DURATION_S]
    if given["timezone"]:
        _zone(given["timezone"])
    return TimerSpec(
        name=unit_name(job.manifest.name) if given["name"] is None else _unit_name(given["name"]),
        manifest=Path(job.manifest.path).absolute(), job_folder=job.folder, at=at, days=given["days"], until=until,
        duration_s=max(60, int(min(spans))), program=_program(), options=given["options"], folder=Path.cwd(), keys=keys,
        timezone=given["timezone"],
    )  # fmt: skip


def _engine(options: Sequence[str]) -> str:
    """That of the options of `run`."""
    found = "online"
    for word, following in zip(options, (*options[1:], ""), strict=False):
        name, equals, value = word.partition("=")
        if name == "--engine":
            found = value if equals else following
    return found


def _unit_name(name: str) -> str:
    short = name.removeprefix("batchgen-")
    if unit_name(short) != f"batchgen-{short}":
        raise UsageError(f"--name {name!r}: small letters, digits and - only, at most 40")
    return unit_name(short)


def _program() -> tuple[str, ...]:
    """How this very installation is called from anywhere. -P: a file beside the manifest is no module of ours."""
    script = Path(sys.executable).with_name("batchgen")
    return (str(script),) if script.is_file() else (sys.executable, "-P", "-m", "batchgen")


def _render_units(form: str, spec: TimerSpec, given: dict[str, Any], messages: bool) -> str:
    from batchgen.schedule.units import cron, github, kubernetes, launchd, systemd

    match form:
        case "systemd":
            return "\n".join(f"# {_user_unit_folder() / name}\n{text}" for name, text in systemd.units(spec).items())
        case "cron":
            return cron.crontab_block(spec)
        case "launchd":
            return launchd.launch_agent(spec)
        case "kubernetes":
            return kubernetes.cron_job(spec, given["image"], given["claim"], spec.timezone or _zone_name())
    zone = _zone(spec.timezone or _zone_name())
    package = f"batchgen{'[notify]' if messages else ''}=={__version__}"
    return github.workflow(spec, _repository(spec), package, zone, datetime.now(UTC))


def _apply_action(action: str, form: str, spec: TimerSpec) -> list[str]:
    from batchgen.schedule.units import install

    if form == "cron":
        return install.install_cron(spec) if action == "install" else install.uninstall_cron(spec)
    done = install.install_systemd if action == "install" else install.uninstall_systemd
    return done(spec, _user_unit_folder())


def _remaining_steps(form: str, spec: TimerSpec, given: dict[str, Any], messages: bool) -> list[str]:
    """What the units cannot say themselves."""
    notes = [
        f"{key.variable} is read from {key.path}, which is not there yet: install -Dm 600 /dev/stdin {key.path}"
        for key in spec.keys
        if form in ("systemd", "cron", "launchd") and not key.path.is_file()
    ]
    if messages and form != "github" and find_spec("apprise") is None:
        from batchgen.report.notify import MISSING_LIBRARY

        notes.append(MISSING_LIBRARY)
    match form:
        case "systemd":
            notes.append("`loginctl enable-linger` lets it run while you are logged out; `journalctl --user -u"
                         f" {spec.name}` shows the nights")  # fmt: skip
            if not given["action"]:
                notes.append(f"put both files into {_user_unit_folder()}, or give --install")
        case "cron":
            notes.append("cron does not make up for a night when the machine was off; running again is always safe, so a"
                         " line of the same command with @reboot does, and systemd does by itself")  # fmt: skip
            notes.append("cron mails what is printed; nothing is, unless something is amiss")
        case "launchd":
            notes.append(f"save it as ~/Library/LaunchAgents/{spec.name}.plist and give: launchctl bootstrap gui/$(id -u)"
                         f" ~/Library/LaunchAgents/{spec.name}.plist")  # fmt: skip
            notes.append("a time that the Mac slept through is made up for, one when it was off is not")
        case "kubernetes":
            notes.append(f"the volume of the claim {given['claim']} holds {spec.manifest.name} and keeps its folder; it has to"
                         " be a block device, for a ledger is not safe on NFS")  # fmt: skip
            if spec.keys:
                files = " ".join(f"--from-file={key.name}=FILE" for key in spec.keys)
                notes.append(f"the secrets: kubectl create secret generic {spec.name}-keys {files}")
        case "github":
            notes.append(f"save it as .github/workflows/{spec.name}.yaml; GitHub's clock is UTC, so daylight saving moves it"
                         " by an hour, and a busy hour delays it")  # fmt: skip
            notes.append("the folder is kept in the cache, which GitHub empties after seven days without a run and at 10 GB;"
                         " then the run stops rather than buy all again. A job of worth belongs onto a machine of its own")  # fmt: skip
            notes += [f"the secrets: gh secret set {key.variable}" for key in spec.keys]
    return notes


def _user_unit_folder() -> Path:
    return config_home() / "systemd" / "user"


def _repository(spec: TimerSpec) -> Path:
    """The folder with `.git` above the manifest, else the manifest's own."""
    parents = spec.manifest.parents
    return next((folder for folder in parents if (folder / ".git").exists()), parents[0])


def _zone_name() -> str:
    """The IANA name of this machine's time zone; UTC when it has none. Sources: localtime(5), timezone(3)."""
    name = (environment().get("TZ") or "").removeprefix(":")
    if not name:
        _, found, name = str(Path("/etc/localtime").resolve()).rpartition("zoneinfo/")
        name = name if found else "UTC"
    return name


def _zone(name: str) -> tzinfo:
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise UsageError(f"{name!r} is no time zone; write Europe/Berlin") from None
