"""What the server counts: quotas per key and AI model, and the statistics by which tests prove what was billed."""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter, defaultdict, deque
from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass, field, fields
from itertools import chain, count
from typing import Any

_DAY_S = 86_400.0
_KEPT = 100_000


@dataclass(frozen=True, slots=True)
class QuotaExceeded:
    """A request beyond its quota.

    window: "Minute" or "Day". retry_s: until the oldest request leaves the window.
    """

    window: str
    limit: int
    retry_s: float


class Quotas:
    """A sliding log per (API key, AI model). Times are seconds on one monotonic clock, nearly ascending."""

    def __init__(self, minute_s: float = 60.0, *, rejected_counts: bool = False) -> None:
        self._minute_s = minute_s
        self._rejected_counts = rejected_counts
        self._starts_s: defaultdict[tuple[str, str, str], deque[float]] = defaultdict(deque)

    def admit(self, key: str, model: str, now_s: float, *, rpm: int, rpd: int) -> QuotaExceeded | None:
        """Count the request and return None if it may pass; a limit of 0 means none."""
        exceeded: QuotaExceeded | None = None
        counted: list[deque[float]] = []
        for window, length_s, limit in (("Day", _DAY_S, rpd), ("Minute", self._minute_s, rpm)):
            if not limit:
                continue
            starts_s = self._starts_s[key, model, window]
            while starts_s and starts_s[0] <= now_s - length_s:
                starts_s.popleft()
            if exceeded is None and len(starts_s) >= limit:
                # The log may hold requests beyond the limit where rejected ones count too.
                exceeded = QuotaExceeded(window, limit, max(0.001, starts_s[-limit] + length_s - now_s))
            counted.append(starts_s)
        if exceeded is None or self._rejected_counts:
            for starts_s in counted:
                starts_s.append(now_s)
        return exceeded

    def clear(self) -> None:
        self._starts_s.clear()


@dataclass(slots=True)
class RequestRecord:
    """One generation request, or one line of a batch. at_s: since the emulator's start; status 0: no answer was
    sent."""

    n: int
    at_s: float = 0.0
    model: str = ""
    prompt: str = ""
    status: int = 0
    delivered: bool = False
    billed_images: int = 0
    sha256: tuple[str, ...] = ()


@dataclass(slots=True)
class Statistics:
    """requests: arrivals; answered: answers of any status sent; billed: requests that the vendor would charge.

    billed and billed_images have requests and batch lines alike, everything else that counts has requests only.
    uploads: files that arrived whole; uploaded_bytes: what was taken for them, and for those that did not.
    created: batches per display name; answered_keys: lines of batches answered, per key; lines: their records.
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
    records: deque[RequestRecord] = field(default_factory=lambda: deque(maxlen=_KEPT))
    created: Counter[str] = field(default_factory=Counter)
    answered_keys: Counter[str] = field(default_factory=Counter)
    lines: deque[RequestRecord] = field(default_factory=lambda: deque(maxlen=_KEPT))
    numbers: Iterator[int] = field(default_factory=lambda: count(1))

    def clear(self) -> None:
        """Count everything from zero again; requests in flight stay counted as such."""
        fresh = Statistics(self.minute_s, in_flight=self.in_flight, max_in_flight=self.in_flight)
        for one in fields(self):
            setattr(self, one.name, getattr(fresh, one.name))

    def arrive(self, at_s: float, model: str = "") -> RequestRecord:
        self.requests += 1
        self.in_flight += 1
        self.max_in_flight = max(self.max_in_flight, self.in_flight)
        record = RequestRecord(next(self.numbers), at_s, model)
        self.records.append(record)
        return record

    def bill(self, record: RequestRecord, images: int, sha256: Sequence[str]) -> None:
        record.sha256 = tuple(sha256)
        record.billed_images = images
        self.billed += bool(images)
        self.billed_images += images

    def add_line(self, key: str, record: RequestRecord) -> None:
        """Record the answer to a line of a batch; it is delivered once a client can get at it."""
        self.answered_keys[key] += 1
        self.lines.append(record)
        self.bill(record, record.billed_images, record.sha256)

    def leave(self, record: RequestRecord, status: int) -> None:
        """Record that the answer is about to be sent."""
        self.in_flight -= 1
        record.status = status
        record.delivered = bool(status)
        self.answered += bool(status)
        self.succeeded += 200 <= status < 300
        self.refused_429 += status == 429

    def lost(self, record: RequestRecord) -> None:
        """Record that there will be no answer, or that the client had gone before it was written."""
        if record.delivered:
            record.delivered = False
            self.answered -= 1
        else:
            self.leave(record, 0)

    def images_of(self, models: Container[str]) -> int:
        """The pictures billed for any of these AI models."""
        return sum(record.billed_images for record in self.records if record.model in models)

    def max_per_minute(self, model: str) -> int:
        """The most arrivals of one AI model within any sliding minute, rejected ones included."""
        times_s = sorted(record.at_s for record in self.records if record.model == model)
        before = [bisect_right(times_s, at_s - self.minute_s) for at_s in times_s]
        return max((position - first for position, first in enumerate(before, 1)), default=0)

    def as_json(self) -> dict[str, Any]:
        counts = {one.name: getattr(self, one.name) for one in fields(self)}
        return {
            **{name: value for name, value in counts.items() if isinstance(value, (int, float))},
            "batches_created": self.created.total(),
            "batch_lines": self.answered_keys.total(),
            "max_per_minute": {name: self.max_per_minute(name) for name in sorted({one.model for one in self.records})},
            "arrivals": [[round(record.at_s, 4), record.model, record.status] for record in self.records],
        }

    def served_json(self) -> list[dict[str, Any]]:
        shown = ("n", "model", "prompt", "sha256", "delivered")
        served = (record for record in chain(self.records, self.lines) if record.sha256)
        return [{name: getattr(record, name) for name in shown} for record in served]
