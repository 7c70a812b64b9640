"""Walks the manifest once beside the ledger, in flat memory, and sorts every sample: keep, move, generate, skip."""

from __future__ import annotations

import hashlib
import os
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from batchgen.engine.lanes import lane_key
from batchgen.ledger.backlog import Backlog
from batchgen.ledger.reader import Reader
from batchgen.manifest import Manifest
from batchgen.manifest.fingerprint import changes, fingerprint, wire_facts
from batchgen.planning import Action, LaneLoad, Step, Wishes, expected_bytes, grouped, judge, selected
from batchgen.profiles.price import estimate_usd
from batchgen.profiles.profile import Profile
from batchgen.profiles.vendor import PROVIDER_BASE_URLS
from batchgen.records import Item, Known, Sample
from batchgen.store.store import Store

CHUNK = 500  # items looked up in the ledger at once


@dataclass(frozen=True, slots=True)
class Move:
    """A picture that exists and belongs under another name, or came back into the manifest. Costs nothing."""

    sample: Sample
    old: str
    new: str
    bytes: int


@dataclass(slots=True)
class Survey:
    """What a run would do. whys: samples by reason; removed: (item id, n) the manifest no longer wants."""

    kept: int = 0
    skipped: int = 0
    whys: Counter[str] = field(default_factory=Counter)
    loads: dict[str, LaneLoad] = field(default_factory=dict)
    profiles: dict[str, Profile] = field(default_factory=dict)
    moves: list[Move] = field(default_factory=list)
    removed: list[tuple[str, int, str | None]] = field(default_factory=list)
    items: int = 0
    wanted: int = 0  # samples to ask for


