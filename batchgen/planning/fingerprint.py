"""What reaches the wire for an item, as canonical text, and its hash. Pure.

Only what was asked for appears, so that a field added later leaves every older fingerprint as it was.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from json.encoder import encode_basestring
from typing import Any

from batchgen.records import Item

VERSION = 1  # of this text: raise it when the same item is sent differently on purpose
_encode = json.JSONEncoder(ensure_ascii=False, sort_keys=True, separators=(",", ":"), allow_nan=False).encode
# Not the service tier: it changes price and speed, not the picture, so that half a job may go on at another one.
_TEXT_FIELDS = (
    "aspect_ratio",
    "image_size",
    "media_resolution",
    "negative_prompt",
    "person_generation",
    "search",
    "system",
    "thinking",
)


def wire_facts(item: Item, reference_digests: Sequence[str] = (), earlier_digest: str | None = None) -> str:
    """Canonical JSON of all that reaches the wire except the sample's number. reference_digests: sha256, in order.

    earlier_digest: sha256 of the picture of the turn before, which stands for all that the model said in it.
    """
    facts: dict[str, Any] = {name: text for name in _TEXT_FIELDS if (text := getattr(item, name)) is not None}
    if item.seed is not None:
        facts["seed"] = item.seed
    if item.temperature is not None:
        facts["temperature"] = float(item.temperature)  # 1 and 1.0 are sent alike
    if item.keep_thoughts:
        facts["keep_thoughts"] = True
    if item.modalities:
        facts["modalities"] = sorted(item.modalities)
    if item.safety:
        facts["safety"] = dict(item.safety)
    if item.extra:
        facts["extra"] = dict(item.extra)
    if item.turn:
        facts["turn"] = item.turn
        facts["history"] = list(item.history)
    if earlier_digest is not None:
        facts["earlier_turn"] = earlier_digest
    if reference_digests:
        facts["references"] = list(reference_digests)
    head = f'{{"v":{VERSION},"model":{encode_basestring(item.model)},"provider":{encode_basestring(item.provider)}'
    more = "," + _encode(facts)[1:-1] if facts else ""
    return f'{head},"prompt":{encode_basestring(item.prompt)}{more}}}'


def fingerprint(wire: str) -> str:
    """sha256 of the facts, in hex."""
    return hashlib.sha256(wire.encode()).hexdigest()


def changed_fields(old_wire: str, new_wire: str) -> list[str]:
    """Names of the fields that differ, the prompt first: `changed: prompt, seed`. `batchgen` is the version."""
    old, new = _facts(old_wire), _facts(new_wire)
    names = [name for name in (*new, *old) if old.get(name) != new.get(name)]
    names_in_words = ["batchgen" if name == "v" else name for name in dict.fromkeys(names)]
    return sorted(names_in_words, key=lambda name: (name != "prompt", name))


def _facts(wire: str) -> dict[str, Any]:
    try:
        facts = json.loads(wire)
    except ValueError:
        return {}
    return facts if isinstance(facts, dict) else {}
