"""What becomes of a sample after a request that brought no picture, for the ledger and the observers."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Requeued:
    delay_s: float


@dataclass(frozen=True, slots=True)
class GivenUp:
    pass


@dataclass(frozen=True, slots=True)
class Returned:
    """The sample goes back untried because its lane or the run stopped; a later run takes it."""


@dataclass(frozen=True, slots=True)
class PassedOn:
    """The sample goes on in the lane of a fallback."""

    lane: str


Settlement = Requeued | GivenUp | Returned | PassedOn
