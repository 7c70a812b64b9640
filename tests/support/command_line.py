"""The command line as tests call it, and what they read from its output."""

from __future__ import annotations

import io
import json
import os
import re
import shlex
import time
import urllib.request
from dataclasses import dataclass
from typing import Any

from tests.support.paths import ROOT

VARIABLES = ("GOOGLE_API_KEY", "VERTEX_API_KEY", "NO_COLOR", "CI", "COLUMNS")
VARIABLES += ("GOOGLE_APPLICATION_CREDENTIALS", "GOOGLE_CLOUD_PROJECT", "GOOGLE_CLOUD_LOCATION", "CLOUDSDK_CONFIG")


@dataclass(frozen=True)
class Answer:
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """Fails when anything but one JSON value stands on stdout."""
        return json.loads(self.out)


class _Pipe(io.TextIOWrapper):
    def __init__(self) -> None:
        super().__init__(io.BytesIO(), encoding="utf-8", write_through=True, newline="")

    def text(self) -> str:
        self.flush()
        return self.buffer.getvalue().decode()  # type: ignore[attr-defined,no-any-return]


def environment(**more: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("COV_")}
    return {**kept, "PYTHONPATH": str(ROOT), **more}


def wait_for(process, text: str) -> None:
    """Read the log on stderr until a line holds `text`."""
    for line in process.stderr:
        if text in line:
            return
    raise AssertionError(f"the process ended before it said {text!r}")


def until(true, seconds: float = 30.0) -> None:
    """Wait for what another process does."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it never happened"
        time.sleep(0.02)


ITEMS = {f"cup-{n}": f"A cup, number {n}" for n in range(6)}


def requests(url: str) -> int:
    with urllib.request.urlopen(f"{url}/_emulator/stats") as answer:  # noqa: S310 - loopback
        return int(json.load(answer)["requests"])


FLASH = "defaults: {model: flash}\n"


def remedy(words: str) -> list[str]:
    """The command that a message names, as a shell would read it."""
    found = re.search(r"`batchgen (verify [^`]* --repair)`", words)
    assert found, words
    return shlex.split(found[1])
