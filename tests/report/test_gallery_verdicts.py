"""Verdicts in the gallery, in a real browser: filters, words beside the image, twins side by side, boxes over what was read."""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from batchgen.cli.main import run_command_line
from tests.support.browser import SharedTab, contrast_faults, keys, launched, layout_faults, until
from tests.support.fork_server import PYTHON
from tests.support.paths import ROOT
from tests.support.verdicts import review

ITEMS = """\
name: sale
items:
  - {id: mug, prompt: A mug, count: 2, tags: ["style=ink"]}
  - {id: jug, prompt: A jug, tags: ["style=oil"]}
  - {id: cup, prompt: A cup, tags: ["style=oil"]}
  - {id: hat, prompt: A hat}
  - {id: bad, prompt: "x [[fault:safety]]"}
"""
MARKUP = '<img src=x onerror="document.title=1"><b>today</b>'
BOXES = [[0.1, 0.25, 0.5, 0.125, "SALE 05%"], [0.2, 0.6, 0.6, 0.1, MARKUP], ["x"], [0, 0, 9e9, 1, "far"]]
SAID = (
    ("mug", "check", "text", "reject", {"reason": "text", "message": "reads SALE 05%", "details": {"boxes": BOXES}}),
    ("mug", "check", "blank", "accept", {"score": 31.25}),
    ("mug#2", "judge", "gemini-3-pro", "reject", {"reason": "judge", "score": 4.5, "message": f"No handle. {MARKUP}"}),
    ("jug", "check", "twin", "warn", {"reason": "twin", "score": 2.0, "details": {"twin": "cup"}}),
    ("jug", "person", "ann", "none", {"score": 4.0}),
    ("cup", "person", f"bob {MARKUP}", "accept", {"score": 5.0, "message": "this one"}),
    ("cup", "check", "sharp", "warn", {"reason": "sharp"}),
    ("hat", "check", "text", "accept", {"details": {"boxes": [[0, 0, 1, 0.1, "HAT"]]}}),
)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    manifest = tmp_path_factory.mktemp("sale") / "sale.yaml"
    manifest.write_text(ITEMS)
    assert run_command_line(["run", str(manifest), "--emulate", "-q"]) == 3
    return manifest.with_name("sale.emulated")


