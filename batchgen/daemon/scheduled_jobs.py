"""The manifests that have a schedule, as they stand now: found by name or pattern, read again when they change."""

from __future__ import annotations

import glob
import logging
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from batchgen.daemon.schedule_state import Diary, Entry
from batchgen.errors import BatchgenError
from batchgen.manifest import Manifest, open_manifest
from batchgen.manifest.schedule_section import Schedule
from batchgen.schedule.due import DAY_S, Due, Night, Rule, Skipped, Wait, decide

SUFFIXES = (".yaml", ".yml", ".jsonl")
_IN_YAML = re.compile(rb"""^["']?schedule["']?\s*:""", re.MULTILINE)
_IN_JSONL = re.compile(rb"""(?=.*"(?:version|defaults)"\s*:).*"schedule"\s*:""")
Stamp = tuple[int, int, int]
_logger = logging.getLogger("batchgen.daemon")


@dataclass
class Scheduled:
    """A job with a schedule. entry: what its diary says. running: a night of it has its place or waits for one."""

    path: Path
    name: str
    schedule: Schedule
    entry: Entry
    diary: Diary | None
    running: bool = False
    planned: float | None = None

    @property
    def rule(self) -> Rule:
        return Rule(
            cadence=self.schedule.cadence,
            catch_up_s=self.schedule.catch_up_s,
            reset=self.schedule.later == "reset",
        )

    def decide(self, now: float) -> Due | Skipped | Wait:
        return decide(self.rule, self.entry.since, self.entry.last, now)

    def note(self, *, last: Night | None = None, since: float | None = None) -> None:
        """Raises StoreError; what is noted counts for this process all the same."""
        entry = self.entry if last is None else replace(self.entry, last=last)
        self.entry = entry if since is None else replace(entry, since=since)
        if self.diary is not None:
            self.diary.write(self.entry)


class Roster:
    """jobs: by absolute path. A manifest that is wrong is reported once and keeps its last schedule."""

    def __init__(self, patterns: Sequence[str], diaries: Path, *, writes: bool = True) -> None:
        """patterns: paths, globs and folders; none for what lies in jobs/ and here. diaries: a folder. writes: False only looks."""
        self.jobs: dict[Path, Scheduled] = {}
        self._patterns = tuple(patterns)
        self._diaries = diaries
        self._writes = writes
        self._stamps: dict[Path, Stamp | None] = {}
        self._others: set[Path] = set()  # a daemon of its own has them

    def reread(self, now: float) -> None:
        """Take in what has changed. Raises StoreError."""
        found = {path.absolute(): named for path, named in manifests(self._patterns)}
        for path in {*self._stamps, *self.jobs} - set(found):
            self._stamps.pop(path, None)
            self._drop(path, "is gone")
        for path, named in found.items():
            stamp = _stamp(path)
            changed = path not in self._stamps or self._stamps[path] != stamp
            if changed and self._read(path, named, now):
                self._stamps[path] = stamp

    def close(self) -> None:
        for job in self.jobs.values():
            if job.diary is not None:
                job.diary.release()

    def _read(self, path: Path, named: bool, now: float) -> bool:
        """Whether that is all until it changes: what another daemon has is looked at again."""
        try:
            if not named and not _has_schedule(path):
                self._drop(path, "has no schedule any more")
                return True
            manifest = open_manifest(path)
        except (BatchgenError, OSError) as error:
            stays = "its last schedule stays" if path in self.jobs else "it does not run until it is mended"
            _logger.error("%s; %s", str(error).replace("\n", "; "), stays)
            return True
        if manifest.schedule is None:
            self._drop(path, "has no schedule any more")
            if named and path not in self.jobs:
                _logger.warning("%s has no schedule: in its head, so it does not run", path)
            return True
        return self._take(path, manifest, manifest.schedule, now)

    def _take(self, path: Path, manifest: Manifest, schedule: Schedule, now: float) -> bool:
        name, job = manifest.name, self.jobs.get(path)
        if job is None:
            diary = Diary(self._diaries, path)
            if self._writes and not diary.acquire():
                if path not in self._others:
                    self._others.add(path)
                    _logger.warning("%s is in the hands of another daemon", path)
                return False
            self._others.discard(path)
            entry = diary.read() or Entry(schedule="", since=now)
            job = Scheduled(path, name, schedule, entry, diary if self._writes else None)
            self.jobs[path] = job
        job.name, job.schedule = name, schedule
        times = times_of(schedule)
        # A schedule counts from when it is first seen, and never from a moment that a wrong clock gave.
        if job.entry.schedule != times or job.entry.since > now + DAY_S:
            job.entry = replace(job.entry, schedule=times, since=now)
            job.note()
        return True

    def _drop(self, path: Path, why: str) -> None:
        job = self.jobs.pop(path, None)
        if job is not None:
            _logger.warning("%s %s: it does not run any more", path, why)
            if job.diary is not None and not job.running:
                job.diary.release()


def times_of(schedule: Schedule) -> str:
    """What makes a schedule another one, in JSON."""
    return schedule.model_dump_json(include={"at", "cron", "days", "timezone"}, exclude_none=True)


def manifests(patterns: Sequence[str]) -> Iterator[tuple[Path, bool]]:
    """Paths, and whether a person named just this one. A folder stands for the manifests in it."""
    for pattern in patterns or ("jobs", "."):
        path = Path(pattern)
        if path.is_dir():
            yield from ((file, False) for file in sorted(path.iterdir()) if _is_manifest(file))
        elif glob.has_magic(pattern) and not path.is_file():
            yield from ((Path(file), False) for file in sorted(glob.glob(pattern)) if _is_manifest(Path(file)))
        elif patterns:
            yield path, True


def _is_manifest(path: Path) -> bool:
    return path.suffix.lower() in SUFFIXES and path.is_file()


def _has_schedule(path: Path) -> bool:
    """Whether a file that nobody named may be meant: what else lies there, and is no manifest, is not complained of."""
    if path.suffix.lower() == ".jsonl":
        with open(path, "rb") as file:
            return next((_IN_JSONL.match(line) is not None for line in file if line.strip()), False)
    return _IN_YAML.search(path.read_bytes()) is not None


def _stamp(path: Path) -> Stamp | None:
    """None when it cannot be looked at."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino
