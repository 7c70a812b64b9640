"""A launch agent for macOS. Source: launchd.plist(5)."""

from __future__ import annotations

import plistlib
from typing import Any

from batchgen.schedule.timer_spec import DAYS, GRACE_S, TimerSpec


def launch_agent(spec: TimerSpec) -> str:
    """The property list. launchd makes up for a time that the machine slept through, not for one when it was off."""
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
