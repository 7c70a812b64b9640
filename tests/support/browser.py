"""Chromium driven by Playwright; tests that import this are skipped without them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = "/usr/bin/chromium"
playwright = pytest.importorskip("playwright.sync_api", reason="NOT TESTED in a browser: playwright is not installed")
if not Path(CHROMIUM).exists():
    pytest.skip(f"NOT TESTED in a browser: there is no {CHROMIUM}", allow_module_level=True)


@contextmanager
def launched() -> Iterator[Any]:
    with playwright.sync_playwright() as driver:
        # The sandbox of the browser needs rights that containers do not give to root.
        flags = ["--no-sandbox"] if os.name == "posix" and os.geteuid() == 0 else []
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=flags)
        yield browser
        browser.close()


class SharedTab:
    """One tab for all visits, because each new one starts three processes. A visit finds nothing of the one before.

    seen: addresses that were asked for since the last `leave`; words on the console, errors and dialogs by their kind.
    """

    def __init__(self, browser: Any) -> None:
        self.seen: list[str] = []
        self.tab = browser.new_context().new_page()
        self.tab.set_default_timeout(30_000)
        self.tab.context.on("request", lambda request: self.seen.append(request.url))
        self.tab.on("console", lambda message: self.seen.append(f"console: {message.text}"))
        self.tab.on("pageerror", lambda error: self.seen.append(f"error: {error}"))
        self.tab.on("dialog", lambda dialog: (self.seen.append(f"dialog: {dialog.message}"), dialog.dismiss()))

    def visit(self, address: str, viewport: dict[str, int], color_scheme: str = "light") -> Any:
        self.tab.set_viewport_size(viewport)
        self.tab.emulate_media(color_scheme=color_scheme)
        self.tab.goto(address)
        return self.tab

    def leave(self) -> list[str]:
        """What was seen; afterwards no page is open, nothing is kept, and the mouse is on nothing."""
        if not self.tab.url.startswith("about:"):
            self.tab.evaluate("localStorage.clear()")
        self.tab.context.clear_cookies()
        self.tab.mouse.move(-1, -1)
        self.tab.goto("about:blank")
        seen = self.seen[:]
        self.seen.clear()
        return seen


def keys(tab: Any) -> list[str]:
    """What the grid shows, in order."""
    script = "[...document.querySelectorAll('.card')].sort((a, b) => a.ariaPosInSet - b.ariaPosInSet).map((c) => c.dataset.key)"
    found: list[str] = tab.evaluate(script)
    return found


def focused(tab: Any) -> str | None:
    name: str | None = tab.evaluate("document.activeElement.closest('.card')?.dataset.key ?? null")
    return name


def until(tab: Any, script: str) -> None:
    """Not Playwright's own wait: that needs eval in the page, which the page does not allow."""
    for _ in range(1000):
        if tab.evaluate(script):
            return
        tab.wait_for_timeout(20)
    raise AssertionError(f"never came true: {script}")


def picture(tab: Any) -> tuple[str, bool]:
    """Name of the full picture in the viewer, once it has come, and whether it is one."""
    until(tab, "document.querySelector('#stage img')?.complete")
    name, wide = tab.evaluate(
        "(() => { const i = document.querySelector('#stage img'); return [i.src, i.naturalWidth]; })()"
    )
    return name.rsplit("/", 1)[1], wide > 0


SEEN_TEXT = Path(__file__).with_name("seen_text.js").read_text()


def seen_text(tab: Any) -> list[dict[str, Any]]:
    """Each text with its colour, what is behind it and its boxes."""
    found: list[dict[str, Any]] = tab.evaluate(SEEN_TEXT)
    return found


def layout_faults(tab: Any) -> list[str]:
    """Text that sticks out of the window at a side or lies on other text, and a page that scrolls sideways."""
    wide = tab.viewport_size["width"]
    boxes = [(node, each["text"], box) for node, each in enumerate(seen_text(tab)) for box in each["boxes"]]
    assert boxes
    faults = [f"sticks out: {text}" for _, text, box in boxes if box["left"] < -1 or box["right"] > wide + 1]
    if tab.evaluate("document.documentElement.scrollWidth > innerWidth"):
        faults.append("the page scrolls sideways")
    for number, (node, text, one) in enumerate(boxes):
        for other_node, other_text, other in boxes[number + 1 :]:
            across = min(one["right"], other["right"]) - max(one["left"], other["left"])
            down = min(one["bottom"], other["bottom"]) - max(one["top"], other["top"])
            if node != other_node and across > 1.5 and down > 4:  # lines may touch
                faults.append(f"overprint: {text} / {other_text}")
    return faults


def contrast_faults(tab: Any, least: float = 4.5) -> list[str]:
    """Text that is hard to read. Source: WCAG 2.2, 1.4.3; what is disabled is exempt."""

    def luminance(colour: list[float]) -> float:
        parts = [value / 255 for value in colour[:3]]
        red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue

    faults = []
    for each in seen_text(tab):
        if each["backdrop"] is None or each["disabled"]:
            continue
        dark, light = sorted((luminance(each["colour"]), luminance(each["backdrop"])))
        if (ratio := (light + 0.05) / (dark + 0.05)) < least:
            faults.append(f"{ratio:.1f}: {each['text']}")
    return faults
