"""How a job in its vendor's list is known again: by what it was asked for, and when it came."""

from __future__ import annotations

import hashlib
import json
from datetime import UTC, datetime
from typing import Any


def input_digest(model: str, body: Any) -> str:
    """Of what a job is asked for: as long for a reference of megabytes as for a prompt."""
    asked = json.dumps([model, body], sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(asked.encode()).hexdigest()


def utc_seconds(text: str | None) -> float | None:
    """Of a time as ISO 8601 has it; None for anything else."""
    try:
        return datetime.fromisoformat(text or "").timestamp()
    except ValueError:
        return None


def iso_time(utc_s: float) -> str:
    return datetime.fromtimestamp(utc_s, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
