"""The gallery in a real browser without a network: clicks, filters, keyboard, markup in prompts, ten thousand items."""

from __future__ import annotations

import json
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import batchgen
from batchgen.cli.main import run_command_line
from batchgen.records import Item
from tests.benchmarks import long_job
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


@pytest.fixture(scope="module")
def gallery(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = make_job(tmp_path_factory.mktemp("browser"))
    (folder / "mug.sources.json").write_text(
        json.dumps(
            {
                "queries": ["mugs"],
                "sources": [
                    {"title": "A shop", "uri": "https://shop.example/"},
                    {"title": "Evil", "uri": "javascript:alert(1)"},
                ],
            }
        )
    )
    assert run_command_line(["report", str(folder)]) == 0
    return folder / "report.html"


@pytest.fixture(scope="module")
def family(tmp_path_factory: pytest.TempPathFactory) -> Path:
    manifest = make_family(tmp_path_factory.mktemp("family"))
    assert run_command_line(["report", str(manifest)]) == 0
    return manifest


@pytest.fixture(scope="module")
def shared_tab(gallery: Path, family: Path) -> Iterator[SharedTab]:
    """Started after the job was made: a job has an event loop of its own."""
    with launched() as browser:
        yield SharedTab(browser)


@pytest.fixture
def visit(shared_tab: SharedTab) -> Iterator[Callable[..., Any]]:
    """Open a page, from disk unless a host is named; at the end nothing came from elsewhere, and the console is empty but for
    what is expected."""
    places = ["file://", "data:", "blob:"]

    def opened(path: Path, host: str = "", expected: tuple[str, ...] = (), **options: Any) -> Any:
        places.extend(expected)
        if host:
            places[0] = host
        address = f"{host}/{path.name}" if host else path.as_uri()
        return shared_tab.visit(address, **{"viewport": {"width": 1200, "height": 800}, **options})

    yield opened
    assert [entry for entry in shared_tab.leave() if not entry.startswith(tuple(places))] == []


def test_the_grid_shows_every_picture_and_the_vendors_words_where_there_is_none(visit, gallery):
    tab = visit(gallery)
    assert keys(tab)[:4] == ["mug", "poster", "poster#2", "poster#3"]
    assert len(keys(tab)) == 10
    assert tab.evaluate("[...document.querySelectorAll('.card img')].every((i) => i.naturalWidth > 0 && i.alt)")
    assert "refused" in tab.inner_text('[data-key="refused"] .words')
    assert len(tab.inner_text('[data-key="refused"] .words')) > 30
    assert tab.is_visible("#emulated")
    assert tab.inner_text("#count") == "10 of 10"


def test_state_model_tag_and_reason_filter_and_clear_takes_all_back(visit, gallery):
    tab = visit(gallery)
    tab.click("[data-state=refused]")
    assert keys(tab) == ["refused"]
    tab.click("[data-state=uncertain]")
    assert keys(tab) == ["refused", "uncertain"]
    tab.select_option("#tag", "shop")
    assert keys(tab) == []
    tab.click("#clear")
    assert len(keys(tab)) == 10
    tab.select_option("#model", "gemini-3-pro-image")
    assert keys(tab) == ["poster", "poster#2", "poster#3"]
    tab.click("#search")
    tab.keyboard.press("Escape")
    tab.select_option("#reason", index=1)
    assert 0 < len(keys(tab)) < 10


def test_search_finds_words_of_prompts_and_sorting_changes_the_order(visit, gallery):
    tab = visit(gallery)
    tab.keyboard.press("/")
    tab.keyboard.type("paris TRAVEL")
    assert keys(tab) == ["poster", "poster#2", "poster#3"]
    tab.keyboard.press("Escape")
    assert len(keys(tab)) == 10
    tab.select_option("#sort", "newest")
    assert keys(tab)[0] != "poster"
    tab.select_option("#sort", "cost")
    assert keys(tab)[0].startswith("poster")


def test_arrows_move_space_picks_x_rejects_and_picks_are_there_after_a_reload(visit, gallery):
    tab = visit(gallery)
    tab.keyboard.press("ArrowRight")
    assert focused(tab) == "mug"
    tab.keyboard.press("ArrowRight")
    tab.keyboard.press("Space")
    tab.keyboard.press("ArrowRight")
    tab.keyboard.press("x")
    tab.keyboard.press("End")
    assert focused(tab) == "chair"
    tab.keyboard.press("Home")
    assert focused(tab) == "mug"
    for again in (False, True):
        if again:
            tab.reload()
        until(tab, "document.querySelector('#count').textContent.endsWith('1 picked, 1 rejected')")
    assert tab.get_attribute('[data-key="poster"] .pick', "aria-pressed") == "true"
    tab.select_option("#pick", "reject")
    assert keys(tab) == ["poster#2"]
    tab.click('[data-key="poster#2"] .reject')
    assert tab.inner_text("#count").endswith("1 picked")


def test_the_viewer_shows_the_full_picture_and_everything_that_is_known(visit, gallery):
    tab = visit(gallery)
    tab.click('[data-key="mug"] .open')
    assert picture(tab) == ("mug.jpg", True)
    told = tab.inner_text("#details")
    for words in (
        "A mug, by night",
        "gemini-nano-banana-2.1",
        "3:4",
        "shop, hero",
        "nothing (emulated)",
        "2 attempts",
        "HTTP 200",
        "A shop",
    ):
        assert words in told
    assert tab.get_attribute("#details a", "href") == "https://shop.example/"
    assert tab.locator("#details a", has_text="Evil").count() == 0
    tab.keyboard.press("ArrowRight")
    assert tab.inner_text("#viewer-title") == "poster"
    tab.keyboard.press("x")
    assert tab.get_attribute("#viewer [data-do=reject]", "aria-pressed") == "true"
    tab.keyboard.press("Escape")
    assert not tab.is_visible("#viewer")
    until(tab, "document.activeElement.closest('.card')?.dataset.key === 'poster'")


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: Any) -> None:
        """Says nothing."""


