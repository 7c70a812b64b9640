"""The only reader of the environment, of `.env` files and of key files."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from batchgen.errors import SettingsError

KEY_NAMES = {
    "gemini": ("GEMINI_API_KEY", "GOOGLE_API_KEY"),
    "imagen": ("GEMINI_API_KEY", "GOOGLE_API_KEY"),
    "aimlapi": ("AIMLAPI_API_KEY",),
}
BASE_URL_NAMES = {
    "gemini": ("BATCHGEN_GEMINI_BASE_URL", "GOOGLE_GEMINI_BASE_URL"),
    "imagen": ("BATCHGEN_GEMINI_BASE_URL", "GOOGLE_GEMINI_BASE_URL"),
    "aimlapi": ("BATCHGEN_AIMLAPI_BASE_URL",),
}


LEDGER = "BATCHGEN_LEDGER"  # the address of the PostgreSQL server that has the ledgers, perhaps with a password
SECRET_NAMES = ("API_KEY", "NOTIFY_", "HEARTBEAT_", "TOKEN", "SECRET", "PASSWORD", "LEDGER")


def environment() -> Mapping[str, str]:
    """The process's own variables, for those who need one that is no setting of ours (NO_COLOR, TERM, CI)."""
    return os.environ


def use_ledger(url: str | None) -> None:
    """As if BATCHGEN_LEDGER had been set so for this process: those that it starts have it too, and no command line shows it."""
    if url is None:
        os.environ.pop(LEDGER, None)
    else:
        os.environ[LEDGER] = url


def environment_without_keys() -> dict[str, str]:
    """The same for a process that has no business with a key, nor with an address that holds one."""
    return {name: value for name, value in os.environ.items() if not any(word in name.upper() for word in SECRET_NAMES)}


class Secret:
    """A key that shows itself only to the one that asks for `reveal()`."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        return self._value

    def __repr__(self) -> str:
        return "Secret(…)"

    __str__ = __repr__


@dataclass(frozen=True, slots=True)
class Key:
    """An API key and the name of the variable that it came from."""

    secret: Secret
    source: str


@dataclass(frozen=True, slots=True)
class Settings:
    """What the environment says. Values of the real environment win over those of `.env` beside the manifest."""

    values: Mapping[str, str] = field(repr=False)  # holds keys
    warnings: tuple[str, ...] = ()
    of_process: bool = False  # of this very process, and not what a caller gave in their place

    @classmethod
    def load(cls, manifest_folder: Path | None = None, environ: Mapping[str, str] | None = None) -> Settings:
        """Raises SettingsError when `.env` is there and cannot be read."""
        values: dict[str, str] = {}
        warnings: list[str] = []
        if manifest_folder is not None and (manifest_folder / ".env").is_file():
            values.update(_read_env_file(manifest_folder / ".env", warnings))
        values.update(environment() if environ is None else environ)
        return cls(values, tuple(warnings), of_process=environ is None)

    def get(self, name: str) -> str | None:
        """The value of a variable, None when it is unset or empty."""
        return self.values.get(name) or None

    def text(self, name: str) -> str | None:
        """The value of a variable, else the contents of the file that NAME_FILE names. Raises SettingsError."""
        if (value := self.get(name)) or not (path := self.get(f"{name}_FILE")):
            return value
        try:
            return Path(path).read_text(encoding="utf-8").strip() or None
        except (OSError, UnicodeDecodeError) as error:
            raise SettingsError(f"{name}_FILE: cannot read {path}: {_why(error)}") from None

    def key(self, provider: str) -> tuple[Key | None, str | None]:
        """The provider's key, and a warning to show if the choice needs saying. Raises SettingsError on a bad key file.

        A name with `_FILE` behind it holds the path of a file with the key, as systemd and Docker hand them over.
        """
        names = KEY_NAMES.get(provider) or (f"{provider.upper().replace('-', '_')}_API_KEY",)
        found = [key for name in names if (key := self._named_key(name)) is not None]
        if not found:
            return None, None
        warning = None
        if len({key.secret.reveal() for key in found}) > 1:
            others = ", ".join(key.source for key in found[1:])
            warning = f"{found[0].source} is used; {others} is set to another key and is not"
        return found[0], warning

    def _named_key(self, name: str) -> Key | None:
        if value := self.get(name):
            return Key(Secret(_clean_key(value, name)), name)
        if self.get(f"{name}_FILE"):
            return Key(Secret(_clean_key(self.text(name) or "", f"{name}_FILE")), f"{name}_FILE")
        return None

    def key_names(self, provider: str) -> tuple[str, ...]:
        return KEY_NAMES.get(provider) or (f"{provider.upper().replace('-', '_')}_API_KEY",)

    def base_url(self, provider: str) -> str | None:
        """A base URL set by the user, without a slash at its end; None means the vendor's own. Raises SettingsError."""
        names = BASE_URL_NAMES.get(provider) or (f"BATCHGEN_{provider.upper().replace('-', '_')}_BASE_URL",)
        for name in names:
            if value := self.get(name):
                return check_base_url(value, name)
        return None


