"""No message is read by our own code: a reason is a type, and its words are made where they are shown.

Vendors say things in words alone; the codecs in `providers/` and the client in `http/` turn these into types. Everywhere else,
whoever looks into a message does so in a place that this file names, with the reason.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.house.modules import PATHS, parse

READS_VENDORS = ("providers.", "http.", "emulator.")
MESSAGES = {"message", "why", "reason", "said", "note", "notice", "advice", "remedy"}
LOOKS_INTO = {
    *["startswith", "endswith", "partition", "rpartition", "split", "rsplit", "find", "index", "rfind"],
    *["removeprefix", "removesuffix", "replace", "lower", "casefold"],
}
MATCHES = {"match", "fullmatch", "search", "findall", "finditer"}
ALLOWED = {
    "os_errors": "what Python says of threads and temporary folders, for which it has no error of its own",
    "manifest.templates": "Jinja names an undefined variable in its message alone",
    "store.check": "Pillow tells a file that ends too early from a damaged one in its message alone",
    "store.objects": "obstore has the answer of a bucket's server in its message alone",
    "ledger.server_connection": "what libpq and the server say of a refused login",
    "ledger.runs": "the table of parked lanes has no column for who parked them: this is the one reader of its words",
    "references.remote": "the address of a bucket is said once and not twice; nothing is decided by it",
    "report.notify": "the address of a heartbeat is called so and not an image's link; nothing is decided by it",
}


def messages_read(source: str) -> list[int]:
    """Lines that look into a message."""
    return sorted({node.lineno for node in ast.walk(parse(source)) if _reads_a_message(node)})


def _reads_a_message(node: ast.AST) -> bool:
    match node:
        case ast.Call(func=ast.Attribute(attr="split" | "replace"), args=[] | [ast.Constant(value="\n"), *_]):
            return False  # lines and spaces, whatever it says
        case ast.Call(func=ast.Attribute(attr=attr, value=value)) if attr in LOOKS_INTO:
            return _is_message(value)
        case ast.Call(func=ast.Attribute(attr=attr), args=arguments) if attr in MATCHES:
            return any(_is_message(each) for each in arguments)
        case ast.Compare(ops=operators, comparators=comparators):
            inside = (ast.In, ast.NotIn)
            return any(
                isinstance(operator, inside) and _is_message(each)
                for operator, each in zip(operators, comparators, strict=True)
            )
    return False


def _is_message(node: ast.AST) -> bool:
    match node:
        case ast.Name(id=name) | ast.Attribute(attr=name):
            return name in MESSAGES or any(name.endswith(f"_{each}") for each in MESSAGES)
        case ast.Call(func=ast.Name(id="str"), args=[ast.Name(id="error" | "failure" | "refused")]):
            return True
        case ast.Call(func=ast.Attribute(attr="lower" | "casefold" | "strip", value=value)):
            return _is_message(value)
        case ast.BoolOp(values=values):
            return any(_is_message(each) for each in values)
        case ast.Subscript(slice=ast.Constant(value="message" | "why" | "reason")):
            return True
        case ast.Call(func=ast.Attribute(attr="get"), args=[ast.Constant(value="message" | "why" | "reason"), *_]):
            return True
    return False


def _own_modules() -> Iterator[tuple[str, Path]]:
    return ((name, path) for name, path in PATHS.items() if not name.startswith(READS_VENDORS))


def test_no_message_is_read_but_where_it_is_the_only_source():
    found = {name: lines for name, path in _own_modules() if (lines := messages_read(path.read_text(encoding="utf-8")))}
    assert {name: lines for name, lines in found.items() if name not in ALLOWED} == {}
    assert set(ALLOWED) == set(found), "an entry that nothing needs any more"


@pytest.mark.parametrize(
    "line",
    [
        'if why.startswith("fresh"): pass',
        'named, _, other = step.why.partition(" @")',
        'if "\'s budget" in (facts.get("message") or ""): pass',
        'if event.reason.startswith("SIG"): pass',
        "if name in error.message: pass",
        'if "disk" not in str(error).lower(): pass',
        'if "was shut down" in note: pass',
        "found = PATTERN.search(stop_message)",
        'if "x" in row["reason"]: pass',
    ],
)
def test_the_guard_sees_how_messages_were_read_once(line):
    assert messages_read(line)


@pytest.mark.parametrize(
    "line",
    ["if reason in FINAL: pass", "if reason.kind is NEW: pass", 'name.startswith("@")', '" ".join(message.split())'],
)
def test_the_guard_lets_pass_what_reads_no_message(line):
    assert not messages_read(line)
