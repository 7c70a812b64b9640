"""Sorts every sample of a manifest: first the items that need no others, then each of the rest after what it needs."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from batchgen.engine.dependents import wire_of
from batchgen.engine.job_state import JobState, RunRequest
from batchgen.engine.reconcile_items import ItemReconciler
from batchgen.engine.reconciliation import Reconciliation
from batchgen.errors import UsageError
from batchgen.ledger.backlog import Backlog
from batchgen.ledger.reader import Reader
from batchgen.planning.fingerprint import fingerprint, wire_facts
from batchgen.planning.plan import RETRY_STATES, Action, RetrySelection, Step
from batchgen.planning.reason import Reason, ReasonKind, reason_text
from batchgen.records import HAS_IMAGE, Item, KnownSample, Sample, previous_turn_id, required_keys, sample_key
from batchgen.store.stored_files import SUPERSEDED

if TYPE_CHECKING:
    from batchgen.engine.ways import Ways

MAX_MOVES_NOTED = 10
Change = tuple[str, tuple[Any, ...]]


@dataclass(frozen=True, slots=True)
class DependencyState:
    """The state of a sample that another one needs: made, to be made in this run, or neither, with the reason.

    sha256 and attempt: its image's. seconds: until a pending one is there, at best. links: how many images are made
    until then.
    """

    sha256: str = ""
    attempt: int = 0
    pending: bool = False
    seconds: float = 0.0
    links: int = 0
    reason: Reason | None = None


@dataclass(frozen=True, slots=True)
class Survey:
    """What a run would do, with the samples that it would request in its backlog."""

    reconciliation: Reconciliation
    backlog: Backlog
    ways: Ways | None = None


def survey(request: RunRequest, reader: Reader | None, stack: ExitStack) -> Survey:
    """Survey a job. stack: closes the backlog. Raises ManifestError with everything that is wrong with the manifest."""
    backlog = stack.enter_context(closing(Backlog()))
    reconciler = Reconciler(request.job.manifest, reader, request.store, request.options, backlog=backlog)
    return Survey(reconciler.reconcile(), backlog, reconciler.ways)


class Reconciler(ItemReconciler):
    """Both walks over the manifest. Memory grows with the samples that others need, not with those others."""

    _states: dict[str, DependencyState]  # by key, of samples that others need

    def pending_needs(self, sample: Sample) -> list[str]:
        """The keys of the samples that have to be made in this run before this one."""
        return [key for key in required_keys(sample.item, sample.n) if self._states[key].pending]

    def walk_dependents(self) -> None:
        """Plan each item after what it needs. Only those that come before what they need are kept in memory."""
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
        """Plan an item once everything it needs has been planned."""
        self.reconciliation.add_item(item)
        by_n = self.match(item, known)
        numbers = range(1, item.count + 1)
        if not self.selects(item):
            self.leave_out(item, by_n)
            if item.id in self.manifest.ids_others_need:
                self._states.update({sample_key(item.id, n): self._existing_state(item.id, n) for n in numbers})
            return
        steps = [self._decide_with_needs(item, n, by_n.get(n)) for n in numbers]
        self.record(item, steps, by_n)
        for step in steps:
            dependency = self._state_of(step, by_n.get(step.sample.n))
            if step.action == "generate":
                self.reconciliation.chain_s = max(self.reconciliation.chain_s, dependency.seconds)
                self.reconciliation.chain_links = max(self.reconciliation.chain_links, dependency.links)
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
            reason = Reason(ReasonKind.TURN_LOST, (previous_turn_id(item),))
            self._note_blocked(sample, entry, reason)
            return Step(sample, "skip", reason)
        return step

    def _sample_with_needs(
        self, item: Item, n: int, entry: KnownSample | None, states: Mapping[str, DependencyState]
    ) -> Sample:
        """The sample of an item, with a fingerprint if everything it needs exists."""
        if any(one.pending for one in states.values()):
            return Sample(item=item, n=n, fingerprint="", wire=wire_facts(item), known=entry is not None)
        wire = wire_of(item, n, self.manifest.references.digest, lambda key: states[key].sha256)
        return Sample(item=item, n=n, fingerprint=fingerprint(wire), wire=wire, known=entry is not None)

    def _step_without_needs(self, item: Item, n: int, entry: KnownSample | None, reason: Reason) -> Step:
        """The step for a sample that needs something that will not exist: blocked if that failed, else left for another
        time."""
        sample = Sample(item=item, n=n, fingerprint="", wire=wire_facts(item), known=entry is not None)
        if reason.root.kind is ReasonKind.BEYOND_LIMIT:
            self.reconciliation.over_limit += 1
            self.reconciliation.leave_out("limit", entry, outdated=not self.retry_selection.fresh)
        elif self.retry_selection.explicit:
            self.reconciliation.leave_out("not_asked", entry)
        else:
            self._note_blocked(sample, entry, reason)
        return Step(sample, "skip", reason)

    def _note_blocked(self, sample: Sample, entry: KnownSample | None, reason: Reason) -> None:
        """Note that a sample waits, and for what. An image that it has stays its own while nothing it needs has
        failed."""
        if self.backlog is None or self.retry_selection.explicit:
            return
        if _is_blocked(reason) or entry is None or entry.state not in HAS_IMAGE:
            self.backlog.add_blocked(sample, reason_text(reason))
            self.reconciliation.blocked += 1

    def _turn_is_lost(self, sample: Sample, states: Mapping[str, DependencyState]) -> bool:
        """Whether the conversation cannot continue because what the model said before was not kept."""
        if sample.item.turn < 2:
            return False
        before = states[sample_key(previous_turn_id(sample.item), sample.n)]
        return not before.pending and not os.path.exists(self.store.turn_path(before.attempt))

    def _note_states(self, item: Item, known: Sequence[KnownSample]) -> None:
        """Note the states of an item planned in the first walk, by asking the same questions again for the few that are
        needed."""
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
            if entry is not None and entry.state in RETRY_STATES:
                reason = Reason(ReasonKind.ENDED, (entry.state, entry.reason))
            return DependencyState(reason=reason)
        item_id, n = sample.item.id, sample.n
        image = self.reader.earlier_image(item_id, n, sample.fingerprint)
        image = image or self.reader.current_picture(item_id, n)  # restored by a repair, or not moved into place yet
        if image is None:
            return DependencyState(reason=Reason(ReasonKind.NOT_RECORDED))
        return DependencyState(image.file.sha256, image.attempt)

    def _pending_state(self, sample: Sample) -> DependencyState:
        if self.is_over_limit(sample.key):
            return DependencyState(reason=Reason(ReasonKind.BEYOND_LIMIT))
        item, profile = sample.item, self.reconciliation.profile(sample.item.model)
        before = [self._states[key] for key in required_keys(item, sample.n)]
        return DependencyState(
            pending=True,
            seconds=max((each.seconds for each in before), default=0.0) + profile.latency(item.image_size),
            links=max((each.links for each in before), default=0) + 1,
        )

    def _existing_state(self, item_id: str, n: int) -> DependencyState:
        """The state of a sample that --only does not select: it serves if it has an image, whatever the manifest says
        now."""
        image = self.reader.current_picture(item_id, n) if self.reader else None
        if image is not None and self.store.has_file(image.file.path, image.file.bytes):
            return DependencyState(image.file.sha256, image.attempt)
        return DependencyState(reason=Reason(ReasonKind.NOT_SELECTED))


def _is_blocked(reason: Reason) -> bool:
    """Whether something it needs has ended without an image."""
    return reason.cause is not None and reason.cause.kind is ReasonKind.ENDED


def _is_requested(entry: KnownSample | None, retry_selection: RetrySelection) -> bool:
    """Whether a sample is requested. What is blocked goes along with what blocked it."""
    return entry is not None and (entry.state == "blocked" or retry_selection.names(entry))


def _action_after_pending(
    entry: KnownSample | None, states: Mapping[str, DependencyState], retry_selection: RetrySelection
) -> tuple[Action, Reason]:
    """The action for a sample whose needs are made in this run, so that its own request is not known yet."""
    if retry_selection.explicit and not _is_requested(entry, retry_selection):
        return "skip", Reason(ReasonKind.NOT_ASKED_FOR)
    changed = ReasonKind.CHANGED_AFTER if entry is not None and entry.made_fingerprint else ReasonKind.AFTER
    awaited = tuple(key for key, state in states.items() if state.pending)
    return "generate", Reason(ReasonKind.NEW_AFTER if entry is None else changed, others=awaited)


# --- applying the survey


def move_notes(reconciliation: Reconciliation) -> Iterator[str]:
    """What people should know about images that were found again."""
    if reconciliation.adopted:
        yield f"{reconciliation.adopted:,} image(s) {reason_text(Reason(ReasonKind.RESTORED))}"
    found = [move for move in reconciliation.moves if move.found]
    for move in found[:MAX_MOVES_NOTED]:
        yield f"{move.old} is the missing {move.new} under another name: moved back, and nothing is bought"
    if len(found) > MAX_MOVES_NOTED:
        yield f"… and {len(found) - MAX_MOVES_NOTED:,} more that had been renamed"


def apply_survey(state: JobState, found: Survey) -> None:
    """Bring ledger and folder in line with the manifest: record what is blocked, move images that it no longer wants to
    `superseded/`, and those it wants again back to their names."""
    ledger, store = state.ledger, state.store
    while blocked := found.backlog.take_blocked(500):
        ledger.record_blocked(blocked)
    at = time.time()
    _supersede_removed(state, found.reconciliation, at)
    displaced_to: dict[str, str] = {}  # two items may have swapped names
    for move in found.reconciliation.moves:
        old = displaced_to.get(move.old, move.old)
        if old != move.new:
            displaced = store.supersede(move.new)
            if displaced is not None:
                displaced_to[displaced[0]] = displaced[1]
                ledger.run_statements(
                    [
                        ("UPDATE image SET path = ? WHERE path = ?", (displaced[1], displaced[0])),
                        ("UPDATE sample SET path = ? WHERE path = ?", (displaced[1], displaced[0])),
                    ]
                )
            store.move(old, move.new)
            store.sync(old, move.new)  # each is durable before the next takes the name it had
        sample = move.sample
        changes: list[Change] = [
            (
                "UPDATE image SET path = ? WHERE item_id = ? AND n = ? AND (path = ? OR (attempt_id = ? AND k = ?))",
                (move.new, sample.item.id, sample.n, old, *move.image),
            ),
            (
                "UPDATE sample SET state = 'succeeded', path = ?, bytes = ?, fingerprint = ?, made_fingerprint = ?, wire = ?, model = ?,"
                " reason = '', message = '', updated_at = ? WHERE item_id = ? AND n = ?",
                (
                    move.new,
                    move.bytes,
                    sample.fingerprint,
                    sample.fingerprint,
                    sample.wire,
                    sample.item.model,
                    at,
                    sample.item.id,
                    sample.n,
                ),
            ),
        ]
        marked = (sample.fingerprint, sample.item.id, sample.n)  # which a repair without the manifest could not know
        changes.append(("UPDATE image SET fingerprint = ? WHERE item_id = ? AND n = ? AND fingerprint = ''", marked))
        ledger.run_statements(changes)


def _supersede_removed(state: JobState, reconciliation: Reconciliation, at: float) -> None:
    """Move all removed images, make the moves durable, then record them together."""
    changes: list[Change] = []
    moved: list[str] = []
    for item_id, n, path in reconciliation.removed:
        pair = state.store.supersede(path) if path and os.path.dirname(path) != SUPERSEDED else None
        moved += pair or ()
        new = pair[1] if pair else path
        changes += [
            (
                "UPDATE sample SET state = 'superseded', path = ?, updated_at = ? WHERE item_id = ? AND n = ?",
                (new, at, item_id, n),
            ),
            ("UPDATE image SET path = ? WHERE path = ? AND item_id = ?", (new, path, item_id)),
        ]
    state.store.sync(*moved)
    state.ledger.run_statements(changes)
