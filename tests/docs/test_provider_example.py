"""The package that the manual writes is built, installed, and first class: by its own tests and by every command."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from tests.docs.pages import blocks, page
from tests.support.marked_key import KEY
from tests.support.packages import files_of_page, write
from tests.support.paths import ROOT


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """The page's files, and `site` beside them, into which they are installed without a network."""
    folder = tmp_path_factory.mktemp("paint")
    write(folder / "project", files_of_page())
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--quiet", "--no-index", "--no-deps"]
    subprocess.run(
        [*pip, "--no-build-isolation", "--target", str(folder / "site"), str(folder / "project")], check=True
    )
    (folder / "catalog.yaml").write_text(blocks(page("providers"), "yaml")[1])
    return folder


@pytest.fixture
def ask(project, tmp_path):
    """A program of Python run where the package is installed; gives its exit code and its two streams."""

    def run(*arguments: str, cwd=project, **environ: str) -> tuple[int, str, str]:
        env = {**os.environ, "PYTHONPATH": f"{project / 'site'}{os.pathsep}{ROOT}", "XDG_STATE_HOME": str(tmp_path)}
        command = [sys.executable, "-m", *arguments]
        done = subprocess.run(command, cwd=cwd, env={**env, **environ}, capture_output=True, text=True, check=False)
        return done.returncode, done.stdout, done.stderr

    return run


def test_it_takes_less_than_150_lines():
    assert sum(text.count("\n") for text in files_of_page().values()) < 150


def test_it_passes_the_kit_that_judges_it(ask, project):
    code, out, err = ask("pytest", "-q", "-p", "no:cacheprovider", "tests", cwd=project / "project")
    assert code == 0, out + err
    assert " passed" in out and "skipped" not in out


def test_the_commands_know_its_model_as_ours(ask):
    code, out, _ = ask("batchgen", "models", "--json")
    (model,) = [model for model in json.loads(out) if model["provider"] == "paint"]
    assert (code, model["id"], model["rpm"], model["usd_per_image"]) == (0, "paint-1", 30, {"1K": 0.02})
    code, out, _ = ask("batchgen", "plan", "catalog.yaml", "--json")
    assert (code, json.loads(out)["usd"]) == (0, 0.02)
    code, out, _ = ask("batchgen", "doctor", "--json", PAINT_API_KEY=KEY)
    says = {check["what"]: check["says"] for check in json.loads(out)["checks"]}
    assert (code, says["package paint"], says["key paint"]) == (0, "batchgen-paint 0.1.0", "from PAINT_API_KEY")
    assert says["address paint"] == "https://api.paint.example"


def test_its_emulator_makes_the_image_of_the_page(ask, project):
    code, _, err = ask("batchgen", "run", "catalog.yaml", "--emulate")
    assert code == 0, err
    assert (project / "catalog.emulated" / "fox.png").read_bytes().startswith(b"\x89PNG")
