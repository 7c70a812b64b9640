"""One job that is watched: opened for a moment when its ledger has changed, and never held open."""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from batchgen.errors import BatchgenError, LedgerError
from batchgen.ledger.location import has_ledger, ledger_identity, lost_ledger_in, server_snapshot_id, verify_arguments
from batchgen.ledger.reader import HistoryReader, RunRow
from batchgen.ledger.reviews import JOURNAL, journal_size, open_history
from batchgen.ledger.schema import ledger_path
from batchgen.records import Verdict
from batchgen.report.acceptance import ComparedView, read_compared
from batchgen.report.dashboard.actions import record_review, with_review
from batchgen.report.dashboard.clients import for_client, visible_numbers
from batchgen.report.dashboard.job_card import Card, EndedRuns, JobLocation, ProblemCard, RetryView, card_of
from batchgen.report.gallery_data import (
    AttemptIndex,
    ManifestInfo,
    PageView,
    SampleBuilder,
    SampleKey,
    SamplesView,
    SampleView,
    ValueIndex,
    page_view,
    read_nights,
    thumbnail_path,
)
from batchgen.report.picture_views import ReferenceFiles, sidecar_files
from batchgen.report.run_state import is_process_alive
from batchgen.report.run_statistics import RunStatistics
from batchgen.report.view import view_of

CLOCK_RESOLUTION_S = 0.1  # no file system on which SQLite's WAL is safe has a coarser clock
SAMPLES_TTL_S = 60.0  # the samples are forgotten when nobody has looked at them for this long
OVERLAP_S = 10.0  # times are taken before their commit, and an image is put in place a moment after it is settled
MAX_INCREMENTAL_ITEMS = 5000  # if more items changed, reading everything is quicker
NOT_STARTED = "Nothing has run here yet. It appears by itself when a run begins."
FOLDER_GONE = "The folder has gone: it was here, and was moved, renamed or deleted since."
ChangeMarker = tuple[tuple[int, int, int], ...] | str
LoadManifestInfo = Callable[[JobLocation, str], ManifestInfo]
LastRetry = Callable[[JobLocation], RetryView | None]


@dataclass(frozen=True, slots=True)
class Live:
    """What a page needs to request more. csrf: empty if it may change nothing. at: the mark of what it has. client: who
    looks with a link that only allows voting. invites: whether such links can be made here."""

    csrf: str
    at: str = ""
    client: str = ""
    invites: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class LivePage(PageView):
    live: Live
    card: Card | None


@dataclass(frozen=True, slots=True, kw_only=True)
class RunsView:
    """What a page requests once its runs are looked at."""

    nights: Sequence[RunStatistics] = ()
    compared: Sequence[ComparedView] = ()


def change_marker(folder: Path) -> ChangeMarker | None:
    """A marker that changes with every commit and every word of a reviewer: the ledger, its WAL and the journal of
    reviews, by inode, size and time. No connection is opened for it.

    None if the last write is so recent that another may have the same time. For a ledger on a server it is what can be
    seen there at all, or why nothing can.
    """
    try:
        if (seen := server_snapshot_id(folder)) is not None:
            return f"{seen} {journal_size(folder)}"
    except BatchgenError as error:
        return str(error)
    path, marks, newest = ledger_path(folder), [], 0
    for file in (path, path.with_name(f"{path.name}-wal"), path.with_name(JOURNAL)):
        try:
            found = os.stat(file)
        except OSError:
            continue
        marks.append((found.st_ino, found.st_size, found.st_mtime_ns))
        newest = max(newest, found.st_mtime_ns)
    return None if os.name == "nt" or time.time_ns() - newest < CLOCK_RESOLUTION_S * 1e9 else tuple(marks)