def test_a_static_host_serves_the_page_and_its_pictures(visit, gallery):
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(gallery.parent))) as host:
        threading.Thread(target=host.serve_forever, daemon=True).start()
        tab = visit(gallery, host=f"http://127.0.0.1:{host.server_port}")
        tab.click('[data-key="poster"] .open')
        assert picture(tab)[1]
        host.shutdown()


def test_samples_and_a_superseded_version_stand_side_by_side(visit, gallery):
    tab = visit(gallery)
    tab.click('[data-key="mug"] .open')
    tab.keyboard.press("c")
    assert tab.eval_on_selector_all("#stage figure", "all => all.map((f) => f.dataset.kind)") == ["image", "earlier"]
    assert "earlier version" in tab.inner_text("#stage")
    until(tab, "[...document.querySelectorAll('#stage img')].every((i) => i.complete && i.naturalWidth)")
    tab.keyboard.press("Escape")
    tab.click('[data-key="poster#2"] .open')
    tab.click("#viewer [data-do=compare]") if tab.get_attribute(
        "#viewer [data-do=compare]", "aria-pressed"
    ) == "false" else None
    assert tab.locator("#stage figure").count() == 3


def test_markup_in_a_prompt_is_text(visit, gallery):
    tab = visit(gallery)
    tab.click('[data-key="markup"] .open')
    assert tab.inner_text("#details .prompt") == MARKUP.replace('{{ "{{" }}', "{{")
    assert tab.title() == "night · batchgen"
    assert tab.locator("#details .prompt *").count() == 0


