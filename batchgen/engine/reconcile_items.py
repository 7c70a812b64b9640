"""Walks the manifest once beside the ledger, in flat memory, and sorts every sample that needs no other: keep, move,
generate, skip."""

from __future__ import annotations

import contextlib
import json
import sqlite3
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from batchgen.engine.outcome import RunOptions
from batchgen.engine.reconciliation import Reconciliation, Routed, routed_by_mode
from batchgen.engine.recovery.unrecorded_files import UnrecordedFiles
from batchgen.errors import UsageError
from batchgen.ledger.backlog import Backlog
from batchgen.ledger.reader import Reader
from batchgen.ledger.samples import AT_VENDOR, WITH_WORKERS
from batchgen.ledger.verdicts import VerdictReader, remarks_on, review_state
from batchgen.manifest import Manifest
from batchgen.planning.fingerprint import changed_fields, fingerprint, wire_facts
from batchgen.planning.plan import (
    RETRY_STATES,
    Move,
    Step,
    choose_action,
    group_into_requests,
    is_selected,
    no_match_message,
    remake_too_old,
    unmatched_reason_problem,
)
from batchgen.planning.reason import Reason, ReasonKind
from batchgen.records import HAS_IMAGE, Item, KnownSample, Sample, required_keys, sample_key
from batchgen.store.store import Store

if TYPE_CHECKING:
    from batchgen.engine.ways import Ways

CHUNK = 500  # items that are looked up in the ledger together
SUBMITTED_REASONS = {AT_VENDOR: ReasonKind.AT_VENDOR, WITH_WORKERS: ReasonKind.WITH_WORKERS}
NEAREST_OF = 10_000  # names among which the nearest to a mistyped `--only` is looked for


