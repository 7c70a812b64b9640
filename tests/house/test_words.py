"""What people read is plain English: habits that were dropped stay out of messages and help."""

from __future__ import annotations

import ast
import functools
import re

import batchgen
from batchgen.providers import contract
from tests.house.modules import PACKAGE, PATHS, for_each, nodes

DROPPED = re.compile(
    r"\bamiss\b|\banew\b(?!`)|\bchoose of\b|\btold\b|\bfor who(?:ever)?\b|\b(?:take|taken|takes) (?:it |them )?up\b(?! to)"
    r"|^(?:`\w+`: )?Of (?:the|a|an|this|what)\b|(?<!there )(?<!There )\b(?:is|are) none\b(?! of)|\bmend(?:ed|s)?\b"
    r"|\bleave\b[^.;:]* away\b|(?<!there )(?<!There )\b(?:is|are) no (?!longer\b|more\b|\w+er than)",
    re.IGNORECASE,
)
GITHUB_INPUT = re.compile(r"inputs\.anew")


VALUE = "\0"  # stands for what an f-string puts in
OTHER_MONEY = re.compile(rf"[\d{VALUE}}}] ?USD\b|\bUSD ?[\d{VALUE}]|\bUSD \$\{{|\$(?:{VALUE}|\$\{{)")
PICTURE = re.compile(r"(?<![-_/.\w])pictures?\b(?![-_/])", re.IGNORECASE)
SIMULATED = {"emulator.gemini", "emulator.faults"}  # what a vendor's model says, and names of faults
PAGES = [*sorted((PACKAGE / "manual").glob("*.md")), PACKAGE.parent / "README.md"]
SCRIPTS = sorted((PACKAGE / "report" / "page").glob("*.js"))
STRING = re.compile(r"\"[^\"\n]*\"|`[^`]*`")
VALUE_OF_SCRIPT = re.compile(r"\$\{[^}]*\}")
CONTRACT = [name for name, value in vars(contract).items() if getattr(value, "__module__", "") == contract.__name__]


@functools.cache
def texts(module: str) -> list[str]:
    """Every string in a module that is a sentence and no docstring; an f-string is one."""
    found = nodes(PATHS[module])
    inside = {id(node.value) for node in found if isinstance(node, ast.Expr)}
    inside |= {id(part) for node in found if isinstance(node, ast.JoinedStr) for part in node.values}
    return [text for node in found if id(node) not in inside and " " in (text := _text(node))]


def _text(node: ast.AST) -> str:
    if isinstance(node, ast.JoinedStr):
        return "".join(_text(part) if isinstance(part, ast.Constant) else VALUE for part in node.values)
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else ""


@for_each(PATHS)
def test_no_message_has_a_habit_that_was_dropped(module):
    assert [text for text in texts(module) if DROPPED.search(GITHUB_INPUT.sub("", text))] == []


def test_such_a_habit_is_found():
    for text in (
        "'soon' is no duration",
        "unless something is amiss",
        "Of the log.",
        "hooks that are told of it",
        "what is none",
    ):
        assert DROPPED.search(text), text
    for text in ("only for who waits", "it is mended", "the next run takes it up", "leave --ledger away"):
        assert DROPPED.search(text), text
    for text in (
        "there is no such file; it is no longer there",
        "none of the two",
        "Time of day.",
        "no older than 24 h",
    ):
        assert not DROPPED.search(text), text


@for_each([name for name in PATHS if name != "money"])
def test_no_message_writes_money_by_hand(module):
    assert [text for text in texts(module) if OTHER_MONEY.search(text)] == []


@for_each([*PAGES, *SCRIPTS])
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


@for_each([name for name in PATHS if name not in SIMULATED])
def test_users_read_of_images_and_never_of_pictures(module):
    assert [text for text in texts(module) if PICTURE.search(text)] == []


@for_each([*PAGES, PACKAGE / "manifest" / "starter.yaml"])
def test_no_page_speaks_of_pictures(path):
    assert PICTURE.findall(path.read_text(encoding="utf-8")) == []


@for_each(SCRIPTS)
def test_no_script_of_a_page_speaks_of_pictures(path):
    texts = STRING.findall(path.read_text(encoding="utf-8"))
    assert [text for text in texts if " " in text and PICTURE.search(VALUE_OF_SCRIPT.sub("", text))] == []


@for_each([name for name in (*batchgen.__all__, *CONTRACT) if not name.startswith("_")])
def test_no_docstring_of_a_public_name_has_pictures_or_a_habit_that_was_dropped(name):
    value = getattr(batchgen, name) if name in batchgen.__all__ else getattr(contract, name)
    for documented in [value, *(each for key, each in vars(value).items() if not key.startswith("_"))]:
        text = getattr(documented, "__doc__", None) or ""
        assert not PICTURE.search(text) and not DROPPED.search(text), f"{documented}: {text}"


def test_such_a_word_is_found():
    assert PICTURE.search("the picture is lost") and PICTURE.search("Pictures to make")
    assert not PICTURE.search("s3://pictures/shop, picture_px and --picture: photographs")


@for_each(PAGES)
def test_no_page_has_a_habit_that_was_dropped(path):
    prose = re.sub(r"```.*?```", "", path.read_text(encoding="utf-8"), flags=re.DOTALL)
    sentences = re.split(r"[|\n]|(?<=[.:;]) ", prose)
    assert [each for each in sentences if DROPPED.search(GITHUB_INPUT.sub("", each).strip())] == []
