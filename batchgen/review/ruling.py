"""What becomes of a sample whose images were reviewed: accepted, rejected, or made once more. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from batchgen.item import DEFAULT_CHECKS
from batchgen.ledger.verdicts import Candidate, last_ruling, review_state
from batchgen.records import Check, Item, Judge, OnReject, Question, Verdict
from batchgen.review.checks import FAILED, basis_of
from batchgen.review.judge import judge_basis, question, question_text

NOT_CHOSEN = "not_chosen"  # the reason of an image that was made to be one of several
KEPT = OnReject()
Bases = Mapping[
    tuple[str, str], str
]  # what is asked of an image now: (`check` or `judge`, name) to the hash of the question


@dataclass(frozen=True, slots=True)
class ReviewRules:
    """What a manifest asks of the images of an item."""

    checks: tuple[Check, ...] = DEFAULT_CHECKS
    judge: Judge | None = None
    on_reject: OnReject = KEPT

    @classmethod
    def of(cls, item: Item) -> ReviewRules:
        return cls(item.checks, item.judge, item.on_reject)

    def are_of(self, item: Item) -> bool:
        """Whether these are its very records, which most items of a manifest share."""
        return item.checks is self.checks and item.judge is self.judge and item.on_reject is self.on_reject

    @property
    def may_reject(self) -> bool:
        return self.judge is not None or any(check.rejects for check in self.checks)

    @property
    def asks(self) -> bool:
        return bool(self.checks) or self.judge is not None

    @property
    def names_any(self) -> bool:
        """Whether the manifest names a judge or a check: for these, images of earlier runs and those in a bucket are looked at."""
        return self.judge is not None or any(check not in DEFAULT_CHECKS for check in self.checks)

    @property
    def to_choose_from(self) -> int:
        return self.judge.of if self.judge is not None else 1

    def question(self, prompt: str) -> Question:
        """What the judge is asked about an image that was made from this prompt, as much as an estimate needs of it."""
        assert self.judge is not None  # noqa: S101 - asked where there is one
        return question(self.judge, question_text(self.judge.rubric, prompt))

    @property
    def max_images(self) -> int:
        """How many may be bought for one that counts."""
        return self.to_choose_from + (self.on_reject.again if self.may_reject else 0)


class RulesByItem:
    """Most items of a manifest have the same rules: only those of the others are kept one by one. name_any,
    may_reject: whether those of any item do."""

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
        """Whether an image of this item counts only once it is reviewed."""
        return self[item_id].may_reject

    def __getitem__(self, item_id: str) -> ReviewRules:
        return self._others.get(item_id) or self._common or ReviewRules()


# What `decide` can answer.
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
    """images: all of the sample, reviewed or not, the earliest first; current: the one that has its name, of which all is said that
    was asked. A person's word comes before that of a judge or a check."""
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
    """Whether a sample is as a decision makes it, so that nothing is to be done. current, state: the sample's image and state."""
    match decision:
        case Accepted(image):
            return image is current and state == "succeeded"
        case Rejected(image):
            return image is current and state == "rejected"
    return False


def awaits_judge(rules: ReviewRules, bases: Bases, verdicts: Sequence[Verdict]) -> bool:
    """Whether the judge is to be asked about an image: not about one that a check or a person has ruled on already."""
    if rules.judge is None or last_ruling(verdicts) is not None or any(rejections(rules, bases, verdicts)):
        return False
    return all(verdict.by != "judge" for verdict in applicable(bases, verdicts))


def rejections(rules: ReviewRules, bases: Bases, verdicts: Sequence[Verdict]) -> Iterator[Verdict]:
    """What speaks against an image by what is asked of it now: of the judge, fewer points than are asked for."""
    for verdict in applicable(bases, verdicts):
        if verdict.by == "judge" and rules.judge is not None:
            if (verdict.score or 0.0) < rules.judge.least:
                yield verdict
        elif verdict.ruling in ("warn", "reject") and _rejects(rules, verdict):
            yield verdict


def bases_of(rules: ReviewRules, prompt: str) -> Bases:
    """prompt: from which the image was made. Raises UsageError for a check that is not there."""
    bases = {("check", check.name): basis_of(check) for check in rules.checks}
    if rules.judge is not None:
        bases["judge", rules.judge.model] = judge_basis(rules.judge, prompt)
    return bases


def noted(bases: Bases, verdicts: Sequence[Verdict]) -> tuple[str, str]:
    """The reason and the words of what checks have found and nobody minds; empty when there is nothing."""
    found = [verdict for verdict in applicable(bases, verdicts) if verdict.by == "check" and verdict.reason]
    return (found[0].reason, "; ".join(verdict.message for verdict in found)) if found else ("", "")


def applicable(bases: Bases, verdicts: Sequence[Verdict]) -> list[Verdict]:
    """Those of checks and judge that answer what is asked now."""
    return [verdict for verdict in verdicts if bases.get((verdict.by, verdict.name)) == verdict.basis]


def _rejects(rules: ReviewRules, verdict: Verdict) -> bool:
    """By the rules as they are now, whatever they were when the check was made. One that could not be made rejects nothing."""
    return verdict.reason != FAILED and any(check.name == verdict.name and check.rejects for check in rules.checks)


def _rank(rules: ReviewRules, bases: Bases, image: Candidate, *, is_current: bool) -> tuple[bool, bool, float, int]:
    """An image that was judged by what is asked now comes before all others, then one with nothing against it, then the one
    with more points, then the later one."""
    said = applicable(bases, image.verdicts)
    points = max((verdict.score or 0.0 for verdict in said if verdict.by == "judge"), default=0.0)
    return (
        is_current or len(said) == len(bases),
        not list(rejections(rules, bases, image.verdicts)),
        points,
        image.attempt,
    )
