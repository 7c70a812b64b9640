"""The receipts that a bucket keeps beside the images of an attempt: everything that settling needs, written before the
ledger records it."""

from __future__ import annotations

import dataclasses
import posixpath
import secrets
from collections.abc import Mapping
from typing import Any

from batchgen.ledger.ledger import Ledger
from batchgen.ledger.pictures import Receipt, SpooledPicture, UndeliveredSample
from batchgen.ledger.requests import OpenAttempt
from batchgen.records import ImageFile, Usage
from batchgen.store.store import STORE_META_KEY, Store, note_location, refuse_other_location

VERSION = 1
RECEIPTS_META = "receipts"  # the name in the ledger for what tells this job's receipts from another's


def receipt_to_json(receipt: Receipt) -> dict[str, Any]:
    """A receipt as a JSON value."""
    return {"version": VERSION, **dataclasses.asdict(dataclasses.replace(receipt, beside=dict(receipt.beside)))}


def receipt_from_json(facts: Mapping[str, Any], attempt: OpenAttempt) -> Receipt | None:
    """A receipt from JSON, None if it is not of this attempt or of another version. Anybody who can write to the bucket
    may have made it up, so it can name no files but this attempt's."""
    try:
        fields = {name: value for name, value in facts.items() if name != "version"}
        usage = None if fields["usage"] is None else Usage(**fields["usage"])
        pictures = tuple(_picture(picture) for picture in fields["pictures"])
        if not all(_belongs_to_attempt(picture, attempt) for picture in pictures):
            return None
        missing = tuple(UndeliveredSample(**left) for left in fields["missing"])
        receipt = Receipt(**{**fields, "usage": usage, "pictures": pictures, "missing": missing})
    except (KeyError, TypeError, ValueError):
        return None
    mine = (attempt.id, attempt.item_id, attempt.n, attempt.fingerprint)
    theirs = (receipt.attempt, receipt.item, receipt.n, receipt.fingerprint)
    return receipt if facts.get("version") == VERSION and mine == theirs else None


def _picture(facts: Mapping[str, Any]) -> SpooledPicture:
    file = ImageFile(**{**facts["file"], "flags": tuple(facts["file"]["flags"])})
    return SpooledPicture(**{**facts, "file": file})


def is_inside(path: str) -> bool:
    """Whether a path stays in the job folder. Anybody who can write results or receipts may have made it up."""
    return posixpath.normpath(path) == path and not path.startswith((".", "/"))


def _belongs_to_attempt(picture: SpooledPicture, attempt: OpenAttempt) -> bool:
    right = picture.spool == f"{attempt.id}.{picture.k}" and isinstance(picture.k, int)
    return right and is_inside(picture.file.path)


def bind_store(ledger: Ledger, store: Store, *, remote_workers: bool = False) -> None:
    """Record in the ledger where the images are, and give the store the name of its receipts. Raises UsageError if the
    job's images are elsewhere. Writes only for a bucket, or for a job that was in one."""
    refuse_other_location(ledger.reader, store)
    if store.url != (ledger.reader.meta(STORE_META_KEY) or ""):
        ledger.set_meta(**{STORE_META_KEY: store.url})
    note_location(store)
    if store.properties.keeps_receipts:
        token = ledger.reader.meta(RECEIPTS_META) or secrets.token_hex(6)
        ledger.set_meta(**{RECEIPTS_META: token})
        store.bind(token, remote_workers=remote_workers)
