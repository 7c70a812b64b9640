"""What was said of images that is worth showing, for every reader."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from batchgen.ledger.database import BaseReader, placeholders
from batchgen.ledger.schema import VERDICT_COLUMNS
from batchgen.records import Verdict

COLUMNS = ", ".join(f"v.{name}" for name in VERDICT_COLUMNS)

_NOTABLE = (  # also what was read in an image that is as it should be
    "(v.by <> 'check' OR v.ruling <> 'accept' OR v.details LIKE '%\"boxes\"%')"
    " AND (v.ruling <> 'none' OR v.score IS NOT NULL OR v.message <> '')"
)


class VerdictQueries(BaseReader):
    def notable_verdicts(self, item_ids: Sequence[str] | None = None) -> dict[tuple[str, int], list[Verdict]]:
        """By item and sample, the earliest first: without the checks that found nothing, of which every image has several, and what
        was taken back and left neither stars nor words. item_ids: of these items alone, at most 30,000."""
        of_items = "" if item_ids is None else f" AND v.item_id IN ({placeholders(item_ids)})"
        sql = f"SELECT {COLUMNS} FROM verdict v WHERE {_NOTABLE}{of_items} ORDER BY v.at"
        found: dict[tuple[str, int], list[Verdict]] = {}
        for row in self._query(sql, *(item_ids or ())):
            found.setdefault((row[0], row[1]), []).append(verdict_from_row(row))
        return found


def verdict_from_row(row: Sequence[Any]) -> Verdict:
    values = dict(zip(VERDICT_COLUMNS, row, strict=True))
    return Verdict(**{**values, "details": json.loads(values["details"])})
