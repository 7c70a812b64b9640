"""Walks the manifest once beside the ledger, in flat memory, and sorts every sample: keep, move, generate, skip."""

from __future__ import annotations

import hashlib
import json
import os
import sqlite3
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from batchgen.engine.dependents import blocked_by, wire_of
from batchgen.engine.lanes import lane_key
from batchgen.ledger.backlog import Backlog
from batchgen.ledger.reader import Reader
from batchgen.manifest import Manifest
from batchgen.manifest.fingerprint import changes, fingerprint, wire_facts
from batchgen.planning import Action, LaneLoad, Step, Wishes, expected_bytes, grouped, judge, overdue, selected
from batchgen.profiles.price import estimate_usd
from batchgen.profiles.profile import Profile
from batchgen.profiles.vendor import PROVIDER_BASE_URLS
from batchgen.records import Item, Known, Sample, needs, previous_turn, sample_key
from batchgen.store.store import Store

CHUNK = 500  # items looked up in the ledger at once
RESTORED = "brought back by verify --repair: taken by its id, only prompt and model could be compared"


@dataclass(frozen=True, slots=True)
class Move:
    """A picture that exists and belongs under another name, or came back into the manifest. Costs nothing."""

    sample: Sample
    old: str
    new: str
    bytes: int
    restored: bool = False  # by a repair that had no manifest, so not fully compared


@dataclass(frozen=True, slots=True)
class Standing:
    """How a sample stands that another one needs: made, to be made in this run, or neither, with the reason.

    sha256 and attempt: of its picture; why: in words; state: of the ledger, when that is what stands in the way.
    """

    sha256: str = ""
    attempt: int = 0
    pending: bool = False
    why: str = ""
    state: str = ""


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
    blocked: int = 0  # of the skipped ones: what they need has failed
    items: int = 0
    wanted: int = 0  # samples to ask for
    adopted: int = 0  # of the moves: brought back by a repair that had no manifest, so not fully compared


