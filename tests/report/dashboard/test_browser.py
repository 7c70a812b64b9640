"""The dashboard in a real browser beside real processes: live pictures, filters, keyboard, confirmed actions, a phone, dark."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from batchgen.ledger.reader import Reader
from batchgen.ledger.schema import ledger_path
from batchgen.records import Result
from tests.support.browser import (
    SharedTab,
    contrast_faults,
    focused,
    keys,
    launched,
    layout_faults,
    picture,
    until,
)
from tests.support.fork_server import PYTHON
from tests.support.gallery_job import MARKUP, make_family, make_job
from tests.support.paths import ROOT

MANIFEST = "limits: {concurrency: 2}\nmodels: {gemini-nano-banana-2.1: {rpm: null}}\nitems:\n"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_job(tmp_path_factory.mktemp("dashboard"))


@pytest.fixture(scope="module")
def family(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A job with thoughts, derivatives, other tiers, and one sample that lies in a vendor's batch."""
    folder = make_family(tmp_path_factory.mktemp("family")).with_name("family.emulated")
    with sqlite3.connect(ledger_path(folder)) as database:
        database.execute("UPDATE sample SET state = 'submitted' WHERE item_id = 'lamp' AND n = 2")
    database.close()
    return folder


@pytest.fixture(scope="module")
def browser(made: Path, family: Path) -> Iterator[Any]:
    """Started after the jobs were made: a job has an event loop of its own."""
    with launched() as started:
        yield started


@pytest.fixture(scope="module")
def shared_tab(browser: Any) -> SharedTab:
    return SharedTab(browser)


@pytest.fixture(scope="module")
def spawn() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    processes: list[subprocess.Popen[str]] = []

    def start(*argv: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [PYTHON, "-m", "batchgen", *argv], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )  # fmt: skip
        processes.append(process)
        return process

    yield start
    for process in processes:
        process.terminate()
        process.communicate(timeout=20)


