"""The package's modules and what each of them imports, read off the source: what the tests of the house and its figures share."""

from __future__ import annotations

import ast
import functools
import gc
from collections.abc import Callable, Collection, Iterator, Mapping, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PACKAGE = Path(__file__).parents[2] / "batchgen"

# Bottom to top. A room or file may import from its own floor and from those below it. A file that stands on another
# floor than its room is named there.
FLOORS: dict[str, list[str]] = {
    "vocabulary": [
        "item",
        "records",
        "endpoint",
        "money",
        "errors",
        "os_errors",
        "events",
        "settings",
        "safe_open",
        "log_fields",
        "sanitize",
        "single_flight",
    ],
    "rules": [
        *["profiles", "providers", "planning", "scheduling", "manifest"],
        *["derivatives.specification", "schedule.due", "schedule.timer_spec"],
        *["review.checks", "review.check_type", "review.twins"],
    ],
    "edges": [
        *["http", "references", "store", "derivatives", "review", "ledger"],
        # a manifest is read here
        *["manifest.read", "manifest.sources", "manifest.data", "manifest.rows", "manifest.assemble"],
        *["manifest.validate_item", "manifest.duplicates", "manifest.item_references"],
    ],
    "motion": ["engine"],
    "views": ["report", "schedule", "daemon", "api", "cli", "testing", "__main__"],
}


@dataclass(frozen=True, slots=True)
class Import:
    """module: ours, without `batchgen.`. late: inside a function. for_types: under TYPE_CHECKING."""

    module: str
    line: int
    late: bool = False
    for_types: bool = False


def module_name(path: Path) -> str:
    parts = list(path.relative_to(PACKAGE).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


PATHS = {module_name(path): path for path in sorted(PACKAGE.rglob("*.py")) if path != PACKAGE / "__init__.py"}


def parse(text: str) -> ast.Module:
    """The syntax of a module. Without collecting garbage meanwhile: CPython 3.11 raises SystemError when that makes anything else
    compile something (github.com/python/cpython/issues/106905)."""
    gc.disable()
    try:
        return ast.parse(text)
    finally:
        gc.enable()


@functools.cache
def tree(path: Path) -> ast.Module:
    """The file's syntax, parsed once for all tests. Nobody changes it."""
    return parse(path.read_text(encoding="utf-8"))


@functools.cache
def nodes(path: Path) -> tuple[ast.AST, ...]:
    """All of a file's syntax, walked once for all tests."""
    return tuple(ast.walk(tree(path)))


@functools.cache
def imports_of(path: Path) -> tuple[Import, ...]:
    """Every import of ours anywhere in a file."""
    return tuple(_imports(tree(path), late=False, for_types=False))


def _imports(parent: ast.AST, *, late: bool, for_types: bool) -> Iterator[Import]:
    for node in ast.iter_child_nodes(parent):
        for name in _imported(node):
            yield Import(name, node.lineno, late, for_types)  # type: ignore[attr-defined]
        yield from _imports(
            node,
            late=late or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda),
            for_types=for_types or (isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)),
        )


def _imported(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "batchgen":
        base = str(node.module).removeprefix("batchgen").lstrip(".")
        for alias in node.names:
            deeper = f"{base}.{alias.name}".lstrip(".")
            yield deeper if deeper in PATHS else base
    elif isinstance(node, ast.Import):
        names = [alias.name for alias in node.names if alias.name.split(".")[0] == "batchgen"]
        yield from (name.removeprefix("batchgen").lstrip(".") for name in names)


def graph() -> dict[str, set[str]]:
    """Which module imports which, in whatever way. The package itself holds nothing but its version and lazy names."""
    return {name: {each.module for each in imports_of(path)} - {"", name} for name, path in PATHS.items()}


def circles(arrows: Mapping[str, Set[str]]) -> list[list[str]]:
    """Groups of modules that reach each other. What reaches nothing, or is reached by nothing, is taken away until
    only circles and the ways between them are left."""
    left = {name: set(others) for name, others in arrows.items()}
    while True:
        reached = set().union(*left.values()) if left else set()
        loose = {name for name, others in left.items() if not others & left.keys() or name not in reached}
        if not loose:
            break
        left = {name: others - loose for name, others in left.items() if name not in loose}
    reach = {name: reachable(name, left) for name in left}
    groups = {frozenset(other for other in reach[name] if name in reach[other]) for name in left}
    return sorted(sorted(group) for group in groups if len(group) > 1)


def reachable(start: str, arrows: Mapping[str, Set[str]]) -> set[str]:
    """All that a module imports, and what that imports."""
    seen: set[str] = set()
    ahead = [start]
    while ahead:
        new = arrows.get(ahead.pop(), set()) - seen
        seen |= new
        ahead += new
    return seen


def for_each(values: Collection[Any]) -> Callable[[Callable[[Any], None]], Callable[[], None]]:
    """One test of all values, which says what is wrong with each. Thousands of modules times rules as tests of their own would
    cost more to collect than to run."""

    def one_test(check: Callable[[Any], None]) -> Callable[[], None]:
        def test() -> None:
            faults = []
            for value in values:
                try:
                    check(value)
                except AssertionError as fault:
                    faults.append(f"{value}: {fault}")
            assert values and not faults, "\n".join(faults)

        return test

    return one_test
