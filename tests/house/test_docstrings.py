"""A name in backticks, in a docstring or a comment of the package, is a name that the package has."""

from __future__ import annotations

import io
import re
import tokenize

from tests.house.modules import PATHS

NAME = re.compile(r"`([A-Za-z_]\w*(?:\.[a-z_]\w*)*)(?:\(\))?`")
LIKE_OURS = re.compile(r"[_.]|[a-z][A-Z]")  # other words in backticks are commands, options and values
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
