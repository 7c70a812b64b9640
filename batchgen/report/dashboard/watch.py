"""One job under observation: opened for a moment when its ledger has changed, and never held open."""

from __future__ import annotations

import socket
import sqlite3
import time
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from pathlib import Path

from batchgen.errors import BatchgenError, LedgerError
from batchgen.ledger.history import Chronicle
from batchgen.ledger.location import has_ledger
from batchgen.ledger.location import identity as identity_of
from batchgen.ledger.missing_state import lost_in, verify_words
from batchgen.ledger.reader import RunRow
from batchgen.ledger.schema import ledger_path, unreadable
from batchgen.report.dashboard.card import Nights, card_of
from batchgen.report.dashboard.feed import Feed
from batchgen.report.dashboard.place import Place, mark_of
from batchgen.report.facts import Facts, holder_of, process_lives
from batchgen.report.gallery import safe_json
from batchgen.report.gallery_data import Declared

FORGET_S = 60.0  # after nobody has looked at the samples for so long, they are forgotten
NOT_BEGUN = "Nothing has run here yet. It appears by itself when a run begins."
GONE = "The folder has gone: it was here, and was moved, renamed or deleted since."
Declare = Callable[[Place, str], Declared]
Secrets = Callable[[], Sequence[str]]
Told = Callable[[Place], Facts | None]  # what came of an action on the page


class Watch:
    """Its methods are called by one thread, the reading one. version: grows with every change of the card."""

    def __init__(self, place: Place, declare: Declare, secrets: Secrets, told: Told) -> None:
        self.place = place
        self.version = 0
        self.card: Facts = {}
        self.feed: Feed | None = None
        self._declare, self._secrets, self._told = declare, secrets, told
        self._mark: object = ()
        self._last: RunRow | None = None
        self._nights: Nights = {}
        self._identity: object = None
        self._declared: tuple[object, Declared] | None = None
        self._looked_s = 0.0  # monotonic, when the samples were last asked for

    def look(self, *, samples: bool) -> bool:
        """Whether there is anything new. samples: those too."""
        now, now_s = time.time(), time.monotonic()
        if samples:
            self._looked_s = now_s
        elif self.feed is not None and now_s - self._looked_s > FORGET_S:
            self.feed = None
        alive, told = self._alive(), self._told(self.place)
        mark = (mark_of(self.place.folder), alive, told, samples)
        if mark == self._mark and mark[0] is not None:
            return False
        self._mark = mark
        before, at = {**self.card, "at": 0}, self.feed and self.feed.mark
        self.card = {"id": self.place.id, "action": told, **self._read(now, samples)}
        fresh = before != {**self.card, "at": 0}
        self.version += fresh
        return fresh or (self.feed and self.feed.mark) != at

    def _alive(self) -> bool | None:
        return process_lives(self._last, socket.gethostname(), holder_of(self.place.folder))

    def _read(self, now: float, samples: bool) -> Facts:
        folder = self.place.folder
        blank = {"job": Path(self.place.manifest).stem or folder.name, "folder": str(folder), "at": now}
        if not has_ledger(folder):
            self.feed = self._last = None
            job = verify_words(self.place.manifest, folder, "") if self.place.manifest else str(folder)
            if (lost := lost_in(folder, job)) is not None:
                return blank | {"problem": str(lost), "begun": True}
            return blank | {"problem": GONE if self._identity else NOT_BEGUN, "begun": False}
        try:
            with closing(Chronicle.open(folder)) as ledger:
                ledger.hold_still()
                self._last = ledger.last_run()
                declared = self._declared_by(ledger.meta("manifest") or "")
                if (identity := identity_of(folder)) != self._identity:
                    self._identity, self.feed, self._nights = identity, None, {}  # it was built anew
                if samples:
                    self.feed = self.feed or Feed(folder, declared, self.text)
                    self.feed.refresh(ledger, now)
                return card_of(ledger, folder, declared, self._alive(), self._nights, now)
        except (BatchgenError, OSError) as error:
            problem: Exception = error
        except sqlite3.Error as error:
            problem = unreadable(error, ledger_path(folder))
        self.feed = None
        return blank | {"problem": str(problem), "begun": True}

    def _declared_by(self, noted: str) -> Declared:
        """As the manifest has it, read again when it has changed."""
        beside = self.place.folder.parent / Path(noted).name  # noted as it was typed, maybe in another folder
        path = Path(self.place.manifest or (noted if Path(noted).is_file() else beside))
        try:
            found = path.stat()
            mark: object = (str(path), found.st_mtime_ns, found.st_size)
        except OSError:
            mark = str(path)
        if self._declared is None or self._declared[0] != mark:
            self._declared, self.feed = (mark, self._declare(self.place, str(path))), None
        return self._declared[1]

    def text(self, value: object) -> str:
        return safe_json(value, self._secrets())

    def page_facts(self, live: Facts) -> str | None:
        """None when there is no ledger that can be read."""
        self.look(samples=True)
        return self.feed.page_facts(live) if self.feed else None

    def missed(self, version: int, mark: str) -> tuple[int, str, str, str]:
        """(version, the card; mark, the samples that the client has missed); both empty when it has everything."""
        card = self.text(self.card) if version != self.version else ""
        if self.feed is None:
            return self.version, card, mark, ""
        return self.version, card, self.feed.mark, self.feed.since(mark)

    def nights(self) -> str:
        self.look(samples=True)
        if self.feed is not None:
            with suppress(LedgerError, sqlite3.Error), closing(Chronicle.open(self.place.folder)) as ledger:
                return self.feed.nights(ledger)
        return "[]"
