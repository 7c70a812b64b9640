"""Sorts every sample of a manifest: first the items that need no others, then each of the rest after what it needs."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from batchgen.engine.dependents import wire_of
from batchgen.engine.reconcile_items import ItemSurveyor
from batchgen.errors import UsageError
from batchgen.ledger.work_queue import blocked_by
from batchgen.planning.fingerprint import fingerprint, wire_facts
from batchgen.planning.plan import Action, Wishes
from batchgen.records import Item, Known, Sample, needs, previous_turn, sample_key


@dataclass(frozen=True, slots=True)
class Standing:
    """How a sample stands that another one needs: made, to be made in this run, or neither, with the reason.

    sha256 and attempt: of its picture; seconds: until a pending one is there, at best; why: in words; state: of the
    ledger, when that is what stands in the way; beyond: when a limit is, which was asked for.
    """

    sha256: str = ""
    attempt: int = 0
    pending: bool = False
    seconds: float = 0.0
    why: str = ""
    state: str = ""
    beyond: bool = False


class Surveyor(ItemSurveyor):
    """Both walks. Memory grows with the samples that others need, not with those others."""

    _standings: dict[str, Standing]  # of samples that others need, by key

    def awaited(self, sample: Sample) -> list[str]:
        """Keys of the samples that have to be made in this run before this one."""
        return [key for key in needs(sample.item, sample.n) if self._standings[key].pending]

    def walk_dependents(self) -> None:
        """Each after what it needs. Only those that stand before that are kept in memory."""
        self._standings = {}
        later: list[tuple[Item, Sequence[Known]]] = []
        for item, known in self.each():
            if not needs(item, 1):
                if item.id in self.manifest.needed_ids:
                    self._note_standings(item, known)
            elif self._ready(item):
                self._dependent(item, known)
            else:
                later.append((item, known))
        while later:  # the manifest has no circles
            waiting, later = later, []
            for item, known in waiting:
                if self._ready(item):
                    self._dependent(item, known)
                else:
                    later.append((item, known))
            if len(later) == len(waiting):
                raise UsageError(f"{self.manifest.path} changed while it was read: run again")

    def _ready(self, item: Item) -> bool:
        return all(key in self._standings for n in range(1, item.count + 1) for key in needs(item, n))

    def _dependent(self, item: Item, known: Sequence[Known]) -> None:
        """An item whose needs have all been judged."""
        self.survey.items += 1
        by_n = self.match(item, known)
        chosen = self.selects(item)
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
                if sample.fingerprint or (entry is not None and entry.state == "submitted"):
                    action, why, move = self.decide(sample, entry)
                else:
                    action, why, move = *_after(entry, standings, self.wishes), None
                if action == "generate" and (lost := self._lost_turn(sample, standings)):
                    action, why = "skip", lost
                if action == "generate":
                    to_generate.append((sample, why))
                else:
                    self.note(sample, action, why, move)
                standing = self._standing(sample, entry, action, why)
            if item.id in self.manifest.needed_ids:
                self._standings[sample_key(item.id, n)] = standing
        self.generate(item, to_generate)
        for sample, _ in to_generate:
            awaited = self._awaited(sample)
            self.survey.chain_s = max(self.survey.chain_s, awaited.seconds)
            if sample.key in self._standings:
                self._standings[sample.key] = awaited

    def _with_needs(self, item: Item, n: int, entry: Known | None, standings: Mapping[str, Standing]) -> Sample:
        """With a fingerprint when all it needs is there, else without one."""
        if any(one.pending for one in standings.values()):
            return Sample(item=item, n=n, fingerprint="", wire=wire_facts(item), known=entry is not None)
        wire = wire_of(item, n, self.manifest.references.digest, lambda key: standings[key].sha256)
        return Sample(item=item, n=n, fingerprint=fingerprint(wire), wire=wire, known=entry is not None)

    def _without(self, item: Item, n: int, entry: Known | None, key: str, standing: Standing) -> Standing:
        """A sample that needs what will not be there: blocked when that failed, else only left for another time."""
        sample = Sample(item=item, n=n, fingerprint="", wire=wire_facts(item), known=entry is not None)
        why = blocked_by(key, standing.state, standing.why) if standing.state else f"needs @{key}, {standing.why}"
        if standing.state and self.backlog is not None and not self.wishes.explicit:
            self.backlog.block(sample, why)
            self.survey.blocked += 1
        self.survey.beyond += standing.beyond
        self.note(sample, "skip", why, None)
        return Standing(state="blocked") if standing.state else Standing(why=f"which {why}", beyond=standing.beyond)

    def _lost_turn(self, sample: Sample, standings: Mapping[str, Standing]) -> str:
        """Why the conversation cannot go on, when what the model said before is not kept."""
        item = sample.item
        if item.turn < 2:
            return ""
        before = standings[sample_key(previous_turn(item), sample.n)]
        if before.pending or os.path.exists(self.store.turn_path(before.attempt)):
            return ""
        return f"the model's answer of {previous_turn(item)} is not kept; --fresh --only '{previous_turn(item)}' makes it anew"

    def _note_standings(self, item: Item, known: Sequence[Known]) -> None:
        """Of an item that was judged in the first walk: the same questions again, for the few that are needed."""
        by_n = {entry.n: entry for entry in known}
        wire = wire_facts(item, [self.manifest.references.digest(path) for path in item.references])
        for n in range(1, item.count + 1):
            sample = Sample(item=item, n=n, fingerprint=fingerprint(wire), wire=wire)
            if not self.selects(item):
                standing = self._as_it_is(item.id, n)
            else:
                action, why, _ = self.decide(sample, by_n.get(n))
                standing = self._standing(sample, by_n.get(n), action, why)
            self._standings[sample.key] = standing

    def _standing(self, sample: Sample, entry: Known | None, action: Action, why: str) -> Standing:
        if action == "generate" or (entry is not None and entry.state == "submitted"):
            return self._awaited(sample)
        if action == "skip" or self.reader is None:
            failed = entry is not None and entry.state in ("failed", "refused", "uncertain")
            return (
                Standing(why=entry.reason, state=entry.state)
                if failed and entry
                else Standing(why=f"which is left: {why}")
            )
        reader, item = self.reader, sample.item
        image = reader.earlier_image(item.id, sample.n, sample.fingerprint)
        image = image or reader.picture(item.id, sample.n)  # restored by a repair, or not yet placed
        return Standing(image.file.sha256, image.attempt) if image else Standing(why="whose picture is not recorded")

    def _awaited(self, sample: Sample) -> Standing:
        if self.beyond_limit(sample.key):
            return Standing(why="which is beyond --limit", beyond=True)
        item, profile = sample.item, self.profile(sample.item.model)
        before_s = max((self._standings[key].seconds for key in needs(item, sample.n)), default=0.0)
        return Standing(pending=True, seconds=before_s + profile.latency(item.image_size or profile.default_size))

    def _as_it_is(self, item_id: str, n: int) -> Standing:
        """Not selected by --only: serves if it has a picture, whatever the manifest says now."""
        image = self.reader.picture(item_id, n) if self.reader else None
        if image is not None and self.store.has(image.file.path, image.file.bytes):
            return Standing(image.file.sha256, image.attempt)
        return Standing(why="which is not made and not selected")


def _asked_for(entry: Known | None, wishes: Wishes) -> bool:
    """What is blocked goes along with what blocked it."""
    if entry is None or entry.state == "blocked":
        return entry is not None
    return entry.state in wishes.states and (not wishes.reasons or entry.reason in wishes.reasons)


def _after(entry: Known | None, standings: Mapping[str, Standing], wishes: Wishes) -> tuple[Action, str]:
    """A sample whose needs are made in this run, so that its own request is not known yet."""
    awaited = ", ".join(f"@{key}" for key, one in standings.items() if one.pending)
    if wishes.explicit and not _asked_for(entry, wishes):
        return "skip", "not asked for"
    if entry is None:
        return "generate", f"new, after {awaited}"
    return "generate", f"changed: {awaited}" if entry.made_fingerprint else f"after {awaited}"
