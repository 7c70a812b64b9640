"""The manifest minus the ledger: what happens to samples and why, what it costs, how long it takes and which limit
binds. Pure."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from fnmatch import fnmatchcase
from typing import Literal

from batchgen import money
from batchgen.planning.reason import PAID_FOR_TEXTS, Reason, ReasonKind
from batchgen.records import Item, KnownSample, Sample

WINDOW_S = 60.5  # of a quota per minute, with its margin
MAX_CONCURRENCY = 1000  # the most that `limits.concurrency` and `--concurrency` accept
Action = Literal["generate", "move", "keep", "skip"]
# Paid for, and perhaps still to come without buying: only an explicit `retry` buys such an image again.
FINAL_REASONS = frozenset(PAID_FOR_TEXTS)
RETRY_STATES = ("failed", "refused", "uncertain", "rejected")  # states that `retry` may name


@dataclass(frozen=True, slots=True)
class Move:
    """An image that exists and belongs under another name, or came back into the manifest. It costs nothing.

    image: its attempt and number there. found: the ledger did not know where it is, and it was found by its bytes.
    """

    sample: Sample
    old: str
    new: str
    bytes: int
    image: tuple[int, int]
    found: bool = False


@dataclass(frozen=True, slots=True)
class Step:
    """What happens to one request's worth of samples, and why. usd: the estimate, None if the price is unknown. sample:
    as it is requested, with another model if a fallback was chosen."""

    sample: Sample
    action: Action
    reason: Reason
    usd: float | None = 0.0
    move: Move | None = None
    by_batch: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class RetrySelection:
    """What this run retries besides what is new. states: of failed, refused, uncertain, rejected; fresh: everything."""

    states: frozenset[str] = frozenset({"failed", "uncertain"})
    reasons: frozenset[str] = frozenset()  # only these reasons, if any are given
    explicit: bool = False  # the user named the states: includes final reasons, starts nothing else
    fresh: bool = False
    with_comments: bool = False  # comments on a rejected image go into the next prompt

    @classmethod
    def of(cls, states: frozenset[str] | None, *, fresh: bool = False, hold_uncertain: bool = False) -> RetrySelection:
        """The selection of `--retry`, `--fresh` and `--on-uncertain`. states: None for what has failed, and what is
        uncertain unless that is held."""
        usual = frozenset({"failed"} if hold_uncertain else {"failed", "uncertain"})
        return cls(states=usual if states is None else states, fresh=fresh)

    def names(self, known: KnownSample) -> bool:
        """Whether it retries a sample that ended like this."""
        return known.state in self.states and (not self.reasons or known.reason in self.reasons)


def choose_action(
    known: KnownSample | None,
    fingerprint: str,
    retry_selection: RetrySelection,
    picture_exists: Callable[[str, int], bool],
    changed_fields: Callable[[], Sequence[str]],
) -> tuple[Action, Reason]:
    """What to do with one sample and why.

    picture_exists: whether the store has an image with that path and size; changed_fields: the names of the fields that
    differ from the ledger's, only called if the fingerprint differs.
    """
    if known is None:
        return _generate_if_asked(Reason(ReasonKind.NEW), retry_selection)
    if retry_selection.fresh:
        return "generate", Reason(ReasonKind.FRESH)
    if known.made_fingerprint == fingerprint and known.path is not None and known.state in ("succeeded", "superseded"):
        if picture_exists(known.path, known.bytes):
            return "keep", Reason(ReasonKind.DONE)
        return _generate_if_asked(Reason(ReasonKind.FILE_MISSING), retry_selection)
    if known.state == "blocked":
        return "generate", Reason(ReasonKind.UNBLOCKED)
    if known.fingerprint != fingerprint:
        fields = () if retry_selection.explicit else tuple(changed_fields())
        return _generate_if_asked(Reason(ReasonKind.CHANGED, fields), retry_selection)
    if known.state in RETRY_STATES:
        return _retry_action(known, retry_selection)
    if retry_selection.explicit:
        return "skip", Reason(ReasonKind.NOT_ASKED_FOR)
    return "generate", Reason(ReasonKind.NOT_FINISHED if known.attempts else ReasonKind.NEW)


def remake_too_old(max_age_s: float, retry_selection: RetrySelection) -> tuple[Action, Reason]:
    """What to do with a sample whose image for exactly this request is older than allowed."""
    return _generate_if_asked(Reason(ReasonKind.TOO_OLD, (str(round(max_age_s / 3600)),)), retry_selection)


def _generate_if_asked(reason: Reason, retry_selection: RetrySelection) -> tuple[Action, Reason]:
    """Generate, unless an explicit retry does not name it."""
    return ("skip", replace(reason, asked_for=False)) if retry_selection.explicit else ("generate", reason)


def _retry_action(known: KnownSample, retry_selection: RetrySelection) -> tuple[Action, Reason]:
    details, final = (known.state, known.reason), known.reason in FINAL_REASONS
    if retry_selection.names(known) and (retry_selection.explicit or not final):
        return "generate", Reason(ReasonKind.RETRY, details)
    return "skip", Reason(ReasonKind.PAID_FOR if final else ReasonKind.HELD, details)


def group_into_requests(samples: Sequence[Sample], max_images: int) -> list[Sample]:
    """Adjacent samples of one item as requests of up to `max_images` images each, for APIs that return several."""
    if max_images <= 1 or len(samples) < 2:
        return list(samples)
    groups: list[Sample] = []
    for sample in samples:
        last = groups[-1] if groups else None
        if last is not None and last.n + last.images == sample.n and last.images < max_images:
            groups[-1] = replace(last, images=last.images + 1, known=last.known or sample.known)
        else:
            groups.append(sample)
    return groups


@dataclass(slots=True)
class LaneLoad:
    """What a run requests in one lane. requests of `latency_s` each; rpm None: no quota declared.

    usd: for requests whose price is known; unpriced: those without a known price; may_be_unpriced: the same for a
    request that this lane only makes if another cannot. guessed: requests at a factor of the price that is a guess;
    searches: those that may search, at the full price. rpd_left: of the day's declared requests. spend_rate: USD in any
    ten minutes; account: shared by lanes with the same one. batch: through the batch API, without a promised time.
    """

    model: str
    rpm: int | None
    requests: int = 0
    images: int = 0
    usd: float = 0.0
    unpriced: int = 0
    total_latency_s: float = 0.0  # sum of latencies
    bytes: int = 0  # expected on disk
    max_request_usd: float = 0.0  # of one request
    rpd: int | None = None
    rpd_left: int | None = None
    spend_rate: float | None = None
    account: str = ""
    batch: bool = False
    may_be_unpriced: bool = False
    guessed: int = 0
    searches: int = 0

    @property
    def price_unknown(self) -> bool:
        """Whether anything that this lane makes, or may have to make, has an unknown price."""
        return self.unpriced > 0 or self.may_be_unpriced


@dataclass(frozen=True, slots=True)
class BindingLimit:
    """What binds a run: budget | day | spend | quota | cap | latency | nothing. remedy: what to change; advice: the
    same with figures."""

    binding: str
    advice: str
    remedy: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Forecast:
    """What a run requests. usd: None if a price is unknown; known_usd: the sum of the known prices; unpriced: the
    number of requests without one; seconds: at best."""

    requests: int
    images: int
    usd: float | None
    known_usd: float
    seconds: float
    limit: BindingLimit
    by_model: Mapping[str, LaneLoad] = field(default_factory=dict)
    unpriced: int = 0


def quota_wait_s(requests: int, rpm: int | None) -> float:
    """The time until the last of `requests` may start. A window opens with a burst, so 100 at 60 a minute start within
    61 s."""
    if rpm is None or requests == 0:
        return 0.0
    return ((requests - 1) // rpm) * WINDOW_S


def forecast(
    loads: Sequence[LaneLoad],
    concurrency: int,
    budget_usd: float | None,
    budget_of: str = "run",
    *,
    chain_s: float = 0.0,
) -> Forecast:
    """How long it takes at best, and the limit that determines it. budget_of: run, or the day or month that has less
    left.

    chain_s: of the longest chain of images that each need the one before.
    """
    asked = [load for load in loads if load.requests]
    seconds = max((_lane_duration_s(load) for load in asked), default=0.0)
    by_cap_s = sum(load.total_latency_s for load in asked) / concurrency
    return Forecast(
        requests=sum(load.requests for load in asked),
        images=sum(load.images for load in asked),
        usd=None if any(load.unpriced for load in asked) else sum(load.usd for load in asked),
        known_usd=sum(load.usd for load in asked),
        seconds=max(seconds, by_cap_s, chain_s, *(spend_wait_s(*account) for account in _spend_by_account(asked))),
        limit=_limit(asked, concurrency, budget_usd, budget_of, chain_s),
        by_model={f"{load.model} (batch)" if load.batch else load.model: load for load in loads},
        unpriced=sum(load.unpriced for load in asked),
    )


def spend_wait_s(usd: float, usd_per_10_min: float | None) -> float:
    """The time until the last dollar may be spent, with at most this many in any ten minutes."""
    if usd_per_10_min is None:
        return 0.0
    return max(0.0, math.ceil(usd / usd_per_10_min - 1e-9) - 1) * 600.0


def spend_rate_problem(loads: Sequence[LaneLoad]) -> str | None:
    """Why a lane would wait for ever: one request costs more than ten minutes may. None if none does."""
    for load in loads:
        if load.spend_rate is not None and not money.within(load.max_request_usd, load.spend_rate):
            return (
                f"one request to {load.model} is estimated at {money.usd(load.max_request_usd)} and limits allow"
                f" {money.usd(load.spend_rate)} in ten minutes, so it could never start: raise limits: usd_per_10_min"
            )
    return None


def _spend_by_account(loads: Sequence[LaneLoad]) -> list[tuple[float, float | None]]:
    """(USD, spend rate) of each account."""
    totals: dict[str, tuple[float, float | None]] = {"": (0.0, None)}
    for load in loads:
        totals[load.account] = (totals.get(load.account, (0.0, None))[0] + load.usd, load.spend_rate)
    return list(totals.values())


BUDGET_REMEDIES = {
    "run": "raise --max-cost or limits: budget_usd",
    "day": "raise limits: budget_usd_per_day, or run again tomorrow",
    "month": "raise limits: budget_usd_per_month (or tier), or run again next month",
}


def _exhausted_limit(loads: Sequence[LaneLoad], budget_usd: float | None, budget_of: str) -> BindingLimit | None:
    """The budget, or a day's requests, if the run cannot make everything within it."""
    known_usd = sum(load.usd for load in loads)
    if budget_usd is not None and known_usd > budget_usd:
        whose = " budget" if budget_of == "run" else f" left of the {budget_of}'s budget"
        remedy = BUDGET_REMEDIES[budget_of]
        return BindingLimit(
            "budget",
            f"the {money.usd(budget_usd)}{whose} runs out before the {money.usd(known_usd)} that the run needs; {remedy}",
            remedy,
        )
    for load in loads:
        if load.rpd_left is not None and load.requests > load.rpd_left:
            remedy = f"run again after midnight Pacific, or set models: {load.model}: rpd if your tier has more"
            left = f"{load.rpd_left} of the day's {load.rpd} requests of {load.model} are left for {load.requests}"
            return BindingLimit("day", f"{left}; {remedy}", remedy)
    return None


