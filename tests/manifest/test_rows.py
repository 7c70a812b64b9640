"""Rows of a `from:` file: CSV, TSV and JSON Lines, from inside the manifest's folder only."""

from __future__ import annotations

import os
import sys
from datetime import date

import openpyxl
import pytest

TABLE = "items: [{id: '{{ sku }}', prompt: 'A {{ title }}', from: rows.csv}]"


def rows(folder, text, name="rows.csv", manifest=TABLE):
    folder.write(text, name)
    return folder.items(manifest.replace("rows.csv", name))


def test_each_row_makes_an_item(folder):
    assert [(i.id, i.prompt) for i in rows(folder, "sku,title\na,mug\nb,bowl\n")] == [("a", "A mug"), ("b", "A bowl")]


def test_an_item_of_a_row_knows_the_row(folder):
    assert [i.origin for i in rows(folder, 'sku,title\na,"two\nlines"\nb,bowl\n')] == ["rows.csv:2", "rows.csv:4"]


def test_a_spreadsheets_byte_order_mark_is_no_part_of_the_first_title(folder):
    assert rows(folder, b"\xef\xbb\xbfsku,title\r\na,mug\r\n")[0].id == "a"


def test_tsv_is_split_at_tabs(folder):
    assert rows(folder, "sku\ttitle\na\tmug, large\n", "rows.tsv")[0].prompt == "A mug, large"


def test_json_lines_are_rows_too(folder):
    assert rows(folder, '{"sku": "a", "title": "mug"}\n', "rows.jsonl")[0].id == "a"


def test_a_title_with_a_space_becomes_a_variable(folder):
    manifest = "items: [{id: '{{ sku }}', prompt: '{{ product_name }}', from: rows.csv}]"
    assert rows(folder, "sku,product name\na,mug\n", manifest=manifest)[0].prompt == "mug"


def test_a_column_called_id_can_be_the_id(folder):
    manifest = "items: [{id: '{{ id }}-x', prompt: 'for {{ id }}', from: rows.csv}]"
    assert rows(folder, "id\na\n", manifest=manifest)[0].prompt == "for a-x"


def test_rows_and_a_matrix_multiply(folder):
    manifest = "items: [{id: '{{ sku }}-{{ v }}', prompt: p, from: rows.csv, matrix: {v: [1, 2]}}]"
    assert [i.id for i in rows(folder, "sku\na\nb\n", manifest=manifest)] == ["a-1", "a-2", "b-1", "b-2"]


def test_an_empty_cell_leaves_the_default(folder):
    manifest = (
        "defaults: {aspect_ratio: '3:4'}\n"
        "items: [{id: '{{ sku }}', prompt: p, from: rows.csv, aspect_ratio: '{{ ratio }}'}]"
    )
    assert [i.aspect_ratio for i in rows(folder, "sku,ratio\na,1:1\nb,\n", manifest=manifest)] == ["1:1", "3:4"]


def test_a_cell_can_be_a_number(folder):
    manifest = "items: [{id: '{{ sku }}', prompt: p, from: rows.csv, count: '{{ n }}'}]"
    assert [i.count for i in rows(folder, "sku,n\na,3\n", manifest=manifest)] == [3]


def test_a_value_that_comes_from_a_row_is_complained_about_with_the_row(folder):
    folder.write("sku,n\na,1\nb,many\n", "rows.csv")
    text = "items: [{id: '{{ sku }}', prompt: p, from: rows.csv, count: '{{ n }}'}]"
    assert folder.complaint(text).endswith("count: must be a whole number, not 'many' (row rows.csv:3)")


def test_what_is_wrong_with_every_row_is_said_once(folder):
    folder.write("sku\n" + "".join(f"s{n}\n" for n in range(50)), "rows.csv")
    assert "'titel' is not defined" in folder.complaint(
        "items: [{id: '{{ sku }}', prompt: '{{ titel }}', from: rows.csv}]"
    )


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("sku,title\na\n", "rows.csv:2: has 1 cell, the header has 2"),
        ("sku,title\n", "has no rows"),
        ("", "has no rows"),
        (b"sku,title\n\xff,b\n", "rows.csv:2: not UTF-8"),
        ('sku,title\na,"b\n', "not CSV"),
        ("sku,title\na,b" + "x" * 1_000_000, "more than 1,000,000 bytes"),
    ],
)
def test_a_broken_table_is_complained_about_by_line(folder, text, says):
    folder.write(text, "rows.csv")
    assert says in folder.complaint(TABLE)


