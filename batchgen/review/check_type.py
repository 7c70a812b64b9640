"""What a check is: a declaration as data, what it is asked, and what it answers. What a package that adds one imports."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field
from functools import lru_cache
from importlib.util import find_spec
from typing import Any, Literal

from batchgen.dataclass import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Option:
    """One option of a check, as a manifest may give it. default: None where there is nothing to fall back on. least, most: of
    a number. choices: of a text, all that it may be; empty where it is free. pattern: that a text matches whole, which `form` says
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

    examine: "package.module:function" of the pure function `(CheckImage, options, Asked) -> Finding`. version: raise it when the same
    options find something else, and images are checked again. main: the option that a short form gives, `sharp: 40`. needed: options
    of which one must be given. modules: what must be installed; extra: of batchgen, which brings it.
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
        """Every option's value: as given, else its default."""
        return {name: given.get(name, option.default) for name, option in self.options.items()}

    def missing(self) -> tuple[str, ...]:
        """Modules that are not installed."""
        return tuple(name for name in self.modules if not _is_installed(name))


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What was asked for, as far as a check may need it. expected: pixels that the vendor documents for this size and ratio, None where
    it does not."""

    prompt: str = ""
    aspect_ratio: str | None = None
    expected: tuple[int, int] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What a check found. reason: a slug, empty when nothing is wrong; message: in words. score: what was measured."""

    reason: str = ""
    message: str = ""
    score: float | None = None
    details: Mapping[str, Any] = field(default_factory=dict)


@lru_cache
def _is_installed(module: str) -> bool:
    return find_spec(module) is not None
