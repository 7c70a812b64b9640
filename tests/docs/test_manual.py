"""What README and manual say holds: links lead somewhere, manifests are valid, Python runs, tables are those of the code."""

from __future__ import annotations

import hashlib
import importlib
import re
import shutil
import subprocess
import sys

import pytest
from PIL import Image

import batchgen
from batchgen.engine.outcome import EXIT_CODE_BY_STOP_REASON
from batchgen.report.log_events import LOG_EVENTS
from batchgen.review.check_type import Asked
from batchgen.review.checks import check_type
from batchgen.review.image import CheckImage
from tests.docs.check_table import check_table
from tests.docs.field_table import field_table
from tests.docs.pages import MANUAL, PAGES, README, blocks, page
from tests.support.packages import forget, install
from tests.support.paths import ROOT

each_page = pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)


@each_page
def test_every_link_leads_to_a_file(path):
    links = re.findall(r"\]\((?!https?://)([^)#]+)", path.read_text(encoding="utf-8"))
    assert [link for link in links if not (path.parent / link).is_file()] == []


@each_page
def test_a_page_has_a_title_and_can_be_read_at_once(path):
    text = path.read_text(encoding="utf-8")
    assert re.match(r"# \S", text)
    assert len(text.splitlines()) <= 300


def test_the_readme_is_short_and_leads_to_every_page():
    text = README.read_text(encoding="utf-8")
    assert len(text.encode()) <= 9 * 1024
    assert [path.name for path in MANUAL.glob("*.md") if f"(batchgen/manual/{path.name})" not in text] == []


def test_the_first_manifest_of_the_readme_is_valid(tmp_path):
    (tmp_path / "m.yaml").write_text(blocks(README.read_text(encoding="utf-8"), "yaml")[0])
    plan = batchgen.plan(batchgen.load(tmp_path / "m.yaml", environ={}))
    assert (plan.forecast.images, plan.warnings) == (8, ())


@pytest.mark.parametrize(
    ("name", "number", "images"),
    [("start", 0, 1), ("manifest", 0, 10), ("manifest", 1, 8), ("quotas", 0, 1)],
)
def test_a_manifest_of_the_manual_is_valid(tmp_path, state_home, name, number, images):
    (tmp_path / "photos").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "photos" / "A1.jpg")
    (tmp_path / "products.csv").write_text("sku,title,colour\nA1,mug,sand\n")
    (tmp_path / "m.yaml").write_text(blocks(page(name), "yaml")[number])
    plan = batchgen.plan(batchgen.load(tmp_path / "m.yaml", environ={"XDG_STATE_HOME": str(state_home)}))
    assert (plan.forecast.images, plan.warnings) == (images, ())


def test_the_checks_of_the_manual_are_valid(tmp_path):
    (tmp_path / "m.yaml").write_text(blocks(page("checks"), "yaml")[0])
    items = {item.id: item for item in batchgen.load(tmp_path / "m.yaml", environ={}).manifest.items()}
    assert [check.name for check in items["mug"].checks] == ["blank", "sharp", "background"]
    assert [check.name for check in items["sale-poster"].checks] == ["blank", "sharp", "text", "faces"]
    assert (items["fog"].checks, items["fog"].judge) == ((), None)


def test_the_table_of_checks_is_that_of_the_code():
    assert check_table() in page("checks"), f"put this in its place:\n{check_table()}"


def test_the_check_that_the_manual_writes_works(tmp_path, monkeypatch):
    code = blocks(page("checks"), "python")[0]
    install(monkeypatch, tmp_path, "my-checks", {"batchgen.checks:square": "my_checks:SQUARE"}, {"my_checks.py": code})
    Image.new("RGB", (9, 5)).save(tmp_path / "a.png")
    image = CheckImage(str(tmp_path / "a.png"), hashlib.sha256((tmp_path / "a.png").read_bytes()).hexdigest())
    try:
        kind = check_type("square")
        found = importlib.import_module("my_checks").square(image, kind.values({"within": 2}), Asked())
    finally:
        forget()
    assert (found.reason, found.message, found.score) == ("not_square", "is 4 pixels off", 4)


def test_the_post_of_the_manual_is_valid(tmp_path):
    (tmp_path / "m.yaml").write_text(blocks(page("files"), "yaml")[0] + "items: [{id: a, prompt: p}]\n")
    assert batchgen.plan(batchgen.load(tmp_path / "m.yaml", environ={})).derivatives == 7


def test_the_python_of_the_manual_runs(tmp_path):
    shutil.copytree(ROOT / "jobs", tmp_path / "jobs", ignore=shutil.ignore_patterns("*.emulated"))
    code = "\n".join(blocks(page("python"), "python")).replace("jobs/catalog.yaml", "jobs/prompts.jsonl")
    environment = {"PYTHONPATH": str(ROOT), "XDG_STATE_HOME": str(tmp_path / "state")}
    answer = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert answer.returncode == 0, answer.stderr
    assert re.search(r"^0 13 0\.\d+", answer.stdout, re.MULTILINE)
    assert len(re.findall(r"^\S+ \S+\.(?:jpg|png) \d+ \d+ 0\.\d+$", answer.stdout, re.MULTILINE)) == 13
    assert {path.name for path in (tmp_path / "posters").glob("*.jpg")} == {"poster-paris.jpg", "poster-tokyo.jpg"}
    assert "missing.yaml 0  there is no such file" in answer.stdout


def test_the_table_of_log_events_is_that_of_the_log():
    rows = dict(re.findall(r"^\| `([a-z_]+\.[a-z_]+)` \| (.*) \|$", page("logs"), re.MULTILINE))
    assert rows == {name: kind.description for name, kind in LOG_EVENTS.items()}


def test_the_table_of_fields_is_that_of_their_declarations():
    assert field_table() in page("manifest"), f"put this in its place:\n{field_table()}"


def test_every_exit_code_of_a_stopped_run_is_in_the_table():
    rows = re.findall(r"^\| ([\d ·]+) \|", page("exit-codes"), re.MULTILINE)
    assert set(EXIT_CODE_BY_STOP_REASON.values()) <= {int(code) for code in re.findall(r"\d+", " ".join(rows))}


def test_every_test_that_the_promises_name_is_there():
    named = set(re.findall(r"`((?:\w+/)*test_\w+)`", page("promises")))
    assert len(named) > 15
    assert [name for name in sorted(named) if not (ROOT / "tests" / f"{name}.py").is_file()] == []