def test_exported_picks_and_the_manifest_of_the_rejected_ask_for_the_same_again(visit, gallery, tmp_path):
    tab = visit(gallery)
    for key in ("mug", "poster#2", "poster#3", "markup"):
        tab.click(f'[data-key="{key}"] .reject')
    tab.click('[data-key="lamp"] .pick')
    tab.click("#export")
    with tab.expect_download() as download:
        tab.click("#save-json")
    picks = json.loads(Path(download.value.path()).read_text())
    assert [entry["file"] for entry in picks["picked"]] == ["lamp.jpg"]
    assert [(entry["id"], entry["n"]) for entry in picks["rejected"]][:2] == [("mug", 1), ("poster", 2)]
    with tab.expect_download() as download:
        tab.click("#save-manifest")
    again = tmp_path / download.value.suggested_filename
    download.value.save_as(again)
    assert f"batchgen run {again.name} --emulate" in again.read_text()
    first = {item.id: item for item in batchgen.load(gallery.parent.parent / "job.yaml", environ={}).manifest.items()}
    second = list(batchgen.load(again, environ={}).manifest.items())
    assert [(item.id, item.count) for item in second] == [("mug", 1), ("poster", 2), ("markup", 1)]
    for item in second:
        assert facts(item) == facts(first[item.id])


def facts(item: Item) -> tuple[Any, ...]:
    return item.prompt, item.model, item.provider, item.aspect_ratio, item.seed, item.tags, dict(item.extra)


def saved_manifest(tab: Any, beside: Path, *rejected: str) -> Path:
    for key in rejected:
        tab.click(f'[data-key="{key}"] .reject')
    tab.click("#export")
    with tab.expect_download() as download:
        tab.click("#save-manifest")
    path = beside.with_name(download.value.suggested_filename)
    download.value.save_as(path)
    return path


def command(*argv: str) -> subprocess.CompletedProcess[str]:
    """A process of its own: the browser's driver has an event loop here."""
    return subprocess.run([PYTHON, "-m", "batchgen", *argv], capture_output=True, text=True)


def test_the_rejected_with_references_and_turns_make_a_manifest_that_runs(visit, family):
    tab = visit(family.parent / "family.emulated" / "report.html")
    again = saved_manifest(
        tab, family, "lamp#2", "snow", "lit", "talk-t2", "after", "waits", "quick", "masked", "second"
    )
    text = again.read_text()
    assert "Save it beside family.yaml" in text
    assert "--only 'waits'" in text.split("# Not below")[1].split("version:")[0]
    valid = command("validate", str(again))
    assert valid.returncode == 0, valid.stdout + valid.stderr
    items = {item.id: item for item in batchgen.load(again, environ={}).manifest.items()}
    first = {item.id: item for item in batchgen.load(family, environ={}).manifest.items()}
    assert list(items) == ["lamp", "snow", "lit", "talk-t1", "talk-t2", "talk-t3", "after", "quick", "masked", "second"]
    here = family.parent.resolve()
    assert items["snow"].references == (f"{here}/family.emulated/mug.jpg", f"{here}/photos/a b.png")
    assert (items["lit"].references, items["after"].references) == (("@lamp",), ("@talk-t3",))
    assert (items["masked"].references, items["masked"].mask) == (first["masked"].references, True)
    for name, item in items.items():
        assert facts(item) == facts(first[name])
        assert (item.turn, item.history, item.service_tier) == (
            first[name].turn,
            first[name].history,
            first[name].service_tier,
        )
        assert (item.fallback, item.fallback_on, item.post) == (
            first[name].fallback,
            first[name].fallback_on,
            first[name].post,
        )
    run = command("run", str(again), "--emulate", "--json")
    assert (run.returncode, json.loads(run.stdout)["images"]["made"]) == (0, 10), run.stderr


