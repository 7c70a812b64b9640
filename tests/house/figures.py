"""Prints how large and how tangled the package is, beside what we want it to be: python -m tests.house.figures."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable
from pathlib import Path

from tests.house.modules import PATHS, circles, graph, imports_of, nodes

# Classes with several kinds behind one interface, and the rooms that may ask which kind it is.
KINDS = {
    "Store": ["store"],
    "LocalFolder": ["store"],
    "ObjectStorage": ["store"],
    "ClusterEngine": ["engine"],
    "OnlineEngine": ["engine"],
    "PostgreSQL": ["ledger"],
    "SQLite": ["ledger"],
}
# Names of mappings with string keys that hold facts of ours, not a vendor's JSON.
FACTS = re.compile(r"^(?:facts|options|row|figures|totals|counts|job|view|run|card|entry|records)$")
Found = list[tuple[str, int]]


def source(name: str) -> str:
    return PATHS[name].read_text(encoding="utf-8")


def lines(name: str) -> int:
    return len(source(name).splitlines())


def own_imports(name: str) -> int:
    return len({each.module for each in imports_of(PATHS[name])} - {"", name})


def late_imports(name: str) -> int:
    return len({each.line for each in imports_of(PATHS[name]) if each.late})


def kinds_asked(name: str) -> int:
    """`isinstance` of a store, engine or database outside of its room."""
    return sum(
        1
        for node in nodes(PATHS[name])
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "isinstance"
        for kind in re.findall(r"\w+", ast.unparse(node.args[1]))
        if kind in KINDS and name.split(".")[0] not in KINDS[kind]
    )


def looked_up(name: str) -> int:
    """Facts of ours that are fetched by a string key."""
    return sum(
        1
        for node in nodes(PATHS[name])
        if isinstance(node, ast.Subscript)
        and isinstance(node.slice, ast.Constant)
        and isinstance(node.slice.value, str)
        and isinstance(node.ctx, ast.Load)
        and FACTS.match(ast.unparse(node.value).rpartition(".")[2])
    )


def long_functions(name: str) -> int:
    return sum(
        1
        for node in nodes(PATHS[name])
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and (node.end_lineno or 0) - node.lineno >= 50
    )


def most_parameters(name: str) -> int:
    """Of any function, without self or cls."""
    takes = [
        [arg.arg for arg in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)]
        for node in nodes(PATHS[name])
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    ]
    return max((len(names) - (names[:1] in (["self"], ["cls"])) for names in takes), default=0)


def unformatted(name: str) -> int:
    return source(name).count("# fmt: skip")


def each(count: Callable[[str], int], least: int = 1) -> Found:
    found = [(name, count(name)) for name in PATHS]
    return sorted((pair for pair in found if pair[1] >= least), key=lambda pair: -pair[1])


def total(found: Found) -> int:
    return sum(count for _, count in found)


def show(what: str, value: int, wanted: int, found: Found | None = None) -> None:
    mark = "ok" if value <= wanted else "  "
    worst = ", ".join(f"{name} {count}" for name, count in (found or [])[:5])
    print(f"{mark:2} {what:58}{value:>8,} of at most {wanted:>6,}   {worst}")


def main() -> None:
    show("Python files", len(PATHS) + 1, 210)
    show("lines", total(each(lines)), 33_000)
    long_files = each(lines, 401)
    show("files over 400 lines", len(long_files), 0, long_files)
    imports = each(own_imports)
    show("most imports of our own in one file", imports[0][1], 15, imports)
    late = each(late_imports)
    show("imports inside functions", total(late), 40, late)
    show("circles of modules", len(circles(graph())), 0)
    kinds = each(kinds_asked)
    show("isinstance of stores, engines, databases outside their room", total(kinds), 0, kinds)
    keys = each(looked_up)
    show("look-ups of our own facts by a string key", total(keys), 60, keys)
    skips = each(unformatted)
    show("# fmt: skip", total(skips), 15, skips)
    parameters = each(most_parameters)
    show("most parameters of a function", parameters[0][1], 7, parameters)
    functions = each(long_functions)
    show("functions over 50 lines", total(functions), 0, functions)


if __name__ == "__main__":
    assert Path("batchgen").is_dir(), "run it from the project's root"
    main()
