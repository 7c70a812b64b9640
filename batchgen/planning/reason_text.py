"""The words for a reason. People and programs read them; nothing of ours does."""

from __future__ import annotations

from collections.abc import Mapping

from batchgen.planning.reason import Reason, ReasonKind

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
    """As `plan` shows it. A reason without the names of others stands for all that need some."""
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
    """Behind the name of the sample that is needed."""
    if cause.kind is ReasonKind.ENDED:
        state, why = cause.details
        return f"which {'was' if state in ('refused', 'rejected') else 'is'} {state}{f' ({why})' if why else ''}"
    if cause.kind is ReasonKind.NEEDS:
        return f"which {reason_text(cause)}"
    return _CLAUSES.get(cause.kind) or f"which is left: {reason_text(cause)}"