class ItemReconciler:
    """One walk over the items that need no others. on_step: called with every step except `keep`."""

    def __init__(
        self,
        manifest: Manifest,
        reader: Reader | None,
        store: Store,
        options: RunOptions,
        *,
        backlog: Backlog | None = None,
        on_step: Callable[[Step], None] | None = None,
        ways: Ways | None = None,
    ) -> None:
        self._options = options
        self.ways = ways
        self.manifest = manifest
        self.reader = reader
        self.store = store
        self.retry_selection = options.retry_selection
        self._only = options.only
        self._unmatched, self._names = set(options.only), set[str]()  # patterns; ids and tags, for the nearest one
        self._requests_left = options.limit
        self._ends = Counter[tuple[str, str]]()  # reason and state of samples that a retry may name
        self.backlog = backlog
        self._on_step = on_step
        self._matched_samples = 0  # ledger samples that the manifest still wants
        self._now = time.time()
        # The keys of samples; without a limit, all that are wanted.
        self._scheduled: set[str] | None = None if options.limit is None else set()
        self.reconciliation = Reconciliation(manifest.limits, manifest.catalogue)
        self._unrecorded = UnrecordedFiles(store, reader)
        self._store_is_empty: bool | None = None  # looked up with the first new sample

    def reconcile(self) -> Reconciliation:
        """Do the first walk. Raises ManifestError with everything that is wrong with the manifest, UsageError if
        `--only` matches nothing."""
        if self.ways is None and self._options.by is not None:
            from batchgen.engine.ways import Ways  # most runs have no choice of ways

            # In a walk of its own: the way of a request depends on all others.
            ways, limits = Ways(self._options.by, self.reader), self.manifest.limits
            counted = type(self)(self.manifest, self.reader, self.store, self._options, ways=ways).reconcile()
            ways.decide(counted, self._options.concurrency or limits.concurrency)
            self.ways = ways
        with contextlib.closing(self._unrecorded):
            return self._reconcile()

    def _reconcile(self) -> Reconciliation:
        for item, known in self.items_with_known():
            if not required_keys(item, 1):
                self._reconcile_item(item, known)
        if self._unmatched:
            raise UsageError(no_match_message(min(self._unmatched), sorted(self._names)))
        if self.manifest.ids_others_need:
            self.walk_dependents()
        if problem := unmatched_reason_problem(self.retry_selection, self._ends):
            raise UsageError(problem)
        for lane in [*self.reader.chunk_lanes(), *self.reader.job_lanes()] if self.reader is not None else ():
            self.reconciliation.open_lanes_of(lane.partition("/")[2])  # whatever the manifest says now
        if self.reader is not None and self._matched_samples < self.reader.current_count():
            self.reconciliation.removed = list(self._removed_samples(self.reader))
        return self.reconciliation

    def walk_dependents(self) -> None:
        """Do the second walk, over items that need images of others."""

    def pending_needs(self, sample: Sample) -> list[str]:
        """The keys of the samples that have to be made in this run before this one."""
        return []

    def items_with_known(self) -> Iterator[tuple[Item, Sequence[KnownSample]]]:
        for items in _chunks(self.manifest.items(), CHUNK):
            known_samples = self.reader.known_samples([item.id for item in items]) if self.reader else {}
            self.manifest.references.prefetch_digests(
                name for item in items if self.selects(item) for name in item.references
            )
            for item in items:
                yield item, known_samples.get(item.id, ())

    def _reconcile_item(self, item: Item, known: Sequence[KnownSample]) -> None:
        self.reconciliation.add_item(item)
        if not self.selects(item):
            self.leave_out(item, self.match(item, known))
            return
        wire = wire_facts(item, [self.manifest.references.digest(path) for path in item.references])
        sample_fingerprint = fingerprint(wire)
        if item.count == 1 and len(known) == 1 and self._is_kept(item, known[0], sample_fingerprint):
            self._matched_samples += 1
            self.reconciliation.kept += 1
            return
        by_n = self.match(item, known)
        steps = [
            self.decide(Sample(item=item, n=n, fingerprint=sample_fingerprint, wire=wire, known=n in by_n), by_n.get(n))
            for n in range(1, item.count + 1)
        ]
        self.record(item, steps, by_n)

    def selects(self, item: Item) -> bool:
        if self._unmatched:
            self._unmatched = {pattern for pattern in self._unmatched if not is_selected(item, (pattern,))}
            if len(self._names) < NEAREST_OF:
                self._names |= {item.id, *(f"tag:{tag}" for tag in item.tags)}
        return not self._only or is_selected(item, self._only)

    def leave_out(self, item: Item, known: Mapping[int, KnownSample]) -> None:
        made = sum(entry.state in HAS_IMAGE for n, entry in known.items() if n <= item.count)
        self.reconciliation.left_out += item.count - made
        for n in range(1, item.count + 1):
            self.reconciliation.leave_out("only", known.get(n), outdated=False)

    def is_over_limit(self, key: str) -> bool:
        return self._scheduled is not None and key not in self._scheduled

    def match(self, item: Item, known: Sequence[KnownSample]) -> dict[int, KnownSample]:
        self._matched_samples += sum(1 for entry in known if entry.n <= item.count and entry.state != "superseded")
        return {entry.n: entry for entry in known}

    def decide(self, sample: Sample, entry: KnownSample | None) -> Step:
        item, n = sample.item, sample.n
        if entry is not None and entry.state == "submitted":
            return Step(sample, "skip", Reason(SUBMITTED_REASONS.get(entry.reason, ReasonKind.IN_A_BATCH)))
        changed = lambda: changed_fields(self.reader.wire(item.id, n), sample.wire) if self.reader else []  # noqa: E731
        action, reason = choose_action(entry, sample.fingerprint, self.retry_selection, self.store.has_file, changed)
        if action == "generate" and self._name_is_taken(sample, entry):
            action, reason = "keep", Reason(ReasonKind.OTHER_FILE)
        if entry is None:
            return Step(sample, action, reason)
        if item.max_age_s is not None and self._too_old(sample, item.max_age_s):
            if action == "keep":
                action, reason = remake_too_old(item.max_age_s, self.retry_selection)
            return Step(sample, action, reason)
        if reason.kind is ReasonKind.DONE and self._in_place(item, entry):
            return Step(sample, action, reason)
        if not self.retry_selection.fresh and (moved := self._find_move(sample, entry)) is not None:
            return moved
        return Step(sample, "generate" if reason.kind is ReasonKind.DONE else action, reason)

    def _name_is_taken(self, sample: Sample, entry: KnownSample | None) -> bool:
        """Whether another file has the name of the sample's image. It may be a person's work, so it stays and nothing
        is bought in its place; the end of the run reports it."""
        return (
            entry is not None
            and (entry.state, entry.made_fingerprint) == ("succeeded", sample.fingerprint)
            and entry.path is not None
            and not self.retry_selection.fresh
            and self.store.name_exists(entry.path)
        )

    def _too_old(self, sample: Sample, max_age_s: float) -> bool:
        received_at = self.reader.received_at(sample.item.id, sample.n, sample.fingerprint) if self.reader else 0.0
        return 0.0 < received_at < self._now - max_age_s

    def record(self, item: Item, steps: Sequence[Step], by_n: Mapping[int, KnownSample]) -> None:
        """Record the steps of an item: what costs nothing at once, then the requests for the rest."""
        if self.retry_selection.reasons:
            self._ends.update((known.reason, known.state) for known in by_n.values() if known.state in RETRY_STATES)
        for step in steps:
            if step.action == "keep":
                self.reconciliation.kept += 1
            elif step.reason.kind in (ReasonKind.IN_A_BATCH, *SUBMITTED_REASONS.values()):
                self._note_submitted(step)
            elif step.action != "generate":
                if step.move is not None:
                    self.reconciliation.moves.append(step.move)
                    self.reconciliation.adopted += step.reason.kind is ReasonKind.RESTORED
                elif step.reason.kind is ReasonKind.HELD and step.reason.details[0] == "rejected":
                    self.reconciliation.rejected += 1
                else:
                    self.reconciliation.skipped += 1
                    if step.reason.kind is ReasonKind.NOT_ASKED_FOR or not step.reason.asked_for:
                        self.reconciliation.leave_out("not_asked", by_n.get(step.sample.n))
                self._report_step(step, 1)
        self._schedule_requests(item, [step for step in steps if step.action == "generate"], by_n)

    def _note_submitted(self, step: Step) -> None:
        sample = step.sample
        self.reconciliation.submitted += 1
        self.reconciliation.counts_by_reason[step.reason] += 1
        self.reconciliation.open_lanes_of(sample.item.model)
        if self._scheduled is not None:
            self._scheduled.add(sample.key)
        if self.backlog is not None:
            self.backlog.put_submitted([sample])

    def _is_kept(self, item: Item, entry: KnownSample, sample_fingerprint: str) -> bool:
        """Whether an item is simply kept: the most common case in a large manifest, answered without looking
        further."""
        return (
            entry.n == 1
            and entry.state == "succeeded"
            and entry.made_fingerprint == sample_fingerprint
            and entry.path is not None
            and entry.path.rpartition(".")[0] == item.filename
            and not self.retry_selection.fresh
            and item.max_age_s is None
            and self.store.has_file(entry.path, entry.bytes)
        )

    def _in_place(self, item: Item, entry: KnownSample) -> bool:
        stem = item.filename if entry.n == 1 else f"{item.filename}-{entry.n}"
        return entry.state == "succeeded" and entry.path is not None and entry.path.rpartition(".")[0] == stem

    def _find_move(self, sample: Sample, entry: KnownSample) -> Step | None:
        """The move for a sample, if an image bought before for exactly this request exists, wherever it is."""
        if self.reader is None:
            return None
        found = self.reader.earlier_image(sample.item.id, sample.n, sample.fingerprint)
        restored = found is None and self._is_restored(self.reader, sample, entry)
        if restored:
            found = self.reader.earlier_image(sample.item.id, sample.n, "")
        if found is None or (entry.state == "rejected" and not restored and found.file.path == entry.path):
            return None
        if self._was_rejected(self.reader, sample, found.file.sha256):
            return None
        file = found.file
        new = self.store.file_name(sample.item.filename, sample.n, file.format)
        old = file.path
        if not self.store.has_file(old, file.bytes):
            if self.store.has_file(new, file.bytes) and self.store.sha256(new) == file.sha256:
                old = new
            elif (elsewhere := self._unrecorded.find(sample.key, file.bytes, file.sha256)) is not None:
                old = elsewhere
            else:
                return None
        by_bytes = old not in (file.path, new)
        renamed = ReasonKind.RENAMED if entry.state == "succeeded" and old == entry.path else ReasonKind.BOUGHT_BEFORE
        kind = ReasonKind.RESTORED if restored else ReasonKind.FOUND_BY_BYTES if by_bytes else renamed
        move = Move(sample, old, new, file.bytes, (found.attempt, found.k), by_bytes)
        return Step(sample, "move", Reason(kind), move=move)

    def _was_rejected(self, reader: Reader, sample: Sample, sha256: str) -> bool:
        """Whether somebody rejected this image: then it does not replace a new one."""
        verdicts = VerdictReader.from_reader(reader).verdicts([sample.item.id]).get((sample.item.id, sample.n), ())
        return review_state([each for each in verdicts if each.sha256 == sha256]).state == "rejected"

    def _is_restored(self, reader: Reader, sample: Sample, entry: KnownSample) -> bool:
        """Whether a sample has an image from a repair without the manifest, which only knew prompt and model, and these
        are still wanted. Then nothing speaks against the image, and it is paid for."""
        if entry.made_fingerprint != "":
            return False
        was, item = json.loads(reader.wire(sample.item.id, sample.n) or "{}"), sample.item
        return (was.get("model") or item.model, was.get("prompt") or item.prompt) == (item.model, item.prompt)

    def _schedule_requests(self, item: Item, steps: Sequence[Step], by_n: Mapping[int, KnownSample]) -> None:
        if not steps:
            return
        profile = self.reconciliation.profile(item.model)
        others = [self.reconciliation.profile(other.partition("/")[2]) for other in item.fallback]
        reason_by_sample = {step.sample.n: step.reason for step in steps}
        max_images = min(each.images_per_request for each in (profile, *others))  # whichever model serves it in the end
        groups = group_into_requests([step.sample for step in steps], max_images)
        if self._requests_left is not None:
            groups, beyond = groups[: max(0, self._requests_left)], groups[max(0, self._requests_left) :]
            self._requests_left -= len(groups)
            for n in [group.n + k for group in beyond for k in range(group.images)]:
                self.reconciliation.left_out += 1
                self.reconciliation.leave_out("limit", by_n.get(n), outdated=not self.retry_selection.fresh)
        for other in others if groups else ():
            self.reconciliation.open_fallback_lane(other, max(groups, key=lambda group: group.images))
        for group in groups:
            group = self._with_remarks(group, by_n.get(group.n))
            routed = self._route(group)
            usd = self.reconciliation.add_request(routed.asked, batch=routed.by_batch)
            self._note_unrecorded(group)
            step = Step(routed.asked, "generate", reason_by_sample[group.n], usd, by_batch=routed.by_batch)
            self._report_step(step, group.images)
            self._schedule(routed.lane, routed.waiting)

    def _with_remarks(self, group: Sample, known: KnownSample | None) -> Sample:
        """The sample with what people said about the images that its samples have now, if the user asked for that, or
        about the image that an interrupted run had set aside to buy another."""
        is_wanted_again = known is not None and known.state == "wanted" and known.reason != ""
        feedback = is_wanted_again and group.item.judge is not None and group.item.judge.feedback
        if self.reader is None or not (self.retry_selection.with_comments or feedback):
            return group
        reader, numbers = VerdictReader.from_reader(self.reader), range(group.n, group.n + group.images)
        images, said = reader.reviewable([group.item.id]), reader.verdicts([group.item.id])
        keys = [(group.item.id, n) for n in numbers if (group.item.id, n) in images]
        of_images = [each for key in keys for each in said.get(key, ()) if each.sha256 == images[key][0]]
        if feedback and (last := said.get((group.item.id, group.n))):
            of_images = [each for each in last if each.sha256 == last[-1].sha256]
        return replace(group, remarks=remarks_on(of_images))

    def _note_unrecorded(self, group: Sample) -> None:
        """Note images that are in the way of new ones: every request is in the ledger before its image exists."""
        if group.known:
            return
        if self._store_is_empty is None:
            self._store_is_empty = self.store.is_empty()
        for n in range(group.n, group.n + group.images) if not self._store_is_empty else ():
            path = self.store.picture_at(group.item.filename, n)
            if path is not None and (self.reader is None or path in self._unrecorded):
                self.reconciliation.unrecorded.append(path)

    def _route(self, group: Sample) -> Routed:
        awaited = self.pending_needs(group)
        if self.ways is None:
            return routed_by_mode(group, self.reconciliation, self._options.batches.batch_mode, awaited)
        chained = bool(awaited) or group.item.id in self.manifest.ids_others_need
        return self.ways.route(group, self.reconciliation, awaited, chained=chained)

    def _schedule(self, lane: str, group: Sample) -> None:
        if self._scheduled is not None:
            self._scheduled.update(sample_key(group.item.id, group.n + k) for k in range(group.images))
        if self.backlog is None:
            return
        rules = self.reconciliation.rules[group.item.id]
        if rules.max_images > 1 or (rules.asks and group.item.references):
            self.backlog.keep(group.item, lane)
        pending_needs = self.pending_needs(group)
        if pending_needs:
            self.backlog.add_dependent(lane, group, pending_needs)
        if group.fingerprint:
            self.backlog.add(lane, [group])

    def _report_step(self, step: Step, samples: int) -> None:
        self.reconciliation.counts_by_reason[step.reason.group] += samples
        if self._on_step is not None:
            self._on_step(step)

    def _removed_samples(self, reader: Reader) -> Iterator[tuple[str, int, str | None]]:
        """The samples in the ledger that the manifest no longer has: a second walk, only if the first one missed
        some."""
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


def _chunks(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    chunk: list[Item] = []
    for item in items:
        chunk.append(item)
        if len(chunk) >= size:
            yield chunk
            chunk = []
    if chunk:
        yield chunk