class Surveyor:
    """One walk. on_step: told of every step but `keep`, in the order of the manifest."""

    def __init__(
        self,
        manifest: Manifest,
        reader: Reader | None,
        store: Store,
        wishes: Wishes,
        *,
        only: Sequence[str] = (),
        limit: int | None = None,
        backlog: Backlog | None = None,
        on_step: Callable[[Step], None] | None = None,
    ) -> None:
        self._manifest = manifest
        self._reader = reader
        self._store = store
        self._wishes = wishes
        self._only = tuple(only)
        self._left = limit
        self._backlog = backlog
        self._on_step = on_step
        self._matched = 0  # ledger samples that the manifest still wants
        self._digests: dict[str, str] = {}
        self.survey = Survey()

    def walk(self) -> Survey:
        """Raises ManifestError with everything that is wrong with the manifest."""
        for items in _chunks(self._manifest.items(), CHUNK):
            known = self._reader.known([item.id for item in items]) if self._reader else {}
            for item in items:
                self._item(item, known.get(item.id, ()))
        if self._reader is not None and self._matched < self._reader.current_count():
            self.survey.removed = list(self._removed(self._reader))
        return self.survey

    def _item(self, item: Item, known: Sequence[Known]) -> None:
        self.survey.items += 1
        digests = [self._manifest.references.digest(path) for path in item.references] if item.references else ()
        wire = wire_facts(item, digests)
        mark = fingerprint(wire)
        if item.count == 1 and len(known) == 1 and self._is_done(item, known[0], mark):
            self._matched += 1
            self.survey.kept += not self._only or selected(item, self._only)
            return
        by_n = {entry.n: entry for entry in known}
        self._matched += sum(1 for entry in known if entry.n <= item.count and entry.state != "superseded")
        if self._only and not selected(item, self._only):
            return
        wire = wire_facts(
            item, [self._manifest.references.digest(path) for path in item.references] if item.references else ()
        )
        mark = fingerprint(wire)
        to_generate: list[tuple[Sample, str]] = []
        for n in range(1, item.count + 1):
            entry = by_n.get(n)
            action, why = judge(entry, mark, self._wishes, self._store.has, lambda n=n: self._changed(item, n, wire))  # type: ignore[misc]
            if (
                action == "keep"
                and entry is not None
                and entry.path is not None
                and self._in_place(item, n, entry.path)
            ):
                self.survey.kept += 1
                continue
            sample = Sample(item=item, n=n, fingerprint=mark, wire=wire, known=entry is not None)
            if entry is not None and not self._wishes.fresh and self._can_move(sample, entry, action, why):
                continue
            if action == "skip":
                self.survey.skipped += 1
                self._tell(Step(sample, action, why), 1)
            else:
                to_generate.append((sample, why))
        if to_generate:
            self._generate(item, to_generate)

    def _is_done(self, item: Item, entry: Known, mark: str) -> bool:
        """The commonest case of a large manifest, answered without looking further."""
        return (
            entry.n == 1
            and entry.state == "succeeded"
            and entry.made_fingerprint == mark
            and entry.path is not None
            and entry.path.rpartition(".")[0] == item.filename
            and not self._wishes.fresh
            and self._store.has(entry.path, entry.bytes)
        )

    def _changed(self, item: Item, n: int, wire: str) -> list[str]:
        return changes(self._reader.wire(item.id, n), wire) if self._reader else []

    def _in_place(self, item: Item, n: int, path: str) -> bool:
        stem = item.filename if n == 1 else f"{item.filename}-{n}"
        return path.rpartition(".")[0] == stem

    def _can_move(self, sample: Sample, entry: Known, action: Action, why: str) -> bool:
        """A picture bought before for exactly this request serves again, wherever it lies."""
        if self._reader is None or (action == "generate" and why.startswith("fresh")):
            return False
        found = self._reader.earlier_image(sample.item.id, sample.n, sample.fingerprint)
        if found is None:
            return False
        file = found.file
        new = self._store.name(sample.item.filename, sample.n, file.format)
        old = file.path
        if not self._store.has(old, file.bytes):
            if not (self._store.has(new, file.bytes) and _sha256(os.path.join(self._store.root, new)) == file.sha256):
                return False
            old = new
        self.survey.moves.append(Move(sample, old, new, file.bytes))
        self._tell(
            Step(
                sample, "move", "it was bought before" if entry.state != "succeeded" or old != entry.path else "renamed"
            ),
            1,
        )
        return True

    def _generate(self, item: Item, samples: Sequence[tuple[Sample, str]]) -> None:
        profile = self._profile(item)
        lane = lane_key(item.provider, item.model)
        whys = {sample.n: why for sample, why in samples}
        groups = grouped([sample for sample, _ in samples], profile.images_per_request)
        if self._left is not None:
            groups = groups[: max(0, self._left)]
            self._left -= len(groups)
        load = self.survey.loads.get(lane)
        if load is None:
            rate = self._manifest.limits.spend_rate(profile.provider)
            account = PROVIDER_BASE_URLS.get(profile.provider, profile.provider)  # one key for all its models
            load = LaneLoad(profile.id, profile.rpm, rpd=profile.rpd, spend_rate=rate, account=account)
            self.survey.loads[lane] = load
        size = item.image_size or profile.default_size
        for group in groups:
            usd = estimate_usd(profile, size, group.images)
            load.requests += 1
            load.images += group.images
            load.busy_s += profile.latency(size)
            load.bytes += expected_bytes(size) * group.images
            load.usd += usd or 0.0
            load.dearest_usd = max(load.dearest_usd, usd or 0.0)
            load.unpriced += usd is None
            self.survey.wanted += group.images
            self._tell(Step(group, "generate", whys[group.n], usd), group.images)
        if self._backlog is not None and groups:
            self._backlog.add(lane, groups)

    def _profile(self, item: Item) -> Profile:
        profile = self.survey.profiles.get(item.model)
        if profile is None:
            profile = self.survey.profiles[item.model] = self._manifest.catalogue.resolve(item.model)
        return profile

    def _tell(self, step: Step, samples: int) -> None:
        self.survey.whys[step.why] += samples
        if self._on_step is not None:
            self._on_step(step)

    def _removed(self, reader: Reader) -> Iterator[tuple[str, int, str | None]]:
        """Ledger samples without an entry in the manifest: a second walk, only when the first one missed some."""
        with sqlite3.connect("") as wanted:
            wanted.execute("CREATE TABLE wanted (id TEXT PRIMARY KEY, count INTEGER) WITHOUT ROWID")
            wanted.executemany(
                "INSERT INTO wanted VALUES (?, ?)", ((item.id, item.count) for item in self._manifest.items())
            )
            for item_id, n, path in reader.current_samples():
                row = wanted.execute("SELECT count FROM wanted WHERE id = ?", (item_id,)).fetchone()
                if row is None or n > row[0]:
                    yield item_id, n, path
        wanted.close()


def _chunks(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    chunk: list[Item] = []
    for item in items:
        chunk.append(item)
        if len(chunk) >= size:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


def _sha256(path: str) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