@pytest.fixture(scope="module")
def home(made: Path, spawn: Any, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The address of a dashboard of that job and of one that has not begun."""
    later = tmp_path_factory.mktemp("later") / "later.yaml"
    later.write_text("items: [{id: a, prompt: b}]\n")
    address: str = spawn("serve", str(made), str(later), "--port", "0").stdout.readline().strip()
    return address


@pytest.fixture
def visit(shared_tab: SharedTab, spawn: Any) -> Iterator[Callable[..., Any]]:
    """Open an address, or the overview of jobs that are served for it; at the end nothing came from elsewhere, and the
    console is empty but for what is expected."""
    own = ["data:", "blob:"]

    def opened(place: Path | str, *argv: str, expected: str = "", **options: Any) -> Any:
        address = place
        if isinstance(place, Path):
            address = spawn("serve", str(place), "--port", "0", *argv).stdout.readline().strip()
        own.append(address.partition("?")[0])
        if expected:
            own.append(f"console: {expected}")
        return shared_tab.visit(address, **{"viewport": {"width": 1280, "height": 800}, **options})

    yield opened
    assert [entry for entry in shared_tab.leave() if not entry.startswith(tuple(own))] == []


def open_job(tab: Any) -> None:
    tab.click(".job h2 a")
    until(tab, "document.getElementById('link')?.textContent === 'live'")


def test_the_overview_tells_how_each_job_stands_and_leads_to_its_pictures(visit, home):
    tab = visit(home)
    assert tab.inner_text(".job .chip:not(.emu)") == "some images not made"
    assert tab.inner_text(".made").split() == [
        "7",
        "of",
        "10",
        "images",
        "1",
        "refused",
        "1",
        "failed",
        "1",
        "uncertain",
    ]
    assert tab.locator(".night").all_inner_texts() == ["!", "!"]
    assert "some images not made" in tab.locator(".night").first.get_attribute("aria-label")
    assert "Nothing has run here yet" in tab.inner_text(".job:nth-child(2)")
    open_job(tab)
    assert keys(tab)[:4] == ["mug", "poster", "poster#2", "poster#3"]
    until(tab, "[...document.querySelectorAll('.card img')].every((i) => i.complete && i.naturalWidth > 0)")
    tab.click(".top a")
    assert tab.locator(".job").count() == 2


def test_the_live_details_tell_thoughts_tiers_and_what_was_made_of_a_picture(visit, family):
    tab = visit(family)
    open_job(tab)
    assert tab.inner_text('#states [data-state="submitted"]').split() == ["submitted", "1"]
    tab.click('[data-key="mug"] .open')
    assert tab.locator("#details dd", has_text="mug.thoughts.md").count() == 1
    until(tab, "[...document.querySelectorAll('#details img')].filter((image) => image.naturalWidth).length === 3")
    links = tab.locator("#details a")
    assert links.all_inner_texts() == [
        f"derivatives/{path}" for path in ("thumb/mug.avif", "web-16/mug.webp", "web-32/mug.webp")
    ]
    assert tab.evaluate("fetch(document.querySelector('#details a').href).then((answer) => answer.status)") == 200
    tab.keyboard.press("Escape")
    tab.click('[data-key="quick"] .open')
    assert "standard (asked for: flex)" in tab.inner_text("#details")


def copy_of(made: Path, folder: Path) -> Path:
    """What is picked in it is no other test's."""
    return Path(shutil.copytree(made, folder / made.name))


def review_as(tab: Any, name: str) -> None:
    tab.click("#reviewer-name")
    tab.fill("#name", name)
    tab.keyboard.press("Enter")


def test_filters_search_keyboard_viewer_and_picks_work_as_in_the_gallery(visit, made, tmp_path):
    tab = visit(copy_of(made, tmp_path))
    open_job(tab)
    review_as(tab, "Ann")
    tab.click("[data-state=refused]")
    assert keys(tab) == ["refused"]
    tab.keyboard.press("Escape")
    tab.keyboard.press("/")
    tab.keyboard.type("paris TRAVEL")
    assert keys(tab) == ["poster", "poster#2", "poster#3"]
    tab.keyboard.press("Escape")
    tab.keyboard.press("Home")
    assert focused(tab) == "mug"
    tab.keyboard.press("Space")
    tab.keyboard.press("ArrowRight")
    tab.keyboard.press("x")
    assert tab.inner_text("#count") == "10 of 10 · 1 picked, 1 rejected"
    until(tab, "sent.size === 0")  # the server has them
    tab.reload()
    assert tab.inner_text("#count") == "10 of 10 · 1 picked, 1 rejected"
    tab.click('[data-key="mug"] .open')
    name, shown = picture(tab)
    assert (name.partition("-")[0].isdecimal(), shown) == (True, True)
    tab.keyboard.press("c")
    until(tab, "[...document.querySelectorAll('#stage img')].filter((i) => i.complete && i.naturalWidth).length === 2")
    tab.keyboard.press("Escape")
    tab.click("#show-nights")
    until(tab, "document.querySelectorAll('#nights > div .plot').length === 5")
    assert tab.locator("#night option").count() == 2


def test_markup_in_a_prompt_is_text(visit, home):
    tab = visit(home)
    open_job(tab)
    tab.click('[data-key="markup"] .open')
    assert tab.inner_text("#details .prompt") == MARKUP.replace('{{ "{{" }}', "{{")
    assert tab.locator("#details .prompt *").count() == 0
    assert tab.title() == "night · batchgen"


def test_pictures_come_by_themselves_and_the_run_is_stopped_after_a_question(visit, spawn, tmp_path):
    path = tmp_path / "job.yaml"
    path.write_text(MANIFEST + "".join(f"  - {{id: i{number}, prompt: A mug}}\n" for number in range(80)))
    run = spawn("run", str(path), "--emulate", "--quiet")
    tab = visit(path)
    until(tab, "document.querySelector('.chip.busy')?.textContent === 'running'")
    open_job(tab)
    until(tab, "document.querySelectorAll('.card img').length > 0")
    review_as(tab, "Ann")
    succeeded = "Number(document.querySelector('#states .succeeded small').textContent)"
    before = tab.evaluate(succeeded)
    tab.select_option("#sort", "newest")  # each new image moves all others
    assert tab.locator(".card:not(.succeeded) .pick:enabled").count() == 0  # nothing is to be seen yet
    press(tab, ".card.succeeded .pick:enabled")
    until(tab, "waiting.length > 0")  # images have come while the button is down
    tab.mouse.up()
    until(tab, "document.querySelector('#count').textContent.endsWith('1 picked')")
    until(tab, f"{succeeded} > {before}")  # on a slow machine there are more than fit into the grid by now
    until(tab, "[...document.querySelectorAll('.card.succeeded')].every((card) => card.querySelector('img'))")
    assert tab.inner_text("#count").endswith("1 picked")
    tab.click("[data-do=stop]")
    assert f"Process {run.pid}" in tab.inner_text("#confirm-text")
    tab.keyboard.press("Enter")  # the focus is on Cancel
    assert (tab.is_visible("#confirm"), run.poll()) == (False, None)
    tab.click("[data-do=stop]")
    tab.click("#confirm-yes")
    until(tab, "document.querySelector('.chip')?.textContent === 'stopped'")
    assert run.wait(20) == 143
    assert tab.locator("[data-do=stop]").count() == 0
    assert len(results(tmp_path / "job.emulated")) < 80


def test_an_image_that_has_just_succeeded_is_picked_when_it_is_there(visit, made, tmp_path):
    tab = visit(copy_of(made, tmp_path))
    open_job(tab)
    review_as(tab, "Ann")
    pick = '[data-key="mug"] .pick'
    assert tab.is_enabled(pick)
    tab.evaluate("whole = structuredClone(byKey.get('mug'))")
    tab.evaluate("take({ samples: [{ ...structuredClone(whole), pictures: [] }] }, mark_)")
    until(tab, f"document.querySelector('{pick}').disabled")
    tab.evaluate("take({ samples: [whole] }, mark_)")
    until(tab, f"!document.querySelector('{pick}').disabled")
    tab.click(pick)
    assert tab.inner_text("#count").endswith("1 picked")


def press(tab: Any, selector: str) -> None:
    """Hold the mouse button down on the first of them, wherever it has moved to by then."""
    for _ in range(50):
        box = tab.locator(selector).first.bounding_box()
        tab.mouse.move(box["x"] + 9, box["y"] + 9)
        tab.mouse.down()
        if tab.locator(f"{selector}:active").count():
            return
        tab.mouse.move(0, 0)  # where its release clicks nothing
        tab.mouse.up()
    raise AssertionError(f"never under the mouse: {selector}")


def results(folder: Path) -> list[Result]:
    with Reader.open(folder) as reader:
        return list(reader.results(["succeeded"]))


def test_retry_says_what_it_costs_and_its_log_is_on_the_page(visit, made, tmp_path):
    shutil.copytree(made, tmp_path / "night.emulated")
    shutil.copy(made.parent / "job.yaml", tmp_path / "job.yaml")
    tab = visit(tmp_path / "job.yaml")
    open_job(tab)
    tab.click("[data-do=retry]")
    until(tab, "document.querySelector('#confirm-prospect').textContent.startsWith('1 image, nothing billed')")
    tab.uncheck("#confirm input[value=failed]")
    assert tab.is_disabled("#confirm-yes")
    tab.check("#confirm input[value=refused]")
    until(tab, "document.querySelector('#confirm-prospect').textContent.startsWith('1 image')")
    tab.keyboard.press("Escape")
    assert not tab.is_visible("#confirm")
    tab.click("[data-do=retry]")
    until(tab, "!document.querySelector('#confirm-yes').disabled")
    tab.click("#confirm-yes")
    until(tab, "document.querySelector('.log summary')?.textContent.endsWith('too much failed')")
    assert "no_image" in tab.inner_text(".log pre")
    until(tab, "[...document.querySelectorAll('.night')].map((n) => n.textContent).join() === '!,!,✕'")


def test_the_token_is_asked_for_once_and_read_only_shows_no_button_that_changes_anything(visit, made):
    refused = "Failed to load resource: the server responded with a status of 401 (Unauthorized)"
    tab = visit(made, "--token", "--read-only", expected=refused)
    assert "token" not in tab.evaluate("location.href")
    (cookie,) = tab.context.cookies()
    tab.context.clear_cookies()
    tab.goto(tab.url)
    assert tab.inner_text("#token-why") == "A token is needed."
    assert tab.evaluate("document.activeElement.id") == "token"
    assert (layout_faults(tab), contrast_faults(tab)) == ([], [])
    for given, why in (("wrong", ["That is not the token of this start."]), (cookie["value"], [])):
        tab.keyboard.type(given)
        with tab.expect_navigation():
            tab.keyboard.press("Enter")
        assert tab.locator("#token-why").all_inner_texts() == why
    assert "token" not in tab.evaluate("location.href")
    open_job(tab)
    assert len(keys(tab)) == 10
    assert tab.locator("[data-do=retry]").count() == 0


UNPRICED = """\
defaults: {model: aiml-nano-banana-2.1}
items:
  - {id: untold, prompt: "A mug [[fault:tokens_used]]"}
  - {id: lost, prompt: "A jug [[fault:truncated_json]]"}
"""


@pytest.fixture
def unpriced(spawn: Any, tmp_path: Path) -> Path:
    """A job that is not emulated, of a picture whose price nobody knows and of requests that brought none, likewise."""
    address = spawn("emulate", "--picture", "tiny", "--latency", "0-0").stdout.readline().removeprefix("listening on ")
    (tmp_path / "shop.yaml").write_text(UNPRICED)
    environ = {**os.environ, "PYTHONPATH": str(ROOT), "BATCHGEN_AIMLAPI_BASE_URL": address.strip()}
    command = [PYTHON, "-m", "batchgen", "run", str(tmp_path / "shop.yaml"), "--quiet"]
    assert subprocess.run(command, env=environ, check=False, timeout=60).returncode == 3
    return tmp_path / "shop"


def test_a_price_that_nobody_knows_is_unknown_on_every_page(visit, unpriced):
    tab = visit(unpriced)
    card = tab.inner_text(".job")
    assert "unknown (1 request of unknown price) · maybe unknown (3 requests of unknown price) more" in card
    told = tab.get_attribute(".night", "aria-label")
    assert "unknown (1 request of unknown price)" in told
    pages = [card, told]
    open_job(tab)
    pages.append(tab.inner_text("#totals"))
    assert "unknown (1 image of unknown price)" in pages[-1]
    tab.click("#show-nights")
    until(tab, "document.querySelector('#nights svg')")
    pages.append(tab.inner_text("#nights"))
    assert "unknown (1 request of unknown price) · maybe unknown (3 requests of unknown price) more" in pages[-1]
    assert [page for page in pages if "$0.00" in page] == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_sticks_out_on_a_phone(visit, home, scheme):
    tab = visit(home, color_scheme=scheme, viewport={"width": 390, "height": 800})
    fits = "document.documentElement.scrollWidth <= innerWidth"
    assert tab.evaluate(fits)
    colour = tab.evaluate("getComputedStyle(document.body).backgroundColor")
    assert colour == {"light": "rgb(250, 250, 249)", "dark": "rgb(22, 22, 21)"}[scheme]
    open_job(tab)
    assert tab.evaluate(fits)
    tab.click("[data-do=retry]")
    box = tab.locator("#confirm").bounding_box()
    assert box["x"] >= 0
    assert box["x"] + box["width"] <= 390
    assert tab.evaluate("document.activeElement.id") == "confirm-no"


def test_a_page_that_lost_its_server_says_so_and_goes_on_with_the_next(browser, spawn, made):
    first = spawn("serve", str(made), "--port", "0")
    address = first.stdout.readline().strip()
    tab = browser.new_page()
    tab.goto(address)
    open_job(tab)
    first.terminate()
    first.wait(20)
    until(tab, "document.getElementById('link').textContent.startsWith('not connected')")
    time.sleep(0.1)
    spawn("serve", str(made), "--port", address.rstrip("/").rpartition(":")[2]).stdout.readline()
    until(tab, "document.getElementById('link').textContent === 'live'")
    assert len(keys(tab)) == 10
    tab.close()


def test_running_and_failed_jobs_come_first_with_their_newest_images_and_jobs_of_one_name_are_told_apart(
    visit, spawn, made, tmp_path
):
    for place in ("alpha", "beta"):
        (tmp_path / place).mkdir()
        (tmp_path / place / "night.yaml").write_text(f"items: [{{id: {place}, prompt: A mug}}]\n")
        run = spawn("run", str(tmp_path / place / "night.yaml"), "--emulate", "--quiet")
        assert run.wait(60) == 0
    tab = visit(tmp_path / "alpha", str(tmp_path / "beta"), str(made))
    assert tab.locator(".job h2").all_inner_texts() == ["night", "night", "night"]
    chips = tab.locator(".job .chip:not(.emu)").all_inner_texts()
    assert chips == ["some images not made", "finished", "finished"]
    folders = tab.locator(".job > .folder").all_inner_texts()
    assert [Path(folder).parts[-2] for folder in folders[1:]] == ["alpha", "beta"]
    assert len(set(folders)) == 3
    until(tab, "[...document.querySelectorAll('.newest img')].every((i) => i.complete && i.naturalWidth > 0)")
    assert tab.locator(".job:nth-child(1) .newest img").count() == 6
    assert tab.get_attribute(".job:nth-child(2) .newest img", "alt") == "alpha"
    slow = MANIFEST + "".join(f"  - {{id: i{number}, prompt: A mug}}\n" for number in range(60))
    (tmp_path / "beta" / "slow.yaml").write_text(slow)
    spawn("run", str(tmp_path / "beta" / "slow.yaml"), "--emulate", "--quiet")
    until(tab, "document.querySelector('.job:first-child .chip.busy')?.textContent === 'running'")
    assert tab.inner_text(".job:first-child h2") == "slow"


def test_references_are_served_by_their_hash_while_the_file_is_as_it_was_sent(visit, family):
    missing = "Failed to load resource: the server responded with a status of 404 (Not Found)"
    tab = visit(family, expected=missing)
    open_job(tab)
    until(tab, "document.querySelector('[data-key=\"snow\"] .inset img')?.naturalWidth > 0")
    tab.click('[data-key="snow"] .open')
    until(tab, "[...document.querySelectorAll('#stage img')].filter((i) => i.complete && i.naturalWidth).length === 3")
    address = tab.get_attribute("#stage figure:last-child a", "href")
    asked = "(address) => fetch(address, { cache: 'no-store' }).then((answer) => answer.status)"
    assert address.startswith("references/")
    assert tab.evaluate(asked, address) == 200
    photo = family.parent / "photos" / "a b.png"
    kept = photo.read_bytes()
    photo.write_bytes(kept + b"x")
    try:
        assert tab.evaluate(asked, address) == 404
    finally:
        photo.write_bytes(kept)
    assert tab.evaluate(asked, f"references/{'0' * 64}") == 404


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 768, 1280, 1920])
def test_nothing_sticks_out_overprints_or_is_hard_to_read_at_any_width(visit, home, width, scheme):
    tab = visit(home, viewport={"width": width, "height": 900}, color_scheme=scheme)
    faults = {"overview": layout_faults(tab) + contrast_faults(tab)}
    open_job(tab)
    if width < 760:
        tab.click("#live summary")
    faults["job"] = layout_faults(tab) + contrast_faults(tab)
    tab.click("[data-do=retry]")
    until(tab, "!document.querySelector('#confirm-yes').disabled")
    faults["question"] = layout_faults(tab) + contrast_faults(tab)
    tab.keyboard.press("Escape")
    tab.click(".top a")
    tab.click(".job:nth-child(2) h2 a")
    faults["not begun"] = layout_faults(tab) + contrast_faults(tab)
    assert {name: found for name, found in faults.items() if found} == {}
