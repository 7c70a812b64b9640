"""Walks the manifest once beside the ledger, in flat memory, and sorts every sample that needs no other: keep, move,
generate, skip."""

from __future__ import annotations

import contextlib
import json
import sqlite3
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from batchgen.engine.recovery.unrecorded_files import UnrecordedFiles
from batchgen.engine.routes import lane_key
from batchgen.errors import UsageError
from batchgen.ledger.backlog import Backlog
from batchgen.ledger.reader import Reader
from batchgen.ledger.samples import WITH_WORKERS
from batchgen.manifest import Limits, Manifest
from batchgen.planning.batchable import By, batch_lane, why_online
from batchgen.planning.fingerprint import changes, fingerprint, wire_facts
from batchgen.planning.plan import Action, LaneLoad, Step, Wishes, expected_bytes, grouped, judge, overdue, selected
from batchgen.profiles.price import estimate_usd, is_guess
from batchgen.profiles.profile import Profile
from batchgen.profiles.vendor import PROVIDER_BASE_URLS
from batchgen.providers.contract import Batching
from batchgen.providers.registry import provider_class
from batchgen.records import Item, Known, Sample, needs, sample_key
from batchgen.store.store import Store

CHUNK = 500  # items looked up in the ledger at once
IN_A_BATCH = "in a batch at the vendor's"
FOUND = "found under another name, by its bytes"
OTHER_FILE = "another file has its name"
RESTORED = "brought back by verify --repair: taken by its id, only prompt and model could be compared"


@dataclass(frozen=True, slots=True)
class Move:
    """A picture that exists and belongs under another name, or came back into the manifest. Costs nothing.

    image: its attempt and number there. found: it lies where the ledger does not know of, and was found by its bytes.
    """

    sample: Sample
    old: str
    new: str
    bytes: int
    image: tuple[int, int]
    restored: bool = False  # by a repair that had no manifest, so not fully compared
    found: bool = False


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
    unrecorded: list[str] = field(
        default_factory=list
    )  # pictures under names of samples that the ledger never heard of
    chain_s: float = 0.0  # of the longest row of pictures of which each needs the one before
    blocked: int = 0  # of the skipped ones: what they need has failed
    beyond: int = 0  # of the skipped ones: what they need is beyond the limit that was asked for
    items: int = 0
    wanted: int = 0  # samples to ask for
    submitted: int = 0  # samples that are in batches of earlier runs
    online: Counter[str] = field(default_factory=Counter)  # requests that no batch can have, by reason
    online_only: list[tuple[str, str]] = field(default_factory=list)  # (sample, why no batch can have it), with `batch`
    adopted: int = 0  # of the moves: brought back by a repair that had no manifest, so not fully compared


def lane_load(profile: Profile, limits: Limits, *, batch: bool = False) -> LaneLoad:
    """What is known of a lane before anything is asked of it."""
    account = PROVIDER_BASE_URLS.get(profile.provider, profile.provider)  # one key for all its models
    if batch:
        return LaneLoad(profile.id, None, account=account, batch=True)
    rate = limits.spend_rate(profile.provider)
    return LaneLoad(profile.id, profile.rpm, rpd=profile.rpd, spend_rate=rate, account=account)


