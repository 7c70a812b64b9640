"""The kinds of units: what each can do, its text, and what it leaves to the user."""

from __future__ import annotations

import plistlib
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from batchgen.schedule import cron, github, kubernetes, systemd
from batchgen.schedule.this_machine import requirement_for, zone, zone_name
from batchgen.schedule.timer_spec import DAYS, GRACE_S, TimerSpec

INSTALLABLE = ("systemd", "cron")
ZONE_AWARE = ("systemd", "kubernetes", "github")
# What the units cannot express themselves.
NOTES = {
    "systemd": (
        "`loginctl enable-linger` lets it run while you are logged out; `journalctl --user -u {spec.name}` shows its runs",
    ),
    "cron": (
        "cron does not make up for a run when the machine was off; running again is always safe, so a line of the same"
        " command with @reboot does, and systemd does by itself",
        "cron mails what is printed; that is nothing unless there is a problem",
    ),
    "launchd": (
        "save it as ~/Library/LaunchAgents/{spec.name}.plist and give: launchctl bootstrap gui/$(id -u)"
        " ~/Library/LaunchAgents/{spec.name}.plist",
        "a time that the Mac slept through is made up for, one when it was off is not",
    ),
    "kubernetes": (
        "the volume of the claim {claim} holds {spec.manifest.name} and keeps its folder; it has to be a block device, for a"
        " ledger is not safe on NFS",
    ),
    "github": (
        "save it as .github/workflows/{spec.name}.yaml; GitHub's clock is UTC, so daylight saving moves it by an hour, and a"
        " busy hour delays it",
        "the folder is kept in the cache, which GitHub empties after seven days without a run and at 10 GB; then the run"
        " stops rather than buy all again. Run a job that matters on a machine of your own",
    ),
}
UNKNOWN_IMAGE = (
    "the image {image} is not pulled: build it in a checkout of batchgen (`docker build -t {image} .`) and load it onto the"
    " nodes, or push it to a registry of yours and give --image REGISTRY/NAME:TAG"
)
UNKNOWN_PACKAGE = (
    "the step that installs batchgen has a placeholder: this batchgen came from nowhere that GitHub can reach. Put a wheel into"
    " the repository and its path into that step, or the address of a repository of yours (git+https://…)"
)


@dataclass(frozen=True, slots=True)
class Details:
    """image, claim: of the container and its volume, for Kubernetes. messages: whether the run sends any."""

    image: str
    claim: str
    messages: bool


def render(form: str, spec: TimerSpec, details: Details) -> str:
    """The units as text. Raises UsageError."""
    match form:
        case "systemd":
            folder = systemd.user_unit_folder()
            return "\n".join(f"# {folder / name}\n{text}" for name, text in systemd.units(spec).items())
        case "cron":
            return cron.crontab_block(spec)
        case "launchd":
            return _launch_agent(spec)
        case "kubernetes":
            return kubernetes.cron_job(spec, details.image, details.claim, spec.timezone or zone_name())
    return github.workflow(
        spec, _repository(spec), _package(spec, details.messages), zone(spec.timezone or zone_name()), datetime.now(UTC)
    )


def _launch_agent(spec: TimerSpec) -> str:
    """A property list for macOS. Source: launchd.plist(5). launchd makes up for a time that the machine slept through,
    not for one when it was off."""
    when = {"Hour": spec.at.hour, "Minute": spec.at.minute}
    log = str(spec.job_folder.with_name(f"{spec.job_folder.name}.log"))
    found: dict[str, Any] = {
        "Label": spec.name,
        "ProgramArguments": [*spec.command, "--later-ok"],
        "WorkingDirectory": str(spec.folder),
        "StartCalendarInterval": [{**when, "Weekday": (DAYS.index(day) + 1) % 7} for day in spec.days] or when,
        "EnvironmentVariables": {f"{key.variable}_FILE": str(key.path) for key in spec.keys},
        "ExitTimeOut": GRACE_S,
        "Nice": 10,
        "LowPriorityIO": True,
        "StandardOutPath": log,
        "StandardErrorPath": log,
    }
    return plistlib.dumps(found, sort_keys=False).decode()


def apply(action: str, form: str, spec: TimerSpec) -> list[str]:
    """Install or uninstall units. Returns what was done. Raises UsageError, SettingsError."""
    if form == "cron":
        return cron.install(spec) if action == "install" else cron.uninstall(spec)
    return systemd.install(spec) if action == "install" else systemd.uninstall(spec)


def remaining_steps(form: str, spec: TimerSpec, details: Details, *, installed: bool) -> list[str]:
    """What the user still has to do."""
    notes = [
        f"{key.variable} is read from {key.path}, which is not there yet: install -Dm 600 /dev/stdin {key.path}"
        for key in spec.keys
        if form in ("systemd", "cron", "launchd") and not key.path.is_file()
    ]
    if details.messages and form != "github" and find_spec("apprise") is None:
        from batchgen.report.notify import MISSING_LIBRARY  # it brings aiohttp, 0.1 s

        notes.append(MISSING_LIBRARY)
    notes += [note.format(spec=spec, claim=details.claim) for note in NOTES[form]]
    if form == "systemd" and not installed:
        notes.append(f"put both files into {systemd.user_unit_folder()}, or give --install")
    if form == "kubernetes":
        notes += [] if kubernetes.has_registry(details.image) else [UNKNOWN_IMAGE.format(image=details.image)]
        files = " ".join(f"--from-file={key.name}=FILE" for key in spec.keys)
        notes += [f"the secrets: kubectl create secret generic {kubernetes.secret_name(spec)} {files}"] if files else []
    if form == "github":
        notes += [] if _package(spec, details.messages) else [UNKNOWN_PACKAGE]
        notes += [f"the secrets: gh secret set {key.variable}" for key in spec.keys]
    return notes


def _repository(spec: TimerSpec) -> Path:
    """The folder with `.git` above the manifest, else the manifest's own."""
    parents = spec.manifest.parents
    return next((folder for folder in parents if (folder / ".git").exists()), parents[0])


def _package(spec: TimerSpec, messages: bool) -> str | None:
    return requirement_for(_repository(spec), "[notify]" if messages else "")
