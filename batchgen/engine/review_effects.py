"""Carries out a ruling: an image counts, is rejected, another one is bought in its place, or another one is chosen.
First the file is moved, then the ledger updated. After a crash between the two, the next start looks for files that
were moved."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Literal

from batchgen.engine.context import RunContext
from batchgen.engine.pipeline import Pipeline
from batchgen.engine.routes import lane_key
from batchgen.events import ImageReviewed
from batchgen.ledger.backlog import Backlog
from batchgen.ledger.verdicts import Candidate, Candidates, move_image, replace_current, set_aside, set_review_state
from batchgen.records import Item, Sample, lane_model, sample_key
from batchgen.review.ruling import NOT_CHOSEN, Accepted, Decision, MakeAnother, Rejected, ReviewRules

ReviewEnd = Literal["accepted", "warned", "rejected", "again"]


class ReviewEffects:
    """Carries out rulings. on_supplied: called with each lane that has more to do."""

    def __init__(
        self, context: RunContext, pipeline: Pipeline, backlog: Backlog, on_supplied: Callable[[str], None]
    ) -> None:
        self._ledger = context.ledger
        self._store = context.store
        self._context = context
        self._attempts = pipeline.attempts
        self._backlog = backlog
        self._on_supplied = on_supplied

    async def apply(
        self, decision: Decision, found: Candidates, current: Candidate, rules: ReviewRules, warning: tuple[str, str]
    ) -> ReviewEnd | None:
        """Carry out a decision, and return what became of the image, None for nothing. warning: reason and message of a
        finding that is only noted, empty for none. Raises StoreError, LedgerError."""
        key = sample_key(current.item_id, current.n)
        match decision:
            case Accepted(image):
                await self._choose(image, current)
                if found.state != "succeeded" or image is not current:
                    await self._set_state(image, "succeeded", "", "")
                end: ReviewEnd = "warned" if warning[0] else "accepted"
                if rules.may_reject or warning[0]:
                    self._tell(found, key, end, *warning)
                if rules.may_reject:
                    self._attempts.release_dependents([key])
                return end
            case Rejected(image, reason, message, hold):
                await self._choose(image, current)
                if hold:
                    await self._context.in_thread(lambda: self._hold(image, current))
                await self._set_state(image, "rejected", reason, message)
                self._tell(found, key, "rejected", reason, message)
                await self._attempts.block_dependents([key], "rejected", reason)
                return "rejected"
            case MakeAnother(reason, message):
                if (kept := self._backlog.kept(current.item_id)) is None:
                    return None  # this run does not request it: another one decides
                await self._context.in_thread(lambda: self._set_aside(current, reason, message))
                self._tell(found, key, "again", reason, message)
                feedback = rules.judge is not None and rules.judge.feedback and reason != NOT_CHOSEN
                self._ask_again(*kept, current, found, message if feedback else "")
                return "again"

    async def _set_state(self, image: Candidate, state: str, reason: str, message: str) -> None:
        """Set the state of an image and write its line of the results."""
        change = set_review_state(image.item_id, image.n, image.file.sha256, state, reason, message)  # type: ignore[arg-type]
        if await self._ledger.writer.write(change):
            await self._context.in_thread(lambda: self._attempts.update_results(image.item_id))

    def _tell(self, found: Candidates, key: str, end: ReviewEnd, reason: str, message: str) -> None:
        self._context.emit(
            ImageReviewed(
                at=time.time(), key=key, model=lane_model(found.lane), ruling=end, reason=reason, message=message
            )
        )

    def keep(self, item: Item) -> None:
        """Allow another image of this item to be bought, unless the run has noted a lane for it already."""
        self._backlog.keep(item, lane_key(item.provider, item.model))

    def _ask_again(self, item: Item, lane: str, image: Candidate, found: Candidates, remarks: str) -> None:
        self._backlog.add(
            lane,
            [Sample(item=item, n=image.n, fingerprint=found.fingerprint, wire=found.wire, known=True, remarks=remarks)],
        )
        self._on_supplied(lane)

    # --- in threads: rename a file, then update the ledger

    def _set_aside(self, image: Candidate, reason: str, message: str) -> None:
        path = self._draft_path(image)
        self._move(image.file.path, path)
        self._ledger.writer.submit(set_aside(image, path, reason, message)).result()

    def _hold(self, image: Candidate, current: Candidate) -> None:
        """Move an image to drafts/ until somebody accepts it. image: under the sample's name, whatever its name was
        before."""
        path = current.file.path if image is current else _with_ending(current.file.path, image.file.path)
        if os.path.dirname(path):
            return  # it is held already
        held = self._draft_path(replace(image, file=replace(image.file, path=path)))
        self._move(path, held)
        self._ledger.writer.submit(move_image(image, path, held)).result()

    async def _choose(self, image: Candidate, current: Candidate) -> None:
        if image is not current:
            await self._context.in_thread(lambda: self._replace(current, image))

    def _replace(self, current: Candidate, chosen: Candidate) -> None:
        """Give the chosen image the sample's name, and move the image that has it to drafts/."""
        draft_path = self._draft_path(current)
        self._move(current.file.path, draft_path)
        self._ledger.writer.submit(replace_current(current, draft_path, chosen)).result()
        path = _with_ending(current.file.path, chosen.file.path)
        self._move(chosen.file.path, path)
        self._ledger.writer.submit(move_image(chosen, chosen.file.path, path)).result()

    def _draft_path(self, image: Candidate) -> str:
        stem = os.path.splitext(os.path.basename(image.file.path))[0]
        return self._store.draft_name(stem, 1, image.k, image.attempt, image.file.format)

    def _move(self, old: str, new: str) -> None:
        self._store.move(old, new)
        self._store.sync(old, new)


def _with_ending(path: str, other: str) -> str:
    """`path` with the ending of `other`."""
    return os.path.splitext(path)[0] + os.path.splitext(other)[1]
