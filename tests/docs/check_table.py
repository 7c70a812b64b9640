"""The manual's table of checks, from what the checks declare."""

from __future__ import annotations

from batchgen.review.check_type import CheckType, Option
from batchgen.review.checks import BUILT_IN


def check_table() -> str:
    """In Markdown."""
    rows = [("check", "question", "options"), ("---",) * 3]
    rows += [(f"`{kind.name}`", _question(kind), _options(kind) or "–") for kind in BUILT_IN.values()]
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def _question(kind: CheckType) -> str:
    return f"{kind.description} (extra `{kind.extra}`)" if kind.extra else kind.description


def _options(kind: CheckType) -> str:
    return " ".join(f"`{name}`: {_option(option)}" for name, option in kind.options.items())


def _option(option: Option) -> str:
    choices = f" {', '.join(f'`{choice}`' for choice in option.choices)}." if option.choices else ""
    default = "" if option.default is None else f" Default {str(option.default).lower()}."
    return f"{option.description}{choices}{default}"