def check_base_url(url: str, name: str) -> str:
    """`url` without a slash at its end. Raises SettingsError unless it is https, or http to this very machine."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise SettingsError(f"{name}: {url!r} is no http(s) address")
    if parts.username or parts.password or parts.query or parts.fragment:
        raise SettingsError(
            f"{name}: leave user, password, ? and # out of the address; the key has a variable of its own"
        )
    if parts.scheme == "http" and not is_loopback(parts.hostname):
        raise SettingsError(f"{name}: http would send the key in the clear to {parts.hostname}; use https")
    return url.rstrip("/")


def is_loopback(host: str) -> bool:
    """Whether a host name or address literal means this machine and nothing else."""
    return host in ("localhost", "::1") or (host.startswith("127.") and host.replace(".", "").isdigit())


def state_folder(settings: Settings) -> Path | None:
    """Where state shared between jobs lives: the first of `state_folders` that can be written; if none can, the usual one.

    None when the settings know no home at all: a caller who gives an environment decides whether to share.
    """
    folders = list(state_folders(settings))
    return next(filter(can_be_written, folders), folders[0] if folders else None)


def state_folders(settings: Settings) -> Iterator[Path]:
    """Where it may be, the usual place first: $XDG_STATE_HOME/batchgen and nothing else, or the system's own place below
    HOME, then below the home of the password entry, then systemd's $STATE_DIRECTORY.

    A relative path is never one: it would mean another folder in every working directory. Sources: XDG Base Directory
    Specification 0.8 ("should consider the path invalid and ignore it"); systemd.exec(5), StateDirectory=.
    """
    base = settings.get("XDG_STATE_HOME") or ""
    if os.path.isabs(base):
        yield Path(base) / "batchgen"
        return
    if settings.of_process or any(settings.get(name) for name in ("HOME", "USERPROFILE", "LOCALAPPDATA")):
        yield from _below_home()
    if settings.of_process and (home := _home_of_entry()):
        yield Path(home, ".local", "state", "batchgen")
    for folder in (settings.get("STATE_DIRECTORY") or "").split(":"):
        if os.path.isabs(folder):
            yield Path(folder) / "batchgen"


def can_be_written(folder: Path) -> bool:
    """Whether a folder is there and may be written, or may be made. Nothing is made."""
    there = next((path for path in (folder, *folder.parents) if os.path.exists(path)), folder)
    return there.is_dir() and os.access(there, os.W_OK | os.X_OK)


def _below_home() -> Iterator[Path]:
    import platformdirs

    with contextlib.suppress(RuntimeError):  # neither HOME nor the password entry says where home is
        folder = Path(platformdirs.user_state_dir("batchgen", appauthor=False))
        if folder.is_absolute():
            yield folder


def config_home() -> Path:
    """Where this user's settings of all programs are. Raises SettingsError when nothing absolute says where home is."""
    base, home = os.environ.get("XDG_CONFIG_HOME") or "", os.path.expanduser("~")
    if os.path.isabs(base):
        return Path(base)
    home = home if os.path.isabs(home) else _home_of_entry()
    if not home:
        raise SettingsError("there is no home folder: set HOME to an absolute path")
    return Path(home, ".config")


def _home_of_entry() -> str:
    """Of the user that this process runs as; empty when there is none, or none that is absolute."""
    try:
        import pwd  # not on Windows

        home = pwd.getpwuid(os.getuid()).pw_dir
    except (ImportError, KeyError):
        return ""
    return home if os.path.isabs(home) else ""


def _clean_key(text: str, name: str) -> str:
    key = text.strip()
    if not key or not key.isascii() or not key.isprintable() or " " in key:
        raise SettingsError(f"{name}: this is no API key (empty, or with spaces or control characters)")
    return key


def _read_env_file(path: Path, warnings: list[str]) -> dict[str, str]:
    """`NAME=value` lines; `export`, quotes and `#` comments as shells have them; nothing is expanded."""
    try:
        text = path.read_text(encoding="utf-8-sig")
        mode = path.stat().st_mode
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path}: cannot be read: {_why(error)}") from None
    if os.name == "posix" and mode & (stat.S_IRGRP | stat.S_IROTH):
        warnings.append(f"{path} can be read by others: chmod 600 {path}")
    values: dict[str, str] = {}
    for number, line in enumerate(text.splitlines(), 1):
        line = line.strip().removeprefix("export ").strip()
        if not line or line.startswith("#"):
            continue
        name, equals, value = line.partition("=")
        if not equals or not name.strip().isidentifier():
            raise SettingsError(f"{path}:{number}: not NAME=value")
        value = value.strip()
        quoted = len(value) >= 2 and value[0] == value[-1] and value[0] in "'\""
        value = value[1:-1] if quoted else value.split(" #")[0].strip()
        values[name.strip()] = value
    return values


def _why(error: Exception) -> str:
    return error.strerror or str(error) if isinstance(error, OSError) else "it is not UTF-8 text"
