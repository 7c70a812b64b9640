"""Why a sample is made, moved or left, as data, and the words for it, which people and other programs read, but nothing
in batchgen."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum, auto


class ReasonKind(StrEnum):
    """Kinds of reasons. The comments say what `Reason.details` contains."""

    NEW = auto()
    FRESH = auto()
    DONE = auto()
    FILE_MISSING = auto()
    CHANGED = auto()  # the names of the fields
    UNBLOCKED = auto()
    NOT_FINISHED = auto()
    TOO_OLD = auto()  # the hours that it may be old
    RETRY = auto()  # state and reason
    HELD = auto()  # state and reason: left until something changes or somebody asks
    PAID_FOR = auto()  # state and reason: only an explicit retry buys it again
    NOT_ASKED_FOR = auto()
    # An image that exists already, or a name that is taken.
    RENAMED = auto()
    BOUGHT_BEFORE = auto()
    FOUND_BY_BYTES = auto()
    RESTORED = auto()
    OTHER_FILE = auto()
    # In progress elsewhere.
    IN_A_BATCH = auto()
    AT_VENDOR = auto()
    WITH_WORKERS = auto()
    # Samples that need images of others, which `Reason.others` names.
    NEW_AFTER = auto()
    CHANGED_AFTER = auto()
    AFTER = auto()
    NEEDS = auto()  # and `Reason.cause` says what became of the other
    TURN_LOST = auto()  # the item of the previous turn
    # What became of a sample that another one needs, if its own reason does not say it.
    ENDED = auto()  # state and reason
    BEYOND_LIMIT = auto()
    NOT_SELECTED = auto()
    NOT_RECORDED = auto()
    # Why a request cannot go through a batch API.
    NO_BATCH_API = auto()  # the provider
    LATER_TURN = auto()
    SERVICE_TIER = auto()  # the tier
    AWAITS = auto()  # `Reason.others` is made first


@dataclass(frozen=True, slots=True)
class Reason:
    """A reason. others: keys of the samples that it is about. cause: why those do not exist. asked_for: whether the run
    was asked to do something about it."""

    kind: ReasonKind
    details: tuple[str, ...] = ()
    others: tuple[str, ...] = ()
    cause: Reason | None = None
    asked_for: bool = True

    @property
    def root(self) -> Reason:
        """The reason at the end of the chain of causes."""
        return self if self.cause is None else self.cause.root

    @property
    def group(self) -> Reason:
        """One reason for all samples that need others, so that they are counted together."""
        return Reason(self.kind, self.details) if self.others else self


# --- the words

_LINK_IS_RETRIED = "every run tries its link again"
PAID_FOR_TEXTS: Mapping[str, str] = {
    "link_gone": "its link is dead",
    "link_refused": _LINK_IS_RETRIED,
    "download_failed": _LINK_IS_RETRIED,
    "unreadable": "its answer is kept and read again by every run",
    "mismatch": "it is kept in drafts/",
}
_REMEDIES: Mapping[str, str] = {
    "failed": "retry --failed",
    "refused": "change the prompt, or retry --refused",
    "uncertain": "held: retry --uncertain",
    "rejected": "its image is kept: accept it, change the prompt, or retry --rejected",
}
_TEXTS: Mapping[ReasonKind, str] = {
    ReasonKind.NEW: "new",
    ReasonKind.FRESH: "fresh: asked for again",
    ReasonKind.DONE: "done",
    ReasonKind.FILE_MISSING: "its file is missing",
    ReasonKind.UNBLOCKED: "no longer blocked",
    ReasonKind.NOT_FINISHED: "not finished",
    ReasonKind.NOT_ASKED_FOR: "not asked for",
    ReasonKind.RENAMED: "renamed",
    ReasonKind.BOUGHT_BEFORE: "it was bought before",
    ReasonKind.FOUND_BY_BYTES: "found under another name, by its bytes",
    ReasonKind.RESTORED: "brought back by verify --repair: taken by its id, only prompt and model could be compared",
    ReasonKind.OTHER_FILE: "another file has its name",
    ReasonKind.IN_A_BATCH: "in a batch at the vendor's",
    ReasonKind.AT_VENDOR: "its job is at the vendor's",
    ReasonKind.WITH_WORKERS: "with the cluster's workers",
    ReasonKind.LATER_TURN: "a turn after the first needs the answer before it",
}
_CLAUSES: Mapping[ReasonKind, str] = {
    ReasonKind.BEYOND_LIMIT: "which is beyond --limit",
    ReasonKind.NOT_SELECTED: "which is not made and not selected",
    ReasonKind.NOT_RECORDED: "whose image is not recorded",
}


def reason_text(reason: Reason) -> str:
    """The reason as `plan` shows it. Without the names of others it stands for all samples that need some."""
    if not reason.asked_for:
        words = "changed" if reason.kind is ReasonKind.CHANGED else reason_text(Reason(reason.kind, reason.details))
        return f"{words}: not asked for"
    others = ", ".join(f"@{key}" for key in reason.others) or "other items"
    match reason.kind, reason.details:
        case ReasonKind.CHANGED, fields:
            return f"changed: {', '.join(fields) or 'the request'}"
        case ReasonKind.TOO_OLD, (hours,):
            return f"older than {int(hours) // 24}d" if int(hours) % 24 == 0 else f"older than {hours}h"
        case ((ReasonKind.RETRY | ReasonKind.HELD | ReasonKind.PAID_FOR), (state, why)):
            return _ended_text(reason.kind, state, why)
        case ReasonKind.NEW_AFTER, _:
            return f"new, after {others}"
        case ReasonKind.CHANGED_AFTER, _:
            return f"changed: {others}"
        case ReasonKind.AFTER, _:
            return f"after {others}"
        case ReasonKind.NEEDS, _:
            return f"needs {others}" + (f", {_clause(reason.cause)}" if reason.cause else "")
        case ReasonKind.TURN_LOST, (item_id,):
            return f"the model's answer of {item_id} is not kept; --fresh --only '{item_id}' makes it again"
        case ReasonKind.NO_BATCH_API, (provider,):
            return f"{provider} has no batch API"
        case ReasonKind.SERVICE_TIER, (tier,):
            return f"a batch has no service tier {tier}"
        case ReasonKind.AWAITS, _:
            return f"needs {others}, which is made first" if reason.others else "needs another item"
    return _TEXTS[reason.kind]


def blocked_message(key: str, state: str, reason: str) -> str:
    """Why a sample is blocked: what became of the one that it needs."""
    return reason_text(Reason(ReasonKind.NEEDS, others=(key,), cause=Reason(ReasonKind.ENDED, (state, reason))))


def _ended_text(kind: ReasonKind, state: str, why: str) -> str:
    words = f"{state}: {why}" if why else state
    if kind is ReasonKind.RETRY:
        return f"retry: {words}{' (it may have been billed)' if state == 'uncertain' else ''}"
    if kind is ReasonKind.PAID_FOR:
        return f"{words}; paid for: {PAID_FOR_TEXTS[why]}, retry --failed buys it again"
    return f"{words}; {_REMEDIES[state]}"


def _clause(cause: Reason) -> str:
    """The clause after the name of the sample that is needed."""
    if cause.kind is ReasonKind.ENDED:
        state, why = cause.details
        return f"which {'was' if state in ('refused', 'rejected') else 'is'} {state}{f' ({why})' if why else ''}"
    if cause.kind is ReasonKind.NEEDS:
        return f"which {reason_text(cause)}"
    return _CLAUSES.get(cause.kind) or f"which is left: {reason_text(cause)}"
