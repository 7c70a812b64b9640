"""The only reader of the environment, of `.env` files and of key files."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterable, Iterator, Mapping, Set
from dataclasses import dataclass, field, replace
from pathlib import Path

from batchgen.endpoint import Endpoint, split_url
from batchgen.errors import SettingsError
from batchgen.os_errors import NO_HOME
from batchgen.safe_open import UnsafePathError, open_regular, resolve_inside

LEDGER_VARIABLE = "BATCHGEN_LEDGER"  # the address of the server that has the ledgers, perhaps with a password
SECRET_MIN_CHARS = 8  # a shorter value is never blackened: it would take ordinary words with it
NOT_FROM_DOTENV = ("HOME", "XDG_STATE_HOME")  # where quota and budgets of all jobs are counted
KEY_ENDINGS = ("_KEY", "_TOKEN")  # of a variable's name: what it holds is hidden in all output
SECRET_NAMES = ("API_KEY", "NOTIFY_", "HEARTBEAT_", "TOKEN", "SECRET", "PASSWORD", "LEDGER", "_PROXY")


def environment() -> Mapping[str, str]:
    """The process's own variables, for code that reads one that is not a batchgen setting (NO_COLOR, TERM, CI)."""
    return os.environ


def set_ledger_url(url: str | None) -> None:
    """Set BATCHGEN_LEDGER for this process and for those that it starts, so that the address is on no command line."""
    if url is None:
        os.environ.pop(LEDGER_VARIABLE, None)
    else:
        os.environ[LEDGER_VARIABLE] = url


def leave_out_pydantic_plugins() -> None:
    """Turn pydantic's plugins off for this process and those that it starts, unless the user wants them. To find plugins,
    pydantic reads what every installed package declares, which takes 5 to 20 ms, and a plugin could change how batchgen
    validates (docs.pydantic.dev, Plugins)."""
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")


def environment_without_keys() -> dict[str, str]:
    """The environment for a process that needs no key: without keys, and without addresses that may contain one."""
    return {name: value for name, value in os.environ.items() if not any(word in name.upper() for word in SECRET_NAMES)}


class Secret:
    """An API key that prints as `Secret(…)`; `reveal()` returns the key itself."""

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
    """An API key and the name of the variable it came from."""

    secret: Secret
    source: str


@dataclass(frozen=True, slots=True)
class VariableValue:
    """The value of the variable `name`. env_file: the `.env` that sets it, None if the environment does."""

    text: str = field(repr=False)
    name: str
    env_file: Path | None

    @property
    def source(self) -> str:
        return self.name if self.env_file is None else f"{self.name} in {self.env_file}"


@dataclass(frozen=True, slots=True)
class Access:
    """Where a provider's requests go, and the key that goes with them.

    base_url: None means the vendor's own. source: the variable that set it. from_dotenv: address and key come from a folder's
    `.env`. warning: shown if the user should know which key was chosen.
    """

    key: Key | None
    base_url: str | None
    source: str = ""
    warning: str | None = None
    from_dotenv: bool = False


@dataclass(frozen=True, slots=True)
class VariableSource:
    """The variables set in one place: the environment, or, if `env_file` is set, the `.env` of a folder."""

    values: Mapping[str, str] = field(repr=False)
    env_file: Path | None = None

    def find(self, name: str) -> VariableValue | None:
        """The value of a variable, or else the contents of the file that NAME_FILE names. Raises SettingsError."""
        if value := self.values.get(name):
            return VariableValue(unquote(value), name, self.env_file)
        if path := self.values.get(f"{name}_FILE"):
            named = VariableValue(path, f"{name}_FILE", self.env_file)
            return replace(named, text=unquote(_read_key_file(named)))
        return None

    def names_file(self, name: str) -> bool:
        """Whether a variable's value is the path of a regular file."""
        folder = "" if self.env_file is None else self.env_file.parent
        return os.path.isfile(os.path.join(folder, self.values[name]))

    def first(self, names: Iterable[str]) -> VariableValue | None:
        return next((found for name in names if self.values.get(name) and (found := self.find(name))), None)

    def keys(self, names: Iterable[str]) -> list[Key]:
        """Raises SettingsError."""
        found = [found for name in names if (found := self.find(name)) is not None]
        return [Key(Secret(_check_key(each)), each.source) for each in found]


