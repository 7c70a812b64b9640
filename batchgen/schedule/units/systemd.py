"""A service and a timer for systemd's user manager. Sources: systemd.service(5), .exec(5), .timer(5), .syntax(7)."""

from __future__ import annotations

import re

from batchgen.schedule.timer_spec import GRACE_S, HANG_TIMEOUT_S, RESUMABLE_EXIT_CODES, TimerSpec

EXIT_SIGTERM = 143  # stopped with the machine or by hand: nothing is amiss


def units(spec: TimerSpec) -> dict[str, str]:
    """File name to text."""
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
            "Type=exec",  # RuntimeMaxSec= does not reach oneshot services
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
    """One word of a command line: neither specifiers, nor variables, nor quotes in it mean anything."""
    word = word.replace("%", "%%").replace("$", "$$")
    if re.fullmatch(r"[\w@%+=:,./$-]+", word, re.ASCII):
        return word
    return '"' + word.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _escape_specifiers(text: str) -> str:
    """A value that systemd takes to the end of the line, specifiers apart."""
    return text.replace("%", "%%")
