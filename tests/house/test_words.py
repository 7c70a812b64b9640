"""What people read is plain English: habits that were dropped stay out of messages and help."""

from __future__ import annotations

import ast
import re

import pytest

from tests.house.modules import PACKAGE, PATHS, tree

DROPPED = re.compile(
    r"\bamiss\b|\banew\b(?!`)|\bchoose of\b|\btold to stop\b|\bfor whoever\b|\btaken? up again\b"
    r"|\b(is|are) no (usable|time|valid|storage|duration|line of|JSON)\b",
    re.IGNORECASE,
)
GITHUB_INPUT = re.compile(r"inputs\.anew")


VALUE = "\0"  # stands for what an f-string puts in
OTHER_MONEY = re.compile(rf"[\d{VALUE}}}] ?USD\b|\bUSD ?[\d{VALUE}]|\bUSD \$\{{|\$(?:{VALUE}|\$\{{)")
PAGES = [*sorted((PACKAGE / "manual").glob("*.md")), PACKAGE.parent / "README.md"]
SCRIPTS = sorted((PACKAGE / "report" / "page").glob("*.js"))


def texts(module: str) -> list[str]:
    """Every string in a module that is a sentence and no docstring; an f-string is one."""
    nodes = list(ast.walk(tree(PATHS[module])))
    inside = {id(node.value) for node in nodes if isinstance(node, ast.Expr)}
    inside |= {id(part) for node in nodes if isinstance(node, ast.JoinedStr) for part in node.values}
    return [text for node in nodes if id(node) not in inside and " " in (text := _text(node))]


def _text(node: ast.AST) -> str:
    if isinstance(node, ast.JoinedStr):
        return "".join(_text(part) if isinstance(part, ast.Constant) else VALUE for part in node.values)
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else ""


@pytest.mark.parametrize("module", PATHS)
def test_no_message_has_a_habit_that_was_dropped(module):
    assert [text for text in texts(module) if DROPPED.search(GITHUB_INPUT.sub("", text))] == []


def test_such_a_habit_is_found():
    assert DROPPED.search("'soon' is no duration") and DROPPED.search("nothing unless something is amiss")
    assert not DROPPED.search("there is no such file; it is no longer there")


@pytest.mark.parametrize("module", [name for name in PATHS if name != "money"])
def test_no_message_writes_money_by_hand(module):
    assert [text for text in texts(module) if OTHER_MONEY.search(text)] == []


@pytest.mark.parametrize("path", [*PAGES, *SCRIPTS], ids=lambda path: path.name)
def test_no_page_writes_money_its_own_way(path):
    lines = [line for line in path.read_text(encoding="utf-8").splitlines() if OTHER_MONEY.search(line)]
    assert lines == ([line for line in lines if "$${size" in line][:1] if path.name == "elements.js" else [])


def test_money_that_is_written_by_hand_is_found():
    for text in (
        "0.70 USD",
        "USD 0.7",
        f"about {VALUE} USD",
        f"${VALUE}",
        "`${amount.toFixed(2)} USD`",
        "`$${amount}`",
    ):
        assert OTHER_MONEY.search(text), text
    for text in ("set ${NOTIFY_URL}", f"write ${{{VALUE}}}", "--max-cost USD", "`${usd(amount)}`", "about $0.70"):
        assert not OTHER_MONEY.search(text), text
