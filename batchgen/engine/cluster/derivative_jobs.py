"""What a submission says of derivatives: files that no picture wants any more go, those that are missing become work of the queue."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from batchgen.derivatives.diff import CHUNK, Lookout
from batchgen.derivatives.specification import UNFINISHED
from batchgen.engine.cluster import queue
from batchgen.engine.cluster.derivative_worker import post_spool
from batchgen.ledger import derivative_work, work_queue
from batchgen.ledger.database import Connection
from batchgen.ledger.derivatives import DerivativeRow, Derived, forgotten, recorded
from batchgen.ledger.ledger import Ledger
from batchgen.ledger.location import SHARED
from batchgen.ledger.schema import STATE_FOLDER
from batchgen.manifest import Manifest
from batchgen.planning.plan import selected
from batchgen.records import Item, Post
from batchgen.store.store import Store


@dataclass(slots=True)
class Missing:
    """there: of samples that have their pictures. own: of items that say other than the manifest; recipes: by name."""

    default: Post | None = None
    own: dict[str, Post | None] = field(default_factory=dict)
    there: list[derivative_work.Due] = field(default_factory=list)
    recipes: dict[str, Any] = field(default_factory=dict)
    removed: int = 0
    _names: dict[Post, str] = field(default_factory=dict)

    def named(self, post: Post) -> str:
        """A recipe's name, by which workers find it."""
        if post not in self._names:
            self._names[post], facts = derivative_work.named(post)
            self.recipes[self._names[post]] = facts
        return self._names[post]

    @property
    def derives(self) -> bool:
        return self.default is not None or any(self.own.values())

    def await_pictures(self, db: Connection, run_id: int) -> None:
        """Of all samples that are in the queue, those of earlier runs too. Call `submit` afterwards."""
        if self.derives:
            posts = ((item_id, n, self.own.get(item_id, self.default)) for item_id, n in work_queue.submitted(db))
            awaited = [(item_id, n, self.named(post)) for item_id, n, post in posts if post is not None]
            derivative_work.await_pictures(db, run_id, awaited)

    def submit(self, db: Connection, schema: str, run_id: int) -> None:
        """What was found, and the recipes that were named, to a submission that is there."""
        if self.recipes:
            work_queue.add_recipes(db, run_id, self.recipes)
            db.execute(f"INSERT INTO {SHARED}.queue VALUES (?) ON CONFLICT DO NOTHING", (queue.POST,))
        if self.there:
            derivative_work.add(db, run_id, self.there)
            queue.defer_post(db, schema)
        if self.removed:
            derivative_work.count(db, run_id, 0, 0, self.removed)


def find_missing(manifest: Manifest, ledger: Ledger, store: Store, only: Sequence[str], *, emulated: bool) -> Missing:
    """For a thread. The manifest has been walked once, so it is known to be whole. Raises LedgerError."""
    view = Derived.of(ledger.reader)
    missing = Missing(manifest.post)
    if not manifest.derives and not view.derivative_counts():
        return missing
    _sweep(ledger, store)
    lookout = Lookout(view, store.root, manifest.name, emulated=emulated)
    items = manifest.items()
    while chunk := list(islice(items, CHUNK)):
        missing.own.update((item.id, item.post) for item in chunk if item.post is not manifest.post)
        _look(missing, [item for item in chunk if not only or selected(item, only)], lookout, ledger)
    if not only:
        _forget(missing, view.unwanted_derivatives(), lookout, ledger)
    return missing


def _sweep(ledger: Ledger, store: Store) -> None:
    """Half files of workers that are gone."""
    rows = ledger.reader._rows(f"SELECT name FROM {SHARED}.worker WHERE at > {queue.NOW} - ?", queue.STALE_S)
    alive = {post_spool(name) for (name,) in rows}
    for folder in (store.folder / STATE_FOLDER).glob(post_spool("*")):
        if folder.name not in alive:
            for half in folder.glob(f"{UNFINISHED}*"):
                half.unlink(missing_ok=True)
            with contextlib.suppress(OSError):  # it is of no use to others either
                folder.rmdir()


def _look(missing: Missing, items: Sequence[Item], lookout: Lookout, ledger: Ledger) -> None:
    if not items:
        return
    found = lookout.look([(item.id, item.post) for item in items])
    posts = {item.id: item.post for item in items}
    for due in found.due:
        post = posts[due.picture.item_id]
        assert post is not None  # noqa: S101 - else nothing would be due
        missing.there.append((*due.key, missing.named(post)))
    if found.seen:
        ledger.writer.submit(recorded(found.seen)).result()
    _forget(missing, found.stale, lookout, ledger)


def _forget(missing: Missing, rows: Sequence[DerivativeRow], lookout: Lookout, ledger: Ledger) -> None:
    missing.removed += lookout.remove(rows)
    if rows:
        ledger.writer.submit(forgotten(rows)).result()