@dataclass(frozen=True, slots=True)
class Settings:
    """The variables of the environment, and those of the `.env` beside the manifest, which never override them.

    That folder may have come from a stranger. So `get` and `text` only read the environment, `access` never combines an address
    from one place with a key from the other, and callers of `find` have to check where the value came from.
    """

    values: Mapping[str, str] = field(repr=False)  # of the environment, keys included
    warnings: tuple[str, ...] = ()
    dotenv: VariableSource | None = None
    from_process: bool = False  # this process's own environment, not one that a caller passed

    @classmethod
    def load(cls, manifest_folder: Path | None = None, environ: Mapping[str, str] | None = None) -> Settings:
        """Raises SettingsError if there is a `.env` that cannot be read."""
        warnings: list[str] = []
        dotenv = None
        if manifest_folder is not None and (path := manifest_folder / ".env").is_file():
            dotenv = VariableSource(_read_env_file(path, warnings), path)
            ignored = [name for name in NOT_FROM_DOTENV if dotenv.values.get(name)]
            warnings += [f"{name} in {path} is not used: set it in the environment" for name in ignored]
        values = dict(environment() if environ is None else environ)
        return cls(values, tuple(warnings), dotenv, from_process=environ is None)

    @property
    def _sources(self) -> tuple[VariableSource, ...]:
        own = VariableSource(self.values)
        return (own,) if self.dotenv is None else (own, self.dotenv)

    def get(self, name: str) -> str | None:
        """The value of an environment variable, None if it is unset or empty."""
        return self.values.get(name) or None

    def text(self, name: str) -> str | None:
        """The value of an environment variable, or else the contents of the file that NAME_FILE names. Raises SettingsError."""
        found = self._sources[0].find(name)
        return found.text or None if found is not None else None

    def find(self, name: str) -> VariableValue | None:
        """The value from the environment, or else from `.env`, which may be a stranger's: check where it was found. Raises
        SettingsError."""
        found = next((found for source in self._sources if (found := source.find(name)) is not None), None)
        return found if found is not None and found.text else None

    def is_set(self, name: str) -> bool:
        """Whether NAME or NAME_FILE is set anywhere."""
        return any(source.values.get(each) for source in self._sources for each in (name, f"{name}_FILE"))

    def access(self, endpoint: Endpoint) -> Access:
        """Where an API's requests go, and with which key. Raises SettingsError on a bad address or key file.

        An address in `.env` is only used with a key from the same file: otherwise its author would be sent the user's key.
        """
        names, addresses = endpoint.key_names, endpoint.base_url_names
        address = next((found for source in self._sources if (found := source.first(addresses)) is not None), None)
        if address is None or address.env_file is None or self.dotenv is None:
            keys = self._keys(names)
        elif not (keys := self.dotenv.keys(names)):
            raise SettingsError(
                f"{address.source} would send your key to {address.text}. If that is what you want, set {address.name} in the"
                f" environment; otherwise put a key for that address into the same .env, as {names[0]}"
            )
        key = keys[0] if keys else None
        if address is None:
            return Access(key, None, warning=_unused_keys_warning(keys))
        url, from_dotenv = check_base_url(address.text, address.source), address.env_file is not None
        return Access(key, url, address.source, _unused_keys_warning(keys), from_dotenv)

    def _keys(self, names: Iterable[str]) -> list[Key]:
        """The keys with these names, those of the environment first. `.env` counts for names that the environment lacks."""
        own, *dotenv = self._sources
        left = [name for name in names if not self.get(name) and not self.get(f"{name}_FILE")]
        return [*own.keys(names), *(key for source in dotenv for key in source.keys(left))]

    @property
    def dotenv_base_urls(self) -> list[str]:
        """The variables in `.env` that set where requests go, including for providers that this job does not use."""
        return [name for name in (self.dotenv.values if self.dotenv is not None else ()) if name.endswith("_BASE_URL")]

    def all_keys(self, names: Set[str] = frozenset()) -> set[str]:
        """The values of all variables that are named like a key or have one of these names, and of the files they name. What
        cannot be read is left out."""
        named = {*names, *(f"{name}_FILE" for name in names)}
        found = set[str]()
        for source in self._sources:
            for name in source.values:
                # A pipe is not read: it gives its contents only once.
                if not (name in named or name.removesuffix("_FILE").endswith(KEY_ENDINGS)):
                    continue
                if not name.endswith("_FILE") or source.names_file(name):
                    with contextlib.suppress(SettingsError):
                        key = source.find(name.removesuffix("_FILE"))
                        found |= {key.text} if key is not None else set()
        return found


def _unused_keys_warning(keys: list[Key]) -> str | None:
    if len({key.secret.reveal() for key in keys}) < 2:
        return None
    others = ", ".join(key.source for key in keys[1:])
    return f"{keys[0].source} is used; {others} is set to another key and is not"


def _read_key_file(named: VariableValue) -> str:
    """The contents of a key file. One named in `.env` must be in the same folder, so that no other file can be sent away."""
    try:
        if named.env_file is None:
            return Path(named.text).read_text(encoding="utf-8-sig")  # Windows writes a byte order mark
        folder = os.path.realpath(named.env_file.parent)
        inside = os.path.relpath(os.path.realpath(named.text), folder) if os.path.isabs(named.text) else named.text
        with open_regular(resolve_inside(folder, inside)) as file:
            return file.read().decode("utf-8-sig")
    except UnsafePathError as error:
        raise SettingsError(
            f"{named.source}: {named.text} {error}: put the file there, or set {named.name} in the environment"
        ) from None
    except (OSError, ValueError) as error:  # a NUL in a path is a ValueError
        raise SettingsError(f"{named.source}: cannot read {named.text}: {_error_text(error)}") from None


