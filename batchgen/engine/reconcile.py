"""Sorts every sample of a manifest: first the items that need no others, then each of the rest after what it needs."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from batchgen.engine.dependents import wire_of
from batchgen.engine.reconcile_items import ItemReconciler
from batchgen.errors import UsageError
from batchgen.planning.fingerprint import fingerprint, wire_facts
from batchgen.planning.plan import Action, RetrySelection, Step
from batchgen.planning.reason import Reason, ReasonKind
from batchgen.planning.reason_text import reason_text
from batchgen.records import Item, KnownSample, Sample, previous_turn_id, required_keys, sample_key


@dataclass(frozen=True, slots=True)
class DependencyState:
    """How a sample stands that another one needs: made, to be made in this run, or neither, with the reason.

    sha256 and attempt: of its picture; seconds: until a pending one is there, at best.
    """

    sha256: str = ""
    attempt: int = 0
    pending: bool = False
    seconds: float = 0.0
    reason: Reason | None = None


class Reconciler(ItemReconciler):
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
        numbers = range(1, item.count + 1)
        if not self.selects(item):
            if item.id in self.manifest.ids_others_need:
                self._states.update({sample_key(item.id, n): self._existing_state(item.id, n) for n in numbers})
            return
        steps = [self._decide_with_needs(item, n, by_n.get(n)) for n in numbers]
        self.record(item, steps)
        for step in steps:
            dependency = self._state_of(step, by_n.get(step.sample.n))
            if step.action == "generate":
                self.reconciliation.chain_s = max(self.reconciliation.chain_s, dependency.seconds)
            if item.id in self.manifest.ids_others_need:
                self._states[step.sample.key] = dependency

    def _decide_with_needs(self, item: Item, n: int, entry: KnownSample | None) -> Step:
        states = {key: self._states[key] for key in required_keys(item, n)}
        for key, state in states.items():
            if state.reason is not None:
                return self._step_without_needs(
                    item, n, entry, Reason(ReasonKind.NEEDS, others=(key,), cause=state.reason)
                )
        sample = self._sample_with_needs(item, n, entry, states)
        if sample.fingerprint or (entry is not None and entry.state == "submitted"):
            step = self.decide(sample, entry)
        else:
            step = Step(sample, *_action_after_pending(entry, states, self.retry_selection))
        if step.action == "generate" and self._turn_is_lost(sample, states):
            return Step(sample, "skip", Reason(ReasonKind.TURN_LOST, (previous_turn_id(item),)))
        return step

    def _sample_with_needs(
        self, item: Item, n: int, entry: KnownSample | None, states: Mapping[str, DependencyState]
    ) -> Sample:
        """With a fingerprint when all it needs is there, else without one."""
        if any(one.pending for one in states.values()):
            return Sample(item=item, n=n, fingerprint="", wire=wire_facts(item), known=entry is not None)
        wire = wire_of(item, n, self.manifest.references.digest, lambda key: states[key].sha256)
        return Sample(item=item, n=n, fingerprint=fingerprint(wire), wire=wire, known=entry is not None)

    def _step_without_needs(self, item: Item, n: int, entry: KnownSample | None, reason: Reason) -> Step:
        """A sample that needs what will not be there: blocked when that failed, else only left for another time."""
        sample = Sample(item=item, n=n, fingerprint="", wire=wire_facts(item), known=entry is not None)
        if _is_blocked(reason) and self.backlog is not None and not self.retry_selection.explicit:
            self.backlog.add_blocked(sample, reason_text(reason))
            self.reconciliation.blocked += 1
        self.reconciliation.over_limit += reason.root.kind is ReasonKind.BEYOND_LIMIT
        return Step(sample, "skip", reason)

    def _turn_is_lost(self, sample: Sample, states: Mapping[str, DependencyState]) -> bool:
        """Whether the conversation cannot go on, for what the model said before is not kept."""
        if sample.item.turn < 2:
            return False
        before = states[sample_key(previous_turn_id(sample.item), sample.n)]
        return not before.pending and not os.path.exists(self.store.turn_path(before.attempt))

    def _note_states(self, item: Item, known: Sequence[KnownSample]) -> None:
        """Of an item that was judged in the first walk: the same questions again, for the few that are needed."""
        by_n = {entry.n: entry for entry in known}
        wire = wire_facts(item, [self.manifest.references.digest(path) for path in item.references])
        for n in range(1, item.count + 1):
            sample = Sample(item=item, n=n, fingerprint=fingerprint(wire), wire=wire)
            if not self.selects(item):
                dependency = self._existing_state(item.id, n)
            else:
                dependency = self._state_of(self.decide(sample, by_n.get(n)), by_n.get(n))
            self._states[sample.key] = dependency

    def _state_of(self, step: Step, entry: KnownSample | None) -> DependencyState:
        sample, reason = step.sample, step.reason
        if _is_blocked(reason):
            return DependencyState(reason=Reason(ReasonKind.ENDED, ("blocked", "")))
        if reason.kind is ReasonKind.NEEDS:
            return DependencyState(reason=reason)
        if step.action == "generate" or (entry is not None and entry.state == "submitted"):
            return self._pending_state(sample)
        if step.action == "skip" or self.reader is None:
            if entry is not None and entry.state in ("failed", "refused", "uncertain"):
                reason = Reason(ReasonKind.ENDED, (entry.state, entry.reason))
            return DependencyState(reason=reason)
        item_id, n = sample.item.id, sample.n
        image = self.reader.earlier_image(item_id, n, sample.fingerprint)
        image = image or self.reader.current_picture(item_id, n)  # restored by a repair, or not yet placed
        if image is None:
            return DependencyState(reason=Reason(ReasonKind.NOT_RECORDED))
        return DependencyState(image.file.sha256, image.attempt)

    def _pending_state(self, sample: Sample) -> DependencyState:
        if self.is_over_limit(sample.key):
            return DependencyState(reason=Reason(ReasonKind.BEYOND_LIMIT))
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
        return DependencyState(reason=Reason(ReasonKind.NOT_SELECTED))


def _is_blocked(reason: Reason) -> bool:
    """Whether what it needs has come to an end without a picture."""
    return reason.cause is not None and reason.cause.kind is ReasonKind.ENDED


def _is_requested(entry: KnownSample | None, retry_selection: RetrySelection) -> bool:
    """What is blocked goes along with what blocked it."""
    return entry is not None and (entry.state == "blocked" or retry_selection.names(entry))


def _action_after_pending(
    entry: KnownSample | None, states: Mapping[str, DependencyState], retry_selection: RetrySelection
) -> tuple[Action, Reason]:
    """A sample whose needs are made in this run, so that its own request is not known yet."""
    if retry_selection.explicit and not _is_requested(entry, retry_selection):
        return "skip", Reason(ReasonKind.NOT_ASKED_FOR)
    changed = ReasonKind.CHANGED_AFTER if entry is not None and entry.made_fingerprint else ReasonKind.AFTER
    awaited = tuple(key for key, state in states.items() if state.pending)
    return "generate", Reason(ReasonKind.NEW_AFTER if entry is None else changed, others=awaited)
