"""Decides what happens to a sample whose images were reviewed: accepted, rejected, or made once more. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from batchgen.item import DEFAULT_CHECKS
from batchgen.ledger.verdicts import Candidate, last_ruling, review_state
from batchgen.records import Check, Item, Judge, OnReject, Question, Verdict
from batchgen.review.checks import FAILED, basis_of
from batchgen.review.judge import judge_basis, question, question_text

NOT_CHOSEN = "not_chosen"  # the reason of an image that was not the best of several
KEPT = OnReject()
Bases = Mapping[tuple[str, str], str]  # (`check` or `judge`, name) to the hash of the current question


@dataclass(frozen=True, slots=True)
class ReviewRules:
    """What a manifest requires of the images of an item."""

    checks: tuple[Check, ...] = DEFAULT_CHECKS
    judge: Judge | None = None
    on_reject: OnReject = KEPT

    @classmethod
    def of(cls, item: Item) -> ReviewRules:
        return cls(item.checks, item.judge, item.on_reject)

    def are_of(self, item: Item) -> bool:
        """Whether the item has these very records, which most items of a manifest share."""
        return item.checks is self.checks and item.judge is self.judge and item.on_reject is self.on_reject

    @property
    def may_reject(self) -> bool:
        return self.judge is not None or any(check.rejects for check in self.checks)

    @property
    def asks(self) -> bool:
        return bool(self.checks) or self.judge is not None

    @property
    def names_any(self) -> bool:
        """Whether the manifest names a judge or a check: for these, images of earlier runs and in buckets are reviewed
        too."""
        return self.judge is not None or any(check not in DEFAULT_CHECKS for check in self.checks)

    @property
    def to_choose_from(self) -> int:
        return self.judge.of if self.judge is not None else 1

    def question(self, prompt: str) -> Question:
        """The question to the judge about an image made from this prompt, as much of it as an estimate needs."""
        assert self.judge is not None  # noqa: S101 - asked where there is one
        return question(self.judge, question_text(self.judge.rubric, prompt))

    @property
    def max_images(self) -> int:
        """How many images may be bought for one that counts."""
        return self.to_choose_from + (self.on_reject.again if self.may_reject else 0)


class RulesByItem:
    """The rules by item. Most items of a manifest have the same rules, so only those of the others are kept separately.
    name_any, may_reject: whether those of any item do."""

    def __init__(self) -> None:
        self._common: ReviewRules | None = None
        self._others: dict[str, ReviewRules] = {}
        self.name_any = False
        self.may_reject = False

    def add(self, item: Item) -> ReviewRules:
        common = self._common
        if common is not None and common.are_of(item):
            return common
        rules = ReviewRules.of(item)
        if common is None:
            self._common = rules
        elif rules == common:
            return common
        else:
            self._others[item.id] = rules
        self.name_any = self.name_any or rules.names_any
        self.may_reject = self.may_reject or rules.may_reject
        return rules

    def awaits_review(self, item_id: str) -> bool:
        """Whether an image of this item only counts once it has been reviewed."""
        return self[item_id].may_reject

    def __getitem__(self, item_id: str) -> ReviewRules:
        return self._others.get(item_id) or self._common or ReviewRules()


# What `decide` can return.
@dataclass(frozen=True, slots=True)
class Accepted:
    image: Candidate


@dataclass(frozen=True, slots=True)
class Rejected:
    """hold: until somebody accepts it."""

    image: Candidate
    reason: str
    message: str
    hold: bool


@dataclass(frozen=True, slots=True)
class MakeAnother:
    reason: str
    message: str


Decision = Accepted | Rejected | MakeAnother


def decide(rules: ReviewRules, bases: Bases, images: Sequence[Candidate], current: Candidate) -> Decision:
    """Decide about a sample. images: all of them, reviewed or not, oldest first. current: the one that has the sample's
    name, for which every question has been answered. A person's verdict takes precedence over a judge's or a
    check's."""
    if last_ruling(current.verdicts) is not None:
        end = review_state(current.verdicts)
        if end.state == "succeeded":
            return Accepted(current)
        return Rejected(current, end.reason, end.message, hold=rules.on_reject.then == "hold")
    if len(images) < rules.to_choose_from:
        return MakeAnother(NOT_CHOSEN, f"{len(images)} of {rules.to_choose_from} images to choose from")
    best = max(images, key=lambda image: _rank(rules, bases, image, is_current=image is current))
    against = list(rejections(rules, bases, best.verdicts))
    if not against:
        return Accepted(best)
    reason, message = against[0].reason, "; ".join(verdict.message for verdict in against if verdict.message)
    if len(images) < rules.max_images:
        return MakeAnother(reason, message)
    return Rejected(best, reason, message, hold=rules.on_reject.then == "hold")


