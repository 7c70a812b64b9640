"""How a run ended, in words: by its exit code and by what stopped it."""

from __future__ import annotations

STOP_REASONS = {
    "budget": "the budget is used up",
    "deadline": "the time is up",
    "stalled": "nothing succeeded any more",
    "cancelled": "it was cancelled",
    "SIGINT": "interrupted (SIGINT)",
    "SIGTERM": "asked to stop (SIGTERM)",
    "SIGHUP": "the terminal went away (SIGHUP)",
    "key_rejected": "the API key was rejected",
    "location_unsupported": "the API does not serve this location",
    "account_restricted": "the vendor has restricted this account",
    "billing": "the vendor stopped billing this account",
    "disk": "could not write to the disk or the ledger",
}
EXIT_WORDS = {
    0: "finished",
    1: "stopped by a bug",
    2: "could not start",
    3: "some images not made",
    4: "too much failed",
    5: "needs a person",
    6: "budget used up",
    7: "deadline reached",
    8: "daily quota used up",
    9: "waiting for the vendor or workers",
    129: "stopped",
    130: "stopped",
    143: "stopped",
}


def exit_words(exit_code: int | None) -> str:
    """Empty for a run without an end."""
    return "" if exit_code is None else EXIT_WORDS.get(exit_code, f"exit code {exit_code}")


def stop_words(stopped_by: str) -> str:
    """Empty when nothing stopped it."""
    return STOP_REASONS.get(stopped_by, stopped_by)
