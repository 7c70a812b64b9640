"""The checks of a run before anything is sent: whether state is missing, whose images the folder holds, what new ones
may cost, and whether they fit. A job whose ledger is missing, or knows less than the folder holds, is never mistaken
for a new one."""

from __future__ import annotations

import os
import shlex
from itertools import islice

from batchgen.engine.job_state import RunRequest
from batchgen.engine.reconciliation import Reconciliation
from batchgen.errors import LedgerError, StoreError, UsageError
from batchgen.ledger.location import evidence_of_a_run, list_some, lost_ledger_error, verify_arguments
from batchgen.ledger.reader import Reader
from batchgen.manifest import Limits, Manifest
from batchgen.planning.batchable import MAX_RESULT_BYTES
from batchgen.planning.plan import disk_space_problem, spend_rate_problem
from batchgen.planning.reason import reason_text
from batchgen.store.store import Store

MAX_RECEIPTS_CHECKED = 50


def check_owner(request: RunRequest, reader: Reader) -> None:
    """Raises UsageError if real and emulated images would be mixed, LedgerError if the folder has state of a run that
    the ledger does not know."""
    was = reader.meta("emulated")
    if was is not None and (was == "yes") != request.emulated:
        kinds = ("emulated", "real") if was == "yes" else ("real", "emulated")
        raise UsageError(
            f"{request.store.root} holds {kinds[0]} images and this run would add {kinds[1]} ones: choose another --output"
        )
    if reader.last_run() is None:
        refuse_lost_results(request.job.manifest, request.store)


def check_reconciled(request: RunRequest, reader: Reader, reconciliation: Reconciliation) -> None:
    """Raises UsageError, LedgerError or StoreError if nothing may be sent."""
    manifest, store = request.job.manifest, request.store
    refuse_online_only(reconciliation)
    refuse_lost_pictures(manifest, store, reconciliation, reader)
    _check_price(reconciliation, manifest.limits, request.options.max_usd)
    if not request.emulated:  # emulated images cost nothing and may be tiny
        _check_disk_space(reconciliation, store)


def refuse_online_only(reconciliation: Reconciliation) -> None:
    """Refuse what cannot go by batch, for an engine that sends nothing else. Raises UsageError."""
    if reconciliation.online_only:
        key, reason = reconciliation.online_only[0]
        raise UsageError(
            f"{len(reconciliation.online_only):,} request(s) cannot go through a batch API, the first for {key}:"
            f" {reason_text(reason)}. Use --engine auto, which sends these online"
        )


def refuse_remote_review(reconciliation: Reconciliation) -> None:
    """Refuse reviews with an engine whose workers are elsewhere. Raises UsageError."""
    if reconciliation.rules.may_reject:
        raise UsageError(
            "a judge, and a check that rejects, are asked in the run itself, which buys rejected images again, and not by workers"
            " elsewhere: leave --engine cluster out, or let the checks warn only"
        )


def refuse_unstartable(reconciliation: Reconciliation) -> None:
    """Refuse requests that would wait for ever. Raises UsageError."""
    if (never := spend_rate_problem(list(reconciliation.loads.values()))) is not None:
        raise UsageError(never)


def _check_price(reconciliation: Reconciliation, limits: Limits, max_usd: float | None) -> None:
    """Raises UsageError if a budget cannot be kept."""
    refuse_unstartable(reconciliation)
    loads = list(reconciliation.loads.values())
    unknown = ", ".join(dict.fromkeys(load.model for load in loads if load.price_unknown))
    if unknown and (max_usd is not None or limits.has_budget):
        raise UsageError(
            f"a budget is set and the price of {unknown} is unknown: give it under models: …: prices, or drop the budget"
        )


def _check_disk_space(reconciliation: Reconciliation, store: Store) -> None:
    """Check that the images fit: nothing is bought that cannot be stored. Raises StoreError."""
    results = MAX_RESULT_BYTES if any(load.batch and load.images for load in reconciliation.loads.values()) else 0
    loads = [] if store.url else list(reconciliation.loads.values())  # a bucket's images only pass through
    missing = disk_space_problem(loads, store.free_bytes() - results)
    if missing is not None:
        raise StoreError(f"{store.root}: {missing}. Nothing was sent")


def note_other_manifest(request: RunRequest, was: str | None) -> None:
    """Warn about two manifests with one folder: each would move the other's images away, run after run. was: the last
    run's manifest."""
    if was is not None and was != request.manifest_path and os.path.exists(was):
        request.note(
            f"this folder's last run was of {was}: images that only it asks for move to superseded/."
            " If both are to stay, give each its own `output:`."
        )


def refuse_lost_results(manifest: Manifest, store: Store) -> None:
    """Check the folder of a job whose ledger knows of no run. Raises LedgerError if the folder says that there was one,
    StoreError if somebody else's file has the name of one of batchgen's."""
    if found := evidence_of_a_run(store.folder):
        raise lost_ledger_error(store.folder, found, _verify_command(manifest, store))


def refuse_lost_pictures(
    manifest: Manifest, store: Store, reconciliation: Reconciliation, reader: Reader | None
) -> None:
    """Look for images and receipts that the ledger does not know. reader: of the ledger that the survey used. Raises
    LedgerError if there are images under names that it has never seen a request for, or receipts for them in the
    bucket."""
    where = store.url or str(store.folder)
    if reconciliation.unrecorded:
        pictures = (
            f"images lie in {where} under names that the manifest asks for ({list_some(reconciliation.unrecorded)})"
        )
        if reader is None or reader.last_run() is None:
            lost = lost_ledger_error(store.folder, pictures, _verify_command(manifest, store))
            raise LedgerError(f"{lost}. If the images are your own, move them away")
        raise LedgerError(
            f"{pictures}, and the ledger has never seen a request for them: it is an older one, and a run would buy them"
            f" again. Put the newer one back, or add them to this one: `batchgen verify {_verify_command(manifest, store)} --repair`."
            " If the images are your own, move them away"
        )
    if reader is None and _has_receipts(manifest, store):
        receipts = f"receipts of images that the manifest asks for lie in {where}"
        raise lost_ledger_error(store.folder, receipts, _verify_command(manifest, store))


def recovery_advice(manifest: Manifest, store: Store) -> str:
    """What to do if the ledger disappears in the middle of a run."""
    if not store.emergency_spool.is_same_folder():
        return (
            f"Bring {store.folder} back to where it was and run again: it goes on where it stopped. If it is lost, copy the"
            " images that are named here into a new one, under the names of their items, and"
            f" `batchgen verify {_verify_command(manifest, store)} --repair` takes them in"
        )
    return (
        f"Every image that was made is in {store.url or store.folder}. Put the ledger back, or build a new one from them:"
        f" `batchgen verify {_verify_command(manifest, store)} --repair`; then run again"
    )


def _has_receipts(manifest: Manifest, store: Store) -> bool:
    """Whether there are receipts of this manifest's items: several jobs may share a bucket's address."""
    items = {receipt.get("item") for receipt in islice(store.receipts(), MAX_RECEIPTS_CHECKED)}
    return bool(items) and any(item.id in items for item in manifest.items())


def _verify_command(manifest: Manifest, store: Store) -> str:
    if manifest.is_data:
        return shlex.quote(store.root)
    return verify_arguments(str(manifest.path), store.url or store.root, manifest.bucket or str(manifest.output))