def test_a_page_whose_manifest_is_gone_says_what_it_cannot_ask_for_again(visit, family, tmp_path):
    folder = family.parent / "family.emulated"
    away = family.rename(family.with_name("away.yaml"))
    try:
        assert command("report", str(folder), "--to", str(folder / "gone.html")).returncode == 0
        tab = visit(folder / "gone.html")
        again = saved_manifest(tab, family, "snow", "waits", "talk-t2")
    finally:
        away.rename(family)
    text = again.read_text()
    left_out = text.split("# Not below")[1].split("version:")[0]
    assert ("--only 'snow'" in left_out, "--only 'waits'" in left_out) == (True, True)
    turns = [item.id for item in batchgen.load(again, environ={}).manifest.items()]
    assert turns == ["talk-t1", "talk-t2", "talk-t3"]


def test_the_details_tell_thoughts_sidecars_who_served_and_at_which_tier(visit, family):
    tab = visit(family.parent / "family.emulated" / "report.html")

    def details(key: str) -> str:
        tab.click(f'[data-key="{key}"] .open')
        told: str = tab.inner_text("#details")
        tab.keyboard.press("Escape")
        return told

    told = details("mug")
    assert "mug.thoughts.md" in told
    assert "what the model thought" in told.lower()
    tab.click('[data-key="mug"] .open')
    tab.click("#details summary")
    thoughts = (family.parent / "family.emulated" / "mug.thoughts.md").read_text().strip()
    assert thoughts[:60] in tab.inner_text("#details details .text")
    made = tab.locator("#details a[target=_blank]")
    assert made.all_inner_texts() == [
        "derivatives/mug.json",
        "derivatives/thumb/mug.avif",
        "derivatives/web-16/mug.webp",
        "derivatives/web-32/mug.webp",
    ]
    here = family.parent / "family.emulated"
    hrefs = [made.nth(number).get_attribute("href") for number in range(4)]
    assert all((here / href).is_file() for href in hrefs)
    tab.keyboard.press("Escape")
    assert "standard (asked for: flex)" in details("quick")
    second = details("second")
    assert "served by\ngemini-nano-banana-2.1" in second
    assert "gemini-3.1-flash-lite-image" in second
    assert "photos/a b.png" in details("snow")
    assert "needs @gone, which was refused (safety)" in details("waits")


def test_each_run_is_drawn_with_what_held_it_back(visit, gallery):
    tab = visit(gallery)
    tab.click("#show-nights")
    assert tab.locator("#night option").count() == 2
    tab.select_option("#night", "1")
    assert tab.inner_text(".verdict").startswith(("Limited by", "Nothing held"))
    assert tab.locator("#nights > div .plot").count() == 5
    assert tab.locator(".plot path.stroke").count() >= 4
    assert "refused" in tab.inner_text("#nights > div .plot:last-child")
    tab.set_viewport_size({"width": 390, "height": 800})
    until(tab, "document.querySelector('.plot svg').viewBox.baseVal.width < 390")
    assert tab.input_value("#night") == "1"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_sticks_out_on_a_phone(visit, gallery, scheme):
    tab = visit(gallery, color_scheme=scheme, viewport={"width": 390, "height": 800})
    fits = "document.documentElement.scrollWidth <= innerWidth"
    assert tab.evaluate(fits)
    tab.click('[data-key="mug"] .open')
    box = tab.locator("#viewer [data-do=close]").bounding_box()
    assert box["x"] + box["width"] <= 390
    tab.keyboard.press("Escape")
    tab.click("#show-nights")
    assert tab.evaluate(fits)


def test_every_control_has_a_name_and_every_state_a_word(visit, gallery):
    tab = visit(gallery)
    named = "(all) => all.filter((e) => !(e.ariaLabel || e.textContent.trim() || e.labels?.length)).length"
    assert tab.eval_on_selector_all("button, input, select, textarea", named) == 0
    assert "succeeded" in tab.get_attribute('[data-key="mug"] .open', "aria-label")


