"""How long a server asks us to wait, wherever it says so: RetryInfo, the message, Retry-After."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from email.utils import parsedate_to_datetime
from typing import Any

from batchgen.providers.answer_body import get_header

DURATION = re.compile(r"(\d{1,9}(?:\.\d{1,9})?)s", re.ASCII)  # google.protobuf.Duration as JSON
# "Please retry in 1h52m56.409571576s.", "… in 26.660s.", "… in 750ms."; OpenAI and gateways: "Please try again in 2s."
DELAY_IN_MESSAGE = re.compile(
    r"(?:retry|try again) in (?:(\d{1,4})h)?(?:(\d{1,6})m)?(?:(\d{1,9}(?:\.\d+)?)(ms|s))?(?![\w])", re.ASCII
)
DELAY_MAX_S = 172_800.0  # two days; no quota of these APIs lasts longer, so more than that is nonsense


def hinted_delay_s(
    headers: Mapping[str, str], retry_infos: Sequence[Mapping[str, Any]] = (), message: str = ""
) -> float | None:
    """Seconds the server asks for, None when it does not or asks for nonsense.

    RetryInfo comes first: Google sends no Retry-After, but a proxy may (RFC 9110, 10.2.3).
    """
    for info in retry_infos:
        delay_s = _duration_s(info.get("retryDelay", info.get("retry_delay")))
        if delay_s is not None:
            return delay_s
    delay_s = _message_delay_s(message)
    return delay_s if delay_s is not None else _retry_after_s(headers)


def _plausible(delay_s: float) -> float | None:
    return delay_s if 0 <= delay_s <= DELAY_MAX_S else None


def _duration_s(value: Any) -> float | None:
    if isinstance(value, dict):  # the proto's own shape, from clients that print it so
        seconds = value.get("seconds", 0)
        return _duration_s(f"{seconds}s") if isinstance(seconds, (int, str)) else None
    match = DURATION.fullmatch(value) if isinstance(value, str) else None
    return _plausible(float(match.group(1))) if match else None


def _message_delay_s(message: str) -> float | None:
    match = DELAY_IN_MESSAGE.search(message)
    if match is None or not any(match.groups()):
        return None
    hours, minutes, amount, unit = match.groups()
    seconds = float(amount or 0) / (1000 if unit == "ms" else 1)
    return _plausible(int(hours or 0) * 3600 + int(minutes or 0) * 60 + seconds)


def _retry_after_s(headers: Mapping[str, str]) -> float | None:
    value = (get_header(headers, "retry-after") or "").strip()
    if re.fullmatch(r"\d{1,9}(\.\d{1,9})?", value, re.ASCII):
        return _plausible(float(value))
    try:  # a date is measured against the server's own clock, so that ours does not matter
        until = parsedate_to_datetime(value)
        return _plausible((until - parsedate_to_datetime(get_header(headers, "date") or "")).total_seconds())
    except (ValueError, TypeError, OverflowError):
        return None
