"""Contact sheets: every sample in its cell, those without a picture too, in bounded memory on as many sheets as it takes."""

from __future__ import annotations

import pytest
from PIL import Image

from batchgen.ledger.reader import HistoryReader
from batchgen.report import contact_sheet
from batchgen.report.contact_sheet import (
    BACKGROUND,
    CELL_BACKGROUND,
    GAP_PX,
    Cell,
    Layout,
    cells_of,
    font_for,
    write_sheets,
)
from batchgen.store.store import Store

ITEMS = {"a": "x", "b": "[[fault:safety]] y", "c": "z", "füchse-with-a-name-that-no-cell-can-hold": "w"}


@pytest.fixture
def job(batchgen, write, tmp_path):
    assert batchgen("run", str(write(ITEMS)), "--emulate", "-q").code == 3
    return tmp_path / "job.emulated"


def test_all_samples_are_on_it_in_order_with_their_state(job):
    with HistoryReader.open(job) as ledger:
        cells = list(cells_of(ledger, job, ()))
        assert [(cell.label, bool(cell.path), cell.state, cell.why) for cell in cells[:2]] == [
            ("a", True, "succeeded", ""), ("b", False, "refused", "safety"),
        ]  # fmt: skip
        assert [cell.label for cell in cells_of(ledger, job, ("f*", "c"))] == ["c", list(ITEMS)[3]]


@pytest.mark.parametrize(
    ("name", "kind"), [("s.png", "PNG"), ("s.webp", "WEBP"), ("s.jpg", "JPEG"), ("s.JPEG", "JPEG")]
)
def test_the_ending_chooses_the_format(batchgen, job, tmp_path, name, kind):
    answer = batchgen("report", str(job), "--contact-sheet", "--to", name, "--columns", "2", "--cell", "64")
    assert (answer.code, answer.out.strip()) == (0, str(tmp_path / name))
    with Image.open(tmp_path / name) as sheet:
        assert (sheet.format, sheet.size) == (kind, Layout(2, 64).size(4))


def test_pictures_stand_where_they_belong_and_missing_ones_are_empty(batchgen, job, tmp_path):
    batchgen("report", str(job), "--contact-sheet", "--to", "s.png", "--columns", "4", "--cell", "64")
    layout = Layout(4, 64)
    with Image.open(tmp_path / "s.png") as sheet:
        corners = [
            sheet.getpixel((GAP_PX + n * (64 + GAP_PX) + 2, layout.header_height + GAP_PX + 2)) for n in range(4)
        ]
        assert [corner in (CELL_BACKGROUND, BACKGROUND) for corner in corners] == [False, True, False, False]


def test_what_the_manifest_no_longer_wants_is_not_on_it(batchgen, job, write):
    batchgen("run", str(write({"c": "z"})), "--emulate", "-q")
    with HistoryReader.open(job) as ledger:
        assert [cell.label for cell in cells_of(ledger, job, ())] == ["c"]


def test_it_lies_in_the_jobs_folder_without_a_name_and_verify_does_not_mind(batchgen, job):
    answer = batchgen("report", str(job), "--json", "--contact-sheet")
    assert answer.json == {"sheets": [str(job / "contact-sheet.jpg")], "samples": 4}
    assert batchgen("verify", str(job), "--json").json["extra"] == []


@pytest.mark.parametrize(("options", "said"), [
    (["--contact-sheet", "--to", "s.gif"], "a contact sheet ends in .jpg"),
    (["--contact-sheet", "--to", "s.png", "--only", "nobody"], "nothing to show that --only names"),
    (["--only", "a"], "--only is for --contact-sheet"),
    (["--contact-sheet", "--to", "no/such/s.png"], "No such file or directory"),
])  # fmt: skip
def test_what_cannot_be_is_said_in_words(batchgen, job, options, said):
    answer = batchgen("report", str(job), *options)
    assert (answer.code in (2, 5), said in answer.err) == (True, True)


def test_more_than_memory_takes_goes_onto_further_sheets(tmp_path, monkeypatch):
    layout = Layout(10, 48)
    monkeypatch.setattr(contact_sheet, "MAX_SHEET_PIXELS", layout.size(30)[0] * layout.size(30)[1])
    cells = [Cell(f"item-{n}", "", "", "failed", "why") for n in range(75)]
    paths = write_sheets(tmp_path / "s.png", Store(tmp_path), "job", cells, layout, emulated=True)
    assert [path.name for path in paths] == ["s.png", "s-2.png", "s-3.png"]
    sizes = []
    for path in paths:
        with Image.open(path) as sheet:
            sizes.append(sheet.size)
    assert sizes == [layout.size(30), layout.size(30), layout.size(15)]


@pytest.mark.parametrize("layout", [Layout(60, 1024), Layout(1, 48), Layout(6, 240)])
def test_a_sheet_never_outgrows_its_bounds(layout):
    width, height = layout.size(layout.max_rows() * layout.columns)
    assert layout.max_rows() == 1 or (
        width * height <= contact_sheet.MAX_SHEET_PIXELS and height <= contact_sheet.MAX_SIDE_PX
    )


def test_a_letter_that_pillows_own_font_lacks_is_looked_for_elsewhere():
    assert font_for("plain", 12).getname() == font_for("plainer", 12).getname()
    assert font_for("漢字", 12) is not None
