"""Where the pictures of a submission are, as a worker sees them."""

from __future__ import annotations

from pathlib import Path

from batchgen.errors import StoreError
from batchgen.ledger.location import read_pointer
from batchgen.ledger.work_queue import Submission
from batchgen.store.store import Store, open_store


def open_submitted_store(facts: Submission, schema: str, spool: str, state: Path | None) -> Store:
    """spool: the name of the worker's own. state: the user's state folder, which has the spool for pictures in a bucket.

    Raises StoreError when this machine does not see the job's folder or has no place for one, SettingsError.
    """
    if facts.bucket:
        if state is None:
            raise StoreError("there is no home folder for what a worker stores: set HOME or XDG_STATE_HOME")
        return open_store(state / "worker" / schema, facts.bucket, spool)
    location = read_pointer(Path(facts.folder))
    if location is None or location.schema != schema:
        raise StoreError(
            f"{facts.folder} is not here as the submitter sees it: mount it under the same path, or use a bucket as output"
        )
    return open_store(Path(facts.folder), spool=spool)
