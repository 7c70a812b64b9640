"""Case 13: two reviewers on one dashboard of ten thousand images: how soon the other one sees a verdict."""

from __future__ import annotations

import json
import queue
import re
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from statistics import median

from batchgen.ledger.reader import HistoryReader
from batchgen.ledger.reviews import append_reviews, make_review
from batchgen.report.dashboard.watched_job import OVERLAP_S
from tests.benchmarks.case import Case, Target
from tests.benchmarks.dashboard import read, serving
from tests.benchmarks.gallery import ITEMS
from tests.benchmarks.long_job import build
from tests.benchmarks.measure import fresh_folder

VERDICTS = 40


def review(quick: bool) -> Case:
    items = ITEMS // 10 if quick else ITEMS
    case = Case("review", f"13. Two reviewers on {items:,} images")
    folder = fresh_folder("review")
    build(folder, items, 0)
    for before in (0, items // 2):
        if before:
            say(folder / "out", before)
            time.sleep(OVERLAP_S + 1.0)  # they are not news any more
        took_s = verdicts_seen(folder, items)
        case.extra[f"seconds_after_{before}"] = took_s
        case.notes.append(
            f"{VERDICTS} verdicts, {before:,} before them that no run has taken in: seen by the other reviewer after"
            f" {1000 * median(took_s):.0f} ms (median), {1000 * max(took_s):.0f} ms at most"
        )
        case.targets.append(Target(f"seen by the other, {before:,} before", "at most", 1, max(took_s), "s"))
    return case


def say(out: Path, number: int) -> None:
    with HistoryReader.open(out) as reader:
        rows = [row for row, _ in zip(reader.pictures(), range(number), strict=False)]
    append_reviews(
        out, [make_review("Ann", row.item_id, row.n, row.sha256, "reject", 3, "Softer light, please") for row in rows]
    )


def verdicts_seen(folder: Path, items: int) -> list[float]:
    """Seconds from the beginning of a request of the one to its event at the other."""
    with serving(folder, folder / "out") as (address, _):
        job = re.search(r'"id":"(\w+)"', read(address).decode())
        assert job is not None
        page = f"{address}jobs/{job[1]}/"
        facts = json.loads(re.search(r'id="facts">(.*?)</script>', read(page).decode())[1])  # type: ignore[index]
        heard = queue.SimpleQueue[tuple[str, str, float]]()
        events = f"{page}events?at={facts['live']['at']}"
        threading.Thread(target=follow, args=(events, heard), daemon=True).start()
        time.sleep(1.0)  # until it listens
        took_s = []
        for number in range(VERDICTS):
            sample = facts["samples"][(number * 97) % items]
            ruling, started_s = ("accept", "reject")[number % 2], time.perf_counter()
            vote(page, facts["live"]["csrf"], sample, ruling)
            while (seen := heard.get(timeout=30))[:2] != (sample["id"], ruling):
                pass
            took_s.append(seen[2] - started_s)
        return took_s


def vote(page: str, csrf: str, sample: dict[str, object], ruling: str) -> None:
    pictures = sample["pictures"]
    assert isinstance(pictures, list)
    said = {"name": "Ben", "id": sample["id"], "n": sample["n"], "sha": pictures[0]["sha"], "ruling": ruling}
    headers = {"Origin": "/".join(page.split("/")[:3]), "X-Batchgen-Token": csrf, "Content-Type": "application/json"}
    body = json.dumps({**said, "stars": 0, "comment": ""}).encode()
    request = urllib.request.Request(f"{page}reviews", body, headers)  # noqa: S310 - our own
    urllib.request.urlopen(request, timeout=30).close()  # noqa: S310


def follow(events: str, heard: queue.SimpleQueue[tuple[str, str, float]]) -> None:
    """What the other is sent: (item, ruling of Ben, when). Ends with the server."""
    with suppress(OSError, ValueError), urllib.request.urlopen(events, timeout=60) as stream:  # noqa: S310
        for line in stream:
            if line.startswith((b'data:{"', b'data: {"')):
                at = time.perf_counter()
                for item, ruling in rulings(json.loads(line[5:])):
                    heard.put((item, ruling, at))


def rulings(facts: dict[str, object]) -> Iterator[tuple[str, str]]:
    samples = facts.get("samples")
    for sample in samples if isinstance(samples, list) else ():
        for picture in sample["pictures"]:
            for said in picture.get("verdicts", ()):
                if said["name"] == "Ben":
                    yield sample["id"], said["ruling"]