class Feed:
    """The samples of a job for its page, each with the number of its last change, so that a client gets what it missed.
    Kept while somebody looks. Not for two threads at once."""

    def __init__(self, location: JobLocation, manifest_info: ManifestInfo) -> None:
        self._epoch = secrets.token_hex(4)  # a client of another start, or of another ledger, gets everything
        self._at = 0
        self._location, self._manifest_info = location, manifest_info
        self._samples: dict[SampleKey, tuple[int, SampleView]] = {}  # with the number of its last change
        self._attempts, self._settings = AttemptIndex(), ValueIndex()
        self._references: dict[str, str] = {}
        self._last_attempt = 0
        self._open: set[int] = set()
        self._since = 0.0
        self._run: tuple[int, float | None] | None = None
        self._page: PageView | None = None

    @property
    def mark(self) -> str:
        return f"{self._epoch}-{self._at}"

    def refresh(self, ledger: HistoryReader, now: float) -> None:
        """Read what has changed, in a snapshot of the ledger."""
        run = ledger.last_run()
        state = (run.id, run.ended_at) if run else None
        # Repairs and removals happen when a run begins and when it ends.
        items = self._changed(ledger, reload_all=state != self._run or not self._samples)
        self._run, self._since = state, now
        files = sidecar_files(ledger, self._location.folder)
        builder = SampleBuilder(
            files, self._manifest_info, self._settings, thumbnail_path, self._attempts, self._references
        )
        changed = {}
        for sample in builder.build(ledger, items):
            if (known := self._samples.get((sample.id, sample.n))) is None or known[1] != sample:
                changed[sample.id, sample.n] = (self._at + 1, sample)
        self._samples |= changed
        self._at += bool(changed)
        self._page = page_view(ledger, self._location.folder, builder, now, key=self._location.id)

    def add_review(self, review: Verdict) -> bool:
        """Show a review before the ledger is asked again. Returns whether its image is shown here."""
        known = self._samples.get((review.item_id, review.n))
        sample = None if known is None else with_review(known[1], review)
        if sample is not None:
            self._at += 1
            self._samples[review.item_id, review.n] = (self._at, sample)
        return sample is not None

    def _changed(self, ledger: HistoryReader, *, reload_all: bool) -> list[str] | None:
        """The items to read again; None for all."""
        if reload_all:
            self._attempts, self._last_attempt = AttemptIndex(), 0
            self._open.clear()
        items = set[str]()
        for row in ledger.attempts_after(self._last_attempt, self._open):
            self._last_attempt = max(self._last_attempt, row.id)
            (self._open.discard if row.outcome else self._open.add)(row.id)
            items.add(row.item_id)
            self._attempts.add(row)
        items |= set() if reload_all else ledger.changed_since(self._since - OVERLAP_S)
        return None if reload_all or len(items) > MAX_INCREMENTAL_ITEMS else list(items)

    def page(self) -> PageView | None:
        """Everything, for the start of a page."""
        return self._page and replace(self._page, samples=[sample for _, sample in self._samples.values()])

    def since(self, mark: str) -> SamplesView | None:
        """What a client that has seen everything up to `mark` has missed; None for nothing."""
        epoch, _, number = mark.partition("-")
        if epoch != self._epoch or not number.isdecimal():
            return self.page()
        if self._page is None or int(number) >= self._at:
            return None
        missed = [sample for at, sample in self._samples.values() if at > int(number)]
        return view_of(SamplesView, self._page, samples=missed)

    @property
    def references(self) -> ReferenceFiles:
        """The references as they are now: another thread may read them."""
        return ReferenceFiles(self._manifest_info.folder, dict(self._references))

    def runs(self, ledger: HistoryReader) -> RunsView:
        return RunsView(nights=read_nights(ledger, self._manifest_info), compared=read_compared(ledger))


