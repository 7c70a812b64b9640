"""What the model said in a turn of a conversation, kept as it came so that the next turn can send it back."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pybase64

from batchgen.errors import Malformed
from batchgen.providers.base import Conversing, Provider
from batchgen.records import LIFTED
from batchgen.store.store import Store


def keep_turn(store: Store, codec: Provider, attempt: int, envelope: bytes, lifted: Sequence[str]) -> None:
    """Durable before the picture is recorded. lifted: the files that long strings of the answer were decoded to, by number.

    Raises Malformed when something in the turn is not base64, StoreError.
    """
    if isinstance(codec, Conversing):
        said = _whole(codec.turn(envelope), lifted)
        store.keep_turn(attempt, json.dumps(said, ensure_ascii=False, separators=(",", ":")).encode())


def _whole(value: Any, lifted: Sequence[str]) -> Any:
    """JSON with its long strings put back."""
    if isinstance(value, str) and value.startswith(LIFTED):
        number = value[len(LIFTED) :]
        if not number.isdigit() or int(number) >= len(lifted):
            raise Malformed("the model's turn holds data that is not base64")
        with open(lifted[int(number)], "rb") as file:
            return pybase64.b64encode(file.read()).decode("ascii")
    if isinstance(value, dict):
        return {key: _whole(inner, lifted) for key, inner in value.items()}
    return [_whole(inner, lifted) for inner in value] if isinstance(value, list) else value
