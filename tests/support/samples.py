"""Samples to dispatch and record, and what one is estimated to cost."""

from __future__ import annotations

from typing import Any

from batchgen.records import Item, Sample

# What a picture of the default model at 1K is estimated at: its tokens, thoughts and hidden text; a short prompt is next to nothing.
FLASH_USD = 0.0336 + (335 + 350) * 7.5 / 1e6


def make_sample(name: str, model: str = "m", **item: Any) -> Sample:
    facts = {"id": name, "prompt": f"prompt of {name}", "model": model, "provider": "gemini", "filename": name, **item}
    return Sample(item=Item(**facts), n=1, fingerprint=f"fp-{name}", wire="{}")