class Surveyor:
    """One walk, and a second one when items need pictures of others. on_step: told of every step but `keep`."""

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
        self._now = time.time()
        self._scheduled: set[str] | None = (
            None if limit is None else set()
        )  # keys; without a limit all that is wanted is
        self._standings: dict[str, Standing] = {}  # of samples that others need, by key
        self.survey = Survey()

    def walk(self) -> Survey:
        """Raises ManifestError with everything that is wrong with the manifest."""
        for item, known in self._items():
            if not needs(item, 1):
                self._item(item, known)
        if self._manifest.needed_ids:
            self._walk_dependents()
        if self._reader is not None and self._matched < self._reader.current_count():
            self.survey.removed = list(self._removed(self._reader))
        return self.survey

    def _items(self) -> Iterator[tuple[Item, Sequence[Known]]]:
        for items in _chunks(self._manifest.items(), CHUNK):
            known = self._reader.known([item.id for item in items]) if self._reader else {}
            for item in items:
                yield item, known.get(item.id, ())

    def _walk_dependents(self) -> None:
        """Items that need others, each after what it needs. Only those that stand before that are kept in memory."""
        later: list[tuple[Item, Sequence[Known]]] = []
        for item, known in self._items():
            if not needs(item, 1):
                if item.id in self._manifest.needed_ids:
                    self._note_standings(item, known)
            elif self._ready(item):
                self._dependent(item, known)
            else:
                later.append((item, known))
        while later:  # ends: the manifest has no circles
            waiting, later = later, []
            for item, known in waiting:
                if self._ready(item):
                    self._dependent(item, known)
                else:
                    later.append((item, known))

    def _ready(self, item: Item) -> bool:
        return all(key in self._standings for n in range(1, item.count + 1) for key in needs(item, n))

    def _item(self, item: Item, known: Sequence[Known]) -> None:
        self.survey.items += 1
        wire = wire_facts(item, [self._manifest.references.digest(path) for path in item.references])
        mark = fingerprint(wire)
        if item.count == 1 and len(known) == 1 and self._is_done(item, known[0], mark):
            self._matched += 1
            self.survey.kept += not self._only or selected(item, self._only)
            return
        by_n = self._match(item, known)
        if self._only and not selected(item, self._only):
            return
        to_generate: list[tuple[Sample, str]] = []
        for n in range(1, item.count + 1):
            sample = Sample(item=item, n=n, fingerprint=mark, wire=wire, known=n in by_n)
            action, why, move = self._decide(sample, by_n.get(n))
            if action == "generate":
                to_generate.append((sample, why))
            else:
                self._note(sample, action, why, move)
        self._generate(item, to_generate)

    def _dependent(self, item: Item, known: Sequence[Known]) -> None:
        """An item whose needs have all been judged."""
        self.survey.items += 1
        by_n = self._match(item, known)
        chosen = not self._only or selected(item, self._only)
        to_generate: list[tuple[Sample, str]] = []
        for n in range(1, item.count + 1):
            entry = by_n.get(n)
            standings = {key: self._standings[key] for key in needs(item, n)}
            missing = next(((key, one) for key, one in standings.items() if not one.sha256 and not one.pending), None)
            if not chosen:
                standing = self._as_it_is(item.id, n)
            elif missing is not None:
                standing = self._without(item, n, entry, *missing)
            else:
                sample = self._with_needs(item, n, entry, standings)
                if sample.fingerprint:
                    action, why, move = self._decide(sample, entry)
                else:
                    action, why, move = *_after(entry, standings, self._wishes), None
                if action == "generate" and (lost := self._lost_turn(sample, standings)):
                    action, why = "skip", lost
                if action == "generate":
                    to_generate.append((sample, why))
                else:
                    self._note(sample, action, why, move)
                standing = self._standing(sample, entry, action, why)
            if item.id in self._manifest.needed_ids:
                self._standings[sample_key(item.id, n)] = standing
        self._generate(item, to_generate)
        for sample, _ in to_generate:
            if sample.key in self._standings:
                self._standings[sample.key] = self._awaited(sample.key)

    def _with_needs(self, item: Item, n: int, entry: Known | None, standings: Mapping[str, Standing]) -> Sample:
        """With a fingerprint when all it needs is there, else without one."""
        if any(one.pending for one in standings.values()):
            return Sample(item=item, n=n, fingerprint="", wire=wire_facts(item), known=entry is not None)
        wire = wire_of(item, n, self._manifest.references.digest, lambda key: standings[key].sha256)
        return Sample(item=item, n=n, fingerprint=fingerprint(wire), wire=wire, known=entry is not None)

    def _without(self, item: Item, n: int, entry: Known | None, key: str, standing: Standing) -> Standing:
        """A sample that needs what will not be there: blocked when that failed, else only left for another time."""
        sample = Sample(item=item, n=n, fingerprint="", wire=wire_facts(item), known=entry is not None)
        why = blocked_by(key, standing.state, standing.why) if standing.state else f"needs @{key}, {standing.why}"
        if standing.state and self._backlog is not None and not self._wishes.explicit:
            self._backlog.block(sample, why)
            self.survey.blocked += 1
        self._note(sample, "skip", why, None)
        return Standing(why="which is blocked", state="blocked" if standing.state else "")

    def _lost_turn(self, sample: Sample, standings: Mapping[str, Standing]) -> str:
        """Why the conversation cannot go on, when what the model said before is not kept."""
        item = sample.item
        if item.turn < 2:
            return ""
        before = standings[sample_key(previous_turn(item), sample.n)]
        if before.pending or os.path.exists(self._store.turn_path(before.attempt)):
            return ""
        return f"the model's answer of {previous_turn(item)} is not kept; --fresh --only '{previous_turn(item)}' makes it anew"

    def _match(self, item: Item, known: Sequence[Known]) -> dict[int, Known]:
        self._matched += sum(1 for entry in known if entry.n <= item.count and entry.state != "superseded")
        return {entry.n: entry for entry in known}

    def _decide(self, sample: Sample, entry: Known | None) -> tuple[Action, str, Move | None]:
        item, n = sample.item, sample.n
        changed = lambda: changes(self._reader.wire(item.id, n), sample.wire) if self._reader else []  # noqa: E731
        action, why = judge(entry, sample.fingerprint, self._wishes, self._store.has, changed)
        if item.max_age_s is not None and entry is not None and self._too_old(sample, item.max_age_s):
            return *overdue(action, why, item.max_age_s, self._wishes), None
        if action == "keep" and entry is not None and self._in_place(item, entry):
            return action, why, None
        if entry is not None and not self._wishes.fresh:
            move = self._move(sample, entry, action, why)
            if move is not None:
                bought = "renamed" if entry.state == "succeeded" and move.old == entry.path else "it was bought before"
                return "move", RESTORED if move.restored else bought, move
        return "generate" if action == "keep" else action, why, None

    def _too_old(self, sample: Sample, most_s: float) -> bool:
        made_at = self._reader.made_at(sample.item.id, sample.n, sample.fingerprint) if self._reader else 0.0
        return 0.0 < made_at < self._now - most_s

    def _note(self, sample: Sample, action: Action, why: str, move: Move | None) -> None:
        """What costs nothing."""
        if action == "keep":
            self.survey.kept += 1
            return
        if move is not None:
            self.survey.moves.append(move)
            self.survey.adopted += move.restored
        else:
            self.survey.skipped += 1
        self._tell(Step(sample, action, why), 1)

    # --- how samples stand that others need

    def _note_standings(self, item: Item, known: Sequence[Known]) -> None:
        """Of an item that was judged in the first walk: the same questions again, for the few that are needed."""
        by_n = {entry.n: entry for entry in known}
        wire = wire_facts(item, [self._manifest.references.digest(path) for path in item.references])
        for n in range(1, item.count + 1):
            sample = Sample(item=item, n=n, fingerprint=fingerprint(wire), wire=wire)
            if self._only and not selected(item, self._only):
                standing = self._as_it_is(item.id, n)
            else:
                action, why, _ = self._decide(sample, by_n.get(n))
                standing = self._standing(sample, by_n.get(n), action, why)
            self._standings[sample.key] = standing

    def _standing(self, sample: Sample, entry: Known | None, action: Action, why: str) -> Standing:
        if action == "generate":
            return self._awaited(sample.key)
        if action == "skip" or self._reader is None:
            failed = entry is not None and entry.state in ("failed", "refused", "uncertain")
            return (
                Standing(why=entry.reason, state=entry.state)
                if failed and entry
                else Standing(why=f"which is left: {why}")
            )
        image = self._reader.earlier_image(sample.item.id, sample.n, sample.fingerprint)
        return Standing(image.file.sha256, image.attempt) if image else Standing(why="whose picture is not recorded")

    def _awaited(self, key: str) -> Standing:
        if self._scheduled is not None and key not in self._scheduled:
            return Standing(why="which is beyond --limit")
        return Standing(pending=True)

    def _as_it_is(self, item_id: str, n: int) -> Standing:
        """Not selected by --only: serves if it has a picture, whatever the manifest says now."""
        image = self._reader.picture(item_id, n) if self._reader else None
        if image is not None and self._store.has(image.file.path, image.file.bytes):
            return Standing(image.file.sha256, image.attempt)
        return Standing(why="which is not made and not selected")

    def _is_done(self, item: Item, entry: Known, mark: str) -> bool:
        """The commonest case of a large manifest, answered without looking further."""
        return (
            entry.n == 1
            and entry.state == "succeeded"
            and entry.made_fingerprint == mark
            and entry.path is not None
            and entry.path.rpartition(".")[0] == item.filename
            and not self._wishes.fresh
            and item.max_age_s is None
            and self._store.has(entry.path, entry.bytes)
        )

    def _in_place(self, item: Item, entry: Known) -> bool:
        stem = item.filename if entry.n == 1 else f"{item.filename}-{entry.n}"
        return entry.state == "succeeded" and entry.path is not None and entry.path.rpartition(".")[0] == stem

    def _move(self, sample: Sample, entry: Known, action: Action, why: str) -> Move | None:
        """A picture bought before for exactly this request serves again, wherever it lies."""
        if self._reader is None or (action == "generate" and why.startswith("fresh")):
            return None
        found = self._reader.earlier_image(sample.item.id, sample.n, sample.fingerprint)
        restored = found is None and self._is_restored(self._reader, sample, entry)
        if restored:
            found = self._reader.earlier_image(sample.item.id, sample.n, "")
        if found is None:
            return None
        file = found.file
        new = self._store.name(sample.item.filename, sample.n, file.format)
        old = file.path
        if not self._store.has(old, file.bytes):
            if not (self._store.has(new, file.bytes) and _sha256(os.path.join(self._store.root, new)) == file.sha256):
                return None
            old = new
        return Move(sample, old, new, file.bytes, restored)

    def _is_restored(self, reader: Reader, sample: Sample, entry: Known) -> bool:
        """Whether it has a picture of which a repair without the manifest knew no more than prompt and model, and these
        are still wanted. Nothing speaks against it then, and it was paid for."""
        if entry.made_fingerprint != "":
            return False
        was, item = json.loads(reader.wire(sample.item.id, sample.n) or "{}"), sample.item
        return (was.get("model") or item.model, was.get("prompt") or item.prompt) == (item.model, item.prompt)

    def _generate(self, item: Item, samples: Sequence[tuple[Sample, str]]) -> None:
        if not samples:
            return
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
            usd = estimate_usd(profile, size, group.images, tier=item.service_tier)
            load.requests += 1
            load.images += group.images
            load.busy_s += profile.latency(size)
            load.bytes += expected_bytes(size) * group.images
            load.usd += usd or 0.0
            load.dearest_usd = max(load.dearest_usd, usd or 0.0)
            load.unpriced += usd is None
            self.survey.wanted += group.images
            self._tell(Step(group, "generate", whys[group.n], usd), group.images)
        self._schedule(lane, groups)

    def _schedule(self, lane: str, groups: Sequence[Sample]) -> None:
        if self._scheduled is not None:
            self._scheduled.update(sample_key(one.item.id, one.n + k) for one in groups for k in range(one.images))
        if self._backlog is None:
            return
        for group in groups:
            awaited = [key for key in needs(group.item, group.n) if self._standings[key].pending]
            if awaited:
                self._backlog.hold(lane, group, awaited)
        self._backlog.add(lane, [group for group in groups if group.fingerprint])

    def _profile(self, item: Item) -> Profile:
        profile = self.survey.profiles.get(item.model)
        if profile is None:
            profile = self.survey.profiles[item.model] = self._manifest.catalogue.resolve(item.model)
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
                "INSERT INTO wanted VALUES (?, ?)", ((item.id, item.count) for item in self._manifest.items())
            )
            for item_id, n, path in reader.current_samples():
                row = wanted.execute("SELECT count FROM wanted WHERE id = ?", (item_id,)).fetchone()
                if row is None or n > row[0]:
                    yield item_id, n, path
        wanted.close()


def _after(entry: Known | None, standings: Mapping[str, Standing], wishes: Wishes) -> tuple[Action, str]:
    """A sample whose needs are made in this run, so that its own request is not known yet."""
    awaited = ", ".join(f"@{key}" for key, one in standings.items() if one.pending)
    if wishes.explicit and (entry is None or entry.state not in {"blocked", *wishes.states}):
        return "skip", "not asked for"
    if entry is None:
        return "generate", f"new, after {awaited}"
    return "generate", f"changed: {awaited}" if entry.made_fingerprint else f"after {awaited}"


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
