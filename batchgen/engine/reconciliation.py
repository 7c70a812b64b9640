"""What the walk over a manifest has found: what a run would do, and what keeps it from beginning."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

from batchgen.errors import UsageError
from batchgen.manifest import Limits
from batchgen.planning.plan import LaneLoad, Move
from batchgen.planning.reason import Reason, ReasonKind
from batchgen.planning.reason_text import reason_text
from batchgen.profiles.profile import Profile
from batchgen.providers.registry import endpoint_of

MAX_MOVES_NOTED = 10


@dataclass(slots=True)
class Reconciliation:
    """What a run would do. counts_by_reason: samples; removed: (item id, n) the manifest no longer wants."""

    kept: int = 0
    skipped: int = 0
    counts_by_reason: Counter[Reason] = field(default_factory=Counter)
    loads: dict[str, LaneLoad] = field(default_factory=dict)
    profiles: dict[str, Profile] = field(default_factory=dict)
    moves: list[Move] = field(default_factory=list)
    removed: list[tuple[str, int, str | None]] = field(default_factory=list)
    unrecorded: list[str] = field(
        default_factory=list
    )  # pictures under names of samples that the ledger never heard of
    chain_s: float = 0.0  # of the longest row of pictures of which each needs the one before
    blocked: int = 0  # of the skipped ones: what they need has failed
    over_limit: int = 0  # of the skipped ones: what they need is beyond the limit that was asked for
    items: int = 0
    wanted: int = 0  # samples to ask for
    submitted: int = 0  # samples that are in batches of earlier runs
    online: Counter[Reason] = field(default_factory=Counter)  # requests that no batch can have, by reason
    online_only: list[tuple[str, Reason]] = field(default_factory=list)  # (sample, why no batch can have it)
    adopted: int = 0  # of the moves: brought back by a repair that had no manifest, so not fully compared


def lane_load(profile: Profile, limits: Limits, *, batch: bool = False) -> LaneLoad:
    """What is known of a lane before anything is asked of it."""
    account = endpoint_of(profile.provider).base_url or profile.provider  # one key for all its models
    if batch:
        return LaneLoad(profile.id, None, account=account, batch=True)
    rate = limits.spend_rate(profile.provider)
    return LaneLoad(profile.id, profile.rpm, rpd=profile.rpd, spend_rate=rate, account=account)


def move_notes(reconciliation: Reconciliation) -> Iterator[str]:
    """What a person should hear of pictures that were found again."""
    if reconciliation.adopted:
        yield f"{reconciliation.adopted:,} image(s) {reason_text(Reason(ReasonKind.RESTORED))}"
    found = [move for move in reconciliation.moves if move.found]
    for move in found[:MAX_MOVES_NOTED]:
        yield f"{move.old} is the missing {move.new} under another name: moved back, and nothing is bought"
    if len(found) > MAX_MOVES_NOTED:
        yield f"… and {len(found) - MAX_MOVES_NOTED:,} more that had been renamed"


def refuse_online_only(reconciliation: Reconciliation) -> None:
    """With an engine that sends nothing but batches. Raises UsageError."""
    if reconciliation.online_only:
        key, reason = reconciliation.online_only[0]
        raise UsageError(
            f"{len(reconciliation.online_only):,} request(s) cannot go through a batch API, the first for {key}:"
            f" {reason_text(reason)}. Use --engine auto, which sends these online"
        )
