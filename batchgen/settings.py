"""The only reader of the environment, of `.env` files and of key files."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from batchgen.errors import SettingsError
from batchgen.url import parts_of

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

    @classmethod
    def load(cls, manifest_folder: Path | None = None, environ: Mapping[str, str] | None = None) -> Settings:
        """Raises SettingsError when `.env` is there and cannot be read."""
        values: dict[str, str] = {}
        warnings: list[str] = []
        if manifest_folder is not None and (manifest_folder / ".env").is_file():
            values.update(_read_env_file(manifest_folder / ".env", warnings))
        values.update(environment() if environ is None else environ)
        return cls(values, tuple(warnings))

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
    shown = "the address" if set(url) & set("@?#") else repr(url)  # it may hold a key
    try:
        parts = parts_of(url)
        if not url.isprintable() or " " in url:
            raise ValueError("holds a space or a control character")
        if not (parts.hostname or "").isascii():
            raise ValueError("has a host with letters outside of ASCII: write it as DNS does, xn--...")
    except ValueError as error:
        raise SettingsError(f"{name}: {shown} {error}; write it as https://host:port/path") from None
    if parts.scheme not in ("http", "https"):
        raise SettingsError(f"{name}: {shown} does not begin with https://")
    if parts.username or parts.password or parts.query or parts.fragment:
        raise SettingsError(
            f"{name}: leave user, password, ? and # out of the address; the key has a variable of its own"
        )
    if parts.scheme == "http" and not is_loopback(parts.hostname or ""):
        raise SettingsError(f"{name}: http would send the key in the clear to {parts.hostname}; use https")
    return url.rstrip("/")


def is_loopback(host: str) -> bool:
    """Whether a host name or address literal means this machine and nothing else."""
    return host in ("localhost", "::1") or (host.startswith("127.") and host.replace(".", "").isdigit())


def state_folder(settings: Settings) -> Path | None:
    """Where state shared between jobs lives: $XDG_STATE_HOME/batchgen or the system's own place for it.

    None when the settings know no home at all: whoever gives an environment of their own decides whether to share.
    """
    import platformdirs

    if base := settings.get("XDG_STATE_HOME"):
        return Path(base) / "batchgen"
    if not any(settings.get(name) for name in ("HOME", "USERPROFILE", "LOCALAPPDATA")):
        return None
    return Path(platformdirs.user_state_dir("batchgen", appauthor=False))


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
