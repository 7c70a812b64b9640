"""Chromium driven by Playwright; tests that import this are skipped without them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

CHROMIUM = "/usr/bin/chromium"
playwright = pytest.importorskip("playwright.sync_api", reason="NOT TESTED in a browser: playwright is not installed")
if not Path(CHROMIUM).exists():
    pytest.skip(f"NOT TESTED in a browser: there is no {CHROMIUM}", allow_module_level=True)


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
