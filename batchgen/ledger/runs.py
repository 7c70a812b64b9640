"""The runs in a ledger, the lanes they parked, what they noted, and what workers still have of the last one."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum, auto
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from batchgen.ledger.database import BaseReader, Connection
from batchgen.ledger.location import SHARED_SCHEMA
from batchgen.ledger.schema import COOLING_META_PREFIX, OUTAGES_META_PREFIX

if TYPE_CHECKING:
    from batchgen.events import Outage

WORKER_SILENT_AFTER_S = 30.0  # then a worker that was not heard of is taken for dead
MAX_RUNS_SEARCHED = 100  # one that was killed has no end
ALL_RUNS = 2**31 - 1
MANIFEST_FACTS = "manifest"  # in a run's summary
_DECLARED_RPD = "the requests a day that the manifest declares are used up: "


class ParkedLane(NamedTuple):
    """A parked lane. until: UTC seconds; message: the reason in words."""

    until: float
    message: str

    @classmethod
    def by_declared_rpd(cls, until: float, rpd: int) -> ParkedLane:
        return cls(until, f"{_DECLARED_RPD}{rpd}")

    @property
    def is_by_declared_rpd(self) -> bool:
        """Whether the manifest's own figure parked it, not the vendor. The table has no column for that, so the message
        says it."""
        return self.message.startswith(_DECLARED_RPD)


@dataclass(frozen=True, slots=True)
class RunRow:
    id: int
    started_at: float
    ended_at: float | None
    pid: int
    host: str
    exit_code: int | None
    stopped_by: str
    wanted: int  # samples that the run meant to request
    kept: int
    summary: str = "{}"  # JSON: what it read in its manifest, and how it ended

    @property
    def message(self) -> str:
        """Why it stopped, in words."""
        return str(json.loads(self.summary).get("message", ""))


class FileState(StrEnum):
    """A file compared with the version that was read."""

    SAME = auto()
    CHANGED = auto()
    GONE = auto()
    UNKNOWN = auto()  # nobody noted which version it was


class FileVersion(NamedTuple):
    """The version of a manifest's file that was read, so that a later look can tell whether it has changed. The stamp
    saves reading the file again: only if it differs, the hashes are compared."""

    bytes: int
    mtime_ns: int
    sha256: str

    @classmethod
    def of(cls, path: Path) -> Self | None:
        """The version of a file, None if there is no such file or it cannot be read."""
        try:
            stat = path.stat()
            with open(path, "rb") as file:
                return cls(stat.st_size, stat.st_mtime_ns, hashlib.file_digest(file, "sha256").hexdigest())
        except OSError:
            return None

    def state_of(self, path: Path) -> FileState:
        try:
            stat = path.stat()
        except OSError:
            return FileState.GONE
        if (stat.st_size, stat.st_mtime_ns) == self[:2]:
            return FileState.SAME
        if stat.st_size != self.bytes:
            return FileState.CHANGED
        now = FileVersion.of(path)
        return FileState.SAME if now is not None and now.sha256 == self.sha256 else FileState.CHANGED


@dataclass(frozen=True, slots=True)
class ManifestTotals:
    """What the manifest asked for when a run read it. images: in total. left_out: those never tried that this run was
    not to make, by reason: limit, only or not_asked (of a retry). outdated: images of an earlier version of their item
    that it was not to make either. limit: of --limit. file: None if the manifest is not a file."""

    images: int
    left_out: Mapping[str, int]
    outdated: int
    limit: int | None
    file: FileVersion | None

    @classmethod
    def from_record(cls, facts: Mapping[str, Any]) -> Self:
        """The totals from a run's summary."""
        return cls(**{**facts, "file": FileVersion(*facts["file"]) if facts["file"] else None})


class ReadManifest(NamedTuple):
    """The last run that read the manifest, and what it found. at: UTC seconds."""

    run_id: int
    at: float
    totals: ManifestTotals


@dataclass(frozen=True, slots=True)
class QueueStatus:
    """The state of the queue. samples: submitted and not ended; taken: those with a worker. workers: alive, whatever
    they do. stopped_by, message: why the last submission starts nothing more, empty while it goes on."""

    samples: int
    taken: int
    workers: int
    stopped_by: str
    message: str


