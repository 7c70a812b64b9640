"""README and manual, as tests read them."""

from __future__ import annotations

import re

from tests.support.paths import ROOT

MANUAL = ROOT / "batchgen" / "manual"
README = ROOT / "README.md"
PAGES = [README, *sorted(MANUAL.glob("*.md"))]


def page(name: str) -> str:
    return (MANUAL / f"{name}.md").read_text(encoding="utf-8")


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
