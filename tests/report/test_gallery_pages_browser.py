"""A gallery of several pages in a real browser: from one to the other, and what each says it covers."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from batchgen.cli.main import run_command_line
from batchgen.report import gallery_pages
from tests.support.browser import SharedTab, contrast_faults, focused, keys, launched, layout_faults, until
from tests.support.gallery_job import make_family


@pytest.fixture(scope="module")
def first_page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gallery_pages, "PAGE_SAMPLES", 3)
        manifest = make_family(tmp_path_factory.mktemp("pages"))
        assert run_command_line(["report", str(manifest.with_name("family.emulated"))]) == 0
    return manifest.with_name("family.emulated") / "report.html"


@pytest.fixture(scope="module")
def shared_tab(first_page: Path) -> Iterator[SharedTab]:
    with launched() as browser:
        yield SharedTab(browser)


@pytest.fixture
def tab(shared_tab: SharedTab, first_page: Path) -> Iterator[Any]:
    """At the first page; at the end nothing came from elsewhere, and the console is empty."""
    yield shared_tab.visit(first_page.as_uri(), viewport={"width": 1200, "height": 800})
    assert [each for each in shared_tab.leave() if not each.startswith(("file://", "data:", "blob:"))] == []


def test_links_and_the_list_lead_from_page_to_page(tab):
    assert keys(tab) == ["mug", "lamp", "lamp#2"]
    assert not tab.is_visible("[aria-label='Previous page']")
    tab.click(".pages >> nth=0 >> [aria-label='Next page']")
    tab.wait_for_url("**/report-2.html")
    assert keys(tab)[:2] == ["snow", "lit"]
    tab.select_option(".pages >> nth=1 >> select", index=3)
    tab.wait_for_url("**/report-4.html")
    assert keys(tab) == ["quick", "masked", "second"]
    tab.click(".pages >> nth=1 >> [aria-label='Previous page']")
    tab.wait_for_url("**/report-3.html")
    options = tab.evaluate("[...document.querySelector('.pages select').options].map((each) => each.text)")
    assert options[2] == "Page 3 of 4: after to waits · 1 succeeded, 1 refused, 1 blocked"


def test_a_page_says_what_search_and_filters_cover_and_what_the_whole_job_has_made(tab):
    assert "cover this page" in tab.inner_text(".pages >> nth=0")
    assert tab.get_attribute("#search", "placeholder") == "Search prompts and ids of this page"
    tab.fill("#search", "lamp")
    assert tab.inner_text("#count") == "2 of 3 on this page"
    assert tab.inner_text("#totals").startswith("12 of 14 images made")


def test_a_reference_that_is_an_image_of_another_page_is_shown_and_opens(tab, first_page):
    tab.goto(first_page.with_name("report-2.html").as_uri())
    assert tab.evaluate("document.querySelector('[data-key=snow] .inset img').src").startswith("data:image/webp")
    tab.click("[data-key=lit] .open")
    until(tab, "document.querySelector('[data-kind=reference] img')?.complete")
    assert tab.evaluate("document.querySelector('[data-kind=reference] img').naturalWidth") > 0
    assert tab.get_attribute("[data-kind=reference] a", "href") == "lamp-2.jpg"


def test_picks_of_all_pages_are_saved_together(tab, first_page):
    tab.keyboard.press("ArrowRight")
    assert focused(tab) == "mug"
    tab.keyboard.press("Space")
    tab.goto(first_page.with_name("report-3.html").as_uri())
    tab.keyboard.press("ArrowRight")
    tab.keyboard.press("x")
    tab.click("#export")
    assert "1 rejected" in tab.inner_text("#exporter-counts")
    assert "other pages too" in tab.inner_text("#exporter-counts")
    with tab.expect_download() as saved:
        tab.click("#save-json")
    picks = json.loads(Path(saved.value.path()).read_text())
    assert [each["id"] for each in picks["picked"]] == ["mug"]
    assert [each["id"] for each in picks["rejected"]] == ["after"]
    assert len(picks["picked"][0]["sha256_begins"]) == 12


@pytest.mark.parametrize("width", [360, 1200])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_ways_to_other_pages_can_be_read_on_phones_and_desks(shared_tab, first_page, width, scheme):
    tab = shared_tab.visit(first_page.as_uri(), viewport={"width": width, "height": 800}, color_scheme=scheme)
    assert layout_faults(tab) == []
    assert contrast_faults(tab) == []
