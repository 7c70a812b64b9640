"""The manifests with a schedule as they are now, found by name or pattern and read again when they change, and what the
daemon has to remember of each after a restart."""

from __future__ import annotations

import contextlib
import glob
import hashlib
import json
import logging
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from filelock import FileLock, Timeout

from batchgen.errors import BatchgenError, StoreError
from batchgen.manifest import Manifest, open_manifest
from batchgen.manifest.names import MANIFEST_SUFFIXES
from batchgen.manifest.schedule_section import Schedule
from batchgen.safe_open import PRIVATE_MODE, make_private_folder, private_opener
from batchgen.schedule.due import DAY_S, DueRun, ScheduledRun, SchedulePolicy, SkippedRun, WaitUntil, decide
from batchgen.schedule.timer_spec import unit_name
from batchgen.store.spool import sync_folder

_SCHEDULE_IN_YAML = re.compile(rb"""^["']?schedule["']?\s*:""", re.MULTILINE)
_SCHEDULE_IN_JSONL = re.compile(rb"""(?=.*"(?:version|defaults)"\s*:).*"schedule"\s*:""")
FileStamp = tuple[int, int, int]
_logger = logging.getLogger("batchgen.daemon")


@dataclass(frozen=True, slots=True, kw_only=True)
class ScheduleState:
    """What is remembered of a job. schedule: from the manifest, in JSON; a different one starts anew. since: UTC
    seconds."""

    schedule: str
    since: float
    last: ScheduledRun | None = None


class ScheduleStateFile:
    """The state of one manifest's schedule: a small file that is always whole, with a lock so that one daemon at a time
    writes it."""

    def __init__(self, folder: Path, manifest: Path) -> None:
        """manifest: an absolute path."""
        name = f"{unit_name(manifest.stem)}-{hashlib.sha256(os.fsencode(manifest)).hexdigest()[:12]}"
        self._path = folder / f"{name}.json"
        self._manifest = str(manifest)
        self._lock = FileLock(str(self._path.with_suffix(".lock")), mode=PRIVATE_MODE, timeout=0)

    def acquire(self) -> bool:
        """Whether no other daemon has this manifest. Raises StoreError."""
        try:
            make_private_folder(self._path.parent)
            self._lock.acquire()
        except Timeout:
            return False
        except OSError as error:
            raise _write_error(error, self._path) from None
        return True

    def release(self) -> None:
        self._lock.release()

    def read(self) -> ScheduleState | None:
        """The state, None if there is none that can be read: the schedule then counts from now on."""
        with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
            found = json.loads(self._path.read_text(encoding="utf-8"))
            last = None if found["last"] is None else ScheduledRun(**found["last"])
            return ScheduleState(schedule=str(found["schedule"]), since=float(found["since"]), last=last)
        return None

    def write(self, state: ScheduleState) -> None:
        """Write the state, durable on return. Raises StoreError."""
        temp_path = self._path.with_suffix(".new")
        try:
            with open(temp_path, "w", encoding="utf-8", opener=private_opener) as file:
                file.write(json.dumps({"manifest": self._manifest, **asdict(state)}, indent=1))
                file.flush()
                os.fsync(file.fileno())
            os.replace(temp_path, self._path)
        except OSError as error:
            raise _write_error(error, self._path) from None
        sync_folder(str(self._path.parent))


def _write_error(error: OSError, path: Path) -> StoreError:
    return StoreError(
        f"{path}: {error.strerror}: the daemon keeps its state there: set XDG_STATE_HOME to another folder"
    )


@dataclass
class ScheduledJob:
    """A job with a schedule. schedule_state: from its file. running: it is running or waiting for its turn."""

    path: Path
    name: str
    schedule: Schedule
    schedule_state: ScheduleState
    state_file: ScheduleStateFile | None
    running: bool = False
    next_run_at: float | None = None

    @property
    def policy(self) -> SchedulePolicy:
        return SchedulePolicy(
            cadence=self.schedule.cadence,
            catch_up_s=self.schedule.catch_up_s,
            reset=self.schedule.later == "reset",
        )

    def decide(self, now: float) -> DueRun | SkippedRun | WaitUntil:
        return decide(self.policy, self.schedule_state.since, self.schedule_state.last, now)

    def update_state(self, *, last: ScheduledRun | None = None, since: float | None = None) -> None:
        """Update the state. Raises StoreError, but what is noted counts for this process anyway."""
        schedule_state = self.schedule_state if last is None else replace(self.schedule_state, last=last)
        self.schedule_state = schedule_state if since is None else replace(schedule_state, since=since)
        if self.state_file is not None:
            self.state_file.write(self.schedule_state)


