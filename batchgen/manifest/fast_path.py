"""The short way for the millionth line: an entry that differs from an earlier good one only in id, prompt and seed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from batchgen.manifest import names
from batchgen.manifest.diagnostics import text_problem
from batchgen.manifest.expand import has_template
from batchgen.records import Item

_PATTERNS_MAX = 1024
_PER_ITEM_FIELDS = ("id", "prompt", "filename", "origin", "seed")
_set_id, _set_prompt, _set_filename, _set_origin, _set_seed = (getattr(Item, name).__set__ for name in _PER_ITEM_FIELDS)
_new = Item.__new__
_ABSENT: Any = object()


class _EntryPattern:
    """Makes items that are like a good one. prompt_max_chars and seed_max: of its model."""

    __slots__ = ("_common", "prompt_max_chars", "seed_max")

    def __init__(self, example: Item, prompt_max_chars: int | None, seed_max: int) -> None:
        self.prompt_max_chars = float("inf") if prompt_max_chars is None else prompt_max_chars
        self.seed_max = seed_max
        common = (name for name in Item.__slots__ if name not in _PER_ITEM_FIELDS[:4])
        self._common = [(getattr(Item, name).__set__, getattr(example, name)) for name in common]

    def make(self, item_id: str, prompt: str, origin: str) -> Item:
        # The slots are set directly: a frozen dataclass with 22 fields takes three times as long to call.
        item = _new(Item)
        for set_slot, value in self._common:
            set_slot(item, value)
        _set_id(item, item_id)
        _set_prompt(item, prompt)
        _set_filename(item, item_id)
        _set_origin(item, origin)
        return item


class EntryPatterns:
    """The good entries seen lately, by what they have in common."""

    def __init__(self) -> None:
        self._patterns: dict[tuple[Any, ...], _EntryPattern] = {}

    def make(self, entry: dict[str, Any], origin: str) -> Item | None:
        """The item of an entry, or None: take the long way. Never judges anything otherwise than the long way would."""
        rest = entry.copy()
        prompt = rest.pop("prompt", None)
        item_id = rest.pop("id", None)
        seed = rest.pop("seed", _ABSENT)
        if type(prompt) is not str or not prompt or prompt.isspace() or "{" in prompt or "\x00" in prompt:
            return None
        if item_id is None:
            item_id = names.default_id(prompt)
        elif type(item_id) is not str or names.PLAIN_ID.fullmatch(item_id) is None:
            return None
        pattern = self._patterns.get(_pattern_key(rest, seed is not _ABSENT))
        if pattern is None or len(prompt) > pattern.prompt_max_chars:
            return None
        if "AIza" in prompt or "sk-" in prompt or "AQ." in prompt or (not prompt.isascii() and text_problem(prompt)):
            return None
        if seed is _ABSENT:
            return pattern.make(item_id, prompt, origin)
        if type(seed) is not int or not 0 <= seed <= pattern.seed_max:
            return None
        item = pattern.make(item_id, prompt, origin)
        _set_seed(item, seed)
        return item

    def remember(self, entry: Mapping[str, Any], item: Item, prompt_max_chars: int | None, seed_max: int) -> None:
        """Take this good item as the pattern of all entries that look like its own."""
        if "prompt" not in entry or "filename" in entry or item.references or any(map(has_template, entry.values())):
            return
        if len(self._patterns) >= _PATTERNS_MAX:
            self._patterns.clear()
        rest = {name: value for name, value in entry.items() if name not in ("id", "prompt", "seed")}
        self._patterns[_pattern_key(rest, "seed" in entry)] = _EntryPattern(item, prompt_max_chars, seed_max)


def _pattern_key(rest: Mapping[str, Any], seeded: bool) -> tuple[Any, ...]:
    """Equal only for fields of the same values and types: 1, true and 1.0 differ, though == says they do not."""
    return (seeded, *[(name, value if type(value) is str else (repr(value),)) for name, value in rest.items()])