def _limit(
    loads: Sequence[LaneLoad], concurrency: int, budget_usd: float | None, budget_of: str, chain_s: float
) -> BindingLimit:
    """What ends the run early, else what takes longest: spend rate, quota, cap or the models' own time."""
    if not loads:
        return BindingLimit("nothing", "nothing to do")
    if (early := _exhausted_limit(loads, budget_usd, budget_of)) is not None:
        return early
    slowest = max(loads, key=_lane_duration_s)
    by_quota_s, longest_s = _lane_duration_s(slowest), max(map(_latency_s, loads))
    by_cap_s = sum(load.total_latency_s for load in loads) / concurrency
    usd, rate = max(_spend_by_account(loads), key=lambda account: spend_wait_s(*account))
    if rate is not None and spend_wait_s(usd, rate) > max(by_cap_s, by_quota_s, longest_s):
        remedy = "if your tier has more, set limits: usd_per_10_min or tier"
        return BindingLimit(
            "spend",
            f"{money.usd(usd)} at {money.usd(rate)} in ten minutes takes {spend_wait_s(usd, rate):.0f} s; {remedy}",
            remedy,
        )
    if chain_s > max(by_cap_s, by_quota_s, longest_s):
        advice = f"images that need one another take {chain_s:.0f} s, one after the other, whatever the quota"
        return BindingLimit("latency", advice, "nothing to change")
    min_s = max(by_quota_s, longest_s, chain_s)
    if by_cap_s > min_s * 1.01 and concurrency >= MAX_CONCURRENCY:
        return BindingLimit(
            "cap", f"{concurrency} in flight, the most there may be, take {by_cap_s:.0f} s", "nothing to change"
        )
    if by_cap_s > min_s * 1.01:
        useful = min(MAX_CONCURRENCY, max(concurrency + 1, round(concurrency * by_cap_s / min_s)))
        then_s = max(min_s, by_cap_s * concurrency / useful)
        remedy = f"try --concurrency {useful}"
        advice = (
            f"{concurrency} in flight take {by_cap_s:.0f} s; --concurrency {useful} would take about {then_s:.0f} s"
        )
        return BindingLimit("cap", advice, remedy)
    if by_quota_s > longest_s * 1.01:
        remedy = f"if your tier has more, set models: {slowest.model}: rpm"
        advice = f"{slowest.rpm} requests a minute of {slowest.model} take {by_quota_s:.0f} s; {remedy}"
        return BindingLimit("quota", advice, remedy)
    return BindingLimit(
        "latency", "all requests fit in one round: the model's own time is what it takes", "nothing to change"
    )


