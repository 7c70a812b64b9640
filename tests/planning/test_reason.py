"""The words for reasons, which programs read in `plan --json`, and how reasons are counted together."""

from __future__ import annotations

import pytest

from batchgen.planning.reason import Reason, ReasonKind, blocked_message, reason_text

FAILED = Reason(ReasonKind.ENDED, ("failed", "timeout"))
BEYOND_LIMIT = Reason(ReasonKind.BEYOND_LIMIT)


def needs(key: str, cause: Reason) -> Reason:
    return Reason(ReasonKind.NEEDS, others=(key,), cause=cause)


WORDS = {
    Reason(ReasonKind.NEW): "new",
    Reason(ReasonKind.NEW, asked_for=False): "new: not asked for",
    Reason(ReasonKind.FRESH): "fresh: asked for again",
    Reason(ReasonKind.DONE): "done",
    Reason(ReasonKind.FILE_MISSING): "its file is missing",
    Reason(ReasonKind.FILE_MISSING, asked_for=False): "its file is missing: not asked for",
    Reason(ReasonKind.CHANGED, ("prompt", "seed")): "changed: prompt, seed",
    Reason(ReasonKind.CHANGED): "changed: the request",
    Reason(ReasonKind.CHANGED, asked_for=False): "changed: not asked for",
    Reason(ReasonKind.UNBLOCKED): "no longer blocked",
    Reason(ReasonKind.NOT_FINISHED): "not finished",
    Reason(ReasonKind.TOO_OLD, ("48",)): "older than 2d",
    Reason(ReasonKind.TOO_OLD, ("30",)): "older than 30h",
    Reason(ReasonKind.TOO_OLD, ("24",), asked_for=False): "older than 1d: not asked for",
    Reason(ReasonKind.RETRY, ("failed", "overloaded")): "retry: failed: overloaded",
    Reason(ReasonKind.RETRY, ("uncertain", "")): "retry: uncertain (it may have been billed)",
    Reason(ReasonKind.HELD, ("failed", "overloaded")): "failed: overloaded; retry --failed",
    Reason(ReasonKind.HELD, ("refused", "safety")): "refused: safety; change the prompt, or retry --refused",
    Reason(ReasonKind.HELD, ("uncertain", "timeout")): "uncertain: timeout; held: retry --uncertain",
    Reason(
        ReasonKind.PAID_FOR, ("failed", "mismatch")
    ): "failed: mismatch; paid for: it is kept in drafts/, retry --failed buys it again",
    Reason(ReasonKind.NOT_ASKED_FOR): "not asked for",
    Reason(ReasonKind.RENAMED): "renamed",
    Reason(ReasonKind.BOUGHT_BEFORE): "it was bought before",
    Reason(ReasonKind.FOUND_BY_BYTES): "found under another name, by its bytes",
    Reason(
        ReasonKind.RESTORED
    ): "brought back by verify --repair: taken by its id, only prompt and model could be compared",
    Reason(ReasonKind.OTHER_FILE): "another file has its name",
    Reason(ReasonKind.IN_A_BATCH): "in a batch at the vendor's",
    Reason(ReasonKind.AT_VENDOR): "its job is at the vendor's",
    Reason(ReasonKind.WITH_WORKERS): "with the cluster's workers",
    Reason(ReasonKind.NEW_AFTER, others=("a", "b#2")): "new, after @a, @b#2",
    Reason(ReasonKind.CHANGED_AFTER, others=("a",)): "changed: @a",
    Reason(ReasonKind.AFTER, others=("a",)): "after @a",
    needs("a", FAILED): "needs @a, which is failed (timeout)",
    needs("a", Reason(ReasonKind.ENDED, ("refused", ""))): "needs @a, which was refused",
    needs("a", BEYOND_LIMIT): "needs @a, which is beyond --limit",
    needs("b", needs("a", BEYOND_LIMIT)): "needs @b, which needs @a, which is beyond --limit",
    needs("a", Reason(ReasonKind.NOT_SELECTED)): "needs @a, which is not made and not selected",
    needs("a", Reason(ReasonKind.NOT_RECORDED)): "needs @a, whose image is not recorded",
    needs("a", Reason(ReasonKind.NOT_ASKED_FOR)): "needs @a, which is left: not asked for",
    Reason(
        ReasonKind.TURN_LOST, ("a-t1",)
    ): "the model's answer of a-t1 is not kept; --fresh --only 'a-t1' makes it again",
    Reason(ReasonKind.NO_BATCH_API, ("aimlapi",)): "aimlapi has no batch API",
    Reason(ReasonKind.LATER_TURN): "a turn after the first needs the answer before it",
    Reason(ReasonKind.SERVICE_TIER, ("flex",)): "a batch has no service tier flex",
    Reason(ReasonKind.AWAITS, others=("a",)): "needs @a, which is made first",
}


@pytest.mark.parametrize("reason", WORDS, ids=WORDS.values())
def test_each_reason_has_its_words(reason):
    assert reason_text(reason) == WORDS[reason]


def test_no_kind_is_without_words():
    causes = {reason.cause.kind for reason in WORDS if reason.cause is not None}
    assert {reason.kind for reason in WORDS} | causes == set(ReasonKind)


def test_a_blocked_sample_says_the_same_in_the_ledger():
    assert blocked_message("a", "failed", "timeout") == reason_text(needs("a", FAILED))


@pytest.mark.parametrize(
    ("reasons", "words"),
    [
        ([needs("a", FAILED), needs("b", needs("c", BEYOND_LIMIT))], "needs other items"),
        ([Reason(kind=ReasonKind.NEW_AFTER, others=(key,)) for key in "ab"], "new, after other items"),
        ([Reason(kind=ReasonKind.CHANGED_AFTER, others=(key,)) for key in "ab"], "changed: other items"),
        ([Reason(kind=ReasonKind.AFTER, others=(key,)) for key in "ab"], "after other items"),
        ([Reason(kind=ReasonKind.AWAITS, others=(key,)) for key in "ab"], "needs another item"),
        ([Reason(ReasonKind.CHANGED, ("prompt @home",))], "changed: prompt @home"),
    ],
)
def test_samples_that_need_others_are_counted_together(reasons, words):
    assert [reason_text(reason) for reason in {each.group for each in reasons}] == [words]
