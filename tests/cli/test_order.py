"""What is read beside the manifest has its order: export, `results.jsonl`, contact sheet and the results in Python."""

from __future__ import annotations

import csv
import json
import sqlite3
from contextlib import closing

import pytest

import batchgen as package
from batchgen.ledger.location import ledger_path
from batchgen.ledger.reader import HistoryReader
from batchgen.report.contact_sheet import cells_of

HEAD = "version: 1\nname: job\ndefaults: {model: flash}\nitems:\n"
ENTRIES = {
    "zebra": "  - {id: zebra, prompt: A zebra, count: 2}\n",
    "ape": "  - {id: ape, prompt: An ape}\n",
    "cup": "  - {id: 'cup-{{ c }}', prompt: 'A {{ c }} cup', matrix: {c: [white, black]}}\n",
    "new": "  - {id: new, prompt: A newcomer}\n",
    "mule": "  - {id: mule, prompt: A mule}\n",
}
SAMPLES = {"zebra": ["zebra", "zebra#2"], "cup": ["cup-white", "cup-black"]}


@pytest.fixture
def run(batchgen, tmp_path):
    """Make these entries, in this order, and answer with the manifest's name."""

    def make(*names: str) -> str:
        (tmp_path / "job.yaml").write_text(HEAD + "".join(ENTRIES[name] for name in names))
        assert batchgen("run", "job.yaml", "--emulate", "-q").code == 0
        return "job.yaml"

    return make


def orders(batchgen, tmp_path, manifest: str) -> dict[str, list[str]]:
    folder = tmp_path / "job.emulated"
    lines = batchgen("export", manifest, "--format", "jsonl").out.splitlines()
    table = csv.DictReader(batchgen("export", manifest, "--format", "csv").out.splitlines())
    with HistoryReader.open(folder) as ledger:
        cells = [cell.label for cell in cells_of(ledger, folder, ())]
    return {
        "jsonl": [json.loads(line)["key"] for line in lines],
        "csv": [row["key"] for row in table],
        "sheet": cells,
        "Python": [result.key for result in package.load(tmp_path / manifest, emulate=True).results],
        "results.jsonl": [json.loads(line)["id"] for line in (folder / "results.jsonl").read_text().splitlines()],
    }


def expected(*names: str) -> dict[str, list[str]]:
    keys = [key for name in names for key in SAMPLES.get(name, [name])]
    views = dict.fromkeys(("jsonl", "csv", "sheet", "Python"), keys)
    return {**views, "results.jsonl": [key for key in keys if "#" not in key]}


def test_all_have_the_manifests_order_also_after_items_were_put_into_its_middle(batchgen, run, tmp_path):
    first = ("zebra", "cup", "ape")
    assert orders(batchgen, tmp_path, run(*first)) == expected(*first)
    later = ("mule", "zebra", "new", "cup", "ape")
    assert orders(batchgen, tmp_path, run(*later)) == expected(*later)


def test_pages_of_items_keep_the_order_and_what_the_manifest_does_not_name_comes_last(
    batchgen, run, tmp_path, monkeypatch
):
    monkeypatch.setattr("batchgen.ledger.samples.PAGE_ROWS", 2)
    later = ("mule", "ape", "cup", "zebra")
    run("zebra", "cup", "ape")
    assert orders(batchgen, tmp_path, run(*later)) == expected(*later)
    with HistoryReader.open(tmp_path / "job.emulated") as ledger:
        found = [result.key for result in ledger.results_by_item(("succeeded",), lambda: iter(["mule", "cup-black"]))]
    assert (found[:2], sorted(found[2:])) == (["mule", "cup-black"], ["ape", "cup-white", "zebra", "zebra#2"])


@pytest.mark.parametrize("results", ["gone", "of an earlier version", "of a run that was killed"])
def test_without_a_tidy_results_file_the_ledgers_order_is_used(batchgen, run, tmp_path, results):
    manifest, folder = run("zebra", "ape"), tmp_path / "job.emulated"
    manifest = run("ape", "zebra", "mule")
    if results == "gone":
        (folder / "results.jsonl").unlink()
    else:
        name = "results_order" if results == "of an earlier version" else "results_tidy"
        with closing(sqlite3.connect(ledger_path(folder))) as ledger, ledger:
            ledger.execute("UPDATE meta SET value = 'no' WHERE key = ?", (name,))
    lines = batchgen("export", manifest, "--format", "jsonl").out.splitlines()
    assert [json.loads(line)["key"] for line in lines] == ["zebra", "zebra#2", "ape", "mule"]
    assert batchgen("run", manifest, "--emulate", "-q").code == 0
    if results != "gone":
        assert orders(batchgen, tmp_path, manifest) == expected("ape", "zebra", "mule")
