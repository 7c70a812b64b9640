"""Hands work over to workers in one transaction with the job's ledger: samples, and the derivatives that are or will be
missing."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import islice

from batchgen.derivatives.diff import CHUNK, DerivativeDiffer
from batchgen.derivatives.specification import UNFINISHED_PREFIX
from batchgen.engine.cluster import queue
from batchgen.engine.cluster.derivative_session import derivative_spool
from batchgen.ledger import lease, work_queue
from batchgen.ledger.database import Change, Connection
from batchgen.ledger.derivatives import DerivativeReader, DerivativeRow, delete_derivatives, upsert_derivatives
from batchgen.ledger.ledger import Ledger
from batchgen.ledger.location import SHARED_SCHEMA, open_schema
from batchgen.ledger.schema import STATE_FOLDER
from batchgen.manifest import Manifest
from batchgen.planning.plan import is_selected
from batchgen.records import Item, Post
from batchgen.store.store import Store

NO_RUN = 0  # for what is submitted without a run
ANALYZED_FROM = 1000  # pieces of work


def submit(url: str, schema: str, change: Change) -> None:
    """Write everything that `change` writes into the job's tables or nothing, then notify workers. change: returns how
    many pieces of work it adds. Raises LedgerError."""
    with contextlib.closing(open_schema(url, schema)) as database:
        _, added, _ = database.transact([queue.create_work_tables, change, lambda db: lease.announce(db, schema)])
        if added >= ANALYZED_FROM:
            work_queue.refresh_statistics(database)


@dataclass(slots=True)
class DerivativePlan:
    """The derivatives to submit. ready: those of samples that have their images. item_posts: of items that differ from
    the manifest. removed: files."""

    default_post: Post | None = None
    item_posts: dict[str, Post | None] = field(default_factory=dict)
    ready: list[work_queue.DerivativeOrder] = field(default_factory=list)
    removed: int = 0

    @property
    def derives(self) -> bool:
        return self.default_post is not None or any(self.item_posts.values())

    def insert(self, db: Connection, run_id: int, *, awaits_pictures: bool = True) -> int:
        """Add the derivatives to a submission. awaits_pictures: add those of all samples in the queue too, including
        those of earlier runs. Returns the number of orders."""
        work_queue.insert_derivatives(db, run_id, self.ready, awaited=False)
        awaited = list[work_queue.DerivativeOrder]()
        if awaits_pictures and self.derives:
            posts = (
                (item_id, n, self.item_posts.get(item_id, self.default_post))
                for item_id, n in work_queue.submitted_samples(db)
            )
            awaited = [work_queue.DerivativeOrder(item_id, n, post) for item_id, n, post in posts if post is not None]
            work_queue.insert_derivatives(db, run_id, awaited, awaited=True)
        if self.removed:
            work_queue.record_derivatives(db, run_id, (), (), removed=self.removed)
        return len(self.ready) + len(awaited)


def submit_derivatives(url: str, schema: str, plan: DerivativePlan, facts: work_queue.Submission) -> None:
    """Submit the derivatives of existing images, without a run. Raises LedgerError."""

    def change(db: Connection) -> int:
        work_queue.add_submission(db, NO_RUN, facts, None, None)
        work_queue.delete_derivative_counts(db, NO_RUN)
        return plan.insert(db, NO_RUN, awaits_pictures=False)

    submit(url, schema, change)


def plan_derivatives(
    manifest: Manifest, ledger: Ledger, store: Store, only: Sequence[str], *, emulated: bool
) -> DerivativePlan:
    """Compare the derivatives that are wanted with the files, and delete files that no image wants any more. Call it in
    a thread.

    The manifest was read once, so it is known to be complete. Raises LedgerError.
    """
    view = DerivativeReader.from_reader(ledger.reader)
    plan = DerivativePlan(manifest.post)
    if not manifest.has_derivatives and not view.derivative_counts():
        return plan
    _delete_unfinished(ledger, store)
    differ = DerivativeDiffer(view, store, manifest.name, emulated=emulated)
    items = manifest.items()
    while chunk := list(islice(items, CHUNK)):
        plan.item_posts.update((item.id, item.post) for item in chunk if item.post is not manifest.post)
        _add_due(plan, [item for item in chunk if not only or is_selected(item, only)], differ, ledger)
    if not only:
        _delete_stale(plan, view.unwanted_derivatives(), differ, ledger)
    return plan


def _delete_unfinished(ledger: Ledger, store: Store) -> None:
    """Delete unfinished files of workers that are gone."""
    rows = ledger.reader._query(
        f"SELECT name FROM {SHARED_SCHEMA}.worker WHERE at > {lease.SERVER_NOW} - ?", queue.STALE_S
    )
    alive = {derivative_spool(name) for (name,) in rows}
    for folder in (store.folder / STATE_FOLDER).glob(derivative_spool("*")):
        if folder.name not in alive:
            for unfinished in folder.glob(f"{UNFINISHED_PREFIX}*"):
                unfinished.unlink(missing_ok=True)
            with contextlib.suppress(OSError):  # others have no use for it either
                folder.rmdir()


def _add_due(plan: DerivativePlan, items: Sequence[Item], differ: DerivativeDiffer, ledger: Ledger) -> None:
    found = differ.diff([(item.id, item.post) for item in items])
    posts = {item.id: item.post for item in items}
    for due in found.due:
        if (post := posts[due.picture.item_id]) is not None:  # or nothing would be due
            plan.ready.append(work_queue.DerivativeOrder(*due.key, post))
    if found.touched:
        ledger.writer.submit(upsert_derivatives(found.touched)).result()
    _delete_stale(plan, found.stale, differ, ledger)


def _delete_stale(
    plan: DerivativePlan, rows: Sequence[DerivativeRow], differ: DerivativeDiffer, ledger: Ledger
) -> None:
    plan.removed += differ.remove(rows)
    if rows:
        ledger.writer.submit(delete_derivatives(rows)).result()
