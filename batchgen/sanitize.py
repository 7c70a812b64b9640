"""Makes text from prompts, ids and servers safe to show: on one line, without control sequences and keys."""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Iterable
from typing import Any

# C0 and C1 controls, soft hyphen and the invisible format characters (bidi overrides and isolates, zero widths, tags),
# line and paragraph separators, lone surrogates. The two joiners stay: scripts and emoji need them.
# Source: Unicode Standard 15, categories Cc, Cf, Zl, Zp and Cs; Trojan Source, CVE-2021-42574.
_UNSAFE = re.compile(
    "[\x00-\x1f\x7f-\x9f\xad\u0600-\u0605\u061c\u06dd\u070f\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff"
    "\ufff9-\ufffb\ud800-\udfff\U000e0000-\U000e007f]"
)
_ASCII = {
    "…": "...",
    "·": "-",
    "—": "-",
    "–": "-",
    "×": "x",
    "→": "->",
    "✓": "ok",
    "━": "=",
    "─": "-",
    "█": "#",
    "╸": "-",
}
_MARKDOWN_CHARS = re.compile(r"([\\`*_{}\[\]()#+!|~$-])")
REDACTED = "[redacted]"
# Anything that looks like a key, by its own form or by what precedes it. Google quotes keys in messages ("Consumer
# 'api_key:…' has been suspended"), gateways as JSON or as a header, in quotes that may be escaped.
_LIKELY_KEY = re.compile(
    r"""
    \b(?:AIza[\w-]{20,} | AQ\.[\w-]{20,} | sk-[\w.-]{12,} | ya29\.[\w.-]{12,} | eyJ[\w-]{8,}\.[\w.-]{8,})
    | (?<=api_key:) [^\s'"\\]+
    | (?P<scheme> (?i:\bBearer\s+) (?:\\?["'])? ) (?:(?<=["']) [^\s"'\\]{8,} | [\w.~+/=-]{12,})
    | (?P<name> (?i:\b(?:[\w-]{0,40}key|token|secret|password|authorization)) (?:\\?["'])? \s*[:=]\s* \\?["'] ) [^\s"'\\]{8,}
    | (?P<plain> (?i:\b[\w-]{0,40}api[_-]?key) (?:\\?["'])? \s*[:=]\s* ) (?=[^\s"'\\]*\d) [^\s"'\\]{8,}
    """,
    re.VERBOSE,
)


def sanitize(text: str) -> str:
    """`text` on one line, with every character that a terminal would act on escaped, as `\\x1b` or `\\u202e`."""
    return _UNSAFE.sub(_escape, text) if not (text.isascii() and text.isprintable()) else text


def _escape(match: re.Match[str]) -> str:
    number = ord(match[0])
    if match[0] in "\n\r\t":
        return {"\n": "\\n", "\r": "\\r", "\t": " "}[match[0]]
    return f"\\x{number:02x}" if number < 0x100 else f"\\u{number:04x}" if number < 0x10000 else f"\\U{number:08x}"


def redact_secrets(text: str, secrets: Iterable[str]) -> str:
    for secret in secrets:
        text = text.replace(secret, REDACTED)
    return text


def redact_likely_keys(text: str) -> str:
    """`text` without anything that looks like a key, whether or not batchgen knows it."""
    return _LIKELY_KEY.sub(lambda found: f"{found['scheme'] or found['name'] or found['plain'] or ''}…", text)


def ascii_only(text: str) -> str:
    """`text` for terminals without UTF-8: batchgen's own symbols in plain letters, all else as escapes."""
    for sign, plain in _ASCII.items():
        text = text.replace(sign, plain)
    return text.encode("ascii", "backslashreplace").decode("ascii")


def printable_json(value: Any, *, indent: int | None = None, plain: bool = False) -> str:
    """JSON that is safe to print: characters that a terminal would act on are written as `\\uXXXX`, which parses the same.

    plain: ASCII only.
    """
    text = json.dumps(value, ensure_ascii=plain, indent=indent)
    return text if text.isascii() and "\x7f" not in text else _UNSAFE.sub(_json_escape, text)


def _json_escape(match: re.Match[str]) -> str:
    # Outside of strings the only control characters are the newlines of an indented text.
    return match[0] if match[0] == "\n" else json.dumps(match[0])[1:-1] if match[0] != "\x7f" else "\\u007f"


def display_width(text: str) -> int:
    """The width of a sanitized text in columns: two for each wide character, none for a combining one."""
    if text.isascii():
        return len(text)
    return sum(_char_width(character) for character in text)


def _char_width(character: str) -> int:
    if character == "\ufe0f":  # the character before it is drawn as an emoji, two columns wide
        return 1
    if character in "\u200c\u200d" or unicodedata.category(character) in ("Mn", "Me"):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def truncate(text: str, columns: int, mark: str = "…") -> str:
    """`text` in at most this many columns, with a mark of one column where it was cut."""
    if display_width(text) <= columns:
        return text
    return _prefix(text, columns - 1) + mark if columns > 0 else ""


def wrapped(text: str, columns: int, indent: str = "") -> list[str]:
    """`text` in lines of at most this many columns, broken at spaces, and inside a word only if it is longer than a line."""
    lines: list[str] = []
    line, indent = "", indent[: columns // 2]
    for word in re.findall(r" *[^ ]+", text):
        if line and display_width(line + word) > columns:
            lines.append(line)
            line, word = indent, word.lstrip(" ")
        line += word
        while display_width(line) > columns:
            begin = _prefix(line, columns) or line[:1]
            lines.append(begin)
            line = indent + line[len(begin) :]
    return [*lines, line] if line else lines or [""]


def _prefix(text: str, columns: int) -> str:
    """The longest beginning of `text` that fits into this many columns."""
    taken = 0
    for position, character in enumerate(text):
        taken += _char_width(character)
        if taken > columns:
            return text[:position]
    return text


def short_message(message: str) -> str:
    """A vendor's message, sanitized and cut to about two lines. The ledger and the log have it in full."""
    return truncate(sanitize(redact_likely_keys(" ".join(message.split()))), 160)


def escape_markdown(text: str) -> str:
    """`text` escaped so that Markdown shows it literally: it cannot become markup, a link or a table row."""
    safe = text.strip().replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return _MARKDOWN_CHARS.sub(r"\\\1", safe)
