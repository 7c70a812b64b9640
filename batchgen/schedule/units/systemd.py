"""A service and a timer for systemd's user manager. Sources: systemd.service(5), .exec(5), .timer(5), .syntax(7)."""

from __future__ import annotations

import re

from batchgen.schedule.timetable import BEYOND_DEADLINE_S, GRACE_S, LATER_CODES, Timetable

SIGTERM_CODE = 143  # stopped with the machine or by hand: nothing is amiss


def units(table: Timetable) -> dict[str, str]:
    """File name to text."""
    return {f"{table.name}.service": _service(table), f"{table.name}.timer": _timer(table)}


def mark(table: Timetable) -> str:
    """The first line of a unit: which manifest it is for."""
    return f"# batchgen schedule {table.manifest}"


def _service(table: Timetable) -> str:
    keys = [
        line
        for key in table.keys
        for line in (
            f"LoadCredential={key.name}:{_raw(str(key.path))}",
            f'Environment="{key.variable}_FILE=%d/{key.name}"',
        )
    ]
    zone = [f'Environment="TZ={table.timezone}"'] if table.timezone else []
    return "\n".join(
        [
            mark(table),
            "[Unit]",
            f"Description=Images of {_raw(table.manifest.name)}",
            "",
            "[Service]",
            "Type=exec",  # RuntimeMaxSec= does not reach oneshot services
            f"WorkingDirectory={_raw(str(table.folder))}",
            *keys,
            *zone,
            f"ExecStart={' '.join(map(quoted, table.command))}",
            "# budget, deadline, daily quota, another run, told to stop: the next night goes on",
            f"SuccessExitStatus={' '.join(map(str, (*LATER_CODES, SIGTERM_CODE)))}",
            "# the run ends itself earlier; this is for one that hangs",
            f"RuntimeMaxSec={table.duration_s + BEYOND_DEADLINE_S}",
            "# what is in flight was paid for and is waited for",
            f"TimeoutStopSec={GRACE_S}",
            "KillMode=mixed",
            "Nice=10",
            "IOSchedulingClass=best-effort",
            "IOSchedulingPriority=7",
            "NoNewPrivileges=yes",
            f"SyslogIdentifier={table.name}",
            "",
        ]
    )


def _timer(table: Timetable) -> str:
    days = ",".join(day.capitalize() for day in table.days)
    when = " ".join(filter(None, [days, f"*-*-* {table.at}:00", table.timezone]))
    return "\n".join(
        [
            mark(table),
            "[Unit]",
            f"Description=When {_raw(table.manifest.name)} is made",
            "",
            "[Timer]",
            f"OnCalendar={when}",
            "# a night that the machine slept through is made up for",
            "Persistent=true",
            "AccuracySec=1s",
            "",
            "[Install]",
            "WantedBy=timers.target",
            "",
        ]
    )


def quoted(word: str) -> str:
    """One word of a command line: neither specifiers, nor variables, nor quotes in it mean anything."""
    word = word.replace("%", "%%").replace("$", "$$")
    if re.fullmatch(r"[\w@%+=:,./$-]+", word, re.ASCII):
        return word
    return '"' + word.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _raw(text: str) -> str:
    """A value that systemd takes to the end of the line, specifiers apart."""
    return text.replace("%", "%%")