class WatchedJob:
    """A watched job. Its methods are called by one thread, the reading one. version: grows with every change of the
    card, which is None until the first look."""

    def __init__(self, location: JobLocation, load_manifest_info: LoadManifestInfo, last_retry: LastRetry) -> None:
        self.location = location
        self.version = 0
        self.card: Card | None = None
        self._feed: Feed | None = None
        self._load_manifest_info, self._last_retry = load_manifest_info, last_retry
        self._change_marker: object = ()
        self._last_run: RunRow | None = None
        self._ended_runs: EndedRuns = {}
        self._identity: object = None
        self._manifest_info: tuple[object, ManifestInfo] | None = None
        self._client_numbers: tuple[object, frozenset[str]] = ((), frozenset())
        self._samples_used_s = 0.0  # monotonic, when the samples were last requested

    def refresh(self, *, samples: bool) -> bool:
        """Look at the job. Returns whether there is anything new. samples: look at those too."""
        now, now_s = time.time(), time.monotonic()
        if samples:
            self._samples_used_s = now_s
        elif self._feed is not None and now_s - self._samples_used_s > SAMPLES_TTL_S:
            self._feed = None
        alive, last_retry = self._alive(), self._last_retry(self.location)
        mark = (change_marker(self.location.folder), alive, last_retry, samples)
        if mark == self._change_marker and mark[0] is not None:
            return False
        self._change_marker = mark
        before, at = self.card, self._feed and self._feed.mark
        self.card = self._read(now, last_retry, samples)
        if isinstance(self.card, ProblemCard):
            self._feed = None
        fresh = before is None or replace(before, at=now) != self.card
        self.version += fresh
        return fresh or (self._feed and self._feed.mark) != at

    def _alive(self) -> bool | None:
        return is_process_alive(self._last_run, self.location.folder)

    def _read(self, now: float, last_retry: RetryView | None, samples: bool) -> Card:
        folder = self.location.folder
        name = Path(self.location.manifest).stem or folder.name
        problem = partial(
            ProblemCard, id=self.location.id, action=last_retry, job=name, folder=str(folder), at=now, begun=True
        )
        if not has_ledger(folder):
            self._last_run = None
            job = verify_arguments(self.location.manifest, folder, "") if self.location.manifest else str(folder)
            if (lost := lost_ledger_in(folder, job)) is not None:
                return problem(problem=str(lost))
            return problem(problem=FOLDER_GONE if self._identity else NOT_STARTED, begun=False)
        try:
            with closing(open_history(folder)) as ledger:
                ledger.snapshot()
                self._last_run = ledger.last_run()
                manifest_info = self._manifest_info_for(ledger.meta("manifest") or "")
                if (identity := ledger_identity(folder)) != self._identity:
                    self._identity, self._feed, self._ended_runs = identity, None, {}  # the ledger was created again
                if samples:
                    self._feed = self._feed or Feed(self.location, manifest_info)
                    self._feed.refresh(ledger, now)
                alive = self._alive()
                return card_of(ledger, self.location, manifest_info, alive, last_retry, self._ended_runs, now)
        except (BatchgenError, OSError) as error:
            return problem(problem=str(error))

    def _manifest_info_for(self, recorded_path: str) -> ManifestInfo:
        """The manifest's information, read again if the manifest has changed."""
        sibling = self.location.folder.parent / Path(recorded_path).name  # recorded as typed, maybe in another folder
        path = Path(self.location.manifest or (recorded_path if Path(recorded_path).is_file() else sibling))
        try:
            found = path.stat()
            mark: object = (str(path), found.st_mtime_ns, found.st_size)
        except OSError:
            mark = str(path)
        if self._manifest_info is None or self._manifest_info[0] != mark:
            self._manifest_info, self._feed = (mark, self._load_manifest_info(self.location, str(path))), None
        return self._manifest_info[1]

    def page(self, live: Live) -> LivePage:
        """The page, without samples if there is no readable ledger. live: without its mark."""
        self.refresh(samples=True)
        assert self.card is not None  # noqa: S101 - it was just made
        page = self._feed.page() if self._feed is not None else None
        if self._feed is None or page is None:
            card, name = None if live.client else self.card, self.card.job
            return LivePage(job=name, at=time.time(), key=self.location.id, nights=(), live=live, card=card)
        live = replace(live, at=self._feed.mark)
        if live.client:
            return view_of(LivePage, for_client(page, live.client), live=live, card=None)
        return view_of(LivePage, page, live=live, card=self.card)

    def changes_since(
        self, version: int, mark: str, client: str = ""
    ) -> tuple[int, Card | None, str, SamplesView | None]:
        """(version, the card; mark, the samples that the page has missed); both None if it has everything. client: see
        `Live`."""
        card = self.card if version != self.version and not client else None
        if self._feed is None:
            return self.version, card, mark, None
        missed = self._feed.since(mark)
        return self.version, card, self._feed.mark, for_client(missed, client) if missed and client else missed

    def shows_client(self, client: str, number: str) -> bool:
        """Whether an image, by its number in the ledger, is on the page of this client."""
        if (feed := self._loaded_feed()) is None:
            return False
        key = (feed.mark, client)
        if key != self._client_numbers[0]:
            page = feed.page()
            self._client_numbers = (key, visible_numbers(page.samples if page else (), client))
        return number in self._client_numbers[1]

    def record_review(self, given: Mapping[str, Any], name: str) -> None:
        """Record a review and show it. Raises what `actions.record_review` does."""
        review = record_review(self.location.folder, given, name)
        if self._feed is None or not self._feed.add_review(review):
            self.refresh(samples=True)

    def references(self) -> ReferenceFiles:
        """The references that a page of this job may show."""
        feed = self._loaded_feed()
        return feed.references if feed else ReferenceFiles(None, {})

    def _loaded_feed(self) -> Feed | None:
        """The feed, None if there is no readable ledger."""
        if self._feed is None:
            self.refresh(samples=True)
        return self._feed

    def runs(self) -> RunsView:
        self.refresh(samples=True)
        if self._feed is not None:
            with suppress(LedgerError), closing(HistoryReader.open(self.location.folder)) as ledger:
                return self._feed.runs(ledger)
        return RunsView()