def is_in_force(decision: Decision, current: Candidate, state: str) -> bool:
    """Whether a sample is already as a decision makes it. current, state: the sample's image and state."""
    match decision:
        case Accepted(image):
            return image is current and state == "succeeded"
        case Rejected(image):
            return image is current and state == "rejected"
    return False


def awaits_judge(rules: ReviewRules, bases: Bases, verdicts: Sequence[Verdict]) -> bool:
    """Whether the judge should be asked about an image: not if a check or a person has ruled on it already."""
    if rules.judge is None or last_ruling(verdicts) is not None or any(rejections(rules, bases, verdicts)):
        return False
    return all(verdict.by != "judge" for verdict in applicable(bases, verdicts))


def rejections(rules: ReviewRules, bases: Bases, verdicts: Sequence[Verdict]) -> Iterator[Verdict]:
    """The verdicts against an image by the current rules; the judge's counts if it has fewer points than required."""
    for verdict in applicable(bases, verdicts):
        if verdict.by == "judge" and rules.judge is not None:
            if (verdict.score or 0.0) < rules.judge.least:
                yield verdict
        elif verdict.ruling in ("warn", "reject") and _rejects(rules, verdict):
            yield verdict


def bases_of(rules: ReviewRules, prompt: str) -> Bases:
    """The current questions. prompt: the one that the image was made from. Raises UsageError for an unknown check."""
    bases = {("check", check.name): basis_of(check) for check in rules.checks}
    if rules.judge is not None:
        bases["judge", rules.judge.model] = judge_basis(rules.judge, prompt)
    return bases


def noted(bases: Bases, verdicts: Sequence[Verdict]) -> tuple[str, str]:
    """The reason and the message of a finding that rejects nothing; empty if there is none."""
    found = [verdict for verdict in applicable(bases, verdicts) if verdict.by == "check" and verdict.reason]
    return (found[0].reason, "; ".join(verdict.message for verdict in found)) if found else ("", "")


def applicable(bases: Bases, verdicts: Sequence[Verdict]) -> list[Verdict]:
    """The verdicts of checks and judge on the current questions."""
    return [verdict for verdict in verdicts if bases.get((verdict.by, verdict.name)) == verdict.basis]


def _rejects(rules: ReviewRules, verdict: Verdict) -> bool:
    """Whether a verdict rejects by the current rules, whatever they were before. A check that failed to run rejects
    nothing."""
    return verdict.reason != FAILED and any(check.name == verdict.name and check.rejects for check in rules.checks)


def _rank(rules: ReviewRules, bases: Bases, image: Candidate, *, is_current: bool) -> tuple[bool, bool, float, int]:
    """The rank of an image: those judged by the current question first, then those with nothing against them, then by
    points, then the later one."""
    said = applicable(bases, image.verdicts)
    points = max((verdict.score or 0.0 for verdict in said if verdict.by == "judge"), default=0.0)
    return (
        is_current or len(said) == len(bases),
        not list(rejections(rules, bases, image.verdicts)),
        points,
        image.attempt,
    )