class RunQueries(BaseReader):
    def meta(self, key: str) -> str | None:
        row = self._row("SELECT value FROM meta WHERE key = ?", key)
        return None if row is None else str(row[0])

    def parked(self) -> dict[str, ParkedLane]:
        """The lanes that start nothing for now."""
        return {key: ParkedLane(*row) for key, *row in self._query("SELECT key, parked_until, message FROM lane")}

    def cooling_lanes(self) -> dict[str, float]:
        """Lane -> UTC seconds until which it waits for its quota, as last noted, including past ones."""
        return {key: float(until) for key, until in self._meta_by_prefix(COOLING_META_PREFIX)}

    def outages(self) -> list[Outage]:
        """What was down in the last run, earliest first; for a run that died also what was down at that moment."""
        found = [facts for _, text in self._meta_by_prefix(OUTAGES_META_PREFIX) for facts in json.loads(text)]
        if not found:
            return []
        from batchgen.events import Outage  # a fifth of the time of `status`, which seldom needs it

        return sorted((Outage(**facts) for facts in found), key=lambda outage: outage.since)

    def _meta_by_prefix(self, prefix: str) -> Iterator[tuple[str, str]]:
        """What follows the prefix, and the value."""
        rows = self._query("SELECT key, value FROM meta WHERE key >= ? AND key < ?", prefix, f"{prefix}\U0010ffff")
        return ((key.removeprefix(prefix), value) for key, value in rows)

    def last_run(self) -> RunRow | None:
        return next(iter(self.runs(1)), None)

    def runs(self, max_count: int = ALL_RUNS) -> list[RunRow]:
        """The last runs, newest first."""
        sql = (
            "SELECT id, started_at, ended_at, pid, host, exit_code, coalesce(stopped_by, ''), coalesce(wanted, 0),"
            " coalesce(kept, 0), coalesce(summary, '{}') FROM run ORDER BY id DESC LIMIT ?"
        )
        return [RunRow(*row) for row in self._query(sql, max_count)]

    def last_ended_run(self) -> RunRow | None:
        return next((run for run in self.runs(MAX_RUNS_SEARCHED) if run.exit_code is not None), None)

    def last_discrepancies(self) -> dict[str, Any] | None:
        """What the last run found that compared its images with the ledger; None if none did."""
        sql = "SELECT summary FROM run WHERE summary IS NOT NULL ORDER BY id DESC LIMIT ?"
        found = (json.loads(text).get("discrepancies") for (text,) in self._query(sql, MAX_RUNS_SEARCHED))
        return next(filter(None, found), None)

    def last_read_manifest(self) -> ReadManifest | None:
        """The last reading of the manifest; None if no run noted it, as in earlier versions."""
        for run in self.runs(MAX_RUNS_SEARCHED):
            if facts := json.loads(run.summary).get(MANIFEST_FACTS):
                return ReadManifest(run.id, run.started_at, ManifestTotals.from_record(facts))
        return None

    def last_success_at(self) -> float | None:
        """UTC seconds at which a run last ended with exit code 0."""
        row = self._row("SELECT max(ended_at) FROM run WHERE exit_code = 0")
        return None if row[0] is None else float(row[0])

    def queue_status(self) -> QueueStatus | None:
        """The state of the queue, None for a job that was never submitted."""
        if not self.has_work_table():
            return None
        sql = "SELECT attname FROM pg_attribute WHERE attrelid = to_regclass('work') AND attname IN ('worker', 'claim')"
        (worker,) = self._row(sql)  # claim: until a worker of this version has been here
        sql = f"SELECT coalesce(sum(images), 0), coalesce(sum(images) FILTER (WHERE {worker} <> ''), 0) FROM work"
        samples, taken = self._row(sql)
        alive = f"SELECT count(*) FROM {SHARED_SCHEMA}.worker WHERE at > extract(epoch FROM clock_timestamp()) - ?"
        workers = self._row(alive, WORKER_SILENT_AFTER_S)[0]
        last = self._row("SELECT stopped_by, message FROM submission ORDER BY run_id DESC LIMIT 1") or ("", "")
        return QueueStatus(int(samples), int(taken), int(workers), *last)


def last_submitting_run(db: Connection, *, ended_too: bool = False) -> int | None:
    """The last run with work in the queue, None if there is none. ended_too: then the last run of all, if it has
    submitted anything: workers may have finished it a moment ago."""
    if db.execute("SELECT to_regclass('work')").fetchone()[0] is None:
        return None
    # 0 stands for `batchgen post`, which is not a run. Derivatives that wait for an image are there because of its
    # sample.
    row = db.execute("SELECT max(run_id) FROM work WHERE run_id > 0 AND (images > 0 OR missing = 0)").fetchone()
    if row[0] is None and ended_too:
        row = db.execute("SELECT max(run_id) FROM submission WHERE run_id = (SELECT max(id) FROM run)").fetchone()
    return None if row[0] is None else int(row[0])
