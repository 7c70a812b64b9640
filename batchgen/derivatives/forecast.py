"""How many derivatives a plan foresees: those of pictures to come, and those that pictures which are there still lack."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import islice

from batchgen.derivatives.diff import CHUNK, Due, Lookout
from batchgen.derivatives.specification import outputs
from batchgen.ledger.derivatives import Derived
from batchgen.manifest import Manifest
from batchgen.planning.plan import Step, selected


class Coming:
    """Counts the files to make of pictures that are not there yet, while a plan is made. again: samples that have one which
    is to be replaced."""

    def __init__(self, job: str, then: Callable[[Step], None] | None) -> None:
        self.files = 0
        self.again: set[tuple[str, int]] = set()
        self._job = job
        self._then = then

    def __call__(self, step: Step) -> None:
        sample = step.sample
        if step.action == "generate" and sample.item.post is not None:
            self.files += sample.images * len(outputs(sample.item.post, "", "png", self._job))
            if sample.known:
                self.again.update((sample.item.id, sample.n + k) for k in range(sample.images))
        if self._then is not None:
            self._then(step)


def to_be_made(manifest: Manifest, view: Derived, root: str, only: Sequence[str], *, emulated: bool) -> Iterator[Due]:
    """What is missing of the pictures that are there."""
    lookout, items = Lookout(view, root, manifest.name, emulated=emulated), manifest.items()
    while chunk := list(islice(items, CHUNK)):
        wanted = [(item.id, item.post) for item in chunk if not only or selected(item, only)]
        yield from lookout.look(wanted).due
