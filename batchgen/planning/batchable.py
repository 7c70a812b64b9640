"""Decides which samples may go through a batch API, how many make a chunk, and how long to wait between polls. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from batchgen.planning.plan import expected_bytes
from batchgen.planning.reason import Reason, ReasonKind
from batchgen.profiles.price import reference_tokens
from batchgen.profiles.profile import Profile
from batchgen.records import Item, Sample

BatchMode = Literal["online", "batch", "auto"]  # how a run's work is carried out
BATCH_LANE_SUFFIX = ":batch"  # in a lane of its own, `PROVIDER:batch/MODEL`, as a batch API has its own quotas

# A chunk's results are one file. 150 images of 2K, 1.2 GB, could not be downloaded any more when they came inline
# (discuss.ai.google.dev/174261); a file may have 2 GB (ai.google.dev/gemini-api/docs/batch-api).
MAX_RESULT_BYTES = 1_000_000_000
UNKNOWN_REFERENCE_TOKENS = 1120  # for a model without a known figure: the highest of any model
MAX_CHUNK_REQUESTS = 2000
MAX_OPEN_BATCHES = 90  # of the 100 that one project may have at once (ai.google.dev/gemini-api/docs/rate-limits)
FIRST_POLL_S, MAX_POLL_S = 5.0, 300.0


def batch_lane(provider: str, model: str) -> str:
    return f"{provider}{BATCH_LANE_SUFFIX}/{model}"


def is_batch(lane: str) -> bool:
    return lane.partition("/")[0].endswith(BATCH_LANE_SUFFIX)


def online_lane(lane: str) -> str:
    """The lane of the same AI model that sends one request per sample; the lane itself if it is one."""
    provider, slash, model = lane.partition("/")
    return f"{provider.removesuffix(BATCH_LANE_SUFFIX)}{slash}{model}"


def online_only_reason(item: Item, has_batch: bool, batch_mode: BatchMode, depends_on: Sequence[str]) -> Reason | None:
    """Why this item cannot go through a batch API; None if it can.

    has_batch: its codec supports one. depends_on: keys of samples that have to be made before it.
    """
    if not has_batch:
        return Reason(ReasonKind.NO_BATCH_API, (item.provider,))
    if item.turn > 1:
        return Reason(ReasonKind.LATER_TURN)
    if item.service_tier not in (None, "standard"):
        return Reason(ReasonKind.SERVICE_TIER, (str(item.service_tier),))
    if batch_mode == "auto" and depends_on:
        return Reason(ReasonKind.AWAITS, others=(depends_on[0],))
    return None


@dataclass(frozen=True, slots=True, kw_only=True)
class ChunkLimits:
    """The most that one chunk may contain. tokens: estimated, of its prompts; None: no limit is known."""

    requests: int = MAX_CHUNK_REQUESTS
    result_bytes: int = MAX_RESULT_BYTES
    tokens: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchOptions:
    """batch_mode: auto sends online what a batch cannot do. wait: for the results; otherwise submit, collect what is
    there, and leave.

    fallback_at: UTC seconds after which whatever no batch has delivered is made online; submit_until: after which
    whatever is in no batch yet is. poll_s: between the first two polls of a batch. listing_grace_s: how long a batch
    that may have been created gets to appear in the list of batches. resend: repeat what a batch has failed at.
    hold_uncertain: but not what may have been billed.
    """

    batch_mode: BatchMode = "online"
    wait: bool = True
    fallback_at: float | None = None
    submit_until: float | None = None
    limits: ChunkLimits = field(default_factory=ChunkLimits)
    poll_s: float = 5.0
    listing_grace_s: float = 60.0
    resend: bool = True
    hold_uncertain: bool = False


@dataclass(slots=True)
class ChunkSize:
    """The size of the samples collected for a chunk. usd: None if any price is unknown."""

    requests: int = 0
    result_bytes: int = 0
    tokens: int = 0

    def add_if_fits(self, sample: Sample, profile: Profile, limits: ChunkLimits) -> bool:
        """Add a sample if it fits, and return whether it did. The first one always fits."""
        more = estimate_result_bytes(sample, profile), estimate_prompt_tokens(sample, profile)
        fits = (
            self.requests < limits.requests
            and self.result_bytes + more[0] <= limits.result_bytes
            and (limits.tokens is None or self.tokens + more[1] <= limits.tokens)
        )
        if not fits and self.requests:
            return False
        self.requests += 1
        self.result_bytes += more[0]
        self.tokens += more[1]
        return True


def estimate_result_bytes(sample: Sample, profile: Profile) -> int:
    """The size of a sample's line in the results, with the image in base64."""
    return expected_bytes(sample.item.image_size or profile.default_size) * 4 // 3 * sample.images


def estimate_prompt_tokens(sample: Sample, profile: Profile) -> int:
    """The number of tokens in a sample's prompt, on the safe side: a token is three or four characters of Latin text,
    or one of others."""
    item = sample.item
    text = "".join((item.prompt, item.system or "", *item.history))
    per_reference = reference_tokens(profile, item) or UNKNOWN_REFERENCE_TOKENS
    return len(text.encode()) // 3 + 1 + round(per_reference * len(item.references))


def poll_delay_s(polls: int, first_s: float = FIRST_POLL_S) -> float:
    """How long to wait after this many polls of a batch that is still running."""
    return min(MAX_POLL_S, first_s * 1.5 ** min(polls, 30))