def _lane_duration_s(load: LaneLoad) -> float:
    """When a lane's last answer comes if only its quota and its latency delay it."""
    return quota_wait_s(load.requests, load.rpm) + _latency_s(load)


def _latency_s(load: LaneLoad) -> float:
    return load.total_latency_s / load.requests if load.requests else 0.0


# Generous figures for one image: recorded answers are PNG of 1.9 MB and JPEG of 0.85 MB at 1K; bytes grow with pixels.
EXPECTED_BYTES = {None: 2_000_000, "512": 1_000_000, "1K": 2_000_000, "2K": 6_000_000, "4K": 25_000_000}
UNKNOWN_SIZE_BYTES = 6_000_000
DISK_MARGIN_BYTES = 50_000_000  # for the ledger, results.jsonl and others who write to the same disk


def expected_bytes(size: str | None) -> int:
    """The disk space of one image of that size, on the safe side."""
    return EXPECTED_BYTES.get(size, UNKNOWN_SIZE_BYTES)


def disk_space_problem(loads: Sequence[LaneLoad], free_bytes: int) -> str | None:
    """Why the images do not fit on the disk, and how many requests would; None if they fit."""
    needed, requests = sum(load.bytes for load in loads), sum(load.requests for load in loads)
    usable_bytes = free_bytes - DISK_MARGIN_BYTES
    if not requests or needed <= usable_bytes:
        return None
    fitting = max(0, usable_bytes) * requests // needed
    way = f", or begin with --limit {fitting}" if fitting else ""
    total = needed + DISK_MARGIN_BYTES
    return (
        f"{free_bytes / 1e6:,.0f} MB are free and the plan needs about {total / 1e6:,.0f} MB:"
        f" make room or choose another --output{way}"
    )


