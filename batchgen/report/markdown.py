"""The closing summary as Markdown, for the page of a CI job: the same words as on the terminal."""

from __future__ import annotations

import re
from collections.abc import Callable

from batchgen.report.summary import blocks, headline
from batchgen.report.view import RunSummary

LIST_BLOCKS = ("why", "uncertain", "newest", "unlike", "next")
_MARKDOWN_CHARS = re.compile(r"([\\`*_{}\[\]()#+!|~$-])")


def summary_markdown(summary: RunSummary, sanitize_line: Callable[[str], str]) -> str:
    """sanitize_line: takes secrets and control characters out of a line."""
    lines = [f"### {escape_markdown(sanitize_line(headline(summary)))}", ""]
    if summary.emulated:
        lines += ["**EMULATED: the images are a local emulator's, nothing was billed**", ""]
    found = [(label, [escape_markdown(sanitize_line(line)) for line in block]) for label, block in blocks(summary)]
    lines += ["| | |", "|---|---|"]
    lines += [f"| {label} | {'<br>'.join(block)} |" for label, block in found if label not in LIST_BLOCKS]
    for label, block in found:
        if label in LIST_BLOCKS:
            lines += ["", f"**{label}**", "", *(f"- {line}" for line in block)]
    return "\n".join(lines) + "\n\n"


def failure_markdown(job: str, message: str, sanitize_line: Callable[[str], str]) -> str:
    """For a run that ended before there was a summary."""
    lines = [f"- {escape_markdown(sanitize_line(line))}" for line in message.splitlines()]
    return "\n".join([f"### {escape_markdown(sanitize_line(job))}: ended by an error", "", *lines]) + "\n\n"


def escape_markdown(text: str) -> str:
    """`text` so that a page shows it as it is: foreign words never become markup, links or a row of their own."""
    safe = text.strip().replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return _MARKDOWN_CHARS.sub(r"\\\1", safe)