def test_ten_thousand_items_draw_only_what_is_in_sight(visit, tmp_path):
    long_job.build(tmp_path, 10_000, 0)
    assert run_command_line(["report", str(tmp_path / "out")]) == 0
    tab = visit(tmp_path / "out" / "report.html")
    assert tab.inner_text("#count") == "10,000 of 10,000"
    assert len(keys(tab)) < 80
    tab.keyboard.press("ArrowRight")
    tab.keyboard.press("End")
    assert focused(tab) == "sku-0009999"
    assert tab.evaluate("document.activeElement.querySelector('img').naturalWidth") > 0
    assert len(keys(tab)) < 80
    tab.evaluate("scrollTo(0, document.body.scrollHeight / 2)")
    tab.wait_for_selector('[data-key="sku-0005000"]')
    tab.fill("#search", "article 4711")
    assert keys(tab) == ["sku-0004711"]


def test_an_item_that_waits_for_another_is_not_put_into_the_vendors_mouth(visit, tmp_path):
    manifest = tmp_path / "job.yaml"
    manifest.write_text(
        "items:\n  - {id: mug, prompt: 'x [[fault:safety]]'}\n  - {id: snow, prompt: y, references: ['@mug']}\n"
    )
    # A process of its own: the browser's driver has an event loop here.
    run = [PYTHON, "-m", "batchgen", "run", str(manifest), "--emulate", "--quiet"]
    assert subprocess.run(run, capture_output=True).returncode == 4
    assert run_command_line(["report", str(manifest)]) == 0
    tab = visit(tmp_path / "job.emulated" / "report.html")
    tab.click('[data-key="snow"] .open')
    told = tab.inner_text("#details").lower()
    assert ("why it was not asked for" in told, "vendor said" in told) == (True, False)


def family_page(family: Path) -> Path:
    return family.parent / "family.emulated" / "report.html"


def figures(tab: Any) -> list[str]:
    kinds: list[str] = tab.eval_on_selector_all("#stage figure", "all => all.map((f) => f.dataset.kind)")
    return kinds


def test_references_stand_beside_the_image_and_small_on_its_card_until_they_are_switched_off(visit, family):
    tab = visit(family_page(family))
    inset = '[data-key="snow"] .inset'
    until(tab, f"document.querySelector('{inset} img')?.naturalWidth > 0")
    assert tab.inner_text(inset) == "+1"
    assert tab.locator('[data-key="mug"] .inset').count() == 0
    tab.click('[data-key="snow"] .open')
    assert figures(tab) == ["image", "reference", "reference"]
    until(tab, "[...document.querySelectorAll('#stage img')].filter((i) => i.complete && i.naturalWidth).length === 3")
    sources = tab.eval_on_selector_all("#stage [data-kind=reference] img", "all => all.map((i) => i.src)")
    assert [source.rsplit("/", 2)[1:] for source in sources] == [
        ["family.emulated", "mug.jpg"],
        ["photos", "a%20b.png"],
    ]
    names = tab.locator("#stage figcaption b")
    assert names.all_inner_texts()[1:] == ["reference @mug", "reference photos/a b.png"]
    tab.keyboard.press("r")
    assert figures(tab) == ["image"]
    tab.keyboard.press("c")  # one sample is compared with what it was made from
    assert figures(tab) == ["image", "reference", "reference"]
    tab.keyboard.press("Escape")
    assert not tab.is_visible(inset)
    tab.reload()
    assert not tab.is_visible(inset)
    tab.click("#insets")
    assert tab.is_visible(inset)
    tab.click('[data-key="masked"] .open')
    assert names.all_inner_texts()[1:] == ["reference photos/a b.png", "mask photos/mask.png"]


