"""Rows of a `from:` file: CSV, TSV and JSON Lines, from inside the manifest's folder only."""

from __future__ import annotations

import os

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
        ("sku,title\na\n", "rows.csv:2: has 1 cells, the header has 2"),
        ("sku,sku\na,b\n", "rows.csv:1: two columns are called 'sku'"),
        ("sku,\na,b\n", "rows.csv:1: column 2 needs a title"),
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
    folder.write("x", "rows.xlsx")
    assert ".csv, .tsv and .jsonl" in folder.complaint(TABLE.replace("rows.csv", "rows.xlsx"))


def test_too_many_rows_stop_at_the_limit(folder):
    folder.write("sku,title\n" + "".join(f"s{n},t\n" for n in range(20)), "rows.csv")
    assert "makes more than 10 items" in folder.complaint("limits: {max_items: 10}\n" + TABLE)
