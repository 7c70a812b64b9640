"""What people read is plain English: habits that were dropped stay out of messages and help."""

from __future__ import annotations

import ast
import re

import pytest

from tests.house.modules import PATHS, tree

DROPPED = re.compile(
    r"\bamiss\b|\banew\b(?!`)|\bchoose of\b|\btold to stop\b|\bfor whoever\b|\btaken? up again\b"
    r"|\b(is|are) no (usable|time|valid|storage|duration|line of|JSON)\b",
    re.IGNORECASE,
)
GITHUB_INPUT = re.compile(r"inputs\.anew")


def texts(module: str) -> list[str]:
    """Every string in a module that is a sentence and no docstring."""
    nodes = list(ast.walk(tree(PATHS[module])))
    alone = {id(node.value) for node in nodes if isinstance(node, ast.Expr)}
    found = [node for node in nodes if isinstance(node, ast.Constant) and id(node) not in alone]
    return [node.value for node in found if isinstance(node.value, str) and " " in node.value]


@pytest.mark.parametrize("module", PATHS)
def test_no_message_has_a_habit_that_was_dropped(module):
    assert [text for text in texts(module) if DROPPED.search(GITHUB_INPUT.sub("", text))] == []


def test_such_a_habit_is_found():
    assert DROPPED.search("'soon' is no duration") and DROPPED.search("nothing unless something is amiss")
    assert not DROPPED.search("there is no such file; it is no longer there")
