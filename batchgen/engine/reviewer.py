"""Reviews images during a run: asks the checks and the judge about each, and carries out the ruling. A review starts
from what the ledger has, so one that was interrupted at any point goes on where it was, and nothing is judged or bought
twice."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Self

from batchgen.derivatives.render_process import RenderProcess, in_thread
from batchgen.engine.derivative_runner import POLL_INTERVAL_S, STOP_WITHOUT_WAITING, default_workers, note_left
from batchgen.engine.image_checks import ImageChecks
from batchgen.engine.judging import Judging
from batchgen.engine.outcome import ReviewCounts
from batchgen.engine.review_effects import ReviewEffects
from batchgen.errors import StoreError
from batchgen.events import Event, SampleSucceeded
from batchgen.ledger.verdicts import VerdictReader
from batchgen.manifest import Manifest
from batchgen.planning.plan import is_selected
from batchgen.records import sample_key, split_key
from batchgen.review.judge import JudgeSample, judge_sample
from batchgen.review.ruling import (
    RulesByItem,
    applicable,
    awaits_judge,
    bases_of,
    decide,
    is_in_force,
    noted,
    rejections,
)
from batchgen.scheduling.dispatcher import Dispatcher

CHUNK = 500  # items that are looked up in the ledger together


class ReviewQueue:
    """The samples whose images are to be reviewed. An observer: each new image is added, and the run does not end
    before it was reviewed."""

    def __init__(self, dispatcher: Dispatcher, rules: RulesByItem, *, remote: bool) -> None:
        """remote: images are in a bucket, and are only fetched for review if the manifest says so."""
        self._remote = remote
        self._dispatcher = dispatcher
        self.rules = rules
        self._keys: asyncio.Queue[str] = asyncio.Queue()
        self._open: set[str] = set()  # waiting here, or being reviewed

    def __call__(self, event: Event) -> None:
        if isinstance(event, SampleSucceeded):
            rules = self.rules[split_key(event.key)[0]]
            if rules.names_any or (rules.asks and not self._remote):
                self.add(event.key)

    def add(self, key: str) -> None:
        """Add a sample, once, however often this is called: while it is open, its image does not change."""
        if key not in self._open:
            self._open.add(key)
            self._dispatcher.adjust_external(1)
            self._keys.put_nowait(key)

    async def get(self) -> str:
        return await self._keys.get()

    def done(self, key: str) -> None:
        """Mark a sample from `get` as reviewed, or as waiting for the judge."""
        self._open.remove(key)
        self._dispatcher.adjust_external(-1)

    @property
    def unfinished(self) -> int:
        return len(self._open)


@dataclass(frozen=True, slots=True, kw_only=True)
class ReviewParts:
    """What a reviewer works with. only: patterns of what the run selects. hold_uncertain: a judge that may have
    answered is not asked again."""

    queue: ReviewQueue
    checks: ImageChecks
    judging: Judging
    effects: ReviewEffects
    view: VerdictReader
    dispatcher: Dispatcher
    stop: Callable[[StoreError | OSError], None]
    note: Callable[[str], None]
    only: tuple[str, ...] = ()
    hold_uncertain: bool = False


class Reviewer:
    """Reviews images. A context manager: leaving it ends its processes, and what is not reviewed by then is left to the
    next run."""

    def __init__(self, parts: ReviewParts, manifest: Manifest, earlier: Sequence[tuple[str, int]]) -> None:
        """earlier: samples whose images an earlier run had no time to review."""
        self._parts = parts
        self._manifest = manifest
        self._earlier = earlier
        self._tasks: list[asyncio.Task[None]] = []
        self._counts: Counter[str] = Counter()
        self._broken = self._looked_through = False

    async def __aenter__(self) -> Self:
        self._parts.dispatcher.adjust_external(1)  # until everything from before has been looked through
        self._tasks = [asyncio.create_task(self._find_earlier())]
        self._tasks += [asyncio.create_task(self._work()) for _ in range(default_workers())]
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def finish(self) -> ReviewCounts:
        """Finish once nothing more is sent: wait for the reviews in progress, unless the run has to end at once."""
        queue, dispatcher = self._parts.queue, self._parts.dispatcher
        while (queue.unfinished or not self._looked_through) and not self._broken:
            reason = dispatcher.stop_reason
            if reason is not None and reason.kind in STOP_WITHOUT_WAITING:
                break
            await asyncio.sleep(POLL_INTERVAL_S)
        left = queue.unfinished + self._parts.judging.waiting + self._parts.judging.unjudged
        return ReviewCounts(**self._counts, left=left)

    async def _find_earlier(self) -> None:
        parts = self._parts
        try:
            for item_id, n in self._earlier:
                parts.queue.add(sample_key(item_id, n))
            # It may have been rejected by rules that no longer exist.
            looks = parts.queue.rules.name_any or parts.view.counts().get("rejected")
            items = self._manifest.items() if looks else iter(())
            while chunk := await in_thread(lambda: list(islice(items, CHUNK))):
                selected = {item.id: item for item in chunk if not parts.only or is_selected(item, parts.only)}
                for item in selected.values():
                    if parts.queue.rules[item.id].max_images > 1:
                        parts.effects.keep(item)
                for key in await in_thread(lambda: list(self._unsettled(sorted(selected)))):  # noqa: B023
                    parts.queue.add(key)
        except Exception as error:
            self._leave_to_next_run(error)
        finally:
            parts.dispatcher.adjust_external(-1)
            self._looked_through = True

    def _unsettled(self, item_ids: Sequence[str]) -> Iterator[str]:
        """The keys of samples whose image does not have the state that the rules give it."""
        rules_of, said = self._parts.queue.rules, self._parts.view.verdicts(item_ids)
        for item_id, n, state, wire, sha256 in self._parts.view.current_images(item_ids):
            rules = rules_of[item_id]
            if not rules.names_any and state != "rejected":
                continue
            verdicts = [each for each in said.get((item_id, n), ()) if each.sha256 == sha256]
            bases = bases_of(rules, json.loads(wire).get("prompt", ""))
            if len(applicable(bases, verdicts)) == len(bases) or any(rejections(rules, bases, verdicts)):
                found = self._parts.view.candidates(item_id, n)
                if found.current is None or is_in_force(
                    decide(rules, bases, found.images, found.current), found.current, state
                ):
                    continue
            yield sample_key(item_id, n)

    async def _work(self) -> None:
        process = RenderProcess()
        try:
            while True:
                key = await self._parts.queue.get()
                try:
                    if not self._broken:
                        await self._review(process, key)
                except (StoreError, OSError) as error:
                    self._parts.stop(error)
                except Exception as error:
                    # A ledger that cannot be read; one that cannot be written stops the run by itself.
                    self._leave_to_next_run(error)
                finally:
                    self._parts.queue.done(key)
        finally:
            await process.close()

    def _leave_to_next_run(self, error: Exception) -> None:
        self._broken = True
        note_left(self._parts.note, "images are left to the next run to be reviewed", error)

    async def _review(self, process: RenderProcess, key: str) -> None:
        parts, (item_id, n) = self._parts, split_key(key)
        rules, found = parts.queue.rules[item_id], await in_thread(lambda: parts.view.candidates(item_id, n))
        if (current := found.current) is None:
            return
        prompt = json.loads(found.wire).get("prompt", "")
        bases = bases_of(rules, prompt)
        known = {(verdict.by, verdict.name) for verdict in applicable(bases, current.verdicts)}
        if missing := [check for check in rules.checks if ("check", check.name) not in known]:
            verdicts = await parts.checks.run(process, current, found, missing, durable=rules.may_reject)
            if rules.may_reject:  # by what is recorded by now, including people's verdicts
                found = await in_thread(lambda: parts.view.candidates(item_id, n))
            else:
                found = found.with_verdicts(verdicts)
            if (current := found.current) is None:
                return
        if rules.judge is not None and awaits_judge(rules, bases, current.verdicts):
            self._ask(judge_sample(rules.judge, current, prompt))
            return
        decision = decide(rules, bases, found.images, current)
        end = await parts.effects.apply(decision, found, current, rules, noted(bases, current.verdicts))
        self._counts.update([end] if end else [])

    def _ask(self, sample: JudgeSample) -> None:
        """Ask the judge, unless nothing more is sent: then the next run asks."""
        parts = self._parts
        if parts.hold_uncertain and parts.view.was_maybe_judged(sample.image, sample.fingerprint):
            parts.judging.unjudged += 1
        else:
            parts.judging.ask(sample)
