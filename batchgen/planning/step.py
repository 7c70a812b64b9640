"""What becomes of samples: made, moved, kept or left."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from batchgen.planning.reason import Reason
from batchgen.records import Sample

Action = Literal["generate", "move", "keep", "skip"]


@dataclass(frozen=True, slots=True)
class Move:
    """A picture that exists and belongs under another name, or came back into the manifest. Costs nothing.

    image: its attempt and number there. found: it lies where the ledger does not know of, and was found by its bytes.
    """

    sample: Sample
    old: str
    new: str
    bytes: int
    image: tuple[int, int]
    found: bool = False


@dataclass(frozen=True, slots=True)
class Step:
    """What becomes of one request's worth of samples, and why. usd: estimate, None when the price is unknown."""

    sample: Sample
    action: Action
    reason: Reason
    usd: float | None = 0.0
    move: Move | None = None
