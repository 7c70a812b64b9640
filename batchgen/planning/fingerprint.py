"""What reaches the wire for an item, as canonical text, and its hash. Pure.

Only what was requested appears, so that a field added later leaves every older fingerprint unchanged. The service tier
does not: it changes price and speed, not the image, so that half a job may continue at another tier.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import fields
from json.encoder import encode_basestring
from operator import attrgetter
from typing import Any

from batchgen.records import Item

VERSION = 1  # of this text: raise it if the same item is sent differently on purpose
_encode = json.JSONEncoder(ensure_ascii=False, sort_keys=True, separators=(",", ":"), allow_nan=False).encode
# Fields that are written in a special way; every other field that affects the image has its own name.
_TOLD_APART = ("prompt", "references", "turn")
_TOLD = tuple(
    slot
    for slot in fields(Item)
    if "manifest" in slot.metadata and slot.metadata["manifest"].use == "picture" and slot.name not in _TOLD_APART
)
_NAMES = tuple(slot.name for slot in _TOLD)
_NUMBERS = frozenset(slot.name for slot in _TOLD if slot.type == "float | None")  # 1 and 1.0 are sent alike
_values = attrgetter(*_NAMES)
_NOTHING_ASKED = _values(Item(id="", prompt="", model="", provider="", filename=""))


def wire_facts(item: Item, reference_digests: Sequence[str] = (), earlier_digest: str | None = None) -> str:
    """Canonical JSON of everything that reaches the wire except the sample's number. reference_digests: sha256, in
    order.

    earlier_digest: the sha256 of the previous turn's image, which stands for everything the model said in it.
    """
    facts: dict[str, Any] = {}
    if (values := _values(item)) != _NOTHING_ASKED:
        for name, value, nothing in zip(_NAMES, values, _NOTHING_ASKED):  # noqa: B905 - as long, and this is the hot loop
            if value is not nothing and value != nothing:
                facts[name] = value if type(value) is str else _canonical(name, value)
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


def _canonical(name: str, value: Any) -> Any:
    """A value in one form for all values that are sent alike; in a set of choices the order does not count."""
    if name in _NUMBERS:
        return float(value)
    if isinstance(value, tuple):
        return sorted(value)
    return dict(value) if isinstance(value, Mapping) else value


def fingerprint(wire: str) -> str:
    """The sha256 of the facts, in hex."""
    return hashlib.sha256(wire.encode()).hexdigest()


def changed_fields(old_wire: str, new_wire: str) -> list[str]:
    """The names of the fields that differ, the prompt first: `changed: prompt, seed`. `batchgen` is the version."""
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
