"""Writes verdicts into the ledger of a job, as checks, the judge and people do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from batchgen.ledger.ledger import Ledger
from batchgen.ledger.verdicts import set_review_state, upsert_verdicts
from batchgen.records import Verdict, split_key


def review(folder: Path, *said: tuple[str, str, str, str] | tuple[str, str, str, str, dict[str, Any]]) -> None:
    """said: (key of a sample, by, name, ruling, more fields of the verdict) on the image that it has now. A sample whose image
    anybody rejects is rejected, for the last reason that is given."""
    ledger = Ledger(folder)
    try:
        for number, (key, by, name, ruling, *more) in enumerate(said):
            item_id, n = split_key(key)
            image = next(each for each in ledger.reader.results_of_item(item_id) if each.n == n).image
            assert image is not None, key
            facts = {"item_id": item_id, "n": n, "sha256": image.sha256, "by": by, "name": name, "ruling": ruling}
            verdict = Verdict(**{**facts, "at": 1_795_248_000.0 + number, **(more[0] if more else {})})
            ledger.writer.submit(upsert_verdicts([verdict])).result()
            if ruling == "reject":
                end = (verdict.reason, verdict.message)
                ledger.writer.submit(set_review_state(item_id, n, image.sha256, "rejected", *end)).result()
    finally:
        ledger.close()