@pytest.fixture(scope="module")
def pages(made: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The page before and after anybody has said anything."""
    later = tmp_path_factory.mktemp("later")
    found = {"before": made / "before.html", "after": made / "report.html"}
    assert run_command_line(["report", str(made), "--to", str(found["before"])]) == 0
    shutil.copytree(made, later / made.name)
    review(made, *SAID)
    assert run_command_line(["report", str(made)]) == 0
    return {**found, "unreviewed": later / made.name}


@pytest.fixture(scope="module")
def shared_tab(pages: dict[str, Path]) -> Iterator[SharedTab]:
    """Started after the job was made: a job has an event loop of its own."""
    with launched() as browser:
        yield SharedTab(browser)


@pytest.fixture
def visit(shared_tab: SharedTab, pages: dict[str, Path]) -> Iterator[Callable[..., Any]]:
    """Open a page from disk; at the end nothing came from elsewhere, and the console is empty."""

    def opened(name: str = "after", **options: Any) -> Any:
        return shared_tab.visit(pages[name].as_uri(), **{"viewport": {"width": 1200, "height": 800}, **options})

    yield opened
    assert [entry for entry in shared_tab.leave() if not entry.startswith(("file://", "data:"))] == []


def options_of(tab: Any, name: str) -> list[str]:
    return [text.strip() for text in tab.locator(f"#{name} option").all_inner_texts()]


def test_what_nobody_has_reviewed_shows_no_filter_for_it(visit):
    tab = visit("before")
    for name in ("ruling", "reviewer", "given"):
        assert not tab.is_visible(f"#{name}")
    assert tab.locator(".flag").count() == 0
    assert tab.inner_text("#accepted").startswith("Accepted: 5 of 5 images; $0.0")


def test_the_head_says_how_many_are_accepted_and_why_others_are_not(visit):
    tab = visit()
    text = tab.inner_text("#accepted")
    assert text.startswith("Accepted: 3 of 5 images, 1 with a warning; $0.0")
    assert text.endswith(" per accepted image; of 2 rejected 1 for text, 1 by the judge")
    assert tab.inner_text("#totals").startswith("5 of 6 images made · ")


def test_verdict_reason_reviewer_and_stars_filter(visit):
    tab = visit()
    assert options_of(tab, "ruling") == [
        "Reviewed or not", "Rejected (2)", "Warned of (1)", "Accepted by judge or person (1)", "Not reviewed (1)",
    ]  # fmt: skip
    for ruling, found in (
        ("rejected", ["mug", "mug#2"]),
        ("warned", ["jug"]),
        ("accepted", ["cup"]),  # a person outranks the check that warns
        ("none", ["hat"]),  # a check that has found nothing is no review
    ):
        tab.select_option("#ruling", ruling)
        assert keys(tab) == found
    tab.select_option("#ruling", "")
    for reason, found in (("text", ["mug"]), ("judge", ["mug#2"]), ("twin", ["jug"]), ("sharp", ["cup"])):
        tab.select_option("#reason", reason)
        assert keys(tab) == found
    tab.select_option("#reason", "")
    assert sorted(options_of(tab, "reviewer")[1:]) == ["ann (1)", f"bob {MARKUP} (1)", "gemini-3-pro (1)"]
    tab.select_option("#reviewer", "ann")
    assert keys(tab) == ["jug"]
    tab.keyboard.press("Escape")
    tab.click("#search")
    tab.keyboard.press("Escape")
    assert len(keys(tab)) == 6
    assert options_of(tab, "given")[1:] == ["5 stars (1)", "4 or more stars (2)", "3 or more stars (2)",
                                            "2 or more stars (2)", "1 or more stars (2)"]  # fmt: skip
    tab.select_option("#given", "4")
    assert keys(tab) == ["jug", "cup"]
    tab.click("[data-state=rejected]")
    assert keys(tab) == []
    tab.click("#clear")
    assert len(keys(tab)) == 6


def test_a_card_says_why_it_is_rejected_and_what_the_judge_gives(visit):
    tab = visit()

    def chips(key: str) -> list[str]:
        found: list[str] = tab.locator(f'[data-key="{key}"] .flag').all_inner_texts()
        return found

    assert chips("mug") == ["rejected: text"]
    assert chips("mug#2") == ["rejected: judge", "judge 4.5"]
    assert (chips("jug"), chips("cup"), chips("hat")) == (["twin"], [], [])
    assert tab.inner_text('[data-key="cup"] .stars') == "★5"


def test_the_viewer_shows_who_says_what_and_markup_stays_words(visit):
    tab = visit()
    tab.click('[data-key="mug#2"] .open')
    assert tab.inner_text("#said h3") == "1 verdict"
    assert "judge gemini-3-pro rejects it 4.5 of 10" in tab.inner_text("#said li")
    assert f"No handle. {MARKUP}" in tab.inner_text("#said li")
    assert "judge 4.5" in tab.inner_text("#stage figcaption")
    tab.keyboard.press("ArrowRight")
    tab.keyboard.press("ArrowRight")
    people, check = tab.locator("#said li").all_inner_texts()
    assert f"bob {MARKUP} accepts it 5 stars" in people and "this one" in people
    assert "check sharp warns sharp" in check
    assert tab.locator("#said img, #said li b b, #stage svg b").count() == 0
    assert tab.title().startswith("sale")


def test_what_was_read_is_drawn_where_it_was_read_and_hidden_with_a_key(visit):
    tab = visit()
    tab.click('[data-key="mug"] .open')
    until(tab, "document.querySelector('#stage img')?.complete")
    assert tab.locator(".boxes .over").count() == 2  # what is no box, or lies elsewhere, is left out
    image, box = tab.evaluate(
        """(() => {
          const image = document.querySelector('#stage img'), room = image.getBoundingClientRect();
          const scale = Math.min(room.width / image.naturalWidth, room.height / image.naturalHeight);
          const [wide, high] = [image.naturalWidth * scale, image.naturalHeight * scale];
          const seen = [room.left + (room.width - wide) / 2, room.top + (room.height - high) / 2, wide, high];
          const found = document.querySelector('.boxes .over').getBoundingClientRect();
          return [seen, [found.left, found.top, found.width, found.height]];
        })()"""
    )
    left, top, wide, high = image
    expected = [left + 0.1 * wide, top + 0.25 * high, 0.5 * wide, 0.125 * high]
    assert box == pytest.approx(expected, abs=3)
    assert tab.inner_text("#said h3") == "1 verdict"  # not that of the check that has found nothing
    assert tab.locator(".boxes text").all_text_contents() == ["SALE 05%", MARKUP]
    tab.keyboard.press("b")
    assert not tab.is_visible(".boxes")
    tab.keyboard.press("ArrowRight")
    assert not tab.is_visible('[data-do="boxes"]')  # nothing was read in that one
    tab.keyboard.press("ArrowLeft")
    tab.click('[data-do="boxes"]')
    assert tab.is_visible(".boxes")


def test_a_twin_is_shown_beside_its_twin_and_led_to(visit):
    tab = visit()
    tab.click('[data-key="jug"] .open')
    tab.keyboard.press("c")
    assert tab.locator("#stage figcaption b").all_inner_texts() == ["now", "twin cup"]
    tab.click("#said .twin")
    assert tab.inner_text("#viewer-title") == "cup"
    assert tab.locator("#stage figcaption b").all_inner_texts() == ["now", "twin jug"]  # and back


def test_runs_compare_models_and_tags_with_their_intervals(visit):
    tab = visit()
    tab.click("#show-nights")
    (plot,) = tab.locator("#compared .plot").all_inner_texts()
    assert "Accepted by tag, in all runs" in plot
    assert "2 of 2 accepted (34% to 100%) · $0.0" in plot and "0 of 2 accepted (0% to 66%)" in plot
    assert "Too few to tell: the interval of (no tag) overlaps those of style=oil, style=ink." in plot


@pytest.mark.parametrize("width", [390, 1200])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_overlaps_or_is_hard_to_read(visit, width, scheme):
    tab = visit(viewport={"width": width, "height": 844}, color_scheme=scheme)
    if width < 760:
        tab.click("#more")
    assert layout_faults(tab) + contrast_faults(tab) == []
    if width < 760:
        tab.click("#more")
    tab.click('[data-key="mug"] .open')
    tab.evaluate("document.getElementById('said').scrollIntoView()")
    assert [fault for fault in contrast_faults(tab) if "reads" in fault or "check" in fault] == []
    tab.keyboard.press("Escape")
    tab.click("#show-nights")
    assert layout_faults(tab) + contrast_faults(tab) == []


def test_a_live_page_shows_a_verdict_as_soon_as_it_is_there(shared_tab, pages):
    folder = pages["unreviewed"]
    server = subprocess.Popen(
        [PYTHON, "-m", "batchgen", "serve", str(folder), "--port", "0"],
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, cwd=ROOT,
    )  # fmt: skip
    try:
        assert server.stdout is not None
        tab = shared_tab.visit(server.stdout.readline().strip(), viewport={"width": 1200, "height": 800})
        tab.click(".job h2 a")
        until(tab, "document.getElementById('link')?.textContent === 'live'")
        assert tab.locator(".flag").count() == 0
        review(folder, *((*said[:4], {**said[4], "at": time.time()}) for said in SAID))
        until(tab, "document.querySelectorAll('.flag').length === 4")
        assert tab.inner_text('[data-key="mug"] .flag') == "rejected: text"
        until(tab, "document.querySelector('#live').innerText.includes('of 2 rejected 1 for text, 1 by the judge')")
        tab.select_option("#ruling", "rejected")
        assert keys(tab) == ["mug", "mug#2"]
        tab.click("#show-nights")
        until(tab, "document.querySelector('#compared')")
    finally:
        shared_tab.leave()
        server.terminate()
        server.communicate(timeout=20)
