"""What was read against what was asked for: pure, so no image is needed."""

from __future__ import annotations

import pytest

from batchgen.review.detectors import compare, rest_of


@pytest.mark.parametrize(
    ("wanted", "found", "errors"),
    [
        ("SALE 50%", ["SALE 50%"], 0),
        ("SALE 50%", ["Sale50%"], 0),
        ("SALE 50%", ["NEW", "SALE 5O%", "today only"], 0),
        ("Fresh bread", ["Fresh", "bread"], 0),
        ("It’s “here” – now", ['It\'s "here" - now'], 0),
        ("SALE 50%", ["SALE 60%"], 1),
        ("SALE 50%", ["SAE 50%"], 1),
        ("SALE 50%", ["SSALE 50%"], 1),
        ("Grand Opening", ["Grand Openingg"], 1),
        ("Grand Opening", ["Grand Opening gala"], 0),
        ("open", ["reopened"], 4),
        ("Open\nDaily", ["Daily", "Open"], 0),
        ("Open\nOpen", ["Open"], 4),
        ("春節", ["春節快樂"], 0),
        ("春節", ["春筋快樂"], 1),
        ("Café", ["Cafe"], 1),
        ("SALE", [], 4),
        ("SALE", ["…"], 4),
    ],
)
def test_letters_that_differ_are_counted_wherever_the_text_stands(wanted, found, errors):
    assert compare(wanted, found, 0)[2] == errors
    assert (compare(wanted, found, 0)[0] == "text") is (errors > 0)
    assert compare(wanted, found, errors)[0] == ""


def test_the_message_says_what_was_read_and_what_was_asked_for():
    assert compare("SALE 50%", ["SAE 50%", "now"], 0)[1] == 'reads "SAE 50% now" where "SALE 50%" was asked for'
    assert compare("SALE 50%", [], 0)[1] == 'no text can be read where "SALE 50%" was asked for'


def test_what_else_is_written_is_the_rest():
    assert rest_of("SALE 50%", ["SALE 50%"]) == ""
    assert rest_of("SALE 50%", ["Big SALE 50% today"]) == "blgtoday"  # i and l are one letter
    assert rest_of(None, ["lorem"]) == "lorem"
