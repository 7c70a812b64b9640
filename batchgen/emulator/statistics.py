"""What the emulator counted: enough to prove what was billed and that a quota was never overrun."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain, count
from typing import Any

_KEPT = 100_000


@dataclass(slots=True)
class Visit:
    """One generation request. at_s: since the start of the emulator; status 0: no answer was sent."""

    n: int
    at_s: float
    model: str = ""
    prompt: str = ""
    status: int = 0
    delivered: bool = False
    billed_images: int = 0
    sha256: tuple[str, ...] = ()


@dataclass(slots=True)
class Statistics:
    """requests: arrivals; answered: answers of any status sent; billed: requests that the vendor would charge.

    uploads: files that arrived whole; uploaded_bytes: what was taken for them, and for those that did not.
    created: batches per display name; answered_keys: lines of batches answered, per key; lines: what was billed for
    them. billed and billed_images have requests and lines alike, everything else that counts has requests only.
    """

    minute_s: float = 60.0
    requests: int = 0
    answered: int = 0
    succeeded: int = 0
    billed: int = 0
    billed_images: int = 0
    refused_429: int = 0
    uploads: int = 0
    uploaded_bytes: int = 0
    in_flight: int = 0
    max_in_flight: int = 0
    visits: deque[Visit] = field(default_factory=lambda: deque(maxlen=_KEPT))
    created: Counter[str] = field(default_factory=Counter)
    answered_keys: Counter[str] = field(default_factory=Counter)
    lines: deque[Visit] = field(default_factory=lambda: deque(maxlen=_KEPT))
    numbers: Iterator[int] = field(default_factory=lambda: count(1))

    def clear(self) -> None:
        """Start anew; requests in flight stay counted as such."""
        self.requests = self.answered = self.succeeded = self.billed = self.billed_images = self.refused_429 = 0
        self.uploads = self.uploaded_bytes = 0
        self.max_in_flight = self.in_flight
        for kept in (self.visits, self.lines, self.created, self.answered_keys):
            kept.clear()
        self.numbers = count(1)

    def arrive(self, at_s: float) -> Visit:
        self.requests += 1
        self.in_flight += 1
        self.max_in_flight = max(self.max_in_flight, self.in_flight)
        visit = Visit(next(self.numbers), at_s)
        self.visits.append(visit)
        return visit

    def bill(self, visit: Visit, images: int, sha256: Sequence[str]) -> None:
        visit.sha256 = tuple(sha256)
        visit.billed_images = images
        self.billed += 1 if images else 0
        self.billed_images += images

    def line(self, key: str, visit: Visit) -> None:
        """A line of a batch is answered; its visit is delivered when a client can get at it."""
        self.answered_keys[key] += 1
        self.lines.append(visit)
        self.bill(visit, visit.billed_images, visit.sha256)

    def leave(self, visit: Visit, status: int) -> None:
        """The answer is about to be sent; status 0 when there will be none."""
        self.in_flight -= 1
        visit.status = status
        visit.delivered = bool(status)
        self.answered += 1 if status else 0
        self.succeeded += 1 if 200 <= status < 300 else 0
        self.refused_429 += 1 if status == 429 else 0

    def images_of(self, models: Container[str]) -> int:
        """Pictures billed for any of these AI models."""
        return sum(visit.billed_images for visit in self.visits if visit.model in models)

    def lost(self, visit: Visit) -> None:
        """The client had gone before its answer was written."""
        visit.delivered = False
        self.answered -= 1

    def as_json(self) -> dict[str, Any]:
        names = sorted({visit.model for visit in self.visits})
        return {
            "requests": self.requests,
            "answered": self.answered,
            "succeeded": self.succeeded,
            "billed": self.billed,
            "billed_images": self.billed_images,
            "refused_429": self.refused_429,
            "uploads": self.uploads,
            "uploaded_bytes": self.uploaded_bytes,
            "batches_created": self.created.total(),
            "batch_lines": self.answered_keys.total(),
            "in_flight": self.in_flight,
            "max_in_flight": self.max_in_flight,
            "minute_s": self.minute_s,
            "by_model": {name: self._model(name) for name in names},
            "max_per_minute": {name: self.max_per_minute(name) for name in names},
            "arrivals": [[round(visit.at_s, 4), visit.model, visit.status] for visit in self.visits],
        }

    def _model(self, name: str) -> dict[str, int]:
        visits = [visit for visit in self.visits if visit.model == name]
        return {
            "requests": len(visits),
            "succeeded": sum(200 <= visit.status < 300 for visit in visits),
            "billed": sum(visit.billed_images > 0 for visit in visits),
            "billed_images": sum(visit.billed_images for visit in visits),
            "refused_429": sum(visit.status == 429 for visit in visits),
        }

    def max_per_minute(self, model: str) -> int:
        """Most arrivals of one AI model within any sliding minute, rejected ones included."""
        times_s = sorted(visit.at_s for visit in self.visits if visit.model == model)
        most, first = 0, 0
        for last, at_s in enumerate(times_s):
            while times_s[first] <= at_s - self.minute_s:
                first += 1
            most = max(most, last - first + 1)
        return most

    def served_json(self) -> list[dict[str, Any]]:
        return [
            {
                "n": visit.n,
                "model": visit.model,
                "prompt": visit.prompt,
                "sha256": list(visit.sha256),
                "delivered": visit.delivered,
            }
            for visit in chain(self.visits, self.lines)
            if visit.sha256
        ]
