"""Answers inside a batch's operation: found at every place, cut out as lines, whatever else the operation holds."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batchgen.providers.batch_results import answer_lines, without_answers
from batchgen.providers.gemini_remote import GeminiBatch
from batchgen.records import Response

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["response", "inlinedResponses", 'a"]', "metadata"]) | st.text(), inner)
    ),
    max_leaves=8,
)
ANSWERS = st.lists(st.dictionaries(st.text(), VALUES), max_size=4)


def operation(place, answers, **others):
    nested = answers
    for name in reversed(place):
        nested = {name: nested}
    return {"name": "batches/a", "done": True, **others, **nested}


PLACES = [
    ("response", "inlinedResponses", "inlinedResponses"),
    ("metadata", "output", "inlinedResponses", "inlinedResponses"),
    ("dest", "inlinedResponses"),
    ("dest", "inlined_responses", "inlined_responses"),
]


@pytest.mark.parametrize("place", PLACES)
@settings(max_examples=40, deadline=None)
@given(answers=ANSWERS, indent=st.sampled_from([None, 2]))
def test_answers_become_lines_wherever_they_stand_and_however_they_are_written(place, answers, indent):
    body = json.dumps(operation(place, answers), indent=indent, ensure_ascii=not indent).encode("utf-8", "replace")
    found = list(answer_lines(body))
    assert all(line.count(b"\n") == 1 and line.endswith(b"\n") for line in found)
    wanted = json.loads(body)
    for name in place:
        wanted = wanted[name]
    assert [json.loads(line) for line in found] == wanted
    assert json.loads(without_answers(body)) == operation(place, [{}] if answers else [])


@pytest.mark.parametrize("place", PLACES)
def test_an_operation_that_holds_its_answers_names_itself_as_their_place(place):
    for answers, name in (([{"response": {}}], "batches/a"), ([], "")):
        body = json.dumps(operation(place, answers)).encode()
        assert GeminiBatch("v1", "m").read_batch(Response(200, {}, body)).results_file == name


def test_of_the_same_answers_at_two_places_one_list_is_taken():
    answers = [{"response": {"a": 1}}, {"error": {"code": 3}}]
    body = json.dumps({**operation(PLACES[1], answers), **operation(PLACES[0], answers)}).encode()
    assert [json.loads(line) for line in answer_lines(body)] == answers


def test_what_a_request_says_is_never_taken_for_an_answer():
    asked = {"requests": {"inlinedResponses": [{"response": "mine"}], "text": '"response":{"inlinedResponses":[{}]}'}}
    body = json.dumps({"metadata": {"inputConfig": asked, "inlinedResponses": [{"x": 1}]}}).encode()
    assert (list(answer_lines(body)), without_answers(body)) == ([], body)


@given(st.binary(max_size=300) | st.text(alphabet='{}[]":,\\ aresponsinld').map(str.encode))
def test_whatever_comes_in_place_of_an_operation_is_read_without_a_fault(body):
    assert isinstance(without_answers(body), bytes)
    assert isinstance(list(answer_lines(body)), list)


def test_an_operation_of_nothing_but_brackets_holds_no_answers():
    assert list(answer_lines(b"[" * 1_000_000)) == []
