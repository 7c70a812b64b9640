"""What a submission says of derivatives: files that no picture wants any more go, those that are missing become work of the queue."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from batchgen.derivatives.diff import CHUNK, DerivativeDiffer
from batchgen.derivatives.specification import UNFINISHED_PREFIX
from batchgen.engine.cluster import queue
from batchgen.engine.cluster.derivative_worker import derivative_spool
from batchgen.ledger import derivative_work, work_queue
from batchgen.ledger.database import Connection
from batchgen.ledger.derivatives import DerivativeReader, DerivativeRow, delete_derivatives, upsert_derivatives
from batchgen.ledger.ledger import Ledger
from batchgen.ledger.location import SHARED_SCHEMA
from batchgen.ledger.schema import STATE_FOLDER
from batchgen.manifest import Manifest
from batchgen.planning.plan import is_selected
from batchgen.records import Item, Post
from batchgen.store.store import Store


@dataclass(slots=True)
class DerivativePlan:
    """ready: of samples that have their pictures. item_recipes: of items that say other than the manifest; recipes: by name."""

    default_recipe: Post | None = None
    item_recipes: dict[str, Post | None] = field(default_factory=dict)
    ready: list[derivative_work.DerivativeOrder] = field(default_factory=list)
    recipes: dict[str, Any] = field(default_factory=dict)
    removed: int = 0
    _names: dict[Post, str] = field(default_factory=dict)

    def recipe_name(self, post: Post) -> str:
        """A recipe's name, by which workers find it."""
        if post not in self._names:
            self._names[post], facts = derivative_work.dump_recipe(post)
            self.recipes[self._names[post]] = facts
        return self._names[post]

    @property
    def derives(self) -> bool:
        return self.default_recipe is not None or any(self.item_recipes.values())

    def await_pictures(self, db: Connection, run_id: int) -> None:
        """Of all samples that are in the queue, those of earlier runs too. Call `submit` afterwards."""
        if self.derives:
            posts = (
                (item_id, n, self.item_recipes.get(item_id, self.default_recipe))
                for item_id, n in work_queue.submitted_samples(db)
            )
            awaited = [(item_id, n, self.recipe_name(post)) for item_id, n, post in posts if post is not None]
            derivative_work.add_waiting(db, run_id, awaited)

    def submit(self, db: Connection, schema: str, run_id: int) -> None:
        """What was found, and the recipes that were named, to a submission that is there."""
        if self.recipes:
            work_queue.add_recipes(db, run_id, self.recipes)
            db.execute(
                f"INSERT INTO {SHARED_SCHEMA}.queue VALUES (?) ON CONFLICT DO NOTHING", (queue.DERIVATIVES_QUEUE,)
            )
        if self.ready:
            derivative_work.add_ready(db, run_id, self.ready)
            queue.defer_derivatives(db, schema)
        if self.removed:
            derivative_work.add_counts(db, run_id, 0, 0, self.removed)


def plan_derivatives(
    manifest: Manifest, ledger: Ledger, store: Store, only: Sequence[str], *, emulated: bool
) -> DerivativePlan:
    """For a thread. The manifest has been walked once, so it is known to be whole. Raises LedgerError."""
    view = DerivativeReader.from_reader(ledger.reader)
    plan = DerivativePlan(manifest.post)
    if not manifest.has_derivatives and not view.derivative_counts():
        return plan
    _delete_unfinished(ledger, store)
    differ = DerivativeDiffer(view, store, manifest.name, emulated=emulated)
    items = manifest.items()
    while chunk := list(islice(items, CHUNK)):
        plan.item_recipes.update((item.id, item.post) for item in chunk if item.post is not manifest.post)
        _add_due(plan, [item for item in chunk if not only or is_selected(item, only)], differ, ledger)
    if not only:
        _delete_stale(plan, view.unwanted_derivatives(), differ, ledger)
    return plan


def _delete_unfinished(ledger: Ledger, store: Store) -> None:
    """Half files of workers that are gone."""
    rows = ledger.reader._query(
        f"SELECT name FROM {SHARED_SCHEMA}.worker WHERE at > {queue.SERVER_NOW} - ?", queue.STALE_S
    )
    alive = {derivative_spool(name) for (name,) in rows}
    for folder in (store.folder / STATE_FOLDER).glob(derivative_spool("*")):
        if folder.name not in alive:
            for unfinished in folder.glob(f"{UNFINISHED_PREFIX}*"):
                unfinished.unlink(missing_ok=True)
            with contextlib.suppress(OSError):  # it is of no use to others either
                folder.rmdir()


def _add_due(plan: DerivativePlan, items: Sequence[Item], differ: DerivativeDiffer, ledger: Ledger) -> None:
    if not items:
        return
    found = differ.diff([(item.id, item.post) for item in items])
    posts = {item.id: item.post for item in items}
    for due in found.due:
        post = posts[due.picture.item_id]
        assert post is not None  # noqa: S101 - else nothing would be due
        plan.ready.append((*due.key, plan.recipe_name(post)))
    if found.touched:
        ledger.writer.submit(upsert_derivatives(found.touched)).result()
    _delete_stale(plan, found.stale, differ, ledger)


def _delete_stale(
    plan: DerivativePlan, rows: Sequence[DerivativeRow], differ: DerivativeDiffer, ledger: Ledger
) -> None:
    plan.removed += differ.remove(rows)
    if rows:
        ledger.writer.submit(delete_derivatives(rows)).result()