def test_a_broken_line_of_json_rows_is_complained_about_by_column(folder):
    folder.write('{"sku": "a"}\n{"sku": NaN}\n', "rows.jsonl")
    assert "rows.jsonl:2: NaN is not JSON" in folder.complaint(
        "items: [{id: '{{ sku }}', prompt: p, from: rows.jsonl}]"
    )


@pytest.mark.parametrize(
    "path", ["../rows.csv", "/etc/passwd.csv", "sub/../../rows.csv", "~/rows.csv", "$HOME/rows.csv"]
)
def test_rows_come_from_inside_the_folder_only(folder, path):
    (folder.path.parent / "rows.csv").write_text("sku,title\na,b\n")
    assert folder.complaint(TABLE.replace("rows.csv", path)).startswith("job.yaml:1:52: from:")


def test_a_link_out_of_the_folder_is_not_followed(folder, tmp_path_factory):
    outside = tmp_path_factory.mktemp("outside") / "rows.csv"
    outside.write_text("sku,title\na,b\n")
    os.symlink(outside, folder.path / "rows.csv")
    assert "link out of the manifest's folder" in folder.complaint(TABLE)


def test_rows_of_a_pipe_are_refused(folder):
    os.mkfifo(folder.path / "rows.csv")
    assert "not a regular file" in folder.complaint(TABLE)


def test_rows_are_read_from_known_formats_only(folder):
    folder.write("x", "rows.ods")
    assert ".csv, .tsv, .xlsx, .jsonl and .txt" in folder.complaint(TABLE.replace("rows.csv", "rows.ods"))


def test_too_many_rows_stop_at_the_limit(folder):
    folder.write("sku,title\n" + "".join(f"s{n},t\n" for n in range(20)), "rows.csv")
    assert "makes more than 10 items" in folder.complaint("limits: {max_items: 10}\n" + TABLE)


@pytest.mark.parametrize(
    "text",
    [
        "sku;title\na;mug, large\n",
        "sku\ttitle\na\tmug, large\n",
        "sep=;\nsku;title\na;mug, large\n",
        "sep=|\r\nsku|title\r\na|mug, large\r\n",
        'sku,title\na,"mug, large"\n',
        '"sku;number";title\na;mug, large\n',
    ],
)
def test_the_separator_is_the_one_that_the_spreadsheet_used(folder, text):
    manifest = TABLE.replace("{{ sku }}", "{{ sku_number }}") if "number" in text else TABLE
    assert [(i.id, i.prompt) for i in rows(folder, text, manifest=manifest)] == [("a", "A mug, large")]


def test_lines_are_counted_after_a_line_that_names_the_separator(folder):
    assert [i.origin for i in rows(folder, "sep=;\nsku;title\na;mug\n")] == ["rows.csv:3"]


@pytest.mark.parametrize("text", ["\n\nsku,title\n\na,mug\n", "\n\nsep=;\nsku;title\na;mug\n"])
def test_lines_are_counted_from_the_first_even_when_it_is_blank(folder, text):
    assert [i.origin for i in rows(folder, text)] == ["rows.csv:5"]


def test_blank_rows_of_a_spreadsheet_make_no_item(folder):
    made = rows(folder, ",\nsku,title\na,mug\n,\n  , \nb,bowl\n,\n")
    assert [(i.id, i.origin) for i in made] == [("a", "rows.csv:3"), ("b", "rows.csv:6")]


def test_columns_without_a_title_and_with_one_that_nobody_uses_are_left_alone(folder):
    assert rows(folder, "sku,,title,2nd photo,note,note\na,x,mug,y,1,2\n")[0].prompt == "A mug"


def test_empty_cells_beyond_the_header_are_no_cells(folder):
    assert rows(folder, "sku,title\na,mug,,\n")[0].prompt == "A mug"


def test_a_title_that_two_columns_have_is_complained_about_where_it_is_used(folder):
    folder.write("sku,title,title\na,mug,bowl\n", "rows.csv")
    assert "prompt: two columns are called 'title'; give one of them another title" in folder.complaint(TABLE)


