"""What a check is: a declaration as data, what it is given, and what it returns. Packages that add checks import
this."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from importlib.util import find_spec
from typing import Any, Literal


@dataclass(frozen=True, slots=True, kw_only=True)
class Option:
    """An option of a check in a manifest. default: None if there is no default. least, most: limits of a number.
    choices: the possible values of a text, empty if it is free. pattern: must match the whole text, and `form` says so
    in words: "must be …"."""

    kind: Literal["number", "integer", "text", "switch"]
    description: str
    default: float | int | str | bool | None = None
    least: float | None = None
    most: float | None = None
    choices: tuple[str, ...] = ()
    pattern: str = ""
    form: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckType:
    """A check as a manifest, a plan and a worker process know it.

    examine: "package.module:function" of the pure function `(CheckImage, options, Asked) -> Finding`. version: raise it
    if the same options find something else, so that images are checked again. main: the option that a short form sets,
    `sharp: 40`. needed: options of which one must be given. modules: what must be installed. extra: batchgen's, which
    installs them.
    """

    name: str
    description: str
    examine: str
    version: int = 1
    options: Mapping[str, Option] = field(default_factory=dict)
    main: str = ""
    needed: tuple[str, ...] = ()
    modules: tuple[str, ...] = ()
    extra: str = ""

    def values(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """The value of every option, given or default."""
        return {name: given.get(name, option.default) for name, option in self.options.items()}

    def missing(self) -> tuple[str, ...]:
        """The modules that are not installed."""
        return tuple(name for name in self.modules if not _is_installed(name))


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What was requested, as far as a check may need it. expected: the pixels that the vendor documents for this size
    and ratio, None if it does not."""

    prompt: str = ""
    aspect_ratio: str | None = None
    expected: tuple[int, int] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """The result of a check. reason: a slug, empty if nothing is wrong. message: in words. score: what was measured."""

    reason: str = ""
    message: str = ""
    score: float | None = None
    details: Mapping[str, Any] = field(default_factory=dict)


@lru_cache
def _is_installed(module: str) -> bool:
    return find_spec(module) is not None
