"""How many derivatives a plan foresees: those of pictures to come, and those that pictures which are there still lack."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import islice

from batchgen.derivatives.diff import CHUNK, DerivativeDiffer, RenderTask
from batchgen.derivatives.specification import outputs_of
from batchgen.ledger.derivatives import DerivativeReader
from batchgen.manifest import Manifest
from batchgen.planning.plan import Step, is_selected
from batchgen.store.store import Store


class DerivativeForecast:
    """Counts the files to make of pictures that are not there yet, while a plan is made. again: samples that have one which
    is to be replaced."""

    def __init__(self, job: str, on_step: Callable[[Step], None] | None) -> None:
        self.files = 0
        self.replaced: set[tuple[str, int]] = set()
        self._job = job
        self._on_step = on_step

    def __call__(self, step: Step) -> None:
        sample = step.sample
        if step.action == "generate" and sample.item.post is not None:
            self.files += sample.images * len(outputs_of(sample.item.post, "", "png", self._job))
            if sample.known:
                self.replaced.update((sample.item.id, sample.n + k) for k in range(sample.images))
        if self._on_step is not None:
            self._on_step(step)


def missing_derivatives(
    manifest: Manifest, view: DerivativeReader, store: Store, only: Sequence[str], *, emulated: bool
) -> Iterator[RenderTask]:
    """What is missing of the pictures that are there."""
    differ, items = DerivativeDiffer(view, store, manifest.name, emulated=emulated), manifest.items()
    while chunk := list(islice(items, CHUNK)):
        wanted = [(item.id, item.post) for item in chunk if not only or is_selected(item, only)]
        yield from differ.diff(wanted).due
