"""In a notebook an outcome is a table with thumbnails: bounded, escaped, and honest about what is estimated or emulated."""

from __future__ import annotations

import base64
import io
import re
import shutil
from dataclasses import replace
from html.parser import HTMLParser
from typing import Any

import pytest
from PIL import Image

import batchgen
from batchgen.report.outcome import MAX_IMAGES, MAX_WITHOUT_IMAGE

REFUSED = "[[fault:safety]] a cup"


class Page(HTMLParser):
    """rows: the cells of the table as text; images: their attributes; tags: all that there are."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self.images: list[dict[str, Any]] = []
        self.tags: set[str] = set()
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.add(tag)
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")
        elif tag == "img":
            self.images.append(dict(attrs))

    def handle_data(self, data: str) -> None:
        if self.rows and self.rows[-1]:
            self.rows[-1][-1] += data


def test_the_table_has_what_went_wrong_and_then_the_images(make):
    _, outcome = make([{"id": "mug", "prompt": "a mug"}, {"id": "cup", "prompt": REFUSED}])
    page = Page(outcome._repr_html_())
    refused = outcome.results[1]
    assert "safety" in refused.reason
    assert [row[1:4] for row in page.rows] == [
        ["id", "state", "pixels"],
        ["cup", f"refused{refused.reason}: {refused.message}", ""],
        ["mug", "succeeded", "64\xa0×\xa064"],
    ]
    (thumbnail,) = page.images
    kind, _, data = thumbnail["src"].partition(",")
    assert (kind, thumbnail["alt"]) == ("data:image/webp;base64", "mug")
    assert Image.open(io.BytesIO(base64.b64decode(data))).size == (64, 64)


def test_an_emulated_run_says_so_in_its_head_and_beside_each_price(make):
    _, outcome = make(["a mug"])
    html = outcome._repr_html_()
    assert "EMULATED, no image is real and nothing is billed" in html
    assert Page(html).rows[1][4].endswith(" emulated")


def test_an_estimated_price_is_called_so(make, monkeypatch):
    _, outcome = make(["a mug"])
    result = replace(outcome.results[0], usd=0.04, usd_source="estimate")
    monkeypatch.setattr(
        type(outcome.results), "in_states", lambda self, states: iter([result] * ("succeeded" in states))
    )
    real = replace(outcome, emulated=False, usd=0.0, estimated_usd=0.04)
    page = real._repr_html_()
    assert Page(page).rows[1][4].endswith(" estimated")
    assert "estimated · exit code 0" in page
    assert "EMULATED" not in page


def test_all_text_is_escaped_and_nothing_is_loaded(make, monkeypatch):
    _, outcome = make(["a mug"])
    evil = '<script>alert(1)</script>"&\u202e'
    result = replace(outcome.results[0], id=evil, reason=evil, message=evil)
    monkeypatch.setattr(
        type(outcome.results), "in_states", lambda self, states: iter([result] * ("succeeded" in states))
    )
    html = replace(outcome, folder=evil)._repr_html_()
    page = Page(html)
    assert "script" not in page.tags
    assert page.rows[1][1] == evil.replace("\u202e", "\\u202e")
    assert [each["src"][:10] for each in page.images] == ["data:image"]
    assert not re.search(r'(?:src|href)="(?!data:)', html)


def test_a_long_job_shows_a_bounded_table_and_counts_the_rest(make):
    prompts = [f"mug {n}" for n in range(MAX_IMAGES + 5)] + [f"{REFUSED} {n}" for n in range(MAX_WITHOUT_IMAGE + 2)]
    _, outcome = make(prompts, concurrency=40)
    html = outcome._repr_html_()
    page = Page(html)
    assert len(page.rows) == 1 + MAX_IMAGES + MAX_WITHOUT_IMAGE
    assert len(page.images) == MAX_IMAGES
    assert "and 7 more in <code>outcome.results</code>" in html


def test_a_folder_that_has_gone_since_leaves_the_figures(make):
    job, outcome = make(["a mug"])
    shutil.rmtree(job.folder)
    html = outcome._repr_html_()
    assert "1 image made" in html
    assert Page(html).images == []


@pytest.mark.parametrize("damage", ["missing", "not an image"])
def test_an_image_that_cannot_be_shown_has_its_row(make, damage):
    job, outcome = make(["a mug"])
    path = job.folder / outcome.results[0].path
    path.unlink() if damage == "missing" else path.write_bytes(b"x")
    page = Page(outcome._repr_html_())
    assert (page.rows[1][2], page.images) == ("succeeded", [])


def test_a_key_in_a_message_is_not_shown(make, monkeypatch):
    job = batchgen.load(["a mug"], name="mugs", emulate=True, environ={"GEMINI_API_KEY": "a-key-of-the-user-12345"})
    _, outcome = make(["a mug"])
    result = replace(outcome.results[0], reason="key_rejected", message="not valid: a-key-of-the-user-12345")
    monkeypatch.setattr(type(outcome.results), "in_states", lambda self, states: iter([result]))
    assert "a-key-of-the-user" not in replace(outcome, results=job.results)._repr_html_()
