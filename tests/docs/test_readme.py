"""What the README says holds: its manifest is valid, its Python runs, its commands and exit codes exist."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys

import pytest
from PIL import Image

import batchgen
from batchgen.engine.outcome import EXIT_CODE_BY_STOP_REASON
from batchgen.manifest.fields import field_table
from batchgen.report.log_events import LOG_EVENTS
from tests.support.paths import ROOT

README = (ROOT / "README.md").read_text()


def block(language: str, number: int = 0) -> str:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)[number]


def test_the_readmes_manifest_is_valid(tmp_path, state_home):
    (tmp_path / "photos").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "photos" / "A1.jpg")
    (tmp_path / "products.csv").write_text("sku,title,colour\nA1,mug,sand\n")
    (tmp_path / "m.yaml").write_text(block("yaml"))
    plan = batchgen.plan(batchgen.load(tmp_path / "m.yaml", environ={"XDG_STATE_HOME": str(state_home)}))
    assert (plan.reconciliation.items, plan.forecast.images, plan.warnings) == (6, 10, ())


def test_the_readmes_conversations_and_needs_are_valid(tmp_path):
    (tmp_path / "m.yaml").write_text(block("yaml", 1))
    plan = batchgen.plan(batchgen.load(tmp_path / "m.yaml", environ={}))
    assert (plan.forecast.images, plan.warnings) == (8, ())


def test_the_readmes_post_is_valid(tmp_path):
    (tmp_path / "m.yaml").write_text(block("yaml", 2) + "items: [{id: a, prompt: p}]\n")
    assert batchgen.plan(batchgen.load(tmp_path / "m.yaml", environ={})).derivatives == 7


def test_the_readmes_python_runs(tmp_path):
    shutil.copytree(ROOT / "jobs", tmp_path / "jobs", ignore=shutil.ignore_patterns("*.emulated"))
    code = block("python").replace("jobs/catalog.yaml", "jobs/prompts.jsonl")
    answer = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True
    )
    assert answer.returncode == 0, answer.stderr
    assert re.search(r"^0 13 0\.\d+", answer.stdout, re.MULTILINE)


@pytest.mark.parametrize(
    "command",
    [
        *re.findall(r"^\| `([a-z]+)[ `]", README.split("## The manifest")[0], re.MULTILINE),
        "schema",
        "doctor",
        "emulate",
        "completion",
    ],
)
def test_every_command_the_readme_names_is_there(command):
    answer = subprocess.run(
        [sys.executable, "-m", "batchgen", command, "--help"], cwd=ROOT, capture_output=True, text=True
    )
    assert answer.returncode == 0, answer.stderr


def test_the_table_of_log_events_is_that_of_the_log():
    rows = dict(re.findall(r"^\| `([a-z_]+\.[a-z_]+)` \| (.*) \|$", README, re.MULTILINE))
    assert rows == {name: kind.description for name, kind in LOG_EVENTS.items()}


def test_the_table_of_fields_is_that_of_their_declarations():
    assert field_table() in README, f"put this in its place:\n{field_table()}"


def test_every_exit_code_of_a_stopped_run_is_in_the_readmes_table():
    listed = {int(code) for code in re.findall(r"\d+", " ".join(re.findall(r"^\| ([\d ·]+) \|", README, re.MULTILINE)))}
    assert set(EXIT_CODE_BY_STOP_REASON.values()) <= listed


def test_every_test_that_the_promises_name_is_there():
    section = README.partition("## What is promised")[2].partition("## Settings")[0]
    named = set(re.findall(r"`((?:\w+/)*test_\w+)`", section))
    assert len(named) > 15
    assert [name for name in sorted(named) if not (ROOT / "tests" / f"{name}.py").is_file()] == []
