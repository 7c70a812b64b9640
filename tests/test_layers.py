"""The house: an arrow between modules only ever points down, and what must start fast imports nothing heavy."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "batchgen"

# Bottom to top. A module may import from its own layer and from those above it in this list.
LAYERS: list[list[str]] = [
    ["records", "errors", "machine", "settings", "safe_open", "time_limit", "url", "proxies"],
    ["events", "profiles", "report.clean"],
    [
        "retry",
        "quota",
        "breaker",
        "blame",
        "dispatch",
        "lane",
        "settlement",
        "supply",
        "fallback",
        "batching",
        "planning",
        "lift",
        "response_body",
        "recipe",
        "single_flight",
        "providers",
        "manifest",
        "schedule",
    ],
    ["transport", "network_errors", "public_addresses", "store", "ledger", "shared", "uploads"],
    ["engine"],
    ["job"],
    ["report"],
    ["daemon"],
    ["cli"],
    ["__main__"],
]
APART = ["emulator"]  # imports nothing of ours; the door and the job may start it


def module_name(path: Path) -> str:
    parts = list(path.relative_to(PACKAGE).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def layer_of(module: str) -> int:
    named = [(len(prefix), level) for level, prefixes in enumerate(LAYERS) for prefix in prefixes
             if module == prefix or module.startswith(f"{prefix}.")]  # fmt: skip
    assert named, f"{module} has no place in the house"
    return max(named)[1]


def imports_of(path: Path) -> Iterator[str]:
    """Every import of ours anywhere in a file, late ones and those for types included."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "batchgen":
            base = node.module.removeprefix("batchgen").lstrip(".")
            for alias in node.names:
                deeper = PACKAGE / base.replace(".", "/") / f"{alias.name}.py"
                yield f"{base}.{alias.name}".lstrip(".") if deeper.exists() else base
        elif isinstance(node, ast.Import):
            yield from (
                alias.name.removeprefix("batchgen").lstrip(".")
                for alias in node.names
                if alias.name.startswith("batchgen")
            )


MODULES = sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")


@pytest.mark.parametrize("path", MODULES, ids=module_name)
def test_arrows_only_point_down(path):
    module = module_name(path)
    for imported in imports_of(path):
        if module.split(".")[0] in APART:
            assert imported.split(".")[0] in APART, (
                f"{module} imports {imported}: the emulator is an independent witness"
            )
        elif imported.split(".")[0] in APART:
            assert module.split(".")[0] in ("job", "cli"), f"{module} imports the emulator"
        elif imported:  # the package itself holds nothing but the version and lazy names
            assert layer_of(imported) <= layer_of(module), f"{module} imports {imported}, which lies above it"


def test_no_module_is_a_drawer_for_everything():
    assert not [
        path
        for path in PACKAGE.rglob("*.py")
        if path.stem in {"manager", "util", "utils", "helper", "helpers", "common", "core"}
    ]


def test_the_environment_is_read_in_one_place():
    readers = {"os.environ", "os.getenv"}
    found = {
        module_name(path)
        for path in MODULES
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute) and ast.unparse(node) in readers
    }
    assert found <= {"settings", "emulator.command_line"}


@pytest.mark.parametrize(
    "statement", ["import batchgen", "import batchgen.records, batchgen.errors, batchgen.ledger.reader"]
)
def test_what_status_and_help_need_imports_nothing_heavy(statement):
    heavy = ["aiohttp", "pydantic", "PIL", "yaml", "jinja2", "rich", "structlog", "obstore"]
    code = f"{statement}; import sys; print([name for name in {heavy} if name in sys.modules])"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "[]"
