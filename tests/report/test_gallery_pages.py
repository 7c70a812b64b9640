"""A job of more samples than fit on one page: every one is on some page, and each page knows of the others."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from batchgen.cli.main import run_command_line
from batchgen.report import gallery_pages
from tests.support.gallery_job import make_family


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_family(tmp_path_factory.mktemp("pages"))


@pytest.fixture
def folder(manifest: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Of the job, whose pages have three samples or little more, and which has none yet."""
    monkeypatch.setattr(gallery_pages, "PAGE_SAMPLES", 3)
    folder = manifest.with_name("family.emulated")
    yield folder
    for page in folder.glob("*.html"):
        page.unlink()


def facts_of(path: Path) -> Any:
    found = re.search(r'<script type="application/json" id="facts">(.*?)</script>', path.read_text(), re.DOTALL)
    assert found is not None
    return json.loads(found[1])


def pages(folder: Path) -> list[Any]:
    assert run_command_line(["report", str(folder)]) == 0
    first = facts_of(folder / "report.html")
    return [facts_of(folder / link[0]) for link in first["pages"]["links"]]


def keys(page: Any) -> list[tuple[str, int]]:
    return [(sample["id"], sample["n"]) for sample in page["samples"]]


def test_every_sample_is_on_one_page_in_the_manifests_order_and_what_belongs_together_stays_so(folder):
    found = pages(folder)
    assert [keys(page) for page in found] == [
        [("mug", 1), ("lamp", 1), ("lamp", 2)],
        [("snow", 1), ("lit", 1), ("talk-t1", 1), ("talk-t2", 1), ("talk-t3", 1)],
        [("after", 1), ("gone", 1), ("waits", 1)],
        [("quick", 1), ("masked", 1), ("second", 1)],
    ]
    assert [page["pages"]["at"] for page in found] == [0, 1, 2, 3]
    assert all(
        len(sample["attempts"]) for page in found for sample in page["samples"] if sample["state"] == "succeeded"
    )


def test_each_page_knows_what_is_on_the_others_and_what_the_whole_job_has_made(folder):
    links = [
        ["report.html", "mug", "lamp", {"succeeded": 3}],
        ["report-2.html", "snow", "talk-t3", {"succeeded": 5}],
        ["report-3.html", "after", "waits", {"succeeded": 1, "refused": 1, "blocked": 1}],
        ["report-4.html", "quick", "second", {"succeeded": 3}],
    ]
    for page in pages(folder):
        assert page["pages"]["links"] == links
        assert (page["pages"]["wanted"], page["pages"]["made"]) == (14, 12)
        assert page["accepted"].startswith("12 of 12 images")


def test_pages_and_a_single_page_share_the_picks_of_a_browser_and_the_runs(folder, monkeypatch):
    several = pages(folder)
    monkeypatch.setattr(gallery_pages, "PAGE_SAMPLES", 100)
    assert run_command_line(["report", str(folder)]) == 0
    alone = facts_of(folder / "report.html")
    assert alone["pages"] is None
    assert {page["key"] for page in several} == {alone["key"]}
    assert all(page["nights"] == alone["nights"] for page in several)
    assert [each.get("attempts") for page in several for each in page["samples"]] == [
        each.get("attempts") for each in alone["samples"]
    ]


def test_a_page_has_what_its_images_were_made_from_though_that_is_on_another(folder):
    second, third = pages(folder)[1:3]
    assert [sample["id"] for sample in second["related"]] == ["mug", "lamp", "lamp"]
    assert [sample["id"] for sample in third["related"]] == ["talk-t3"]
    assert second["conversations"] == {"talk": ["A chart", "Calmer {{", "In Spanish"]}
    assert third["conversations"] == {}


def test_a_page_of_another_job_that_has_the_name_of_a_further_page_stays(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(gallery_pages, "PAGE_SAMPLES", 100)
    other = folder / "report-2.html"
    other.write_text("<title>another job · batchgen</title>", encoding="utf-8")
    assert run_command_line(["report", str(folder)]) == 0
    assert "another job" in other.read_text(encoding="utf-8")


def test_pages_of_a_longer_gallery_go_and_none_is_taken_for_a_file_of_somebody_else(folder, capsys, monkeypatch):
    pages(folder)
    assert len(list(folder.glob("*.html"))) == 4
    capsys.readouterr()
    assert run_command_line(["verify", str(folder), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["extra"] == []
    monkeypatch.setattr(gallery_pages, "PAGE_SAMPLES", 100)
    assert run_command_line(["report", str(folder)]) == 0
    assert [path.name for path in folder.glob("*.html")] == ["report.html"]


def test_a_file_of_somebody_elses_under_a_pages_name_stays_and_no_page_is_written(folder, capsys):
    (folder / "report-3.html").write_text("mine")
    assert run_command_line(["report", str(folder)]) == 5
    assert "report-3.html was not written by batchgen" in capsys.readouterr().err
    assert [path.name for path in folder.glob("*.html")] == ["report-3.html"]


def test_the_answer_counts_all_pages(folder, capsys):
    assert run_command_line(["report", str(folder), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["pages"], told["samples"]) == (4, 14)
    assert told["bytes"] == sum(path.stat().st_size for path in folder.glob("*.html"))


def test_without_its_manifest_a_job_is_in_the_order_of_its_ledger(folder, manifest):
    was = manifest.read_text()
    manifest.write_text("nothing of the kind: [")
    try:
        found = [key for page in pages(folder) for key in keys(page)]
    finally:
        manifest.write_text(was)
    assert len(found) == len(set(found)) == 14
    assert found.index(("lamp", 2)) == found.index(("lamp", 1)) + 1


def test_a_ledger_on_a_server_has_its_pages_too(tmp_path, database, monkeypatch):
    monkeypatch.setattr(gallery_pages, "PAGE_SAMPLES", 3)
    monkeypatch.setenv("BATCHGEN_LEDGER", database)
    (tmp_path / "m.yaml").write_text("defaults: {count: 2}\nitems: [{prompt: A, id: a}, {prompt: B, id: b}]\n")
    assert run_command_line(["run", str(tmp_path / "m.yaml"), "--emulate", "--yes", "--quiet"]) == 0
    found = pages(tmp_path / "m.emulated")
    assert [keys(page) for page in found] == [[("a", 1), ("a", 2)], [("b", 1), ("b", 2)]]
    assert [page["pages"]["made"] for page in found] == [4, 4]
    assert [len(sample["attempts"]) for page in found for sample in page["samples"]] == [1, 1, 1, 1]
