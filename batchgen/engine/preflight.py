"""What a run checks before anything is sent: whose pictures the folder holds, what they may cost, and whether they fit."""

from __future__ import annotations

import os
from collections.abc import Callable

from batchgen.engine.reconciliation import Reconciliation
from batchgen.errors import StoreError, UsageError
from batchgen.ledger.ledger import Ledger
from batchgen.manifest import Limits
from batchgen.planning.batchable import MAX_RESULT_BYTES
from batchgen.planning.plan import disk_space_problem, spend_rate_problem
from batchgen.store.store import Store


def check_owner(ledger: Ledger, store: Store, *, emulated: bool) -> None:
    """Raises UsageError when real and emulated pictures would be mixed."""
    was = ledger.reader.meta("emulated")
    if was is not None and (was == "yes") != emulated:
        kinds = ("emulated", "real") if was == "yes" else ("real", "emulated")
        raise UsageError(
            f"{store.root} holds {kinds[0]} pictures and this run would add {kinds[1]} ones: choose another --output"
        )


def check_price(reconciliation: Reconciliation, limits: Limits, max_usd: float | None) -> None:
    """Raises UsageError when a budget cannot be kept."""
    loads = list(reconciliation.loads.values())
    if (never := spend_rate_problem(loads)) is not None:
        raise UsageError(never)
    unknown = ", ".join(dict.fromkeys(load.model for load in loads if load.price_unknown))
    if unknown and (max_usd is not None or limits.has_budget):
        raise UsageError(
            f"a budget is set and the price of {unknown} is unknown: give it under models: …: prices, or drop the budget"
        )


def check_disk_space(reconciliation: Reconciliation, store: Store, *, emulated: bool) -> None:
    """Nothing is bought that cannot be stored. An emulator's pictures cost nothing and may be tiny. Raises StoreError."""
    results = MAX_RESULT_BYTES if any(load.batch and load.images for load in reconciliation.loads.values()) else 0
    loads = [] if store.url else list(reconciliation.loads.values())  # a bucket's pictures only pass through
    missing = None if emulated else disk_space_problem(loads, store.free_bytes() - results)
    if missing is not None:
        raise StoreError(f"{store.root}: {missing}. Nothing was sent")


def note_other_manifest(was: str | None, manifest_path: str, note: Callable[[str], None]) -> None:
    """Two manifests of one folder would each move the other's pictures away, run after run."""
    if was is not None and was != manifest_path and os.path.exists(was):
        note(
            f"this folder's last run was of {was}: pictures that only it asks for move to superseded/."
            " If both are to stay, give each its own output:"
        )
