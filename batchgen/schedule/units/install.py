"""Puts units where systemd's user manager and cron look for them, and takes them away again."""

from __future__ import annotations

import contextlib
import subprocess
from pathlib import Path

from batchgen.errors import SettingsError, UsageError
from batchgen.schedule.timer_spec import TimerSpec
from batchgen.schedule.units import cron, systemd
from batchgen.settings import config_home, environment


def user_unit_folder() -> Path:
    return config_home() / "systemd" / "user"


def install_systemd(spec: TimerSpec, folder: Path) -> list[str]:
    """Answers what was done. Raises UsageError before another manifest's units are replaced, and SettingsError; then
    everything is as it was."""
    texts = {folder / name: text for name, text in systemd.units(spec).items()}
    for path in texts:
        _check_unit_is_ours(path, spec)
    before = {path: path.read_bytes() if path.is_file() else None for path in texts}
    created = [each for each in (_enabled_link(spec, folder).parent, folder, *folder.parents) if not each.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for path, text in texts.items():
            path.write_text(text, encoding="utf-8")
        _run_checked(["systemctl", "--user", "daemon-reload"])
        _run_checked(["systemctl", "--user", "enable", "--now", f"{spec.name}.timer"])
    except BaseException as error:
        _restore_units(spec, folder, before, created)
        if isinstance(error, OSError):
            raise SettingsError(f"{error.filename}: {error.strerror}; nothing was installed") from None
        raise
    return [*(f"wrote {path}" for path in texts), f"enabled {spec.name}.timer"]


def _restore_units(spec: TimerSpec, folder: Path, before: dict[Path, bytes | None], created: list[Path]) -> None:
    """As far as the system lets us: a manager that does not answer had nothing loaded either."""
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
        with contextlib.suppress(OSError):  # not there, or in use by somebody else by now
            path.rmdir()
    _try(["systemctl", "--user", "daemon-reload"])


def _enabled_link(spec: TimerSpec, folder: Path) -> Path:
    """What `enable` makes. Source: systemctl(1)."""
    return folder / "timers.target.wants" / f"{spec.name}.timer"


def uninstall_systemd(spec: TimerSpec, folder: Path) -> list[str]:
    """A service that runs now is let finish."""
    there = [folder / name for name in systemd.units(spec) if (folder / name).is_file()]
    if not there:
        return [f"there is no {spec.name}.timer in {folder}"]
    for path in there:
        _check_unit_is_ours(path, spec)
    _run_checked(["systemctl", "--user", "disable", "--now", f"{spec.name}.timer"])
    for path in there:
        path.unlink()
    _run_checked(["systemctl", "--user", "daemon-reload"])
    return [f"removed {path}" for path in there]


def _check_unit_is_ours(path: Path, spec: TimerSpec) -> None:
    if path.is_file():
        first = path.read_text(encoding="utf-8", errors="replace").partition("\n")[0]
        if first != systemd.first_line(spec):
            raise UsageError(f"{path} is not for {spec.manifest}: give this one another --name")


def install_cron(spec: TimerSpec) -> list[str]:
    """Answers what was done. Every line that is not ours stays, and when it fails, every line. Raises as `install_systemd`."""
    before = _crontab()
    _check_block_is_ours(before, spec)
    rest = cron.remove_block(before, spec.name)
    block = cron.crontab_block(spec)
    try:
        _run_checked(["crontab", "-"], rest + ("" if not rest or rest.endswith("\n") else "\n") + block)
    except BaseException:
        with contextlib.suppress(SettingsError):
            if _crontab() != before:
                _run_checked(["crontab", "-"] if before else ["crontab", "-r"], before)
        raise
    return [f"the crontab runs {spec.manifest.name} at {spec.at}"]


def uninstall_cron(spec: TimerSpec) -> list[str]:
    before = _crontab()
    _check_block_is_ours(before, spec)
    after = cron.remove_block(before, spec.name)
    if after == before:
        return [f"the crontab has nothing for {spec.name}"]
    _run_checked(["crontab", "-"], after)
    return [f"taken out of the crontab: {spec.name}"]


def _check_block_is_ours(crontab: str, spec: TimerSpec) -> None:
    begin, _ = cron.block_markers(spec.name)
    for line in crontab.splitlines():
        if line.startswith(f"{begin} ") and line != f"{begin} {spec.manifest}":
            raise UsageError(f"the crontab has a {spec.name} of {line[len(begin) + 1 :]}: give this one another --name")


def _crontab() -> str:
    """The user's crontab, empty when there is none."""
    done = _run(["crontab", "-l"])
    if done.returncode and "no crontab" not in done.stderr:
        raise SettingsError(f"crontab -l: {done.stderr.strip() or 'failed'}")
    return "" if done.returncode else done.stdout


def _run_checked(argv: list[str], stdin: str = "") -> None:
    done = _run(argv, stdin)
    if done.returncode:
        words = " ".join(argv)
        raise SettingsError(f"{words}: {done.stderr.strip() or f'failed with {done.returncode}'}")


def _try(argv: list[str]) -> None:
    with contextlib.suppress(SettingsError):
        _run(argv)


def _run(argv: list[str], stdin: str = "") -> subprocess.CompletedProcess[str]:
    # The messages of crontab are read, so they have to be in English.
    environ = {**environment(), "LC_ALL": "C.UTF-8"}
    try:
        return subprocess.run(argv, input=stdin, capture_output=True, text=True, check=False, env=environ)  # noqa: S603 - words of ours
    except FileNotFoundError:
        raise SettingsError(
            f"there is no {argv[0]} here: print the units without --install and put them in place"
        ) from None