def is_selected(item: Item, patterns: Sequence[str]) -> bool:
    """Whether `--only` selects the item."""
    return matches_selection(item.id, item.tags, patterns)


def matches_selection(item_id: str, tags: Sequence[str], patterns: Sequence[str]) -> bool:
    """Whether patterns select an item: glob patterns for ids, or `tag:NAME`. Any match is enough, and no patterns
    select everything."""
    return not patterns or any(
        pattern[4:] in tags if pattern.startswith("tag:") else fnmatchcase(item_id, pattern) for pattern in patterns
    )


def no_match_message(pattern: str, names: Sequence[str]) -> str:
    """The message for a pattern that matches nothing. names: what `--only` could have named: ids, and tags with their
    `tag:`."""
    near = get_close_matches(pattern, names, n=3, cutoff=0.6)
    hint = f"did you mean {' or '.join(near)}?" if near else "`batchgen plan --all` lists the ids"
    return f"--only {pattern!r} matches no item of the manifest; {hint}"


def unmatched_reason_problem(selection: RetrySelection, ends: Mapping[tuple[str, str], int]) -> str | None:
    """Why a `--reason` matches nothing; None if each matches. ends: images that could have been selected, by reason and
    state."""
    unmatched = selection.reasons - {reason for reason, state in ends if state in selection.states}
    if not unmatched:
        return None
    reason, reasons = min(unmatched), dict.fromkeys(reason for reason, _ in ends)
    if not ends:
        return f"--reason {reason!r} matches no image: none has failed, was refused, is uncertain or was rejected"
    near = [name for name in get_close_matches(reason, reasons, n=1, cutoff=0.5) if name != reason]
    hint = f"; did you mean {near[0]}?" if near else "."
    found = ", ".join(f"{name} ({number:,} {state})" for (name, state), number in sorted(ends.items()))
    return f"--reason {reason!r} matches no image{hint} The reasons in this job are: {found}"
