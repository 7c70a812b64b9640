"""Each check on images of which it is known what it should say: how often it may be wrong. `python -m tests.benchmarks --only checks`
has all of them and prints the rates."""

from __future__ import annotations

import pytest

from tests.support.label_rates import Rates, rates
from tests.support.labelled_images import MAKERS, SIZES

SMALL = SIZES[:1]


@pytest.mark.parametrize(
    ("name", "missed", "false_alarms"),
    [
        ("blank", 0, 0),
        ("twin", 0.02, 0),
        ("sharp", 0.02, 0),
        ("size", 0, 0),
        ("background", 0, 0),
        ("cut out", 0, 0),
        ("faces", 0, 0.05),
        ("unsafe", 0, 0),
    ],
)
def test_a_check_is_as_often_right_as_the_manual_says(name, missed, false_alarms, tmp_path):
    found = rates(name, SMALL, tmp_path, most=36)
    assert found.failed == []
    assert found.missed <= missed * found.wrong, found.errors
    assert found.false_alarms <= false_alarms * found.right, found.errors
    assert found.wrong + found.right >= 2


def test_a_text_is_read_well_enough_to_find_one_wrong_letter(tmp_path):
    found = rates("text", ((768, 512),), tmp_path, formats=("jpeg",), most=6)
    assert (found.failed, found.errors) == ([], [])
    assert (found.wrong, found.right) == (4, 2)


def test_every_check_has_its_images():
    assert set(MAKERS) - {"cut out"} == {"blank", "twin", "sharp", "size", "background", "text", "faces", "unsafe"}


def test_a_wrong_answer_is_counted():
    counted = Rates("x")
    for wrong, found in ((True, False), (True, True), (False, True), (False, False), (False, False)):
        counted.count(wrong, found, "this")
    assert (counted.wrong, counted.missed, counted.right, counted.false_alarms) == (2, 1, 3, 1)
    assert counted.errors == ["missed: this", "false alarm: this"]
