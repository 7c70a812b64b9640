"""Samples to dispatch and record, and what one is estimated to cost."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from batchgen.ledger.pictures import Receipt, SpooledPicture
from batchgen.records import Item, Reply, Sample

# What a picture of the default model at 1K is estimated at: its tokens, thoughts and hidden text; a short prompt is next to nothing.
FLASH_USD = 0.0336 + (335 + 350) * 7.5 / 1e6


def make_sample(name: str, model: str = "m", **item: Any) -> Sample:
    facts = {"id": name, "prompt": f"prompt of {name}", "model": model, "provider": "gemini", "filename": name, **item}
    return Sample(item=Item(**facts), n=1, fingerprint=f"fp-{name}", wire="{}")


def receipt_of(attempt: int, sample: Sample, reply: Reply, pictures: Sequence[SpooledPicture], **facts: Any) -> Receipt:
    """What an attempt has brought, as the ledger takes it. facts: as `Receipt` has them."""
    said = {"usage": reply.usage, "text": reply.text, "reply_id": reply.reply_id, "model_version": reply.model_version}
    asked = {"item": sample.item.id, "n": sample.n, "fingerprint": sample.fingerprint}
    return Receipt(attempt=attempt, pictures=tuple(pictures), **{**said, **asked, **facts})