def check_base_url(url: str, name: str) -> str:
    """`url` without a slash at its end. Raises SettingsError unless it is https, or http to this very machine."""
    shown = "the address" if set(url) & set("@?#") else repr(url)  # it may hold a key
    try:
        parts = split_url(url)
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
    """The folder for state that jobs share: the first of `state_folders` that can be written to, or else the usual one.

    None if the settings name no home at all: a caller who passes an environment decides whether to share.
    """
    folders = list(state_folders(settings))
    return next(filter(is_writable, folders), folders[0] if folders else None)


def state_folders(settings: Settings) -> Iterator[Path]:
    """The folders that shared state may be in, the usual one first: only $XDG_STATE_HOME/batchgen if that is set; otherwise the
    system's usual place below HOME, then below the home in the password database, then systemd's $STATE_DIRECTORY.

    A relative path does not count: it would mean another folder in every working directory. Sources: XDG Base Directory
    Specification 0.8 ("should consider the path invalid and ignore it"); systemd.exec(5), StateDirectory=.
    """
    base = settings.get("XDG_STATE_HOME") or ""
    if os.path.isabs(base):
        yield Path(base) / "batchgen"
        return
    if settings.from_process or any(settings.get(name) for name in ("HOME", "USERPROFILE", "LOCALAPPDATA")):
        yield from _user_state_folder()
    if settings.from_process and (home := _passwd_home()):
        yield Path(home, ".local", "state", "batchgen")
    for folder in (settings.get("STATE_DIRECTORY") or "").split(":"):
        if os.path.isabs(folder):
            yield Path(folder) / "batchgen"


def is_writable(folder: Path) -> bool:
    """Whether a folder exists and can be written to, or could be created. Nothing is created."""
    existing = next((path for path in (folder, *folder.parents) if os.path.exists(path)), folder)
    return existing.is_dir() and os.access(existing, os.W_OK | os.X_OK)


def _user_state_folder() -> Iterator[Path]:
    import platformdirs  # `--help` needs no folder

    with contextlib.suppress(RuntimeError):  # neither HOME nor the password entry says where home is
        folder = Path(platformdirs.user_state_dir("batchgen", appauthor=False))
        if folder.is_absolute():
            yield folder


def config_home() -> Path:
    """The folder for the user's settings of all programs. Raises SettingsError if no absolute path to a home is known."""
    base, home = os.environ.get("XDG_CONFIG_HOME") or "", os.path.expanduser("~")
    if os.path.isabs(base):
        return Path(base)
    home = home if os.path.isabs(home) else _passwd_home()
    if not home:
        raise SettingsError(NO_HOME)
    return Path(home, ".config")


def _passwd_home() -> str:
    """The home folder of this process's user in the password database, empty if there is none or it is not absolute."""
    try:
        import pwd  # not on Windows

        home = pwd.getpwuid(os.getuid()).pw_dir
    except (ImportError, KeyError):
        return ""
    return home if os.path.isabs(home) else ""


def unquote(text: str) -> str:
    """`text` without surrounding spaces and quotes; `docker --env-file` leaves the quotes in."""
    text = text.strip()
    return text[1:-1].strip() if len(text) >= 2 and text[0] == text[-1] and text[0] in "'\"" else text


def hideable(values: Iterable[str]) -> set[str]:
    return {value for value in values if len(value) >= SECRET_MIN_CHARS}


def _check_key(found: VariableValue) -> str:
    key = found.text
    if not key or not key.isascii() or not key.isprintable() or " " in key:
        raise SettingsError(
            f"{found.source}: not a valid API key (empty, or contains spaces, control characters or characters beyond ASCII)"
        )
    return key


def _read_env_file(path: Path, warnings: list[str]) -> dict[str, str]:
    """`NAME=value` lines; `export`, quotes and `#` comments as shells have them; nothing is expanded."""
    try:
        with open_regular(resolve_inside(os.path.realpath(path.parent), path.name)) as file:
            text, mode = file.read().decode("utf-8-sig"), os.fstat(file.fileno()).st_mode
    except UnsafePathError as error:
        raise SettingsError(f"{path}: {error}: copy it, or set its variables in the environment") from None
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path}: cannot be read: {_error_text(error)}") from None
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


def _error_text(error: Exception) -> str:
    if isinstance(error, UnicodeDecodeError):
        return "it is not UTF-8 text"
    return error.strerror or str(error) if isinstance(error, OSError) else str(error)
