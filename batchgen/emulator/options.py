"""What an emulator can be asked to do differently from its defaults."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from batchgen.emulator.batch_options import BatchOptions
from batchgen.emulator.faults import KNOWN

Span = tuple[float, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class EmulatorOptions:
    """How the emulator behaves. Everything random is drawn from `seed`, the prompt and the attempt, never from the
    order of arrival, so that two runs of one manifest meet the same latencies and faults.

    latency_s: seconds (least, most) that an answer takes; latency_s_by_model wins.
    rpm, rpd: requests per sliding minute and per day, for each (key, AI model); None = 60 for flash-class and 15 for
    pro-class AI models; 0 = no limit. minute_s: length of that minute, for tests with little time.
    rejected_counts: a request answered 429 uses up quota too.
    faults: name -> probability per request. fault_delay_s: the RetryInfo of a 429 that a fault asks for.
    drip_s: how long a slow answer takes to arrive. picture: "tiny" has a longest side of 64; picture_px overrides it.
    signature_bytes: of a thought signature before base64 (recorded answers of the vendor carry about 0.8 MB).
    serve_retired: answer for AI models that the vendor has shut down. serve_512: `gemini-nano-banana-2.1` takes "512"
    (public reports disagree).
    file_life_s: how long an uploaded file lives; file_processing_s: how long it is PROCESSING before it is ACTIVE.
    models: the only AI models that are listed, and of Google's that keys may use, empty for all. credit: what an AIML
    account has before its first picture. tiers: what a serviceTier meets, by its
    name in lower case: 400 not offered, 429 or 503 no capacity, 200 served as standard.
    upload_granularity_bytes: pieces of an upload, but the last, are multiples of it. batch: of the Batch API.
    """

    latency_s: Span = (0.3, 0.9)
    latency_s_by_model: Mapping[str, Span] = field(default_factory=dict)
    rpm: int | None = None
    rpm_by_model: Mapping[str, int] = field(default_factory=dict)
    rpd: int = 0
    rpd_by_model: Mapping[str, int] = field(default_factory=dict)
    minute_s: float = 60.0
    rejected_counts: bool = False
    faults: Mapping[str, float] = field(default_factory=dict)
    fault_delay_s: float = 1.0
    drip_s: float = 2.0
    seed: int = 0
    picture: Literal["full", "tiny"] = "full"
    picture_px: int | None = None
    signature_bytes: int = 2048
    serve_retired: bool = True
    serve_512: bool = False
    max_request_bytes: int = 20 * 1024 * 1024
    models: tuple[str, ...] = ()
    credit: int = 1_000_000_000
    tiers: Mapping[str, int] = field(default_factory=dict)
    file_life_s: float = 48 * 3600.0
    file_processing_s: float = 0.0
    upload_granularity_bytes: int = 8 * 1024 * 1024
    batch: BatchOptions = field(default_factory=BatchOptions)

    def __post_init__(self) -> None:
        for name, rate in self.faults.items():
            if name not in KNOWN:
                raise ValueError(f"unknown fault {name!r}; known: {', '.join(sorted(KNOWN))}")
            if not 0 <= rate <= 1:
                raise ValueError(f"fault {name}: a probability lies between 0 and 1, got {rate}")
        if sum(self.faults.values()) > 1:
            raise ValueError("the probabilities of all faults together exceed 1")
        for tier, status in self.tiers.items():
            if tier not in ("flex", "priority") or status not in (200, 400, 429, 503):
                raise ValueError(f"tier {tier}={status}: expected flex or priority, and 200, 400, 429 or 503")
        for least_s, most_s in (self.latency_s, *self.latency_s_by_model.values()):
            if not 0 <= least_s <= most_s:
                raise ValueError(f"latency {least_s}-{most_s}: expected 0 <= least <= most")

    @property
    def longest_px(self) -> int | None:
        """The longest side of every picture, or None for the vendor's own sizes."""
        if self.picture_px is not None:
            return self.picture_px
        return 64 if self.picture == "tiny" else None

    def latency_of(self, model: str) -> Span:
        return self.latency_s_by_model.get(model, self.latency_s)

    def rpm_of(self, model: str) -> int:
        """Requests per minute for this AI model; 0 = no limit."""
        if model in self.rpm_by_model:
            return self.rpm_by_model[model]
        if self.rpm is not None:
            return self.rpm
        return 15 if "pro" in model or "ultra" in model else 60

    def rpd_of(self, model: str) -> int:
        return self.rpd_by_model.get(model, self.rpd)
