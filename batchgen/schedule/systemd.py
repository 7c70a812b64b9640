"""A service and a timer for systemd's user manager, and how they are installed. Sources: systemd.service(5), .exec(5),
.timer(5), .syntax(7)."""

from __future__ import annotations

import contextlib
import re
from pathlib import Path

from batchgen.errors import SettingsError, UsageError
from batchgen.schedule.this_machine import run_checked, run_command
from batchgen.schedule.timer_spec import GRACE_S, HANG_TIMEOUT_S, RESUMABLE_EXIT_CODES, TimerSpec
from batchgen.settings import config_home

EXIT_SIGTERM = 143  # stopped with the machine or by hand: not a failure


def units(spec: TimerSpec) -> dict[str, str]:
    """The units' text by file name."""
    return {f"{spec.name}.service": _service(spec), f"{spec.name}.timer": _timer(spec)}


def first_line(spec: TimerSpec) -> str:
    """The first line of a unit: which manifest it is for."""
    return f"# batchgen schedule {spec.manifest}"


def _service(spec: TimerSpec) -> str:
    keys = [
        line
        for key in spec.keys
        for line in (
            f"LoadCredential={key.name}:{_escape_specifiers(str(key.path))}",
            f'Environment="{key.variable}_FILE=%d/{key.name}"',
        )
    ]
    zone = [f'Environment="TZ={spec.timezone}"'] if spec.timezone else []
    return "\n".join(
        [
            first_line(spec),
            "[Unit]",
            f"Description=Images of {_escape_specifiers(spec.manifest.name)}",
            "",
            "[Service]",
            "Type=exec",  # RuntimeMaxSec= has no effect on oneshot services
            f"WorkingDirectory={_escape_specifiers(str(spec.folder))}",
            *keys,
            *zone,
            f"ExecStart={' '.join(map(quote, spec.command))}",
            "# budget, deadline, daily quota, another run, asked to stop: the next run continues",
            f"SuccessExitStatus={' '.join(map(str, (*RESUMABLE_EXIT_CODES, EXIT_SIGTERM)))}",
            "# the run ends itself earlier; this is for one that hangs",
            f"RuntimeMaxSec={spec.duration_s + HANG_TIMEOUT_S}",
            "# what is in flight was paid for and is waited for",
            f"TimeoutStopSec={GRACE_S}",
            "KillMode=mixed",
            "Nice=10",
            "IOSchedulingClass=best-effort",
            "IOSchedulingPriority=7",
            "NoNewPrivileges=yes",
            f"SyslogIdentifier={spec.name}",
            "",
        ]
    )


def _timer(spec: TimerSpec) -> str:
    days = ",".join(day.capitalize() for day in spec.days)
    when = " ".join(filter(None, [days, f"*-*-* {spec.at}:00", spec.timezone]))
    return "\n".join(
        [
            first_line(spec),
            "[Unit]",
            f"Description=When {_escape_specifiers(spec.manifest.name)} is made",
            "",
            "[Timer]",
            f"OnCalendar={when}",
            "# a run that the machine slept through is made up for",
            "Persistent=true",
            "AccuracySec=1s",
            "",
            "[Install]",
            "WantedBy=timers.target",
            "",
        ]
    )


def quote(word: str) -> str:
    """One word of a command line, quoted so that specifiers, variables and quotes in it mean nothing."""
    word = word.replace("%", "%%").replace("$", "$$")
    if re.fullmatch(r"[\w@%+=:,./$-]+", word, re.ASCII):
        return word
    return '"' + word.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _escape_specifiers(text: str) -> str:
    """A value that systemd reads to the end of the line, with specifiers escaped."""
    return text.replace("%", "%%")


def user_unit_folder() -> Path:
    return config_home() / "systemd" / "user"


def install(spec: TimerSpec) -> list[str]:
    """Install the units. Returns what was done. Raises UsageError before another manifest's units are replaced, and
    SettingsError, after which everything is as it was."""
    folder = user_unit_folder()
    texts = {folder / name: text for name, text in units(spec).items()}
    for path in texts:
        _check_unit_is_ours(path, spec)
    before = {path: path.read_bytes() if path.is_file() else None for path in texts}
    created = [each for each in (_enabled_link(spec, folder).parent, folder, *folder.parents) if not each.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for path, text in texts.items():
            path.write_text(text, encoding="utf-8")
        run_checked(["systemctl", "--user", "daemon-reload"])
        run_checked(["systemctl", "--user", "enable", "--now", f"{spec.name}.timer"])
    except BaseException as error:
        _restore_units(spec, folder, before, created)
        if isinstance(error, OSError):
            raise SettingsError(f"{error.filename}: {error.strerror}; nothing was installed") from None
        raise
    return [*(f"wrote {path}" for path in texts), f"enabled {spec.name}.timer"]


def _restore_units(spec: TimerSpec, folder: Path, before: dict[Path, bytes | None], created: list[Path]) -> None:
    """Restore the units as far as the system allows: a manager that does not answer had nothing loaded either."""
    if None in before.values():
        _try(["systemctl", "--user", "disable", "--now", f"{spec.name}.timer"])
        before = {**before, _enabled_link(spec, folder): None}
    for path, content in before.items():
        with contextlib.suppress(OSError):
            if content is None:
                path.unlink(missing_ok=True)
            else:
                path.write_bytes(content)
    for path in created:
        with contextlib.suppress(OSError):  # missing, or in use by somebody else by now
            path.rmdir()
    _try(["systemctl", "--user", "daemon-reload"])


def _enabled_link(spec: TimerSpec, folder: Path) -> Path:
    """The link that `enable` creates. Source: systemctl(1)."""
    return folder / "timers.target.wants" / f"{spec.name}.timer"


def uninstall(spec: TimerSpec) -> list[str]:
    """Uninstall the units. A service that is running is allowed to finish."""
    folder = user_unit_folder()
    there = [folder / name for name in units(spec) if (folder / name).is_file()]
    if not there:
        return [f"there is no {spec.name}.timer in {folder}"]
    for path in there:
        _check_unit_is_ours(path, spec)
    run_checked(["systemctl", "--user", "disable", "--now", f"{spec.name}.timer"])
    for path in there:
        path.unlink()
    run_checked(["systemctl", "--user", "daemon-reload"])
    return [f"removed {path}" for path in there]


def _check_unit_is_ours(path: Path, spec: TimerSpec) -> None:
    if path.is_file():
        first = path.read_text(encoding="utf-8", errors="replace").partition("\n")[0]
        if first != first_line(spec):
            raise UsageError(f"{path} is not for {spec.manifest}: give this one another --name")


def _try(argv: list[str]) -> None:
    with contextlib.suppress(SettingsError):
        run_command(argv)
