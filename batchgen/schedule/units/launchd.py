"""A launch agent for macOS. Source: launchd.plist(5)."""

from __future__ import annotations

import plistlib
from typing import Any

from batchgen.schedule.timetable import DAYS, GRACE_S, Timetable


def agent(table: Timetable) -> str:
    """The property list. launchd makes up for a time that the machine slept through, not for one when it was off."""
    when = {"Hour": table.at.hour, "Minute": table.at.minute}
    log = str(table.job_folder.with_name(f"{table.job_folder.name}.log"))
    found: dict[str, Any] = {
        "Label": table.name,
        "ProgramArguments": [*table.command, "--later-ok"],
        "WorkingDirectory": str(table.folder),
        "StartCalendarInterval": [{**when, "Weekday": (DAYS.index(day) + 1) % 7} for day in table.days] or when,
        "EnvironmentVariables": {f"{key.variable}_FILE": str(key.path) for key in table.keys},
        "ExitTimeOut": GRACE_S,
        "Nice": 10,
        "LowPriorityIO": True,
        "StandardOutPath": log,
        "StandardErrorPath": log,
    }
    return plistlib.dumps(found, sort_keys=False).decode()
