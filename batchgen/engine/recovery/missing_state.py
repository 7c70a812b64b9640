"""A job whose ledger is missing, or knows less than what lies there, is never taken for a new one."""

from __future__ import annotations

from itertools import islice

from batchgen.engine.reconciliation import Reconciliation
from batchgen.errors import LedgerError
from batchgen.ledger.location import evidence_of_a_run, list_some, lost_ledger_error, verify_arguments
from batchgen.ledger.reader import Reader
from batchgen.manifest import Manifest
from batchgen.store.store import Store

MAX_RECEIPTS_CHECKED = 50


def refuse_lost_results(manifest: Manifest, store: Store) -> None:
    """For a job whose ledger knows of no run. Raises LedgerError when the folder says that there was one, StoreError when a
    file of somebody else's is called as one of ours."""
    if found := evidence_of_a_run(store.folder):
        raise lost_ledger_error(store.folder, found, _verify_command(manifest, store))


def refuse_lost_pictures(
    manifest: Manifest, store: Store, reconciliation: Reconciliation, reader: Reader | None
) -> None:
    """reader: of the ledger that the survey was made by. Raises LedgerError when pictures stand under names for which it
    has never seen a request, or receipts for them lie in the bucket."""
    where = store.url or str(store.folder)
    if reconciliation.unrecorded:
        pictures = (
            f"pictures lie in {where} under names that the manifest asks for ({list_some(reconciliation.unrecorded)})"
        )
        if reader is None or reader.last_run() is None:
            lost = lost_ledger_error(store.folder, pictures, _verify_command(manifest, store))
            raise LedgerError(f"{lost}. If the pictures are your own, move them away")
        raise LedgerError(
            f"{pictures}, and the ledger has never seen a request for them: it is an older one, and a run would buy them"
            f" again. Put the newer one back, or add them to this one: `batchgen verify {_verify_command(manifest, store)} --repair`."
            " If the pictures are your own, move them away"
        )
    if reader is None and _has_receipts(manifest, store):
        receipts = f"receipts of pictures that the manifest asks for lie in {where}"
        raise lost_ledger_error(store.folder, receipts, _verify_command(manifest, store))


def recovery_advice(manifest: Manifest, store: Store) -> str:
    """What to do once the ledger has gone in the middle of a run."""
    if not store.emergency_spool.is_same_folder():
        return (
            f"Bring {store.folder} back to where it was and run again: it goes on where it stopped. If it is lost, copy the"
            " pictures that are named here into a new one, under the names of their items, and"
            f" `batchgen verify {_verify_command(manifest, store)} --repair` takes them in"
        )
    return (
        f"Every picture that was made is in {store.url or store.folder}. Put the ledger back, or build a new one from them:"
        f" `batchgen verify {_verify_command(manifest, store)} --repair`; then run again"
    )


def _has_receipts(manifest: Manifest, store: Store) -> bool:
    """Several jobs may share an address: only receipts that name one of this manifest's items count."""
    items = {receipt.get("item") for receipt in islice(store.receipts(), MAX_RECEIPTS_CHECKED)}
    return bool(items) and any(item.id in items for item in manifest.items())


def _verify_command(manifest: Manifest, store: Store) -> str:
    return verify_arguments(str(manifest.path), store.url or store.root, manifest.bucket or str(manifest.output))
