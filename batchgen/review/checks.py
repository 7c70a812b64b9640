"""Which checks of images there are, ours and those of packages. Pure; a check's own code is imported only in the process that looks
at images (`review/examine.py`).

A package adds checks through entry points of the group `batchgen.checks`: name = "package.module:CHECK", a `CheckType`.
"""

from __future__ import annotations

import hashlib
import json
from functools import lru_cache

from batchgen.errors import UsageError
from batchgen.item import Check
from batchgen.profiles.packages import installed, package_of
from batchgen.records import Ruling
from batchgen.review.built_in import BUILT_IN
from batchgen.review.check_type import Asked as Asked
from batchgen.review.check_type import CheckType, Finding

CHECKS = "batchgen.checks"  # the group of entry points
FAILED = "check_failed"  # reason of a verdict that says nothing of the image: the check itself did not work


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
