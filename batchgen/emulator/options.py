"""What an emulator can be asked to do differently: each option once, with its flag on the command line."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal, TypeVar

from batchgen.emulator.faults import BATCH_KNOWN, KNOWN, check_batch_fault

Span = tuple[float, float]
ValueT = TypeVar("ValueT")
OptionsT = TypeVar("OptionsT")
RESULT_PLACES = ("metadata", "response", "dest")
_DAY_S = 24 * 3600.0
_FAULTS, _BATCH_FAULTS = ", ".join(sorted(KNOWN)), ", ".join(sorted(BATCH_KNOWN))


def _flag(default: Any, flag: str, meaning: str, value: str = "", *, named: Callable[[str], Any] | None = None) -> Any:
    """A field and the flag that sets it. The flag can be repeated where the default is () or `named` is given.

    value: what the help calls it, or all it may be, as `a|b`; seconds and numbers need none. named: reads the value of
    `NAME=VALUE`; without a name, "" is meant.
    """

    def entry(text: str) -> tuple[str, Any]:
        name, _, given = text.rpartition("=")
        return name, named(given) if named else given

    entry.__name__ = value  # what argparse calls a value that cannot be read
    more: dict[str, Any] = {"metavar": value}
    if "|" in value:
        more = {"choices": value.split("|")}
    elif named or default == ():
        more |= {"action": "append"} | ({"type": entry} if named else {})
    elif isinstance(default, bool):
        more = {"action": "store_const", "const": not default}
    elif isinstance(default, (int, float)):
        more = {"type": type(default), "metavar": "S" if isinstance(default, float) else "N"}
        meaning += f" (default {default:g})" if isinstance(default, float) else f" (default {default})"
    else:
        more["type"] = int if default is None else lambda text: tuple(text.split(","))
    defaults: dict[str, Any] = {"default_factory": dict} if default == {} else {"default": default}
    return field(**defaults, metadata={"flag": flag, "more": {**more, "help": meaning}})


def add_flags(parser: argparse.ArgumentParser | argparse._ArgumentGroup, options: type[Any]) -> None:
    """Add the flags. One that is not given sets nothing: only the field declares its default."""
    for one in fields(options):
        if one.metadata:
            dest = f"{options.__name__}.{one.name}"
            parser.add_argument(one.metadata["flag"], dest=dest, default=argparse.SUPPRESS, **one.metadata["more"])


def from_flags(options: type[OptionsT], arguments: argparse.Namespace, **given: Any) -> OptionsT:
    """Read the options. Raises ValueError with a sentence for the user."""
    for dest, value in vars(arguments).items():
        kind, _, name = dest.partition(".")
        if kind == options.__name__:
            if isinstance(value, list):
                value = dict(value) if isinstance(value[0], tuple) else tuple(value)
            given[name] = value
    return options(**given)


def _of(model: str, value: ValueT | Mapping[str, ValueT], default: ValueT) -> ValueT:
    return value.get(model, value.get("", default)) if isinstance(value, Mapping) else value


def _each(value: ValueT | Mapping[str, ValueT]) -> list[ValueT]:
    return list(value.values()) if isinstance(value, Mapping) else [value]


def _span(text: str) -> Span:
    """Read seconds, such as `0.3-0.9` or `2`."""
    least, _, most = text.partition("-")
    return float(least), float(most or least)


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchOptions:
    """How the Batch API behaves.

    running_s: over which the lines are answered, evenly.
    life_s: a batch that has not ended by then is EXPIRED and has no results (48 hours, ai.google.dev, Batch API).
    list_lag_s: that the list may lag is an assumption, and so is by how much.
    states: `BATCH_STATE_…`, as in recorded answers, or `JOB_STATE_…`, as in the documents' REST snippets.
    places: "metadata": metadata.output, which is all that google-genai 3.4.0 reads; "response": the operation's
        response; "dest": `dest` and `state` at the top, as the documents' snippets read them.
    enqueued_tokens: for each (key, AI model), over batches that have not ended.
    most_at_once: batches of one key that have not ended (100 by the documents).
    inline_most: one report, not confirmed (maximhq/bifrost#3951).
    ranges: downloads obey a Range header, an assumption; otherwise they start over, which HTTP allows.
    """

    pending_s: float = _flag(0.5, "--batch-pending", "seconds until a batch runs")
    running_s: float = _flag(1.0, "--batch-running", "seconds a batch runs at least")
    life_s: float = _flag(2 * _DAY_S, "--batch-life", "seconds until a batch expires")
    list_lag_s: float = _flag(0.0, "--batch-list-lag", "seconds until a new batch is listed")
    states: Literal["batch", "job"] = _flag(
        "batch", "--batch-states", "BATCH_STATE_... (default) or JOB_STATE_...", "batch|job"
    )
    places: tuple[str, ...] = _flag(
        ("metadata", "response"),
        "--batch-results",
        f"where results are named, of {','.join(RESULT_PLACES)} (default metadata,response)",
        "PLACES",
    )
    enqueued_tokens: int = _flag(0, "--batch-tokens", "enqueued tokens per AI model; 0 = no limit")
    most_at_once: int = _flag(100, "--batch-most", "batches at once")
    keeps_cancelled: bool = _flag(True, "--batch-drop-cancelled", "a cancelled batch has no results")
    ranges: bool = _flag(True, "--batch-no-ranges", "downloads start from the beginning, whatever range is asked for")
    inline_most: int = _flag(
        0, "--batch-inline", "batches of up to N requests answer in their operation, not in a file"
    )
    faults: tuple[str, ...] = _flag(
        (), "--batch-fault", f"happens every time, or the first TIMES: {_BATCH_FAULTS}", "NAME[*TIMES]"
    )

    def __post_init__(self) -> None:
        for text in self.faults:
            check_batch_fault(text)
        if not self.places or not set(self.places) <= set(RESULT_PLACES):
            places = ", ".join(self.places)
            raise ValueError(f"places of results {places!r}: expected some of {', '.join(RESULT_PLACES)}")
        if self.states not in ("batch", "job"):
            raise ValueError(f"batch states {self.states!r}: expected batch or job")
        if self.inline_most < 0:
            raise ValueError(f"inline batches of up to {self.inline_most} requests: expected 0 or more")
        if min(self.pending_s, self.running_s, self.life_s, self.list_lag_s) < 0:
            raise ValueError("the times of a batch cannot be negative")


@dataclass(frozen=True, slots=True, kw_only=True)
class EmulatorOptions:
    """How the emulator behaves. Everything random is drawn from `seed`, the prompt and the attempt, never from the
    order of arrival, so that two runs of one manifest meet the same latencies and faults.

    latency_s: least and most. Like the quotas: for all AI models, or by name with "" for all others.
    rpm, rpd: for each (key, AI model).
    minute_s: length of the sliding minute, for tests with little time.
    fault_delay_s: the RetryInfo of a 429 that a fault asks for.
    signature_bytes: before base64 (recorded answers of the vendor carry about 0.8 MB).
    tiers: what a serviceTier meets: 400 not offered, 429 or 503 no capacity, 200 served as standard.
    file_processing_s: how long an uploaded file is PROCESSING before it is ACTIVE.
    upload_granularity_bytes: pieces of an upload, but the last, are multiples of it.
    """

    latency_s: tuple[float, float] | Mapping[str, Span] = _flag(
        (0.3, 0.9), "--latency", "seconds an answer takes (default 0.3-0.9)", "[MODEL=]A-B", named=_span
    )
    rpm: int | Mapping[str, int] | None = _flag(
        None, "--rpm", "requests per minute; 0 = no limit (default 60, pro models 15)", "[MODEL=]N", named=int
    )
    rpd: int | Mapping[str, int] = _flag(0, "--rpd", "requests per day; 0 = no limit (default)", "[MODEL=]N", named=int)
    minute_s: float = 60.0
    rejected_counts: bool = _flag(False, "--count-rejected", "requests answered 429 use up quota too")
    faults: Mapping[str, float] = _flag(
        {}, "--fault", f"probability of a fault per request; one of: {_FAULTS}", "NAME=RATE", named=float
    )
    fault_delay_s: float = 1.0
    drip_s: float = _flag(2.0, "--drip", "seconds that a slow answer takes to arrive")
    seed: int = _flag(0, "--seed", "seed of latencies and faults")
    picture: Literal["full", "tiny"] = _flag(
        "full", "--picture", "tiny: the longest side is 64 pixels (default full)", "full|tiny"
    )
    picture_px: int | None = _flag(None, "--picture-px", "longest side of every image", "N")
    signature_bytes: int = _flag(2048, "--signature-bytes", "size of thought signatures")
    serve_retired: bool = _flag(True, "--no-retired", "answer 404 for AI models that the vendor has shut down")
    max_request_bytes: int = 20 * 1024 * 1024
    models: tuple[str, ...] = _flag((), "--model", "the only AI models that keys may use (default all)", "ID")
    credit: int = _flag(1_000_000_000, "--credit", "credits of an AIML account before its first image")
    tiers: Mapping[str, int] = _flag(
        {}, "--tier", "status that flex or priority meets: 400, 429, 503; 200 = downgrade", "NAME=STATUS", named=int
    )
    token_life_s: int = _flag(3600, "--token-life", "seconds that an access token of Google's lives")
    file_life_s: float = _flag(2 * _DAY_S, "--file-life", "seconds an uploaded file lives")
    file_processing_s: float = 0.0
    upload_granularity_bytes: int = 8 * 1024 * 1024
    batch: BatchOptions = field(default_factory=BatchOptions)

    def __post_init__(self) -> None:
        for name, rate in self.faults.items():
            if name not in KNOWN:
                raise ValueError(f"unknown fault {name!r}; known: {_FAULTS}")
            if not 0 <= rate <= 1:
                raise ValueError(f"fault {name}: a probability lies between 0 and 1, got {rate}")
        if sum(self.faults.values()) > 1:
            raise ValueError("the probabilities of all faults together exceed 1")
        for tier, status in self.tiers.items():
            if tier not in ("flex", "priority") or status not in (200, 400, 429, 503):
                raise ValueError(f"tier {tier}={status}: expected flex or priority, and 200, 400, 429 or 503")
        for least_s, most_s in _each(self.latency_s):
            if not 0 <= least_s <= most_s:
                raise ValueError(f"latency {least_s}-{most_s}: expected 0 <= least <= most")
        if min(*_each(self.rpm or 0), *_each(self.rpd)) < 0:
            raise ValueError("a quota cannot be negative; 0 means no limit")

    def offers(self, model: str, *, is_retired: object = False) -> bool:
        return (not self.models or model in self.models) and (self.serve_retired or not is_retired)

    @property
    def longest_px(self) -> int | None:
        """The longest side of every picture, or None for the vendor's own sizes."""
        return 64 if self.picture_px is None and self.picture == "tiny" else self.picture_px

    def latency_of(self, model: str) -> Span:
        return _of(model, self.latency_s, (0.3, 0.9))

    def rpm_of(self, model: str) -> int:
        """Requests per minute for this AI model; 0 = no limit."""
        usual = 15 if "pro" in model or "ultra" in model else 60
        return usual if self.rpm is None else _of(model, self.rpm, usual)

    def rpd_of(self, model: str) -> int:
        return _of(model, self.rpd, 0)
