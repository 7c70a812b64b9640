"""How emulated batches behave: how long they take, what they look like, and what goes wrong with them on request."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from batchgen.emulator.batch_faults import named

PLACES = ("metadata", "response", "dest")
DAY_S = 24 * 3600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchOptions:
    """pending_s: until a batch is RUNNING; running_s: over which its lines are answered, evenly, and at least.

    life_s: a batch that has not ended by then is EXPIRED and has no results (48 hours, ai.google.dev, Batch API).
    list_lag_s: until a new batch is in the list. That the list may lag is an assumption, and so is by how much.
    states: `BATCH_STATE_…`, as recorded answers have them, or `JOB_STATE_…`, as the documents' REST snippets do.
    places: where the results are named. "metadata": metadata.output, which is all that google-genai 3.4.0 reads;
    "response": the operation's response; "dest": `dest` and `state` at the top, as the documents' snippets read them.
    enqueued_tokens: for each (key, AI model), over batches that have not ended; 0 = no limit. most_at_once: such
    batches of one key (100 by the documents).
    keeps_cancelled: a cancelled batch names the lines that were answered before.
    inline_most: batches made of a file with so many requests at most answer in their operation, and name no file: one report,
    not confirmed (maximhq/bifrost#3951).
    ranges: downloads obey a Range header, an assumption; otherwise they begin anew, which HTTP allows.
    faults: as `batch_faults` names them, `create_lost` or `create_lost*2`.
    """

    pending_s: float = 0.5
    running_s: float = 1.0
    life_s: float = 2 * DAY_S
    list_lag_s: float = 0.0
    states: Literal["batch", "job"] = "batch"
    places: tuple[str, ...] = ("metadata", "response")
    enqueued_tokens: int = 0
    most_at_once: int = 100
    keeps_cancelled: bool = True
    ranges: bool = True
    inline_most: int = 0
    faults: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for text in self.faults:
            named(text)
        if not self.places or not set(self.places) <= set(PLACES):
            raise ValueError(f"places of results {', '.join(self.places)!r}: expected some of {', '.join(PLACES)}")
        if self.states not in ("batch", "job"):
            raise ValueError(f"batch states {self.states!r}: expected batch or job")
        if self.inline_most < 0:
            raise ValueError(f"inline batches of up to {self.inline_most} requests: expected 0 or more")
        if min(self.pending_s, self.running_s, self.life_s, self.list_lag_s) < 0:
            raise ValueError("the times of a batch cannot be negative")