class ItemSurveyor:
    """One walk over the items that need no others. on_step: told of every step but `keep`."""

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
        by: By = "online",
    ) -> None:
        self.manifest = manifest
        self.reader = reader
        self.store = store
        self.wishes = wishes
        self._only = tuple(only)
        self._left = limit
        self.backlog = backlog
        self._on_step = on_step
        self._by = by
        self._batching: dict[str, bool] = {}  # by AI model: whether its codec speaks a batch API
        self._matched = 0  # ledger samples that the manifest still wants
        self._now = time.time()
        self._scheduled: set[str] | None = None if limit is None else set()  # keys; without a limit, all that is wanted
        self.survey = Survey()
        self._unrecorded = UnrecordedFiles(store, reader)
        self._nothing_there: bool | None = None  # asked with the first new sample

    def walk(self) -> Survey:
        """Raises ManifestError with everything that is wrong with the manifest."""
        with contextlib.closing(self._unrecorded):
            return self._walk()

    def _walk(self) -> Survey:
        for item, known in self.each():
            if not needs(item, 1):
                self._item(item, known)
        if self.manifest.needed_ids:
            self.walk_dependents()
        for lane in self.reader.chunk_lanes() if self.reader is not None else ():
            self._serves(lane.partition("/")[2])  # whatever the manifest says now
        if self.reader is not None and self._matched < self.reader.current_count():
            self.survey.removed = list(self._removed(self.reader))
        return self.survey

    def walk_dependents(self) -> None:
        """The second walk, over items that need pictures of others."""

    def awaited(self, sample: Sample) -> list[str]:
        """Keys of the samples that have to be made in this run before this one."""
        return []

    def each(self) -> Iterator[tuple[Item, Sequence[Known]]]:
        for items in _chunks(self.manifest.items(), CHUNK):
            known = self.reader.known([item.id for item in items]) if self.reader else {}
            self.manifest.references.foresee(name for item in items if self.selects(item) for name in item.references)
            for item in items:
                yield item, known.get(item.id, ())

    def _item(self, item: Item, known: Sequence[Known]) -> None:
        self.survey.items += 1
        if not self.selects(item):
            self.match(item, known)
            return
        wire = wire_facts(item, [self.manifest.references.digest(path) for path in item.references])
        mark = fingerprint(wire)
        if item.count == 1 and len(known) == 1 and self._is_done(item, known[0], mark):
            self._matched += 1
            self.survey.kept += 1
            return
        by_n = self.match(item, known)
        to_generate: list[tuple[Sample, str]] = []
        for n in range(1, item.count + 1):
            sample = Sample(item=item, n=n, fingerprint=mark, wire=wire, known=n in by_n)
            action, why, move = self.decide(sample, by_n.get(n))
            if action == "generate":
                to_generate.append((sample, why))
            else:
                self.note(sample, action, why, move)
        self.generate(item, to_generate)

    def selects(self, item: Item) -> bool:
        return not self._only or selected(item, self._only)

    def beyond_limit(self, key: str) -> bool:
        return self._scheduled is not None and key not in self._scheduled

    def match(self, item: Item, known: Sequence[Known]) -> dict[int, Known]:
        self._matched += sum(1 for entry in known if entry.n <= item.count and entry.state != "superseded")
        return {entry.n: entry for entry in known}

    def decide(self, sample: Sample, entry: Known | None) -> tuple[Action, str, Move | None]:
        item, n = sample.item, sample.n
        if entry is not None and entry.state == "submitted":
            return "skip", WITH_WORKERS if entry.reason == WITH_WORKERS else IN_A_BATCH, None
        changed = lambda: changes(self.reader.wire(item.id, n), sample.wire) if self.reader else []  # noqa: E731
        action, why = judge(entry, sample.fingerprint, self.wishes, self.store.has, changed)
        other = action == "generate" and self._other_file(sample, entry)
        if other:
            action, why = "keep", OTHER_FILE
        if item.max_age_s is not None and entry is not None and self._too_old(sample, item.max_age_s):
            return *overdue(action, why, item.max_age_s, self.wishes), None
        if action == "keep" and not other and entry is not None and self._in_place(item, entry):
            return action, why, None
        if entry is not None and not self.wishes.fresh:
            move = self._move(sample, entry, action, why)
            if move is not None:
                return "move", _why_moved(move, entry), move
        return "generate" if action == "keep" and not other else action, why, None

    def _other_file(self, sample: Sample, entry: Known | None) -> bool:
        """Whether another file has the name of the sample's picture. It may be a person's work, so it stays and nothing is
        bought in its place; the end of the run tells of it."""
        return (
            entry is not None
            and (entry.state, entry.made_fingerprint) == ("succeeded", sample.fingerprint)
            and entry.path is not None
            and not self.wishes.fresh
            and self.store.has_name(entry.path)
        )

    def _too_old(self, sample: Sample, most_s: float) -> bool:
        made_at = self.reader.made_at(sample.item.id, sample.n, sample.fingerprint) if self.reader else 0.0
        return 0.0 < made_at < self._now - most_s

    def note(self, sample: Sample, action: Action, why: str, move: Move | None) -> None:
        """What costs nothing."""
        if action == "keep":
            self.survey.kept += 1
            return
        if why in (IN_A_BATCH, WITH_WORKERS):
            self._is_out(sample, why)
            return
        if move is not None:
            self.survey.moves.append(move)
            self.survey.adopted += move.restored
        else:
            self.survey.skipped += 1
        self._tell(Step(sample, action, why), 1)

    def _is_out(self, sample: Sample, where: str) -> None:
        self.survey.submitted += 1
        self.survey.whys[where] += 1
        self._serves(sample.item.model)
        if self._scheduled is not None:
            self._scheduled.add(sample.key)
        if self.backlog is not None:
            self.backlog.lend([sample])

    def _serves(self, model: str) -> None:
        """The lanes of what is out: of the AI model that it was asked of, and of the one that the manifest names now."""
        profile = self.profile(model)
        self._load(profile)
        if self._has_batch(profile):
            self._load(profile, batch=True)

    def _is_done(self, item: Item, entry: Known, mark: str) -> bool:
        """The commonest case of a large manifest, answered without looking further."""
        return (
            entry.n == 1
            and entry.state == "succeeded"
            and entry.made_fingerprint == mark
            and entry.path is not None
            and entry.path.rpartition(".")[0] == item.filename
            and not self.wishes.fresh
            and item.max_age_s is None
            and self.store.has(entry.path, entry.bytes)
        )

    def _in_place(self, item: Item, entry: Known) -> bool:
        stem = item.filename if entry.n == 1 else f"{item.filename}-{entry.n}"
        return entry.state == "succeeded" and entry.path is not None and entry.path.rpartition(".")[0] == stem

    def _move(self, sample: Sample, entry: Known, action: Action, why: str) -> Move | None:
        """A picture bought before for exactly this request serves again, wherever it lies."""
        if self.reader is None or (action == "generate" and why.startswith("fresh")):
            return None
        found = self.reader.earlier_image(sample.item.id, sample.n, sample.fingerprint)
        restored = found is None and self._is_restored(self.reader, sample, entry)
        if restored:
            found = self.reader.earlier_image(sample.item.id, sample.n, "")
        if found is None:
            return None
        file = found.file
        new = self.store.name(sample.item.filename, sample.n, file.format)
        old = file.path
        if not self.store.has(old, file.bytes):
            if self.store.has(new, file.bytes) and self.store.sha256(new) == file.sha256:
                old = new
            elif (elsewhere := self._unrecorded.find(sample.key, file.bytes, file.sha256)) is not None:
                old = elsewhere
            else:
                return None
        return Move(sample, old, new, file.bytes, (found.attempt, found.k), restored, old not in (file.path, new))

    def _is_restored(self, reader: Reader, sample: Sample, entry: Known) -> bool:
        """Whether it has a picture of which a repair without the manifest knew no more than prompt and model, and these
        are still wanted. Nothing speaks against it then, and it was paid for."""
        if entry.made_fingerprint != "":
            return False
        was, item = json.loads(reader.wire(sample.item.id, sample.n) or "{}"), sample.item
        return (was.get("model") or item.model, was.get("prompt") or item.prompt) == (item.model, item.prompt)

    def generate(self, item: Item, samples: Sequence[tuple[Sample, str]]) -> None:
        if not samples:
            return
        profile = self.profile(item.model)
        others = [self.profile(other.partition("/")[2]) for other in item.fallback]
        whys = {sample.n: why for sample, why in samples}
        most = min(each.images_per_request for each in (profile, *others))  # whoever serves it in the end
        groups = grouped([sample for sample, _ in samples], most)
        if self._left is not None:
            groups = groups[: max(0, self._left)]
            self._left -= len(groups)
        size = item.image_size or profile.default_size
        for other in others if groups else ():
            self._may_serve(other, max(groups, key=lambda group: group.images))
        prices: dict[tuple[int, bool], float | None] = {}  # what else is in a request is the same for all of an item
        for group in groups:
            batch = self._goes_by_batch(group, profile)
            load = self._load(profile, batch=batch)
            if (group.images, batch) not in prices:
                prices[group.images, batch] = estimate_usd(profile, group, batch=batch)
            usd = prices[group.images, batch]
            load.requests += 1
            load.images += group.images
            load.busy_s += 0.0 if batch else profile.latency(size)
            load.bytes += expected_bytes(size) * group.images
            load.usd += usd or 0.0
            load.dearest_usd = max(load.dearest_usd, usd or 0.0)
            load.unpriced += usd is None
            load.guessed += is_guess(profile, item.service_tier, batch=batch)
            load.searches += item.search is not None
            self.survey.wanted += group.images
            self._note_unrecorded(group)
            self._tell(Step(group, "generate", whys[group.n], usd), group.images)
            self._schedule(
                batch_lane(item.provider, item.model) if batch else lane_key(item.provider, item.model), group
            )

    def _note_unrecorded(self, group: Sample) -> None:
        """Pictures that stand where new ones would go: every request is in the ledger before a picture comes of it."""
        if group.known:
            return
        if self._nothing_there is None:
            self._nothing_there = self.store.is_empty()
        for n in range(group.n, group.n + group.images) if not self._nothing_there else ():
            path = self.store.picture_at(group.item.filename, n)
            if path is not None and (self.reader is None or path in self._unrecorded):
                self.survey.unrecorded.append(path)

    def _goes_by_batch(self, sample: Sample, profile: Profile) -> bool:
        if self._by == "online":
            return False
        why = why_online(sample.item, self._has_batch(profile), self._by, self.awaited(sample))
        if why is not None:
            named, _, other = why.partition(" @")
            self.survey.online[f"{named} another item" if other else named] += 1
        if why is not None and self._by == "batch":
            self.survey.online_only.append((sample.key, why))
        if why is None:
            self._load(profile)  # its online lane, to fall back on
        return why is None

    def _has_batch(self, profile: Profile) -> bool:
        if profile.id not in self._batching:
            self._batching[profile.id] = isinstance(provider_class(profile.provider)(profile), Batching)
        return self._batching[profile.id]

    def _may_serve(self, profile: Profile, sample: Sample) -> None:
        """A fallback has its lane from the beginning, and no budget may meet a price there that nobody knows."""
        load = self._load(profile)
        usd = estimate_usd(profile, sample)
        load.dearest_usd = max(load.dearest_usd, usd or 0.0)
        load.may_be_unpriced = load.may_be_unpriced or usd is None

    def _load(self, profile: Profile, *, batch: bool = False) -> LaneLoad:
        lane = (batch_lane if batch else lane_key)(profile.provider, profile.id)
        load = self.survey.loads.get(lane)
        if load is None:
            load = self.survey.loads[lane] = lane_load(profile, self.manifest.limits, batch=batch)
        return load

    def _schedule(self, lane: str, group: Sample) -> None:
        if self._scheduled is not None:
            self._scheduled.update(sample_key(group.item.id, group.n + k) for k in range(group.images))
        if self.backlog is None:
            return
        awaited = self.awaited(group)
        if awaited:
            self.backlog.hold(lane, group, awaited)
        if group.fingerprint:
            self.backlog.add(lane, [group])

    def profile(self, model: str) -> Profile:
        profile = self.survey.profiles.get(model)
        if profile is None:
            profile = self.survey.profiles[model] = self.manifest.catalogue.resolve(model)
        return profile

    def _tell(self, step: Step, samples: int) -> None:
        named, _, other = step.why.partition(" @")
        self.survey.whys[f"{named} other items" if other else named] += samples  # not one reason for each id
        if self._on_step is not None:
            self._on_step(step)

    def _removed(self, reader: Reader) -> Iterator[tuple[str, int, str | None]]:
        """Ledger samples without an entry in the manifest: a second walk, only when the first one missed some."""
        with sqlite3.connect("") as wanted:
            wanted.execute("CREATE TABLE wanted (id TEXT PRIMARY KEY, count INTEGER) WITHOUT ROWID")
            wanted.executemany(
                "INSERT INTO wanted VALUES (?, ?)", ((item.id, item.count) for item in self.manifest.items())
            )
            for item_id, n, path in reader.current_samples():
                row = wanted.execute("SELECT count FROM wanted WHERE id = ?", (item_id,)).fetchone()
                if row is None or n > row[0]:
                    yield item_id, n, path
        wanted.close()


def _why_moved(move: Move, entry: Known) -> str:
    if move.restored:
        return RESTORED
    if move.found:
        return FOUND
    return "renamed" if entry.state == "succeeded" and move.old == entry.path else "it was bought before"


def refuse_online_only(survey: Survey) -> None:
    """With an engine that sends nothing but batches. Raises UsageError."""
    if survey.online_only:
        key, why = survey.online_only[0]
        raise UsageError(
            f"{len(survey.online_only):,} request(s) cannot go through a batch API, the first for {key}: {why}."
            " Use --engine auto, which sends these online"
        )


def refuse_derivatives(manifest: Manifest, store: Store) -> None:
    """Derivatives are made of files and beside them. Raises UsageError."""
    if store.url and manifest.derives:
        raise UsageError(
            f"{manifest.path}: post: derivatives are made of pictures in a folder, and this job's are to go to {store.url}:"
            " take post: out, or name a folder as output"
        )


def _chunks(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    chunk: list[Item] = []
    for item in items:
        chunk.append(item)
        if len(chunk) >= size:
            yield chunk
            chunk = []
    if chunk:
        yield chunk
