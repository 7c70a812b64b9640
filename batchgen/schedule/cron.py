"""Lines for a user's crontab, and how they are installed. Source: crontab(5)."""

from __future__ import annotations

import contextlib

from batchgen.errors import SettingsError, UsageError
from batchgen.schedule.this_machine import run_checked, run_command
from batchgen.schedule.timer_spec import TimerSpec, shell_line

MAX_LINE_CHARS = 990  # Debian's cron accepts a thousand characters


def crontab_block(spec: TimerSpec) -> str:
    """A block that `install` finds again by its first and last line."""
    begin, end = block_markers(spec.name)
    return f"{begin} {spec.manifest}\n{spec.crontab} {crontab_command(spec)}\n{end}\n"


def block_markers(name: str) -> tuple[str, str]:
    return f"# begin {name}", f"# end {name}"


def crontab_command(spec: TimerSpec) -> str:
    """The sixth field. cron mails what is printed: nothing, unless something is wrong."""
    keys = [f"{key.variable}_FILE={shell_line([str(key.path)])}" for key in spec.keys]
    nice = ["nice", "-n", "10"]
    text = f"cd {shell_line([str(spec.folder)])} && " + " ".join(
        [*keys, shell_line([*nice, *spec.command, "--later-ok", "--quiet"])]
    )
    if "\\" in text:
        raise UsageError(
            "cron versions read backslashes differently: remove it from the path or option, or use --as systemd"
        )
    text = text.replace("%", r"\%")
    if len(text) > MAX_LINE_CHARS:
        raise UsageError(f"a line of {len(text):,} characters is too long for a crontab: put options into the manifest")
    return text


def remove_block(crontab: str, name: str) -> str:
    """A crontab without batchgen's block of this name; every other line stays as it was."""
    begin, end = block_markers(name)
    other_lines, inside = [], False
    for line in crontab.splitlines(keepends=True):
        if line.rstrip("\n") == begin or line.startswith(f"{begin} "):
            inside = True
        if not inside:
            other_lines.append(line)
        if line.rstrip("\n") == end:
            inside = False
    if inside:
        raise UsageError(f"the crontab has {begin!r} without {end!r}: fix it with `crontab -e`")
    return "".join(other_lines)


def install(spec: TimerSpec) -> list[str]:
    """Install a block. Returns what was done. All other lines stay, and if it fails, every line. Raises UsageError
    before the lines of another manifest are replaced, and SettingsError."""
    before = _crontab()
    _check_block_is_ours(before, spec)
    rest = remove_block(before, spec.name)
    block = crontab_block(spec)
    try:
        run_checked(["crontab", "-"], rest + ("" if not rest or rest.endswith("\n") else "\n") + block)
    except BaseException:
        with contextlib.suppress(SettingsError):
            if _crontab() != before:
                run_checked(["crontab", "-"] if before else ["crontab", "-r"], before)
        raise
    return [f"the crontab runs {spec.manifest.name} at {spec.at}"]


def uninstall(spec: TimerSpec) -> list[str]:
    before = _crontab()
    _check_block_is_ours(before, spec)
    after = remove_block(before, spec.name)
    if after == before:
        return [f"the crontab has nothing for {spec.name}"]
    run_checked(["crontab", "-"], after)
    return [f"taken out of the crontab: {spec.name}"]


def _check_block_is_ours(crontab: str, spec: TimerSpec) -> None:
    begin, _ = block_markers(spec.name)
    for line in crontab.splitlines():
        if line.startswith(f"{begin} ") and line != f"{begin} {spec.manifest}":
            raise UsageError(f"the crontab has a {spec.name} of {line[len(begin) + 1 :]}: give this one another --name")


def _crontab() -> str:
    """The user's crontab, empty if there is none."""
    done = run_command(["crontab", "-l"])
    if done.returncode and "no crontab" not in done.stderr:
        raise SettingsError(f"crontab -l: {done.stderr.strip() or 'failed'}")
    return "" if done.returncode else done.stdout