def test_a_reference_that_was_not_sent_is_gone_or_has_changed_is_said(visit, family, tmp_path):
    tab = visit(family_page(family))
    tab.click('[data-key="waits"] .open')
    assert "reference @gone" in tab.inner_text("#stage")
    assert "It has not been made" in tab.inner_text("#stage")
    photo, manifest = tmp_path / "p.png", tmp_path / "job.yaml"
    photo.write_bytes((family.parent / "photos" / "a b.png").read_bytes())
    manifest.write_text("items: [{id: snow, prompt: y, references: [p.png]}]\n")
    assert command("run", str(manifest), "--emulate", "--quiet").returncode == 0
    page = tmp_path / "job.emulated" / "report.html"
    shutil.copy(family.parent / "family.emulated" / "mug.jpg", photo)
    assert command("report", str(manifest)).returncode == 0
    tab = visit(page, expected=("console: Failed to load resource: net::ERR_FILE_NOT_FOUND",))
    assert tab.inner_text(".inset") == "reference: no preview"  # it is not the one that was sent
    photo.unlink()
    tab.click(".card .open")
    until(tab, "document.querySelector('#stage [data-kind=reference] .missing')")
    assert "The file is not there, or has changed since" in tab.inner_text("#stage")
    assert command("report", str(manifest)).returncode == 0  # the manifest is not valid any more
    tab.reload()
    tab.click(".card .open")
    assert "reference 1" in tab.inner_text("#stage")
    assert "so the file is not known" in tab.inner_text("#stage")


def test_stars_are_given_by_keys_and_clicks_kept_sorted_by_and_exported(visit, gallery):
    tab = visit(gallery)
    tab.keyboard.press("Home")
    tab.keyboard.press("2")
    tab.keyboard.press("ArrowRight")
    tab.keyboard.press("5")
    tab.keyboard.press("Space")
    tab.keyboard.press("ArrowRight")
    tab.keyboard.press("3")
    tab.keyboard.press("0")
    tab.click('[data-key="lamp"] .open')
    tab.click('#stars [data-star="4"]')
    assert tab.eval_on_selector_all("#stars button", "all => all.map((b) => b.ariaPressed)") == ["true"] * 4 + ["false"]
    tab.keyboard.press("Escape")
    tab.reload()
    assert tab.inner_text("#count") == "10 of 10 · 1 picked, 3 with stars"
    assert tab.inner_text('[data-key="mug"] .stars') == "★2"
    tab.select_option("#sort", "stars")
    assert keys(tab)[:3] == ["poster", "lamp", "mug"]
    tab.select_option("#pick", "stars")
    assert len(keys(tab)) == 3
    tab.click("#export")
    with tab.expect_download() as download:
        tab.click("#save-json")
    picks = json.loads(Path(download.value.path()).read_text())
    assert [(entry["id"], entry["stars"]) for entry in picks["picked"]] == [("poster", 5)]
    assert [(entry["id"], entry["stars"]) for entry in picks["undecided"]] == [("mug", 2), ("lamp", 4)]


def test_slider_and_keys_change_the_size_which_is_kept_and_the_focused_card_stays_in_place(visit, gallery):
    tab = visit(gallery, viewport={"width": 900, "height": 500})
    width = "document.querySelector('.card').offsetWidth"
    first = tab.evaluate(width)
    tab.keyboard.press("ArrowRight")
    tab.keyboard.press("End")
    before = tab.locator('[data-key="chair"]').bounding_box()["y"]
    for key in "+++":
        tab.keyboard.press(key)
    larger = tab.evaluate(width)
    assert larger > first * 1.3
    assert focused(tab) == "chair"
    assert abs(tab.locator('[data-key="chair"]').bounding_box()["y"] - before) < larger
    assert tab.evaluate("(b => b.top >= 0 && b.top < innerHeight)(document.activeElement.getBoundingClientRect())")
    tab.reload()
    assert tab.evaluate(width) == larger
    tab.focus("#size")
    for _ in range(60):
        tab.keyboard.press("ArrowLeft")
    assert tab.evaluate(width) < first
    assert layout_faults(tab) == []


