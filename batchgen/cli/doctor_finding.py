"""One line of `batchgen doctor`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Verdict = Literal["ok", "warn", "fail"]


@dataclass(frozen=True, slots=True)
class Finding:
    """remedy: what to do, empty when all is well."""

    verdict: Verdict
    what: str
    says: str
    remedy: str = ""
