"""Facts about this machine: how batchgen is called here, what it was installed from, and the time zone. Also runs
commands."""

from __future__ import annotations

import json
import subprocess
import sys
from datetime import tzinfo
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from urllib.parse import unquote, urlsplit
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from batchgen.errors import SettingsError, UsageError
from batchgen.settings import environment


def program() -> tuple[str, ...]:
    """How this very installation is called from anywhere. -P: a file beside the manifest must not be imported as a
    module."""
    script = Path(sys.executable).with_name("batchgen")
    return (str(script),) if script.is_file() else (sys.executable, "-P", "-m", "batchgen")


def requirement_for(repository: Path, extras: str) -> str | None:
    """What `pip install` needs on a machine that has nothing but a checkout of `repository`. extras: such as
    `[notify]`.

    None if this installation came from elsewhere on this machine, or without an address. The bare name does not work:
    `batchgen` on the public index is somebody else's package. Source: PEP 610.
    """
    try:
        found = json.loads(distribution("batchgen").read_text("direct_url.json") or "{}")
    except (PackageNotFoundError, ValueError):
        return None
    url, version_control = str(found.get("url", "")), found.get("vcs_info")
    if version_control:
        url = f"{version_control['vcs']}+{url}@{version_control['commit_id']}"
    parts = urlsplit(url)
    if parts.scheme.removeprefix("git+") != "file":
        subfolder = f"#subdirectory={found['subdirectory']}" if found.get("subdirectory") else ""
        return f"batchgen{extras} @ {url}{subfolder}" if url else None
    path = Path(unquote(parts.path))
    if version_control or not path.is_relative_to(repository):
        return None
    return f"./{path.relative_to(repository).as_posix()}{extras}"


def zone_name() -> str:
    """The IANA name of this machine's time zone, UTC if it has none. Sources: localtime(5), timezone(3)."""
    name = (environment().get("TZ") or "").removeprefix(":")
    if not name:
        _, found, name = str(Path("/etc/localtime").resolve()).rpartition("zoneinfo/")
        name = name if found else "UTC"
    return name


def zone(name: str) -> tzinfo:
    """The time zone of this name. Raises UsageError."""
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise UsageError(f"{name!r} is not a time zone; write Europe/Berlin") from None


def run_checked(argv: list[str], stdin: str = "") -> None:
    """Run a command. Raises SettingsError with its error message."""
    done = run_command(argv, stdin)
    if done.returncode:
        words = " ".join(argv)
        raise SettingsError(f"{words}: {done.stderr.strip() or f'failed with {done.returncode}'}")


def run_command(argv: list[str], stdin: str = "") -> subprocess.CompletedProcess[str]:
    """Run a command. Raises SettingsError if there is no such command."""
    # The messages of crontab are parsed, so they have to be in English.
    environ = {**environment(), "LC_ALL": "C.UTF-8"}
    try:
        return subprocess.run(argv, input=stdin, capture_output=True, text=True, check=False, env=environ)  # noqa: S603 - words of ours
    except FileNotFoundError:
        raise SettingsError(
            f"there is no {argv[0]} here: print the units without --install and put them in place"
        ) from None