@pytest.mark.parametrize("width", [390, 768, 1280])
def test_the_first_pick_does_not_move_the_grid(visit, gallery, width):
    tab = visit(gallery, viewport={"width": width, "height": 800})
    before = tab.locator('[data-key="lamp"]').bounding_box()
    tab.click('[data-key="mug"] .pick')
    tab.keyboard.press("4")
    tab.click('[data-key="poster"] .reject')
    assert tab.inner_text("#count") == "10 of 10 · 1 picked, 1 rejected, 1 with stars"
    assert tab.locator('[data-key="lamp"]').bounding_box() == before


def test_a_phone_shows_images_first_and_filters_on_demand(visit, gallery):
    tab = visit(gallery, viewport={"width": 390, "height": 844})
    assert tab.locator('[data-key="mug"]').bounding_box()["y"] < 844 * 0.3
    assert not tab.is_visible("#model")
    tab.click("#more")
    tab.select_option("#model", "gemini-3-pro-image")
    assert keys(tab) == ["poster", "poster#2", "poster#3"]


ODD = """\
name: a-very-long-name-of-a-job-that-goes-on-and-on-until-it-is-wider-than-any-phone-could-ever-be-in-one
limits: {concurrency: 8}
items:
  - {id: one-very-long-identifier-of-a-product-in-the-warehouse-0000001, prompt: short, references: [p.png], tags: [shop]}
  - {id: كوب-قهوة, prompt: "كوب قهوة من الخزف على طاولة خشبية في ضوء الصباح"}
  - {id: emoji, prompt: "A vase 🏺 with 😀 faces, 日本語のテキスト"}
  - {id: endless, prompt: "ENDLESS"}
  - {id: refused, prompt: "[[fault:prohibited]] A hard one"}
  - {id: lost, prompt: "[[fault:empty]] A dull one"}
  - {id: versions, prompt: Three, count: 31, references: [p.png, "@emoji"]}
"""


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """Galleries by their number of images: none made for want of budget, one, and 37 with names and prompts of all sorts."""
    found = {}
    one = "items: [{id: mug, prompt: A mug}]\n"
    odd = ODD.replace("ENDLESS", f"{'a-word-that-never-ends' * 12} {'and a long text ' * 200}")
    for number, text, *more in ((0, one, "--max-cost", "0.0001"), (1, one), (37, odd)):
        folder = tmp_path_factory.mktemp(f"pages-{number}")
        Image.new("RGB", (40, 20), "teal").save(folder / "p.png")
        (folder / "job.yaml").write_text(text)
        command("run", str(folder / "job.yaml"), "--emulate", "--quiet", *more)
        assert command("report", str(folder / "job.yaml")).returncode == 0
        (found[number],) = folder.glob("*.emulated/report.html")
    return found


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 768, 1280, 1920])
def test_nothing_sticks_out_overprints_or_is_hard_to_read_at_any_width(visit, pages, width, scheme):
    for number, page in pages.items():
        tab = visit(page, viewport={"width": width, "height": 900}, color_scheme=scheme)
        faults = {}

        def look(name: str, tab: Any = tab, faults: dict[str, list[str]] = faults) -> None:
            faults[name] = layout_faults(tab) + contrast_faults(tab)

        assert len(keys(tab)) >= min(number, 10)
        look("grid")
        for key in ("lost", "versions#2", "endless") if number == 37 else ("mug",) if number else ():
            tab.evaluate(f"at = shown.findIndex((sample) => keyOf(sample) === '{key}'), view()")
            look(f"viewer of {key}")
            tab.keyboard.press("c")
            look(f"comparison of {key}")
            tab.keyboard.press("Escape")
        for button in ("#export", "#help"):
            tab.click(button)
            look(button)
            tab.keyboard.press("Escape")
        tab.fill("#search", "nothing has this")
        look("no match")
        tab.click("#show-nights")
        look("runs")
        assert {name: found for name, found in faults.items() if found} == {}, number
