"""How the fields of events are written in the log, and fields that several events share. Standard library only."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, NamedTuple


class Logged(NamedTuple):
    """How a field is written in the log. description: for people. name: in the log, if not the field's own. left_out: omit the field
    if it is empty. schema: what JSON Schema says besides the type. unit: how a number is written: usd, s, ms, rate (requests
    a minute) or utc; `key` is written as item and sample, `files` as a list of objects."""

    description: str = ""
    name: str = ""
    unit: Literal["", "usd", "s", "ms", "rate", "utc", "key", "files"] = ""
    schema: Mapping[str, Any] = {}
    left_out: bool = False


def count(description: str, name: str = "", least: int = 0) -> Logged:
    return Logged(description, name, schema={"minimum": least})


DURATION = Logged("Duration from beginning to end.", "duration_s", "s")
ESTIMATE = Logged("Cost of the whole run; null is unknown.", "estimate_usd", "usd")
USD = Logged(
    "What the image, the batch or the judge's answer cost, as far as prices are known; null is unknown.", unit="usd"
)
REASON = "One word, such as safety or rate_limited."
MESSAGE = "In words, the vendor's where it gave any."
_STATES = ("succeeded", "refused", "failed", "uncertain", "blocked", "pending", "running", "cancelled", "expired")
COUNTS = {"additionalProperties": {"type": "integer", "minimum": 0}}

Attempt = Annotated[int, Logged("Number of the request in this job's ledger.")]
Batch = Annotated[str, Logged("Name of the batch at the vendor.")]
Due = Annotated[str | None, Logged("When the night begins, or should have begun; UTC.")]
ExitCode = Annotated[int, Logged("Exit code, as the manual lists them.")]
Job = Annotated[str, Logged("The job's name, once its manifest was read.")]
Key = Annotated[str, Logged(unit="key")]
Manifest = Annotated[str, Logged("Path of the manifest.")]
Message = Annotated[str, Logged(MESSAGE)]
Model = Annotated[str, Logged("Id of the AI model.")]
Reason = Annotated[str, Logged(REASON)]
Requests = Annotated[int, count("How many requests it holds.")]
State = Annotated[
    str, Logged("State of a sample that ended, or of a batch in the vendor's words.", schema={"enum": _STATES})
]
Unpriced = Annotated[int, count("Requests of unknown price.")]
VendorCount = Annotated[int, count("How many, by the vendor's count.")]
