"""The plan of the house: five floors, their rooms, and no arrow between modules that points up or in a circle."""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
from importlib import import_module

import pytest

from tests.house import figures
from tests.house.modules import FLOORS, PACKAGE, PATHS, circles, for_each, graph, imports_of, nodes, reachable

EMULATOR = "emulator"  # an independent witness of the vendors' documents: imports nothing of ours
STARTS_EMULATOR = {"api", "cli.emulate"}
LAZY = {"manifest"}  # the package itself: names of its files, loaded on first use

# Bottom to top. A file may import from the rows above it in this list, and from none beside or below it.
ENGINE = """
outcome routes dependents answer job
recovery.receipts recovery.unrecorded_files batch.result_lines outstanding cluster.queue cluster.reference_bundle
context reconciliation judge_request spooled_reply pacing cluster.session cluster.heartbeat
ways
settle recovery.repair_records job_state reconcile_items reference_inputs cluster.monitor image_checks
attempts budgets derivative_runner http_attempt jobs preflight reconcile recovery.repair_files engines
recovery.open_attempts recovery.replay recovery.repair failures plan cluster.derivative_session cluster.sample_lanes
stopping links cluster.submit receive
execute cluster.orphan_recovery cluster.submit_derivatives
pipeline cluster.engine cluster.submission_end earlier_jobs
batch.context cluster.sample_parts judging review_effects
reviewer
review batch.outcomes cluster.sample_session
batch.chunk_submitter cluster.worker
batch.result_collector
batch.runner recovery.recover
online_parts opening
online_run
run
"""
ROW = {f"engine.{name}": row for row, names in enumerate(ENGINE.strip().splitlines()) for name in names.split()}
OURS = {name: path for name, path in PATHS.items() if name.split(".")[0] != EMULATOR}


def floor_of(module: str) -> int:
    """The floor of the longest name that fits."""
    found = [
        (len(name), floor)
        for floor, names in enumerate(FLOORS.values())
        for name in names
        if module == name or module.startswith(f"{name}.")
    ]
    assert found, f"{module} lies in no room of the house"
    return max(found)[1]


@for_each(OURS)
def test_arrows_only_point_down(module):
    for each in imports_of(OURS[module]):
        if each.module.split(".")[0] == EMULATOR:
            assert module in STARTS_EMULATOR, f"{module}:{each.line} imports the emulator"
        elif each.module and not (module in LAZY and each.for_types):
            assert floor_of(each.module) <= floor_of(module), (
                f"{module}:{each.line} imports {each.module}, a floor above it"
            )


@for_each([name for name in PATHS if name not in OURS])
def test_the_emulator_imports_nothing_of_ours(module):
    found = [each.module for each in imports_of(PATHS[module]) if each.module.split(".")[0] != EMULATOR]
    assert not found, f"{module} imports {found}"


def test_no_module_reaches_itself_also_by_late_imports_and_by_those_for_types():
    assert not circles(graph())


@for_each(PATHS)
def test_an_import_inside_a_function_says_why_it_is_there(module):
    lines = PATHS[module].read_text(encoding="utf-8").splitlines()
    late = {each.line for each in imports_of(PATHS[module]) if each.late}
    assert [number for number in sorted(late) if "#" not in "".join(lines[number - 2 : number])] == []


def test_every_file_of_the_engine_has_its_row():
    files = {name for name, path in OURS.items() if name.startswith("engine.") and path.name != "__init__.py"}
    assert files == set(ROW)


@for_each(ROW)
def test_files_of_the_engine_import_only_from_rows_before_theirs(module):
    for each in imports_of(OURS[module]):
        if each.module in ROW:
            assert ROW[each.module] < ROW[module], f"{module}:{each.line} imports {each.module}"


@for_each(PATHS)
def test_a_file_knows_fifteen_of_ours_at_most(module):
    assert figures.own_imports(module) <= 15


@for_each(OURS)
def test_a_function_takes_seven_things_at_most(module):
    assert figures.most_parameters(module) <= 7


@for_each([name for name in OURS if "Image.open(" in figures.source(name)])
def test_who_opens_images_has_the_bound_on_what_pillow_decodes(module):
    at_once = {name: {each.module for each in imports_of(path) if not each.late} for name, path in OURS.items()}
    assert module == "store.pillow" or "store.pillow" in reachable(module, at_once)


def test_nobody_asks_of_which_kind_a_store_an_engine_or_a_database_is():
    assert not figures.each(figures.kinds_asked)


def test_no_module_is_a_drawer_for_everything():
    assert not [
        path
        for path in PACKAGE.rglob("*.py")
        if path.stem in {"manager", "util", "utils", "helper", "helpers", "common", "core"}
    ]


def test_the_environment_is_read_in_one_place():
    readers = {"os.environ", "os.getenv"}
    found = {
        name
        for name, path in PATHS.items()
        for node in nodes(path)
        if isinstance(node, ast.Attribute) and ast.unparse(node) in readers
    }
    assert found <= {"settings"}


@pytest.mark.parametrize(
    "statement", ["import batchgen", "import batchgen.records, batchgen.errors, batchgen.ledger.reader"]
)
def test_what_status_and_help_need_imports_nothing_heavy(statement):
    heavy = ["aiohttp", "pydantic", "PIL", "yaml", "jinja2", "rich", "structlog", "obstore"]
    code = f"{statement}; import sys; print([name for name in {heavy} if name in sys.modules])"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "[]"


PROVIDERS = ("gemini", "imagen", "aiml")
KNOW_PROVIDERS = ("providers", "profiles", EMULATOR)


@for_each([name for name in OURS if name.split(".")[0] not in KNOW_PROVIDERS])
def test_no_provider_has_a_name_outside_of_its_codec_and_its_facts(module):
    named = [
        (node.lineno, name)  # type: ignore[attr-defined]
        for node in nodes(OURS[module])
        for name in _names(node)
        if any(provider in name.lower().replace("/gemini-api/", "") for provider in PROVIDERS)  # an address of a source
    ]
    assert not named


def _names(node: ast.AST) -> list[str]:
    """Every word of the program in a node, and every text but for comments."""
    fields = (getattr(node, name, None) for name in ("id", "attr", "arg", "name", "module", "value"))
    return [field for field in fields if isinstance(field, str)]


def test_every_entry_point_names_what_is_there():
    project = tomllib.loads((PACKAGE.parent / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    groups = [project["scripts"], *project["entry-points"].values()]
    named = [value for group in groups for value in group.values()]
    assert len(named) >= 2
    for value in named:
        module, _, name = value.partition(":")
        assert hasattr(import_module(module), name), value


def test_every_module_that_a_floor_names_is_there():
    rooms = {name.rpartition(".")[0] for name in PATHS} | set(PATHS)
    assert [name for names in FLOORS.values() for name in names if name not in rooms] == []
