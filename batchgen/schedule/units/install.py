"""Puts units where systemd's user manager and cron look for them, and takes them away again."""

from __future__ import annotations

import subprocess
from pathlib import Path

from batchgen.errors import SettingsError, UsageError
from batchgen.schedule.timetable import Timetable
from batchgen.schedule.units import cron, systemd
from batchgen.settings import environment


def install_systemd(table: Timetable, folder: Path) -> list[str]:
    """Answers what was done. Raises UsageError before another manifest's units are replaced, SettingsError."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in systemd.units(table):
        _must_be_ours(folder / name, table)
    for name, text in systemd.units(table).items():
        (folder / name).write_text(text, encoding="utf-8")
    _call(["systemctl", "--user", "daemon-reload"])
    _call(["systemctl", "--user", "enable", "--now", f"{table.name}.timer"])
    return [*(f"wrote {folder / name}" for name in systemd.units(table)), f"enabled {table.name}.timer"]


def uninstall_systemd(table: Timetable, folder: Path) -> list[str]:
    """A service that runs now is let finish."""
    there = [folder / name for name in systemd.units(table) if (folder / name).is_file()]
    if not there:
        return [f"there is no {table.name}.timer in {folder}"]
    for path in there:
        _must_be_ours(path, table)
    _call(["systemctl", "--user", "disable", "--now", f"{table.name}.timer"])
    for path in there:
        path.unlink()
    _call(["systemctl", "--user", "daemon-reload"])
    return [f"removed {path}" for path in there]


def _must_be_ours(path: Path, table: Timetable) -> None:
    if path.is_file():
        first = path.read_text(encoding="utf-8", errors="replace").partition("\n")[0]
        if first != systemd.mark(table):
            raise UsageError(f"{path} is not for {table.manifest}: give this one another --name")


def install_cron(table: Timetable) -> list[str]:
    """Answers what was done. Every line that is not ours stays."""
    before = _crontab()
    _must_be_our_block(before, table)
    rest = cron.without(before, table.name)
    _call(["crontab", "-"], rest + ("" if not rest or rest.endswith("\n") else "\n") + cron.lines(table))
    return [f"the crontab runs {table.manifest.name} at {table.at}"]


def uninstall_cron(table: Timetable) -> list[str]:
    before = _crontab()
    _must_be_our_block(before, table)
    after = cron.without(before, table.name)
    if after == before:
        return [f"the crontab has nothing for {table.name}"]
    _call(["crontab", "-"], after)
    return [f"taken out of the crontab: {table.name}"]


def _must_be_our_block(crontab: str, table: Timetable) -> None:
    begin, _ = cron.fence(table.name)
    for line in crontab.splitlines():
        if line.startswith(f"{begin} ") and line != f"{begin} {table.manifest}":
            raise UsageError(
                f"the crontab has a {table.name} of {line[len(begin) + 1 :]}: give this one another --name"
            )


def _crontab() -> str:
    """The user's crontab, empty when there is none."""
    done = _run(["crontab", "-l"])
    if done.returncode and "no crontab" not in done.stderr:
        raise SettingsError(f"crontab -l: {done.stderr.strip() or 'failed'}")
    return "" if done.returncode else done.stdout


def _call(argv: list[str], given: str = "") -> None:
    done = _run(argv, given)
    if done.returncode:
        words = " ".join(argv)
        raise SettingsError(f"{words}: {done.stderr.strip() or f'failed with {done.returncode}'}")


def _run(argv: list[str], given: str = "") -> subprocess.CompletedProcess[str]:
    # The messages of crontab are read, so they have to be in English.
    environ = {**environment(), "LC_ALL": "C.UTF-8"}
    try:
        return subprocess.run(argv, input=given, capture_output=True, text=True, check=False, env=environ)  # noqa: S603 - words of ours
    except FileNotFoundError:
        raise SettingsError(
            f"there is no {argv[0]} here: print the units without --install and put them in place"
        ) from None
