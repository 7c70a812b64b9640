"""Docstrings begin with a sentence that stands alone, and what they and comments name in backticks exists."""

from __future__ import annotations

import ast
import io
import re
import tokenize

from tests.house.modules import PATHS, nodes

NAME = re.compile(r"`([A-Za-z_]\w*(?:\.[a-z_]\w*)*)(?:\(\))?`")
LIKE_OURS = re.compile(r"[_.]|[a-z][A-Z]")  # other words in backticks are commands, options and values
FRAGMENT = re.compile(
    r"(?:Of|That|Those|Also|None|As|From|In|With|Without|Until|Whose|Its|Not|To|It|On|At|One that|The same(?! as))\b"
)
DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
OF_OTHERS = {"pg_advisory_lock", "pg_current_xact_id", "SERVICE_TIER_FLEX", "_partial"}


def test_every_name_in_backticks_is_there():
    known = {part for name in PATHS for part in name.split(".")} | OF_OTHERS
    texts: list[tuple[str, str]] = []
    for module, path in PATHS.items():
        for token in tokenize.generate_tokens(io.StringIO(path.read_text(encoding="utf-8")).readline):
            if token.type == tokenize.COMMENT or token.string.startswith('"""'):
                texts.append((f"{module}:{token.start[0]}", token.string))
            elif token.type in (tokenize.NAME, tokenize.STRING):
                known.update(re.findall(r"\w+", token.string))
    named = [(place, name) for place, text in texts for name in NAME.findall(text) if LIKE_OURS.search(name)]
    assert len(named) > 100
    assert [(place, name) for place, name in named if not set(name.split(".")) <= known] == []


def test_the_first_sentence_of_a_docstring_stands_alone():
    docstrings = [
        (f"{module}:{getattr(node, 'lineno', 1)}", ast.get_docstring(node) or "")
        for module, path in PATHS.items()
        for node in nodes(path)
        if isinstance(node, DOCUMENTED)
    ]
    assert len(docstrings) > 1000
    assert [(place, text) for place, text in docstrings if FRAGMENT.match(text)] == []


def test_a_fragment_is_found():
    for text in ("Of the lanes that a run asked.", "None when no run noted it.", "The same for a folder."):
        assert FRAGMENT.match(text), text
    for text in ("The lanes of a run.", "Notice of an event.", "The same as before.", "Whether it is there."):
        assert not FRAGMENT.match(text), text