class ScheduledJobs:
    """jobs: by absolute path. A manifest that is wrong is reported once and keeps its last schedule."""

    def __init__(self, patterns: Sequence[str], schedule_state_folder: Path, *, persistent: bool = True) -> None:
        """patterns: paths, globs and folders; empty for jobs/ and the current folder. schedule_state_folder: where
        states are kept. persistent: False writes none."""
        self.jobs: dict[Path, ScheduledJob] = {}
        self._patterns = tuple(patterns)
        self._schedule_state_folder = schedule_state_folder
        self._persistent = persistent
        self._file_stamps: dict[Path, FileStamp | None] = {}
        self._locked_by_others: set[Path] = set()  # another daemon has these

    def reload(self, now: float) -> None:
        """Read what has changed. Raises StoreError."""
        found = {path.absolute(): explicit for path, explicit in find_manifests(self._patterns)}
        for path in {*self._file_stamps, *self.jobs} - set(found):
            self._file_stamps.pop(path, None)
            self._remove(path, "is gone")
        for path, explicit in found.items():
            stamp = _file_stamp(path)
            changed = path not in self._file_stamps or self._file_stamps[path] != stamp
            if changed and self._load(path, explicit, now):
                self._file_stamps[path] = stamp

    def close(self) -> None:
        for job in self.jobs.values():
            if job.state_file is not None:
                job.state_file.release()

    def _load(self, path: Path, explicit: bool, now: float) -> bool:
        """Load a manifest. Returns whether that is final until it changes: one that another daemon has is tried
        again."""
        try:
            if not explicit and not _has_schedule(path):
                self._remove(path, "has no schedule any more")
                return True
            manifest = open_manifest(path)
        except (BatchgenError, OSError) as error:
            stays = "its last schedule stays" if path in self.jobs else "it does not run until it is fixed"
            _logger.error("%s; %s", str(error).replace("\n", "; "), stays)
            return True
        if manifest.schedule is None:
            self._remove(path, "has no schedule any more")
            if explicit and path not in self.jobs:
                _logger.warning("%s has no schedule: in its head, so it does not run", path)
            return True
        return self._add_or_update(path, manifest, manifest.schedule, now)

    def _add_or_update(self, path: Path, manifest: Manifest, schedule: Schedule, now: float) -> bool:
        name, job = manifest.name, self.jobs.get(path)
        if job is None:
            state_file = ScheduleStateFile(self._schedule_state_folder, path)
            if self._persistent and not state_file.acquire():
                if path not in self._locked_by_others:
                    self._locked_by_others.add(path)
                    _logger.warning("%s is run by another daemon", path)
                return False
            self._locked_by_others.discard(path)
            schedule_state = state_file.read() or ScheduleState(schedule="", since=now)
            job = ScheduledJob(path, name, schedule, schedule_state, state_file if self._persistent else None)
            self.jobs[path] = job
        job.name, job.schedule = name, schedule
        times = _timing_json(schedule)
        # A schedule counts from when it is first seen, and never from a moment given by a wrong clock.
        if job.schedule_state.schedule != times or job.schedule_state.since > now + DAY_S:
            job.schedule_state = replace(job.schedule_state, schedule=times, since=now)
            job.update_state()
        return True

    def _remove(self, path: Path, why: str) -> None:
        job = self.jobs.pop(path, None)
        if job is not None:
            _logger.warning("%s %s: it does not run any more", path, why)
            if job.state_file is not None and not job.running:
                job.state_file.release()


def _timing_json(schedule: Schedule) -> str:
    """The part of a schedule that makes it a different one if it changes, in JSON."""
    return schedule.model_dump_json(include={"at", "cron", "days", "timezone"}, exclude_none=True)


def find_manifests(patterns: Sequence[str]) -> Iterator[tuple[Path, bool]]:
    """Paths, and whether a person named exactly this one. A folder stands for the manifests in it."""
    for pattern in patterns or ("jobs", "."):
        path = Path(pattern)
        if path.is_dir():
            yield from ((file, False) for file in sorted(path.iterdir()) if _is_manifest(file))
        elif glob.has_magic(pattern) and not path.is_file():
            yield from ((Path(file), False) for file in sorted(glob.glob(pattern)) if _is_manifest(Path(file)))
        elif patterns:
            yield path, True


def _is_manifest(path: Path) -> bool:
    return path.suffix.lower() in MANIFEST_SUFFIXES and path.is_file()


def _has_schedule(path: Path) -> bool:
    """Whether a file that nobody named may be meant: other files, which are not manifests, are not complained about."""
    if path.suffix.lower() == ".jsonl":
        with open(path, "rb") as file:
            return next((_SCHEDULE_IN_JSONL.match(line) is not None for line in file if line.strip()), False)
    return _SCHEDULE_IN_YAML.search(path.read_bytes()) is not None


def _file_stamp(path: Path) -> FileStamp | None:
    """The stamp of a file, None if it cannot be read."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino
