"""Two people and a client in real tabs of one dashboard: what one says the other sees, nothing is lost, and one key takes it back."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from batchgen.cli.main import run_command_line
from batchgen.ledger.reader import Reader
from batchgen.ledger.reviews import read_reviews, reviewed
from batchgen.report.dashboard.clients import add_client, revoke_client
from batchgen.report.dashboard.job_card import JobLocation
from tests.support.browser import SharedTab, contrast_faults, launched, layout_faults, until
from tests.support.fork_server import PYTHON
from tests.support.gallery_job import make_job
from tests.support.paths import ROOT

WIDE = {"width": 1280, "height": 800}


@pytest.fixture(scope="module")
def jobs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """One after the other, of which nobody has said anything yet; all in one folder."""
    made, folder = make_job(tmp_path_factory.mktemp("review")), tmp_path_factory.mktemp("jobs")
    return iter([Path(shutil.copytree(made, folder / f"job-{number}.emulated")) for number in range(12)])


@pytest.fixture(scope="module")
def tabs(jobs: Iterator[Path]) -> Iterator[tuple[SharedTab, SharedTab]]:
    """Two browsers: neither has what the other keeps."""
    with launched() as browser:
        yield SharedTab(browser), SharedTab(browser)


@pytest.fixture(scope="module")
def dashboard(jobs: Iterator[Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Any]]:
    """The address with its token, and the process."""
    folder = next(jobs).parent
    command = [PYTHON, "-m", "batchgen", "serve", str(folder), "--port", "0", "--token"]
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, text=True, env=environ, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        yield process.stdout.readline().strip(), process
        process.terminate()


@pytest.fixture
def made(jobs: Iterator[Path]) -> Path:
    return next(jobs)


@pytest.fixture
def page(dashboard: tuple[str, Any], made: Path) -> str:
    return f"{dashboard[0].partition('?')[0]}jobs/{JobLocation(made).id}/"


@pytest.fixture
def pair(tabs: tuple[SharedTab, SharedTab], dashboard: tuple[str, Any], page: str) -> Iterator[tuple[Any, Any]]:
    """Ann's tab and Ben's, both live."""
    both = []
    for shared, name in zip(tabs, ("Ann", "Ben"), strict=True):
        tab = shared.visit(dashboard[0], viewport=WIDE)
        tab.goto(page)
        until(tab, "document.getElementById('link')?.textContent === 'live'")
        tab.click("#reviewer-name")
        tab.fill("#name", name)
        tab.keyboard.press("Enter")
        both.append(tab)
    yield both[0], both[1]
    seen = [entry for shared in tabs for entry in shared.leave()]
    own = (dashboard[0].partition("?")[0], "data:", "blob:", "console: Failed to load resource: net::ERR_")
    assert [entry for entry in seen if not entry.startswith(own)] == []


def card(key: str) -> str:
    return f"document.querySelector('[data-key=\"{key}\"]')"


def who(key: str) -> str:
    return f"{card(key)}.querySelector('.who').textContent"


def chips(key: str) -> str:
    return f"[...{card(key)}.querySelectorAll('.flag.bad')].map((chip) => chip.textContent).join()"


def said(made: Path) -> list[tuple[str, str, str]]:
    return [(each.name, each.item_id, each.ruling) for each in read_reviews(made).verdicts]


def test_two_people_see_each_other_and_where_they_differ(pair, made):
    ann, ben = pair
    ann.click('[data-key="mug"] .pick')
    assert ann.locator('[data-key="mug"].picked').count() == 1  # at once
    until(ben, f"{who('mug')} === '✓ Ann'")
    assert ben.locator('[data-key="mug"] .pick[aria-pressed=true]').count() == 0  # it is not Ben's
    ben.click('[data-key="mug"] .reject')
    for tab in (ann, ben):
        until(tab, f"{who('mug')} === '✓ Ann · ✕ Ben'")
        assert tab.locator('[data-key="mug"] .who.differ').count() == 1
        assert tab.locator('[data-key="mug"].rejected').count() == 1  # the later word
        assert tab.inner_text("#count").endswith("1 rejected")
    until(ann, "document.querySelector('#states [data-state=rejected] small')?.textContent === '1'")
    ben.keyboard.press("u")
    until(ann, f"{who('mug')} === ''")
    assert ann.locator('[data-key="mug"].picked').count() == 1
    assert said(made) == [("Ann", "mug", "accept"), ("Ben", "mug", "reject"), ("Ben", "mug", "none")]
    with reviewed(Reader.open(made), made) as reader:
        assert "rejected" not in reader.counts()


def test_one_key_takes_back_one_thing_after_the_other(pair, made):
    ann, ben = pair
    ann.keyboard.press("Home")
    for key in ("Space", "3", "ArrowRight", "x", "5"):
        ann.keyboard.press(key)
    until(ben, f"{chips('poster')} === 'rejected by Ann'")
    assert ann.inner_text("#count") == "10 of 10 · 1 picked, 1 rejected, 2 with stars"
    counts = []
    for _ in range(5):
        ann.keyboard.press("u")
        counts.append(ann.inner_text("#count").partition(" · ")[2])
    assert counts == ["1 picked, 1 rejected, 1 with stars", "1 picked, 1 with stars", "1 picked", "", ""]
    assert ann.is_disabled("#undo")
    until(ann, "sent.size === 0")
    until(ben, f"{chips('poster')} === '' && {who('mug')} === ''")
    with reviewed(Reader.open(made), made) as reader:
        assert "rejected" not in reader.counts()


def test_stars_and_comments_are_there_after_a_reload_and_for_the_other(pair, made):
    ann, ben = pair
    ann.click('[data-key="mug"] .open')
    ann.keyboard.press("4")
    ann.fill("#comment", "")
    ann.locator("#comment").press_sequentially("x 5 u: softer light")  # keys of the viewer are text here
    ann.keyboard.press("Control+Enter")
    until(ann, "sent.size === 0")
    ann.reload()
    until(ann, "document.getElementById('link')?.textContent === 'live'")
    ann.click('[data-key="mug"] .open')
    assert ann.input_value("#comment") == "x 5 u: softer light"
    assert ann.locator("#stars [aria-pressed=true]").count() == 4
    ben.click('[data-key="mug"] .open')
    assert "x 5 u: softer light" in ben.inner_text("#details")
    assert ben.input_value("#comment") == ""
    (last,) = [each for each in read_reviews(made).verdicts if each.message]
    assert (last.ruling, last.score, last.message) == ("none", 4.0, "x 5 u: softer light")


def test_what_one_is_typing_stays_while_the_other_decides(pair, made):
    ann, ben = pair
    ann.click('[data-key="mug"] .open')
    ann.click("#comment")
    ann.keyboard.type("half a sen")
    ben.click('[data-key="mug"] .reject')
    until(ann, "face(shown[at]).verdicts?.length === 1")
    ann.keyboard.type("tence")
    assert ann.input_value("#comment") == "half a sentence"
    ann.keyboard.press("Escape")
    until(ann, "sent.size === 0 && !document.getElementById('viewer').open")
    until(ben, "face(byKey.get('mug')).verdicts?.length === 2")
    assert [each.message for each in read_reviews(made).verdicts if each.name == "Ann"] == ["half a sentence"]


def test_votes_of_both_on_many_images_at_once_are_all_kept(pair, made):
    ann, ben = pair
    keys = ["mug", "poster", "poster#2", "poster#3"]
    for key in keys:
        ann.click(f'[data-key="{key}"] .pick', no_wait_after=True)
        ben.click(f'[data-key="{key}"] .reject', no_wait_after=True)
    for tab in (ann, ben):
        until(tab, f"sent.size === 0 && {keys}.every((key) => face(byKey.get(key)).verdicts?.length === 2)")
    assert sorted((name, ruling) for name, _, ruling in said(made)) == [("Ann", "accept")] * 4 + [("Ben", "reject")] * 4


def test_the_picks_of_all_are_exported_and_come_in_again(pair, made, tmp_path):
    ann, ben = pair
    ann.click('[data-key="mug"] .pick')
    until(ben, f"{who('mug')} === '✓ Ann'")
    ben.click('[data-key="mug"] .reject')
    until(ann, f"{who('mug')} === '✓ Ann · ✕ Ben'")
    ann.click("#export")
    assert not ann.is_visible("#forget")
    with ann.expect_download() as saved:
        ann.click("#save-json")
    saved.value.save_as(tmp_path / "picks.json")
    before = len(read_reviews(made).verdicts)
    assert run_command_line(["review", str(made), "--import", str(tmp_path / "picks.json")]) == 0
    assert len(read_reviews(made).verdicts) == before  # all of it is known


def test_a_client_sees_images_alone_and_is_out_when_the_link_is_revoked(tabs, page, made):
    shared, token = tabs[1], add_client(made, "Acme", 600.0)
    tab = shared.visit(f"{page}?client={token}", viewport=WIDE)
    until(tab, "document.getElementById('link')?.textContent === 'live'")
    assert tab.url == page
    assert tab.inner_text("#reviewer-name") == "Reviewing as Acme"
    assert tab.inner_text("#totals") == "7 images"
    for hidden in (".top a", "#show-nights", "#export", "#invite", "#sort", "#choices", "#live .job"):
        assert not tab.is_visible(hidden), hidden
    tab.click('[data-key="mug"] .reject')
    until(tab, "sent.size === 0")
    tab.click('[data-key="mug"] .open')
    assert re.findall(r"gemini|\$|HTTP|cost", tab.inner_text("#viewer")) == []
    for width, scheme in ((1280, "dark"), (390, "light")):
        tab.set_viewport_size({"width": width, "height": 800})
        tab.emulate_media(color_scheme=scheme)
        tab.keyboard.press("Escape")
        assert (layout_faults(tab), contrast_faults(tab)) == ([], []), (width, scheme)
    assert said(made) == [("Acme", "mug", "reject")]
    revoke_client(made, "Acme")
    tab.goto(page)
    assert tab.inner_text("#closed-why").startswith("This link opens nothing any more")
    assert (layout_faults(tab), contrast_faults(tab)) == ([], [])
    shared.leave()


def test_a_page_with_two_minds_on_it_is_legible_on_a_phone_and_in_the_dark(pair, made):
    ann, ben = pair
    ann.click('[data-key="mug"] .pick')
    until(ben, f"{who('mug')} === '✓ Ann'")
    ben.click('[data-key="mug"] .reject')
    until(ann, f"{who('mug')} === '✓ Ann · ✕ Ben'")
    for width, scheme in ((1280, "dark"), (390, "light")):
        ann.set_viewport_size({"width": width, "height": 844})
        ann.emulate_media(color_scheme=scheme)
        ann.reload()
        until(ann, f"document.getElementById('link')?.textContent === 'live' && {who('mug')} === '✓ Ann · ✕ Ben'")
        if width < 760:
            ann.click("#live summary")
        assert (layout_faults(ann), contrast_faults(ann)) == ([], []), (width, scheme)
        ann.click("#reviewer-name")
        assert contrast_faults(ann) == []
        ann.keyboard.press("Escape")


def test_what_cannot_be_saved_is_said_and_not_shown_as_saved(pair, dashboard):
    ann, _ = pair
    dashboard[1].terminate()
    until(ann, "document.getElementById('link')?.textContent !== 'live'")
    ann.click('[data-key="mug"] .pick')
    until(ann, "document.getElementById('unsaved').textContent.startsWith('Not saved: ')")
    assert ann.locator('[data-key="mug"].picked').count() == 0
