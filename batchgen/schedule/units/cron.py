"""Lines for a user's crontab. Source: crontab(5)."""

from __future__ import annotations

from batchgen.errors import UsageError
from batchgen.schedule.timetable import Timetable, shell_line

LINE_MOST = 990  # Debian's cron takes a thousand characters


def lines(table: Timetable) -> str:
    """A block that `install` finds again by its first and last line."""
    begin, end = fence(table.name)
    return f"{begin} {table.manifest}\n{table.crontab} {command(table)}\n{end}\n"


def fence(name: str) -> tuple[str, str]:
    return f"# begin {name}", f"# end {name}"


def command(table: Timetable) -> str:
    """The sixth field. cron mails what is printed: nothing, unless something is amiss."""
    keys = [f"{key.variable}_FILE={shell_line([str(key.path)])}" for key in table.keys]
    lowered = ["nice", "-n", "10"]
    text = f"cd {shell_line([str(table.folder)])} && " + " ".join(
        [*keys, shell_line([*lowered, *table.command, "--later-ok", "--quiet"])]
    )
    if "\\" in text:
        raise UsageError("crons disagree about backslashes: take one out of the path or option, or use --as systemd")
    text = text.replace("%", r"\%")
    if len(text) > LINE_MOST:
        raise UsageError(f"a line of {len(text):,} characters is too long for a crontab: put options into the manifest")
    return text


def without(crontab: str, name: str) -> str:
    """A crontab without our block of this name; every other line as it was."""
    begin, end = fence(name)
    kept, inside = [], False
    for line in crontab.splitlines(keepends=True):
        if line.rstrip("\n") == begin or line.startswith(f"{begin} "):
            inside = True
        if not inside:
            kept.append(line)
        if line.rstrip("\n") == end:
            inside = False
    if inside:
        raise UsageError(f"the crontab has {begin!r} without {end!r}: mend it with `crontab -e`")
    return "".join(kept)
