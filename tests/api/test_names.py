"""What `import batchgen` gives: nothing heavy, and yet every public name to `dir`, `help`, completion and type checkers."""

from __future__ import annotations

import ast
import pydoc
import rlcompleter
import subprocess
import sys
from importlib import import_module

import pytest

import batchgen
from batchgen import errors, events
from tests.support.command_line import environment
from tests.support.paths import ROOT

SOURCE = ROOT / "batchgen" / "__init__.py"
GOOD = """
from datetime import timedelta
from pathlib import Path

import batchgen
from batchgen import ManifestError, RunOptions, load

job: batchgen.Job = load(["a mug", {"prompt": "a cup", "count": 2}], name="mugs", emulate=True)
plan: batchgen.Plan = batchgen.plan(job, options=RunOptions(limit=3), only="a*", retry=["failed"], max_cost=2)
outcome: batchgen.Outcome = batchgen.run_sync(job, engine="auto", max_duration=timedelta(hours=1), fresh=True)
path: str | None = outcome.results[0].path
made: list[Path] = [Path(each.path) for each in outcome.results if each.path]
event: type[batchgen.Event] = batchgen.events.SampleSucceeded
error: type[batchgen.BatchgenError] = batchgen.errors.RateLimited
"""
# Each line is a mistake, and the one thing said of it.
MISTAKES = {
    "from batchgen import ManifestEror": 'has no attribute "ManifestEror"',
    'batchgen.lod("x.yaml")': 'has no attribute "lod"',
    'batchgen.load({"items": ["a"]}, nam="x")': 'Unexpected keyword argument "nam"',
    "batchgen.load(3)": 'has incompatible type "int"',
    "batchgen.plan(job, limt=3)": 'Unexpected keyword argument "limt"',
    'batchgen.run_sync(job, retry=["failled"])': "Literal['failled']",
    "batchgen.run_sync(job).reslts": 'has no attribute "reslts"',
    "batchgen.errors.RateLimitd": 'has no attribute "RateLimitd"',
}


def names_for_type_checkers() -> dict[str, str]:
    """Module by name, as the imports under TYPE_CHECKING say."""
    first = next(node for node in ast.parse(SOURCE.read_text()).body if isinstance(node, ast.If))
    imports = [node for node in ast.walk(first) if isinstance(node, ast.ImportFrom)]
    return {alias.name: str(node.module) for node in imports for alias in node.names}


def test_names_at_run_time_are_those_that_type_checkers_know():
    modules = names_for_type_checkers()
    assert sorted({*modules, "__version__"}) == batchgen.__all__
    for name, module in modules.items():
        home = import_module(module)
        assert getattr(batchgen, name) is (
            import_module(f"batchgen.{name}") if home is batchgen else getattr(home, name)
        )


def test_importing_and_listing_the_package_loads_nothing_of_it():
    code = "import batchgen, sys; dir(batchgen); print([name for name in sys.modules if name.startswith('batchgen')])"
    answer = subprocess.run([sys.executable, "-c", code], env=environment(), capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "['batchgen']"


def test_an_except_clause_loads_no_more_than_the_errors():
    code = "import batchgen, sys; batchgen.ManifestError, batchgen.RetrySelection; print('aiohttp' in sys.modules)"
    answer = subprocess.run([sys.executable, "-c", code], env=environment(), capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "False"


def test_dir_and_completion_know_every_name():
    assert set(batchgen.__all__) <= set(dir(batchgen))
    complete = rlcompleter.Completer({"batchgen": batchgen}).complete
    found = [complete("batchgen.", number) for number in range(len(batchgen.__all__))]
    assert {text.partition("(")[0].removeprefix("batchgen.") for text in found if text} >= {
        name for name in batchgen.__all__ if not name.startswith("_")
    }


def test_help_shows_functions_and_classes_with_their_arguments():
    text = pydoc.render_doc(batchgen, renderer=pydoc.plaintext)
    for part in (
        " load(source:",
        " plan(job:",
        " run(job:",
        " run_sync(job:",
        "class Outcome(",
        "class ManifestError(",
    ):
        assert part in text
    assert "outcome = batchgen.run_sync(job)" in text


@pytest.mark.parametrize("name", ["SampleSucceeded", "SampleEnded", "RunStarted", "RunEnded", "Notice", "Outage"])
def test_every_event_is_an_event(name):
    assert issubclass(getattr(batchgen.events, name), batchgen.Event)


def test_every_error_has_the_one_base():
    ours = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, Exception)]
    assert len(ours) > 30
    assert all(issubclass(kind, batchgen.BatchgenError) for kind in ours)
    assert batchgen.errors is errors
    assert batchgen.events is events


def test_a_misspelt_name_is_answered_with_the_right_one():
    answer = subprocess.run(
        [sys.executable, "-c", "import batchgen; batchgen.lod"], env=environment(), capture_output=True, text=True
    )
    assert "has no attribute 'lod'. Did you mean: 'load'?" in answer.stderr


def test_a_type_checker_accepts_what_is_right_and_refuses_each_misspelt_name(tmp_path):
    (tmp_path / "good.py").write_text(GOOD)
    (tmp_path / "bad.py").write_text("\n".join(["import batchgen", "job = batchgen.load('x.yaml')", *MISTAKES]))
    answer = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", tmp_path / "good.py", tmp_path / "bad.py"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert "good.py" not in answer.stdout
    for number, words in enumerate(MISTAKES.values(), 3):
        assert [line for line in answer.stdout.splitlines() if f"bad.py:{number}: error: " in line and words in line], (
            words
        )


def test_the_package_says_that_it_is_typed():
    assert (ROOT / "batchgen" / "py.typed").is_file()
