"""A fault of a whole call, made to happen: the refusal it is answered with, or the end of the connection."""

from __future__ import annotations

import random

from batchgen.emulator import google_errors as errors
from batchgen.emulator.batch_faults import METHODS, BatchFaults
from batchgen.emulator.orders import Refusal
from batchgen.emulator.reception import Cut


def meet(faults: BatchFaults, method: str, place: str = "", display_name: str = "") -> str | None:
    """The kind that the caller has to see to: `lost`, `half`, `empty` or `cut`. Raises Refusal or Cut for the others."""
    name = faults.take(METHODS[method], place, display_name)
    if name is None:
        return None
    kind = name.partition("_")[2]
    match kind:
        case "reset":
            raise Cut
        case "429":
            raise errors.enqueued_exhausted()
        case "404":
            raise errors.no_such_entity()
        case "html":
            raise Refusal(200, b"<!DOCTYPE html>\n<title>Sign in</title>\n<p>Sign in to go on.\n", "text/html")
        case "500" | "503":
            raise errors.server_fault(int(kind), random.Random(0))
    return kind
