"""`batchgen schedule`: prints or installs the units that run a manifest every night."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import batchgen
from batchgen.cli.commands_make import RUN
from batchgen.cli.invocation import Invocation
from batchgen.cli.run_arguments import load_job
from batchgen.errors import UsageError
from batchgen.manifest.addresses import VARIABLE, secrets_in, variable_problem
from batchgen.profiles.catalogue import DEFAULT_MODEL, load_catalogue
from batchgen.providers.registry import endpoint_of
from batchgen.schedule import forms, this_machine
from batchgen.schedule.timer_spec import (
    DURATION_S,
    KeyFile,
    TimeOfDay,
    TimerSpec,
    interval_s,
    parse_duration_s,
    parse_time_of_day,
    unit_name,
)
from batchgen.settings import LEDGER_VARIABLE, Settings, config_home

RESERVED_OPTIONS = ("--until", "--max-duration", "--later-ok")


@dataclass(frozen=True, slots=True, kw_only=True)
class ScheduleOptions:
    """The parsed options. form: the kind of units. keys: (variable, empty for the one of the default model; file).
    options: those of `run`."""

    form: str
    at: TimeOfDay | None
    days: tuple[str, ...] | None
    until: TimeOfDay | None
    max_duration: float | None
    keys: tuple[tuple[str, Path], ...]
    name: str | None
    timezone: str | None
    image: str
    claim: str
    action: str | None
    dry_run: bool
    options: tuple[str, ...]

    def has_run_option(self, name: str) -> bool:
        return any(word.partition("=")[0] == name for word in self.options)


def schedule_command(invocation: Invocation, manifest: str, **given: Any) -> None:
    asked, err = ScheduleOptions(**given), invocation.err
    if asked.action and asked.form not in forms.INSTALLABLE:
        raise UsageError(
            f"--{asked.action} knows systemd and cron; put what is printed for {asked.form} in place yourself"
        )
    if asked.dry_run and asked.action == "uninstall":
        raise UsageError("-n shows what --install would write; --uninstall removes just that, and knows no -n")
    if asked.timezone and asked.form not in forms.ZONE_AWARE:
        raise UsageError(f"{asked.form} goes by the clock of its machine: leave --timezone out")
    job, notified = _check_run_options(invocation, manifest, asked.options)
    at = asked.at
    if at is None:
        at, asked = _options_from_manifest(job, asked)
    spec = _timer_spec(job, notified, at, asked)
    messages = bool(notified or (job.manifest.notify and job.manifest.notify.to))
    details = forms.Details(asked.image, asked.claim, messages)
    action = None if asked.dry_run else asked.action
    if action:
        for line in forms.apply(action, asked.form, spec):
            err.line(line)
        if action == "uninstall":
            return
    else:
        invocation.out.stream.write(forms.render(asked.form, spec, details))
        invocation.out.stream.flush()
    for note in forms.remaining_steps(asked.form, spec, details, installed=bool(action)):
        err.line(f"note: {note}", "yellow")


def _check_run_options(
    invocation: Invocation, manifest: str, options: tuple[str, ...]
) -> tuple[batchgen.Job, tuple[str, ...]]:
    """The job that `run` would open, and the recipients that `--notify` names. Whatever would go wrong at night is
    reported now.

    Raises what `run` would.
    """
    if taken := next((word for word in options if word.partition("=")[0] in RESERVED_OPTIONS), None):
        raise UsageError(f"{taken} stands before the `--`, or is there already")
    json, later_ok = invocation.json, invocation.later_ok
    with RUN.make_context("batchgen run", [manifest, *options], obj=invocation) as context:
        asked = dict(context.params)
    if len(asked["manifest"]) > 1:
        raise UsageError(
            f"{asked['manifest'][1]}: a schedule is of one manifest, and behind the `--` stand options of `run` only"
        )
    invocation.json, invocation.later_ok = json, later_ok
    for address in asked["notify"]:
        if not VARIABLE.search(address) or secrets_in(address):
            raise UsageError("--notify: an address does not belong in a unit; write --notify '${NOTIFY_URL}'")
        if problem := variable_problem(address):
            raise UsageError(f"--notify: {problem}")
    return load_job(invocation, manifest, asked["output"], emulate=asked["emulate"]), asked["notify"]


def _options_from_manifest(job: batchgen.Job, asked: ScheduleOptions) -> tuple[TimeOfDay, ScheduleOptions]:
    """(when, the options), from `schedule:` in the manifest's head where the command line gives none. Raises
    UsageError."""
    wanted, form = job.manifest.schedule, asked.form
    if wanted is None:
        raise UsageError(f"when? Give --at 01:30, or write schedule: into the head of {job.manifest.path}")
    time_of_day = wanted.cadence.once_a_day
    if time_of_day is None:
        raise UsageError(
            f"schedule.cron: {wanted.cron!r} is more than one time of day: `batchgen daemon` runs it, or --at"
        )
    if wanted.timezone and form not in forms.ZONE_AWARE and wanted.timezone != this_machine.zone_name():
        raise UsageError(
            f"{form} goes by the clock of its machine, in {this_machine.zone_name()}, and schedule.timezone is {wanted.timezone}: give"
            f" --at, or take a form that knows time zones: {', '.join(forms.ZONE_AWARE)}"
        )
    capped = wanted.max_cost is None or asked.has_run_option("--max-cost")
    money = () if capped else ("--max-cost", f"{wanted.max_cost:.10g}")
    timed = wanted.by is None or asked.has_run_option("--by")
    by = () if timed else ("--by", str(wanted.by))
    named = wanted.engine == "online" or asked.has_run_option("--engine")
    engine_options = () if named else ("--engine", wanted.engine)
    return time_of_day[0], replace(
        asked,
        days=asked.days or time_of_day[1],
        until=asked.until or parse_time_of_day(wanted.until or ""),
        max_duration=asked.max_duration or parse_duration_s(wanted.max_duration or ""),
        timezone=asked.timezone or (wanted.timezone if form in forms.ZONE_AWARE else None),
        options=(*money, *by, *engine_options, *asked.options),
    )


def _required_variables(job: batchgen.Job, notified: tuple[str, ...], engine: str) -> list[tuple[str, ...]]:
    """The variables that the run needs, each with its alternative names: keys, and addresses of messages, without those
    in `.env`.

    A run that submits to workers needs its ledger's address and no key: the workers have those.

    Raises ManifestError.
    """
    providers = {item.provider for item in job.manifest.items()}
    dotenv, wanted = Settings.load(job.manifest.folder, {}), job.manifest.notify
    keys = set[tuple[str, ...]]()
    if engine != "cluster":
        endpoints = () if job.emulated else map(endpoint_of, providers)
        missing = [endpoint for endpoint in endpoints if dotenv.access(endpoint).key is None]
        keys = {(*endpoint.key_names, *endpoint.credential_names) for endpoint in missing}
    elif not dotenv.is_set(LEDGER_VARIABLE):
        keys = {(LEDGER_VARIABLE,)}
    addresses = " ".join([*notified, *(wanted.addresses if wanted else ())])
    return sorted(keys | {(name,) for name in VARIABLE.findall(addresses) if not dotenv.is_set(name)})


def _timer_spec(job: batchgen.Job, notified: tuple[str, ...], at: TimeOfDay, asked: ScheduleOptions) -> TimerSpec:
    given = tuple(KeyFile(name or _default_key_variable(), path) for name, path in asked.keys)
    named = {key.variable for key in given}
    required = _required_variables(job, notified, _engine(asked.options))
    missing = [names[0] for names in required if not named & set(names)]
    spans = [asked.max_duration or DURATION_S, interval_s(at, asked.until) if asked.until else DURATION_S]
    if asked.timezone:
        this_machine.zone(asked.timezone)
    return TimerSpec(
        name=unit_name(job.manifest.name) if asked.name is None else _unit_name(asked.name),
        manifest=Path(job.manifest.path).absolute(),
        job_folder=job.folder,
        at=at,
        days=asked.days or (),
        until=asked.until,
        duration_s=max(60, int(min(spans))),
        program=this_machine.program(),
        options=asked.options,
        folder=Path.cwd(),
        keys=(*given, *(KeyFile(name, config_home() / "batchgen" / name.lower()) for name in missing)),
        timezone=asked.timezone,
    )


def _default_key_variable() -> str:
    """The variable for the API of a manifest that names no model."""
    return endpoint_of(load_catalogue().resolve(DEFAULT_MODEL).provider).key_names[0]


def _engine(options: Sequence[str]) -> str:
    """The engine in the options of `run`."""
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
