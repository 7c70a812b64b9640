"""Sorts every sample of a manifest: first the items that need no others, then each of the rest after what it needs."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from batchgen.engine.dependents import wire_of
from batchgen.engine.reconcile_items import ItemSurveyor
from batchgen.errors import UsageError
from batchgen.ledger.work_queue import blocked_message
from batchgen.planning.fingerprint import fingerprint, wire_facts
from batchgen.planning.plan import Action, RetrySelection
from batchgen.records import Item, KnownSample, Sample, previous_turn_id, required_keys, sample_key


@dataclass(frozen=True, slots=True)
class DependencyState:
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
    over_limit: bool = False


class Reconciler(ItemSurveyor):
    """Both walks. Memory grows with the samples that others need, not with those others."""

    _states: dict[str, DependencyState]  # of samples that others need, by key

    def pending_needs(self, sample: Sample) -> list[str]:
        """Keys of the samples that have to be made in this run before this one."""
        return [key for key in required_keys(sample.item, sample.n) if self._states[key].pending]

    def walk_dependents(self) -> None:
        """Each after what it needs. Only those that stand before that are kept in memory."""
        self._states = {}
        later: list[tuple[Item, Sequence[KnownSample]]] = []
        for item, known in self.items_with_known():
            if not required_keys(item, 1):
                if item.id in self.manifest.ids_others_need:
                    self._note_states(item, known)
            elif self._is_ready(item):
                self._plan_item(item, known)
            else:
                later.append((item, known))
        while later:  # the manifest has no circles
            waiting, later = later, []
            for item, known in waiting:
                if self._is_ready(item):
                    self._plan_item(item, known)
                else:
                    later.append((item, known))
            if len(later) == len(waiting):
                raise UsageError(f"{self.manifest.path} changed while it was read: run again")

    def _is_ready(self, item: Item) -> bool:
        return all(key in self._states for n in range(1, item.count + 1) for key in required_keys(item, n))

    def _plan_item(self, item: Item, known: Sequence[KnownSample]) -> None:
        """An item whose needs have all been judged."""
        self.reconciliation.items += 1
        by_n = self.match(item, known)
        chosen = self.selects(item)
        to_generate: list[tuple[Sample, str]] = []
        for n in range(1, item.count + 1):
            entry = by_n.get(n)
            states = {key: self._states[key] for key in required_keys(item, n)}
            missing = next(((key, one) for key, one in states.items() if not one.sha256 and not one.pending), None)
            if not chosen:
                dependency = self._existing_state(item.id, n)
            elif missing is not None:
                dependency = self._state_without_needs(item, n, entry, *missing)
            else:
                sample = self._sample_with_needs(item, n, entry, states)
                if sample.fingerprint or (entry is not None and entry.state == "submitted"):
                    action, why, move = self.decide(sample, entry)
                else:
                    action, why, move = *_action_after_pending(entry, states, self.retry_selection), None
                if action == "generate" and (lost := self._lost_turn_reason(sample, states)):
                    action, why = "skip", lost
                if action == "generate":
                    to_generate.append((sample, why))
                else:
                    self.record_action(sample, action, why, move)
                dependency = self._state_of(sample, entry, action, why)
            if item.id in self.manifest.ids_others_need:
                self._states[sample_key(item.id, n)] = dependency
        self.schedule_requests(item, to_generate)
        for sample, _ in to_generate:
            awaited = self._pending_state(sample)
            self.reconciliation.chain_s = max(self.reconciliation.chain_s, awaited.seconds)
            if sample.key in self._states:
                self._states[sample.key] = awaited

    def _sample_with_needs(
        self, item: Item, n: int, entry: KnownSample | None, states: Mapping[str, DependencyState]
    ) -> Sample:
        """With a fingerprint when all it needs is there, else without one."""
        if any(one.pending for one in states.values()):
            return Sample(item=item, n=n, fingerprint="", wire=wire_facts(item), known=entry is not None)
        wire = wire_of(item, n, self.manifest.references.digest, lambda key: states[key].sha256)
        return Sample(item=item, n=n, fingerprint=fingerprint(wire), wire=wire, known=entry is not None)

    def _state_without_needs(
        self, item: Item, n: int, entry: KnownSample | None, key: str, dependency: DependencyState
    ) -> DependencyState:
        """A sample that needs what will not be there: blocked when that failed, else only left for another time."""
        sample = Sample(item=item, n=n, fingerprint="", wire=wire_facts(item), known=entry is not None)
        why = (
            blocked_message(key, dependency.state, dependency.why)
            if dependency.state
            else f"needs @{key}, {dependency.why}"
        )
        if dependency.state and self.backlog is not None and not self.retry_selection.explicit:
            self.backlog.add_blocked(sample, why)
            self.reconciliation.blocked += 1
        self.reconciliation.over_limit += dependency.over_limit
        self.record_action(sample, "skip", why, None)
        return (
            DependencyState(state="blocked")
            if dependency.state
            else DependencyState(why=f"which {why}", over_limit=dependency.over_limit)
        )

    def _lost_turn_reason(self, sample: Sample, states: Mapping[str, DependencyState]) -> str:
        """Why the conversation cannot go on, when what the model said before is not kept."""
        item = sample.item
        if item.turn < 2:
            return ""
        before = states[sample_key(previous_turn_id(item), sample.n)]
        if before.pending or os.path.exists(self.store.turn_path(before.attempt)):
            return ""
        return f"the model's answer of {previous_turn_id(item)} is not kept; --fresh --only '{previous_turn_id(item)}' makes it anew"

    def _note_states(self, item: Item, known: Sequence[KnownSample]) -> None:
        """Of an item that was judged in the first walk: the same questions again, for the few that are needed."""
        by_n = {entry.n: entry for entry in known}
        wire = wire_facts(item, [self.manifest.references.digest(path) for path in item.references])
        for n in range(1, item.count + 1):
            sample = Sample(item=item, n=n, fingerprint=fingerprint(wire), wire=wire)
            if not self.selects(item):
                dependency = self._existing_state(item.id, n)
            else:
                action, why, _ = self.decide(sample, by_n.get(n))
                dependency = self._state_of(sample, by_n.get(n), action, why)
            self._states[sample.key] = dependency

    def _state_of(self, sample: Sample, entry: KnownSample | None, action: Action, why: str) -> DependencyState:
        if action == "generate" or (entry is not None and entry.state == "submitted"):
            return self._pending_state(sample)
        if action == "skip" or self.reader is None:
            failed = entry is not None and entry.state in ("failed", "refused", "uncertain")
            return (
                DependencyState(why=entry.reason, state=entry.state)
                if failed and entry
                else DependencyState(why=f"which is left: {why}")
            )
        reader, item = self.reader, sample.item
        image = reader.earlier_image(item.id, sample.n, sample.fingerprint)
        image = image or reader.current_picture(item.id, sample.n)  # restored by a repair, or not yet placed
        return (
            DependencyState(image.file.sha256, image.attempt)
            if image
            else DependencyState(why="whose picture is not recorded")
        )

    def _pending_state(self, sample: Sample) -> DependencyState:
        if self.is_over_limit(sample.key):
            return DependencyState(why="which is beyond --limit", over_limit=True)
        item, profile = sample.item, self.profile(sample.item.model)
        before_s = max((self._states[key].seconds for key in required_keys(item, sample.n)), default=0.0)
        return DependencyState(
            pending=True, seconds=before_s + profile.latency(item.image_size or profile.default_size)
        )

    def _existing_state(self, item_id: str, n: int) -> DependencyState:
        """Not selected by --only: serves if it has a picture, whatever the manifest says now."""
        image = self.reader.current_picture(item_id, n) if self.reader else None
        if image is not None and self.store.has_file(image.file.path, image.file.bytes):
            return DependencyState(image.file.sha256, image.attempt)
        return DependencyState(why="which is not made and not selected")


def _is_requested(entry: KnownSample | None, retry_selection: RetrySelection) -> bool:
    """What is blocked goes along with what blocked it."""
    if entry is None or entry.state == "blocked":
        return entry is not None
    return entry.state in retry_selection.states and (
        not retry_selection.reasons or entry.reason in retry_selection.reasons
    )


def _action_after_pending(
    entry: KnownSample | None, states: Mapping[str, DependencyState], retry_selection: RetrySelection
) -> tuple[Action, str]:
    """A sample whose needs are made in this run, so that its own request is not known yet."""
    awaited = ", ".join(f"@{key}" for key, one in states.items() if one.pending)
    if retry_selection.explicit and not _is_requested(entry, retry_selection):
        return "skip", "not asked for"
    if entry is None:
        return "generate", f"new, after {awaited}"
    return "generate", f"changed: {awaited}" if entry.made_fingerprint else f"after {awaited}"
