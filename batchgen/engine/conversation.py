"""What the model said in a turn of a conversation, kept as it came so that the next turn can send it back."""

from __future__ import annotations

import binascii
import hashlib
import json
from collections.abc import Iterator, Sequence
from typing import Any

import pybase64

from batchgen.errors import Malformed
from batchgen.providers.contract import Provider, SupportsConversations
from batchgen.records import DECODED_PREFIX
from batchgen.store.store import Store


def save_turn(store: Store, codec: Provider, attempt: int, envelope: bytes, lifted: Sequence[str]) -> None:
    """Durable before the picture is recorded. lifted: the files that long strings of the answer were decoded to, by number.

    Raises Malformed when something in the turn is not base64, StoreError.
    """
    if isinstance(codec, SupportsConversations):
        model_turn = _restore_base64(codec.turn(envelope), lifted)
        store.save_turn(attempt, json.dumps(model_turn, ensure_ascii=False, separators=(",", ":")).encode())


def _restore_base64(value: Any, lifted: Sequence[str]) -> Any:
    """JSON with its long strings put back."""
    if isinstance(value, str) and value.startswith(DECODED_PREFIX):
        number = value[len(DECODED_PREFIX) :]
        if not number.isdigit() or int(number) >= len(lifted):
            raise Malformed("the model's turn holds data that is not base64")
        with open(lifted[int(number)], "rb") as file:
            return pybase64.b64encode(file.read()).decode("ascii")
    if isinstance(value, dict):
        return {key: _restore_base64(inner, lifted) for key, inner in value.items()}
    return [_restore_base64(inner, lifted) for inner in value] if isinstance(value, list) else value


def embedded_sha256s(turn: bytes) -> Iterator[str]:
    """sha256 of all that a kept turn holds as base64, its picture among it: by that a turn is known when its number is not.

    Raises ValueError when the turn is not JSON.
    """
    for text in _strings(json.loads(turn)):
        try:
            yield hashlib.sha256(pybase64.b64decode(text, validate=True)).hexdigest()
        except (binascii.Error, ValueError):
            continue


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    for inner in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from _strings(inner)
