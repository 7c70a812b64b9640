"""The samples of one job as its page shows them, each with the number of its last change, so that a client gets what it missed."""

from __future__ import annotations

import secrets
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from batchgen.ledger.reader import AttemptRow, HistoryReader, PictureRow
from batchgen.report.gallery_data import (
    MAX_RUNS,
    EntryBuilder,
    ManifestInfo,
    SampleKey,
    ValueIndex,
    by_sample,
    job_entry,
    manifest_entry,
    run_statistics_list,
    sidecar_reader,
)
from batchgen.report.run_statistics import Facts

OVERLAP_S = 10.0  # times are taken before their commit, and a picture gets its place a moment after it is settled
MAX_INCREMENTAL_ITEMS = 5000  # items that changed: then it is quicker to read everything


class Feed:
    """Kept while somebody looks. Not for two threads at once."""

    def __init__(self, folder: Path, manifest_info: ManifestInfo, to_text: Callable[[Any], str]) -> None:
        """to_text: JSON that may stand in a page."""
        self.epoch = secrets.token_hex(4)  # a client of another start, or of another ledger, gets everything
        self.at = 0
        self._folder, self._manifest_info, self._to_text = folder, manifest_info, to_text
        self._entries: dict[SampleKey, tuple[int, str]] = {}  # number of its last change, JSON
        self._attempts: dict[SampleKey, dict[int, AttemptRow]] = defaultdict(dict)
        self._settings = ValueIndex()
        self._last_attempt = 0
        self._open: set[int] = set()
        self._since = 0.0
        self._run: tuple[int, float | None] | None = None
        self._job: Facts = {}
        self._manifest = manifest_entry(folder, manifest_info)

    def refresh(self, ledger: HistoryReader, now: float) -> bool:
        """Take in what has changed; whether anything has. The ledger holds still."""
        run = ledger.last_run()
        state = (run.id, run.ended_at) if run else None
        reload_all = (
            state != self._run or not self._entries
        )  # repairs and removals are of the beginning and the end of a run
        items = self._changed(ledger, reload_all)
        if items is not None and len(items) > MAX_INCREMENTAL_ITEMS:
            items = None
        self._run, self._since = state, now
        changed = self._read(ledger, items)
        self.at += changed
        self._job = job_entry(ledger, self._folder, self._settings, self._manifest_info.catalogue, now)
        return changed

    def _changed(self, ledger: HistoryReader, reload_all: bool) -> list[str] | None:
        """The items to read again; None for all."""
        if reload_all:
            self._attempts.clear()
            self._open.clear()
            self._last_attempt = 0
        items = set[str]()
        for row in ledger.attempts_after(self._last_attempt, self._open):
            self._last_attempt = max(self._last_attempt, row.id)
            (self._open.discard if row.outcome else self._open.add)(row.id)
            items.add(row.item_id)
            for n in range(row.n, row.n + row.images):
                self._attempts[row.item_id, n][row.id] = row
        return None if reload_all else list(items | ledger.changed_since(self._since - OVERLAP_S))

    def _read(self, ledger: HistoryReader, items: Sequence[str] | None) -> bool:
        pictures, derivatives = by_sample(ledger.pictures(items)), by_sample(ledger.derivatives(items))
        builder, changed = (
            EntryBuilder(sidecar_reader(ledger, self._folder), self._manifest_info, self._settings, thumbnail_path),
            False,
        )
        order = self._manifest_info.order
        for row in ledger.samples(items):
            key = row[:2]
            attempts = list(self._attempts.get(key, {}).values())
            entry = builder.build(row, attempts, pictures.get(key, ()), derivatives.get(key, ()))
            entry["place"] = order.get(row.item_id, len(order))
            text = self._to_text(entry)
            if key not in self._entries or self._entries[key][1] != text:
                self._entries[key] = (self.at + 1, text)
                changed = True
        return changed

    def page_facts(self, live: Facts) -> str:
        """All of it, as a page begins with. live: what it needs to ask for more."""
        facts = {
            **self._job,
            **self._manifest,
            "base": "",
            "nights": None,
            "live": {**live, "at": f"{self.epoch}-{self.at}"},
        }
        return f'{self._to_text(facts)[:-1]},"samples":[{",".join(text for _, text in self._entries.values())}]}}'

    def since(self, mark: str) -> str:
        """What a client that has seen everything up to `mark` has missed; empty when nothing."""
        epoch, _, number = mark.partition("-")
        seen = int(number) if epoch == self.epoch and number.isdecimal() else -1
        if seen >= self.at:
            return ""
        texts = [text for at, text in self._entries.values() if at > seen]
        job = self._job if seen >= 0 else {**self._job, **self._manifest}
        return f'{self._to_text(job)[:-1]},"samples":[{",".join(texts)}]}}'

    @property
    def mark(self) -> str:
        return f"{self.epoch}-{self.at}"

    def nights(self, ledger: HistoryReader) -> str:
        rows = {row.id: row for rows in self._attempts.values() for row in rows.values()}
        attempts = [rows[number] for number in sorted(rows)]
        return self._to_text(run_statistics_list(ledger, attempts, self._manifest_info)[-MAX_RUNS:])


def thumbnail_path(picture: PictureRow) -> str:
    """Of a picture by its number in the ledger. What follows the `?` changes with the picture, so browsers may keep it."""
    return f"{picture.attempt_id}-{picture.k}?{picture.sha256[:12]}"
