"""The checks of a run's images: each image is looked at in a worker process, compared with the others of its job, and what was
found is recorded."""

from __future__ import annotations

import json
import os
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from batchgen.derivatives.render_process import RenderProcess, in_thread
from batchgen.engine.context import RunContext
from batchgen.item import Check
from batchgen.ledger.backlog import Backlog
from batchgen.ledger.verdicts import Candidate, Candidates, VerdictReader, upsert_verdicts
from batchgen.records import Verdict
from batchgen.references.local import is_link
from batchgen.review.check_type import Asked
from batchgen.review.run_checks import CheckTask, run_checks
from batchgen.review.twins import TwinIndex


class ImageChecks:
    def __init__(self, context: RunContext, backlog: Backlog, view: VerdictReader) -> None:
        self._context = context
        self._backlog = backlog
        self._view = view
        self._twins: TwinIndex | None = None  # until the first image is looked at

    async def run(
        self, process: RenderProcess, image: Candidate, found: Candidates, checks: Sequence[Check], *, durable: bool
    ) -> list[Verdict]:
        """durable: recorded when they are answered, else soon. Raises StoreError, LedgerError."""
        if self._twins is None:
            self._twins = await in_thread(self._known_images)
        async with self._file_here(image.file.path) as path:
            verdicts = await run_checks(process, self._task(path, image, found, checks), self._twins)
        if durable:
            await self._context.ledger.writer.write(upsert_verdicts(verdicts))
        else:
            self._context.ledger.writer.enqueue_lazy(upsert_verdicts(verdicts))
        return verdicts

    @asynccontextmanager
    async def _file_here(self, path: str) -> AsyncIterator[str]:
        """A file of this machine that holds the image: only a bucket's has to be fetched, in a thread."""
        copy = self._context.store.local_copy(path)
        if not self._context.store.properties.remote:
            with copy as here:
                yield here
            return
        here = await in_thread(copy.__enter__)
        try:
            yield here
        finally:
            await in_thread(lambda: copy.__exit__(None, None, None))

    def _known_images(self) -> TwinIndex:
        twins = TwinIndex()
        for verdict in self._view.twin_verdicts():
            twins.add(verdict)
        return twins

    def _task(self, path: str, image: Candidate, found: Candidates, checks: Sequence[Check]) -> CheckTask:
        wire, kept = json.loads(found.wire), self._backlog.kept(image.item_id)
        ratio, route = wire.get("aspect_ratio"), self._context.routes.get(found.lane)
        profile = None if route is None else route.profile
        references = [] if kept is None else [name for name in kept[0].references if _is_local(name)]
        return CheckTask(
            path=path,
            sha256=image.file.sha256,
            item_id=image.item_id,
            n=image.n,
            checks=checks,
            asked=Asked(
                prompt=wire.get("prompt", ""),
                aspect_ratio=ratio,
                expected=None if profile is None else profile.expected_pixels(ratio, wire.get("image_size")),
            ),
            references=references,
            attempt=image.attempt,
        )


def _is_local(name: str) -> bool:
    return not (name.startswith("@") or is_link(name)) and os.path.isabs(name)
