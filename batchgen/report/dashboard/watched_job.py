"""One job under observation: opened for a moment when its ledger has changed, and never held open."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

from batchgen.errors import BatchgenError, LedgerError
from batchgen.ledger.location import has_ledger, lost_ledger_in, verify_arguments
from batchgen.ledger.location import ledger_identity as identity_of
from batchgen.ledger.reader import HistoryReader
from batchgen.ledger.runs import RunRow
from batchgen.ledger.schema import ledger_path, unreadable_error
from batchgen.report.dashboard.job_card import EndedRuns, card_of
from batchgen.report.dashboard.job_location import JobLocation, change_marker
from batchgen.report.dashboard.sample_feed import Feed
from batchgen.report.gallery import safe_json
from batchgen.report.gallery_data import ManifestInfo
from batchgen.report.liveness import is_alive_in
from batchgen.report.view import as_json

SAMPLES_TTL_S = 60.0  # after nobody has looked at the samples for so long, they are forgotten
NOT_STARTED = "Nothing has run here yet. It appears by itself when a run begins."
FOLDER_GONE = "The folder has gone: it was here, and was moved, renamed or deleted since."
LoadManifestInfo = Callable[[JobLocation, str], ManifestInfo]
Secrets = Callable[[], Sequence[str]]
LastRetry = Callable[[JobLocation], dict[str, Any] | None]  # what came of an action on the page


class WatchedJob:
    """Its methods are called by one thread, the reading one. version: grows with every change of the card."""

    def __init__(
        self, location: JobLocation, load_manifest_info: LoadManifestInfo, secrets: Secrets, last_retry: LastRetry
    ) -> None:
        self.location = location
        self.version = 0
        self.card: dict[str, Any] = {}
        self.feed: Feed | None = None
        self._load_manifest_info, self._secrets, self._last_retry = load_manifest_info, secrets, last_retry
        self._change_marker: object = ()
        self._last_run: RunRow | None = None
        self._ended_runs: EndedRuns = {}
        self._identity: object = None
        self._manifest_info: tuple[object, ManifestInfo] | None = None
        self._samples_used_s = 0.0  # monotonic, when the samples were last asked for

    def refresh(self, *, samples: bool) -> bool:
        """Whether there is anything new. samples: those too."""
        now, now_s = time.time(), time.monotonic()
        if samples:
            self._samples_used_s = now_s
        elif self.feed is not None and now_s - self._samples_used_s > SAMPLES_TTL_S:
            self.feed = None
        alive, last_retry = self._alive(), self._last_retry(self.location)
        mark = (change_marker(self.location.folder), alive, last_retry, samples)
        if mark == self._change_marker and mark[0] is not None:
            return False
        self._change_marker = mark
        before, at = {**self.card, "at": 0}, self.feed and self.feed.mark
        self.card = {"id": self.location.id, "action": last_retry, **self._read(now, samples)}
        fresh = before != {**self.card, "at": 0}
        self.version += fresh
        return fresh or (self.feed and self.feed.mark) != at

    def _alive(self) -> bool | None:
        return is_alive_in(self._last_run, self.location.folder)

    def _read(self, now: float, samples: bool) -> dict[str, Any]:
        folder = self.location.folder
        blank = {"job": Path(self.location.manifest).stem or folder.name, "folder": str(folder), "at": now}
        if not has_ledger(folder):
            self.feed = self._last_run = None
            job = verify_arguments(self.location.manifest, folder, "") if self.location.manifest else str(folder)
            if (lost := lost_ledger_in(folder, job)) is not None:
                return blank | {"problem": str(lost), "begun": True}
            return blank | {"problem": FOLDER_GONE if self._identity else NOT_STARTED, "begun": False}
        try:
            with closing(HistoryReader.open(folder)) as ledger:
                ledger.snapshot()
                self._last_run = ledger.last_run()
                manifest_info = self._manifest_info_for(ledger.meta("manifest") or "")
                if (ledger_identity := identity_of(folder)) != self._identity:
                    self._identity, self.feed, self._ended_runs = ledger_identity, None, {}  # it was built anew
                if samples:
                    self.feed = self.feed or Feed(folder, manifest_info, self.text)
                    self.feed.refresh(ledger, now)
                card = card_of(ledger, folder, manifest_info, self._alive(), self._ended_runs, now)
                return dict(as_json(card))
        except (BatchgenError, OSError) as error:
            problem: Exception = error
        except sqlite3.Error as error:
            problem = unreadable_error(error, ledger_path(folder))
        self.feed = None
        return blank | {"problem": str(problem), "begun": True}

    def _manifest_info_for(self, recorded_path: str) -> ManifestInfo:
        """As the manifest has it, read again when it has changed."""
        sibling = (
            self.location.folder.parent / Path(recorded_path).name
        )  # noted as it was typed, maybe in another folder
        path = Path(self.location.manifest or (recorded_path if Path(recorded_path).is_file() else sibling))
        try:
            found = path.stat()
            mark: object = (str(path), found.st_mtime_ns, found.st_size)
        except OSError:
            mark = str(path)
        if self._manifest_info is None or self._manifest_info[0] != mark:
            self._manifest_info, self.feed = (mark, self._load_manifest_info(self.location, str(path))), None
        return self._manifest_info[1]

    def text(self, value: object) -> str:
        return safe_json(value, self._secrets())

    def page_facts(self, live: dict[str, Any]) -> str | None:
        """None when there is no ledger that can be read."""
        self.refresh(samples=True)
        return self.feed.page_facts(live) if self.feed else None

    def changes_since(self, version: int, mark: str) -> tuple[int, str, str, str]:
        """(version, the card; mark, the samples that the client has missed); both empty when it has everything."""
        card = self.text(self.card) if version != self.version else ""
        if self.feed is None:
            return self.version, card, mark, ""
        return self.version, card, self.feed.mark, self.feed.since(mark)

    def nights(self) -> str:
        self.refresh(samples=True)
        if self.feed is not None:
            with suppress(LedgerError, sqlite3.Error), closing(HistoryReader.open(self.location.folder)) as ledger:
                return self.feed.nights(ledger)
        return "[]"
