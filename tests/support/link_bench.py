"""A job whose pictures come by link, run again and again by real processes, and its books after each of them."""

from __future__ import annotations

import asyncio
import json
import os
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import batchgen
from batchgen.ledger.reader import Reader
from batchgen.ledger.schema import ledger_path
from batchgen.planning.plan import RetrySelection
from batchgen.report.billing import billing_lines, read_billing
from tests.support.crash import exit_code
from tests.support.link_vendor import Vendor

MODEL = "google/nano-banana-pro"
ONE = f"  - {{id: a, prompt: a fox, model: {MODEL}}}\n"
FOUR = f"  - {{id: a, prompt: a fox, model: {MODEL}, count: 4}}\n"


class LinkBench:
    """Use `run`. Every run leaves a ledger whose books balance, and nothing of a link's signature outside of it."""

    def __init__(self, vendor: Vendor, folder: Path) -> None:
        self.vendor = vendor
        self.folder = folder
        self.out = folder / "out"

    async def run(self, items: str = ONE, die: tuple[str, int] = ("-", 0)) -> int:
        """The exit code of a process that runs the job, 9 when it died at the k-th call of a place."""
        (self.folder / "job.yaml").write_text(f"items:\n{items}")
        said = json.dumps({"pause_s": 0.001, "ledger": os.environ.get("BATCHGEN_LEDGER", "")})
        place, k = die
        arguments = [str(self.folder / "job.yaml"), str(self.out), self.vendor.url, place, str(k), said]
        code = await asyncio.to_thread(exit_code, arguments)
        if place == "-":
            self.check()
        return code

    def reader(self) -> Reader:
        return Reader.open(self.out)

    def check(self) -> None:
        with self.reader() as reader:
            found = read_billing(reader)
            assert found.holds, billing_lines(found, found, "job")
            assert not any("bug" in line for line in billing_lines(found, found, "job"))
            assert not any("secret" in message for _, _, message in reader.failure_reasons())

    def states(self) -> list[tuple[str, str]]:
        """(state, reason) of each sample."""
        with self.reader() as reader:
            return [
                (entry.state, entry.reason) for entry in sorted(reader.known_samples(["a"])["a"], key=lambda one: one.n)
            ]

    def pictures(self, under: str = "") -> set[bytes]:
        """Those that lie in the job folder, or in a folder of it."""
        return {path.read_bytes() for path in (self.out / under).glob("*.png")}

    def aside(self) -> set[bytes]:
        """Those that are kept and are no sample's picture."""
        return self.pictures("drafts") | self.pictures("superseded")

    def attempts(self) -> dict[str, int]:
        with self.reader() as reader:
            return reader.attempts()

    def usd(self) -> float:
        with self.reader() as reader:
            return reader.money().spent

    def ages(self, days: float) -> None:
        """As if everything had been asked for that long ago."""
        with closing(sqlite3.connect(ledger_path(self.out))) as ledger:
            ledger.execute("UPDATE attempt SET started_at = started_at - ?", (days * 86400,))
            ledger.commit()

    def lines(self) -> list[Any]:
        return [json.loads(line) for line in (self.out / "results.jsonl").read_text().splitlines()]


BEHIND = [("failed", "download_failed")]
MADE = [("succeeded", "")]


async def retry_failed(bench, items=ONE):
    """`batchgen retry --failed`."""
    job = batchgen.load(bench.folder / "job.yaml", output=bench.out, emulate=True, environ={})
    retry_selection = RetrySelection(states=frozenset({"failed"}), explicit=True)
    await batchgen.run(job, options=batchgen.RunOptions(emulator_url=bench.vendor.url, retry_selection=retry_selection))
    bench.check()