def test_every_row_of_a_wrong_length_is_named_at_once(folder):
    folder.write("sku,title\na,mug, large\nb,bowl\nc\nd,cup, small\n", "rows.csv")
    said = folder.complaint(TABLE)
    assert "rows.csv:2: has 3 cells, the header has 2; the same is wrong with lines 4, 5" in said
    assert 'in "double quotes"' in said


def test_a_missing_column_is_answered_with_those_that_there_are(folder):
    folder.write("sku,colour\na,red\n", "rows.csv")
    assert "'title' is not defined; defined here: colour, id, index, run, sku" in folder.complaint(TABLE)


@pytest.mark.parametrize("cell", ["", "  "])
def test_an_empty_cell_in_the_middle_of_a_text_is_a_mistake(folder, cell):
    folder.write(f"sku,title\na,mug\nb,{cell}\n", "rows.csv")
    said = folder.complaint(TABLE)
    assert "prompt: the cell 'title' is empty; if that is meant, write {{ title | default('', true) }}" in said
    assert "row rows.csv:3" in said


@pytest.mark.parametrize("rest", ["{{ title | default('', true) }}", "{% if title %}, {{ title }}{% endif %}"])
def test_an_empty_cell_that_a_template_expects_is_fine(folder, rest):
    manifest = f"""items: [{{id: "{{{{ sku }}}}", prompt: "A mug{rest}", from: rows.csv}}]"""
    assert rows(folder, "sku,title\na,\n", manifest=manifest)[0].prompt == "A mug"


def test_utf_16_is_called_so(folder):
    folder.write("sku\ttitle\na\tmug\n".encode("utf-16"), "rows.csv")
    assert 'rows.csv:1: is UTF-16 (spreadsheets call it "Unicode text"); save it as UTF-8' in folder.complaint(TABLE)


def test_a_json_array_is_told_from_json_lines(folder):
    folder.write('[\n  {"sku": "a", "title": "mug"}\n]\n', "rows.jsonl")
    said = folder.complaint(TABLE.replace("rows.csv", "rows.jsonl"))
    assert "rows.jsonl:1: is one JSON array; put each object on a line of its own" in said


def test_a_text_has_one_prompt_on_each_line(folder):
    manifest = "items: [{id: 'p-{{ index }}', prompt: '{{ prompt }}', from: rows.txt}]"
    made = rows(folder, "\ufeffA mug, 100% {wool}\n\n  A bowl \n", "rows.txt", manifest)
    assert [(i.id, i.prompt, i.origin) for i in made] == [
        ("p-1", "A mug, 100% {wool}", "rows.txt:1"),
        ("p-2", "A bowl", "rows.txt:3"),
    ]


def sheet(folder, *lines):
    book = openpyxl.Workbook()
    for line in lines:
        book.active.append(line)
    book.save(folder.path / "rows.xlsx")


def test_the_first_sheet_of_a_spreadsheet_file_is_a_table(folder):
    sheet(folder, ["sku", None, "title", "day"], [], [42, "x", "mug", date(2026, 11, 29)], [7.5, None, "bowl", None])
    text = "items: [{id: '{{ sku }}', prompt: '{{ title }} {{ day | default(\"-\", true) }}', from: rows.xlsx}]"
    made = folder.items(text)
    assert [(i.id, i.prompt, i.origin) for i in made] == [
        ("42", "mug 2026-11-29", "rows.xlsx:3"),
        ("7.5", "bowl -", "rows.xlsx:4"),
    ]


def test_a_spreadsheet_file_that_cannot_be_read_is_complained_about(folder):
    folder.write("x", "rows.xlsx")
    assert "is not a .xlsx file that can be read" in folder.complaint(TABLE.replace("rows.csv", "rows.xlsx"))


def test_a_spreadsheet_file_that_unpacks_to_too_much_is_not_unpacked(folder, monkeypatch):
    sheet(folder, ["sku"], ["a"])
    monkeypatch.setattr("batchgen.manifest.rows.SHEET_MAX_BYTES", 100)
    assert "unpacks to more than" in folder.complaint(TABLE.replace("rows.csv", "rows.xlsx"))


def test_without_the_library_a_spreadsheet_file_is_answered_with_what_to_do(folder, monkeypatch):
    sheet(folder, ["sku"], ["a"])
    monkeypatch.setitem(sys.modules, "openpyxl", None)
    assert "needs the extra 'excel', or save the sheet as CSV" in folder.complaint(
        TABLE.replace("rows.csv", "rows.xlsx")
    )
