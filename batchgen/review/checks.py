"""What a check of an image is, which checks there are, and what their options are. Pure; a check's own code is imported only in the
process that looks at images (`review/examine.py`).

A package adds checks through entry points of the group `batchgen.checks`: name = "package.module:CHECK", a `CheckType`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from importlib.util import find_spec
from typing import Any, Literal

from batchgen.errors import UsageError
from batchgen.item import Check
from batchgen.profiles.packages import installed, package_of
from batchgen.records import Ruling

CHECKS = "batchgen.checks"  # the group of entry points
FAILED = "check_failed"  # reason of a verdict that says nothing of the image: the check itself did not work


@dataclass(frozen=True, slots=True, kw_only=True)
class Option:
    """One option of a check, as a manifest may give it. default: None where there is nothing to fall back on. least, most: of
    a number. choices: of a text, all that it may be; empty where it is free."""

    kind: Literal["number", "integer", "text", "switch"]
    description: str
    default: float | int | str | bool | None = None
    least: float | None = None
    most: float | None = None
    choices: tuple[str, ...] = ()
    pattern: str = ""  # that a text matches whole


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckType:
    """A check as a manifest, a plan and a worker process know it.

    examine: "package.module:function" of the pure function `(CheckImage, options, Asked) -> Finding`. version: raise it when the same
    options find something else, and images are checked again. main: the option that a short form gives, `sharp: 40`. needed: options
    of which one must be given. modules: what must be installed, with which extra.
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


BUILT_IN: Mapping[str, CheckType] = {
    each.name: each
    for each in (
        CheckType(
            name="blank",
            description="Is the image of one colour, or as good as that, or wholly transparent?",
            examine="batchgen.review.pixels:blank",
        ),
        CheckType(
            name="twin",
            description="Is it the same as another image of the job, or as one of its own references?",
            examine="batchgen.review.pixels:twin",
            options={
                "distance": Option(
                    kind="integer",
                    description="How many of the 64 bits of its perceptual hash may differ.",
                    default=6,
                    least=0,
                    most=7,
                )
            },
            main="distance",
        ),
    )
}


def check_type(name: str) -> CheckType:
    """The check of this name. Raises UsageError naming those there are."""
    if name in BUILT_IN:
        return BUILT_IN[name]
    point = installed(CHECKS).get(name)
    if point is None:
        raise UsageError(f"there is no check {name!r}; there are {', '.join(check_names())}")
    try:
        found = point.load()
    except Exception as error:  # whatever a third party's module does on import
        raise UsageError(f"check {name!r} of {package_of(point)} cannot be loaded: {error}") from error
    if not isinstance(found, CheckType) or found.name != name:
        raise UsageError(f"check {name!r} of {package_of(point)}: {point.value} is not a CheckType of this name")
    return found


def check_names() -> list[str]:
    """All there are, ours first."""
    return list(dict.fromkeys([*BUILT_IN, *sorted(installed(CHECKS))]))


@lru_cache(maxsize=4096)
def basis_of(check: Check) -> str:
    """Hash of all that makes its finding what it is beside the image: name, version and options; not of what follows from it. The
    verdict of another basis is out of date. Raises UsageError."""
    kind = check_type(check.name)
    text = json.dumps([kind.name, kind.version, kind.values(dict(check.options))], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def ruling_of(check: Check, finding: Finding) -> Ruling:
    """What follows for the image."""
    if not finding.reason:
        return "accept"
    return "reject" if check.rejects and finding.reason != FAILED else "warn"


@lru_cache
def _is_installed(module: str) -> bool:
    return find_spec(module) is not None
