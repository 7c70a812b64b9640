"""What becomes of a sample by what is said of its images."""

from __future__ import annotations

import pytest

from batchgen.item import Check, Judge, OnReject
from batchgen.ledger.verdicts import Candidate
from batchgen.records import ImageFile, Verdict
from batchgen.review.ruling import (
    NOT_CHOSEN,
    Accepted,
    MakeAnother,
    Rejected,
    ReviewRules,
    awaits_judge,
    bases_of,
    decide,
    noted,
)

BLANK, SHARP = Check(name="blank", rejects=True), Check(name="twin")
JUDGE = Judge(model="m", provider="gemini", rubric="Is it good?")
CHECKED = ReviewRules(checks=(BLANK,), on_reject=OnReject(again=1))
JUDGED = ReviewRules(checks=(), judge=JUDGE, on_reject=OnReject(again=1))
BEST_OF_THREE = ReviewRules(checks=(), judge=Judge(model="m", provider="gemini", rubric="Is it good?", of=3))


def said(
    rules: ReviewRules, *, blank: bool = False, score: float | None = None, person: str = ""
) -> tuple[Verdict, ...]:
    common = {"item_id": "a", "n": 1, "sha256": "s"}
    bases = bases_of(rules, "a mug")
    found = [
        Verdict(**common, by=by, name=name, ruling="accept", basis=basis, score=score)
        if by == "judge"
        else Verdict(
            **common, by=by, name=name, ruling="reject" if blank else "accept", basis=basis, reason="blank" if blank else "",
            message="it is blank" if blank else "",
        )
        for (by, name), basis in bases.items()
        if by == "check" or score is not None
    ]  # fmt: skip
    if person:
        found.append(Verdict(**common, by="person", name="Ann", ruling=person, message="no", at=2.0))  # type: ignore[arg-type]
    return tuple(found)


def images(*verdicts: tuple[Verdict, ...]) -> list[Candidate]:
    """The last one has the sample's name."""
    file = ImageFile(path="a.png", sha256="s", bytes=1, width=1, height=1, format="png")
    return [Candidate("a", 1, number, 0, file, each) for number, each in enumerate(verdicts, 1)]


def decided(rules: ReviewRules, *verdicts: tuple[Verdict, ...]):
    made = images(*verdicts)
    return decide(rules, bases_of(rules, "a mug"), made, made[-1])


def test_an_image_against_which_nothing_is_said_counts():
    found = decided(CHECKED, said(CHECKED))
    assert isinstance(found, Accepted) and found.image.attempt == 1


def test_a_rejected_image_is_made_again_as_often_as_the_manifest_says_and_the_last_one_stays_rejected():
    bad = said(CHECKED, blank=True)
    assert decided(CHECKED, bad) == MakeAnother("blank", "it is blank")
    end = decided(CHECKED, bad, bad)
    assert isinstance(end, Rejected) and (end.image.attempt, end.reason, end.hold) == (2, "blank", False)


def test_what_a_check_found_when_it_only_warned_rejects_once_the_manifest_says_so():
    warned = tuple(
        Verdict(**{**{f: getattr(v, f) for f in v.__slots__}, "ruling": "warn"}) for v in said(CHECKED, blank=True)
    )  # type: ignore[arg-type]
    assert isinstance(decided(CHECKED, warned), MakeAnother)
    lenient = ReviewRules(checks=(Check(name="blank"),))
    assert isinstance(decided(lenient, warned), Accepted)
    assert noted(bases_of(lenient, "a mug"), warned) == ("blank", "it is blank")


@pytest.mark.parametrize(("score", "kind"), [(7.0, Accepted), (6.9, MakeAnother)])
def test_the_judge_rejects_what_has_fewer_points_than_are_asked_for(score, kind):
    assert isinstance(decided(JUDGED, said(JUDGED, score=score)), kind)


def test_of_several_images_that_were_all_rejected_the_one_with_most_points_stays():
    end = decided(JUDGED, said(JUDGED, score=6), said(JUDGED, score=2))
    assert isinstance(end, Rejected) and end.image.attempt == 1


def test_best_of_three_makes_three_and_takes_the_one_with_most_points():
    assert decided(BEST_OF_THREE, said(BEST_OF_THREE, score=9)) == MakeAnother(
        NOT_CHOSEN, "1 of 3 images to choose from"
    )
    found = decided(BEST_OF_THREE, *(said(BEST_OF_THREE, score=score) for score in (8, 9, 3)))
    assert isinstance(found, Accepted) and found.image.attempt == 2


@pytest.mark.parametrize(("word", "kind"), [("accept", Accepted), ("reject", Rejected)])
def test_a_person_is_right_whatever_judge_and_checks_say(word, kind):
    verdicts = said(CHECKED, blank=word == "accept", person=word)
    assert isinstance(decided(CHECKED, verdicts), kind)


def test_a_verdict_on_another_question_does_not_count():
    other = ReviewRules(checks=(), judge=Judge(model="m", provider="gemini", rubric="Is it red?"))
    verdicts = said(other, score=1)
    assert awaits_judge(JUDGED, bases_of(JUDGED, "a mug"), verdicts)
    assert not awaits_judge(other, bases_of(other, "a mug"), verdicts)


def test_the_judge_is_not_asked_about_what_a_check_or_a_person_has_ruled_on():
    both = ReviewRules(checks=(BLANK,), judge=JUDGE)
    bases = bases_of(both, "a mug")
    assert awaits_judge(both, bases, said(both))
    assert not awaits_judge(both, bases, said(both, blank=True))
    assert not awaits_judge(both, bases, said(both, person="accept"))


def test_a_check_that_could_not_be_made_rejects_nothing():
    (failed,) = said(CHECKED, blank=True)
    failed = Verdict(
        **{**{f: getattr(failed, f) for f in failed.__slots__}, "reason": "check_failed", "ruling": "warn"}
    )  # type: ignore[arg-type]
    assert isinstance(decided(CHECKED, (failed,)), Accepted)
