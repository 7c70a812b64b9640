"""Makes items from a raw entry: by expansion and each item's own checks, or by a shortcut for the millionth line, an
entry that differs from an earlier valid one only in id, prompt and seed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from pydantic import ValidationError

from batchgen.manifest import capability, schema
from batchgen.manifest.diagnostics import Diagnostics, FieldPath, Position, text_problem
from batchgen.manifest.expand import ExpandError, Expansion, Values, combinations, has_template
from batchgen.manifest.names import PLAIN_ID, DefaultIds
from batchgen.manifest.rows import read_rows
from batchgen.manifest.sources import RawEntry
from batchgen.manifest.tables import RowError
from batchgen.manifest.validate_item import EntryContext, EntryDiagnostics, ItemValidator, ParsedEntry
from batchgen.records import Item

_PATTERNS_MAX = 1024
_PER_ITEM_FIELDS = ("id", "prompt", "filename", "origin", "seed")
_set_id, _set_prompt, _set_filename, _set_origin, _set_seed = (getattr(Item, name).__set__ for name in _PER_ITEM_FIELDS)
_new = Item.__new__
_NO_EXPANSION = Expansion()
_ABSENT: Any = object()


class _EntryPattern:
    """Makes items like a valid one. prompt_max_chars and seed_max: its model's."""

    __slots__ = ("_common", "prompt_max_chars", "seed_max")

    def __init__(self, example: Item, prompt_max_chars: int | None, seed_max: int) -> None:
        self.prompt_max_chars = float("inf") if prompt_max_chars is None else prompt_max_chars
        self.seed_max = seed_max
        common = (name for name in Item.__slots__ if name not in _PER_ITEM_FIELDS[:4])
        self._common = [(getattr(Item, name).__set__, getattr(example, name)) for name in common]

    def make(self, item_id: str, prompt: str, origin: str) -> Item:
        # The slots are set directly: calling a frozen dataclass with so many fields takes three times as long.
        item = _new(Item)
        for set_slot, value in self._common:
            set_slot(item, value)
        _set_id(item, item_id)
        _set_prompt(item, prompt)
        _set_filename(item, item_id)
        _set_origin(item, origin)
        return item


class EntryPatterns:
    """The valid entries seen recently, by what they have in common."""

    def __init__(self, default_ids: DefaultIds) -> None:
        self._default_ids = default_ids
        self._patterns: dict[tuple[Any, ...], _EntryPattern] = {}

    def make(self, entry: dict[str, Any], origin: str) -> Item | None:
        """The item of an entry, or None: take the long way. The result is always the same as by the long way."""
        rest = entry.copy()
        prompt = rest.pop("prompt", None)
        item_id = rest.pop("id", None)
        seed = rest.pop("seed", _ABSENT)
        if type(prompt) is not str or not prompt or prompt.isspace() or "{" in prompt or "\x00" in prompt:
            return None
        if item_id is None:
            item_id = self._default_ids.of(prompt)
        elif type(item_id) is not str or PLAIN_ID.fullmatch(item_id) is None:
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
        """Use this valid item as the pattern of all entries like its own."""
        if "prompt" not in entry or "filename" in entry or item.references or any(map(has_template, entry.values())):
            return
        if len(self._patterns) >= _PATTERNS_MAX:
            self._patterns.clear()
        rest = {name: value for name, value in entry.items() if name not in ("id", "prompt", "seed")}
        self._patterns[_pattern_key(rest, "seed" in entry)] = _EntryPattern(item, prompt_max_chars, seed_max)


def _pattern_key(rest: Mapping[str, Any], seeded: bool) -> tuple[Any, ...]:
    """A key that is only equal for fields of the same values and types: 1, true and 1.0 differ, although == says they
    do not."""
    return (seeded, *[(name, value if type(value) is str else (repr(value),)) for name, value in rest.items()])


class Assembler:
    """Makes items, keeping what entries have in common, so that the millionth costs little."""

    def __init__(self, context: EntryContext) -> None:
        self._context = context
        self._default_ids = DefaultIds()
        self._patterns = EntryPatterns(self._default_ids)
        self._place = context.place
        self._may_learn_patterns = (
            not has_template(dict(context.defaults)) and not {"filename", "prompt"} & context.defaults.keys()
        )

    def item_from_pattern(self, raw: RawEntry) -> Item | None:
        """The item of an entry like an earlier one; None: `items` has to look at it."""
        return self._patterns.make(raw[1], self._place(raw[0]))

    def items(self, raw: RawEntry, locate: Callable[[FieldPath], Position], diagnostics: Diagnostics) -> Iterator[Item]:
        """The items of any entry, after every check. What is wrong goes to `diagnostics`, and makes no item."""
        report = EntryDiagnostics(diagnostics, locate, self._context.locate_default)
        entry: dict[str, Any] = raw.entry
        if not _has_known_fields(entry, report) or (expansion := self._expansion(entry, report)) is None:
            return
        fields = {name: value for name, value in entry.items() if name not in schema.EXPANSION_NAMES}
        learns = self._may_learn_patterns and len(fields) == len(entry)
        switch = entry.get("templates")
        literal = (self._context.templates if switch is None else switch) in ("off", False)
        if literal and any(entry.get(name) is not None for name in schema.EXPANSION_NAMES if name != "templates"):
            report(("templates",), "off would make the same item again and again; write `templates: on` here")
            return
        parsed = ParsedEntry(fields, literal, self._place(raw.line), self._default_ids, report)
        rows = _RowVariables(self._context, entry["from"]) if entry.get("from") is not None else None
        index = 0
        try:
            for values in combinations(expansion, rows):
                index += 1
                if index == 2 and fields.get("id") is not None and not has_template(fields["id"]):
                    variable = next(iter(values), "index")
                    report(("id",), f"is the same for every item; put a variable into it, such as {{{{ {variable} }}}}")
                    return
                at = rows.position() if rows is not None else ""
                made = ItemValidator(self._context, parsed, {"index": index, **values}, at).items()
                if learns and len(made) == 1:
                    self._remember(entry, made[0])
                yield from made
        except RowError as problem:
            where = f"{_row_position(rows, problem)}: " if problem.line else ""
            report(("from",), where + problem.message)
        if rows is not None and not index and not report.reported:
            report(("from",), "has no rows")

    def _expansion(self, entry: Mapping[str, Any], report: EntryDiagnostics) -> Expansion | None:
        given = {name: entry[name] for name in schema.EXPANSION_NAMES if entry.get(name) is not None}
        if not given:
            return _NO_EXPANSION
        try:
            schema.Expansions.model_validate(given)
            expansion = Expansion(**{name: value for name, value in given.items() if name not in ("from", "templates")})
            expansion.check(self._context.max_items)
        except ValidationError as error:
            for path, message in schema.validation_problems(error):
                report(path, message)
            return None
        except ExpandError as problem:
            report(tuple(problem.field.split(".")), problem.message)
            return None
        for kind in ("matrix", "zip"):
            for name in given.get(kind, {}):
                if not name.isidentifier():
                    report((kind, name), "is not a usable name for a variable: letters, digits and '_'")
        return None if report.reported else expansion

    def _remember(self, entry: Mapping[str, Any], item: Item) -> None:
        profile = self._context.models.profile(item.model)
        self._patterns.remember(entry, item, profile.prompt_max_chars, capability.seed_max(profile))


def _has_known_fields(entry: Mapping[str, Any], report: EntryDiagnostics) -> bool:
    """Whether all fields are known. Reports the others."""
    for name in entry:
        if name not in schema.ENTRY_NAMES:
            header = name in schema.HEADER_NAMES
            hint = "belongs into the header: in JSONL the first line, with `version`"
            report((name,), hint if header else schema.unknown_field(name, schema.ENTRY_NAMES))
    return not report.reported


def _row_position(rows: _RowVariables | None, problem: RowError) -> str:
    position = f"{rows.name if rows else ''}:{problem.line}"
    return f"{position}:{problem.column}" if problem.column else position


class _RowVariables:
    """The rows of a file as variables; knows the line of the one returned last."""

    def __init__(self, context: EntryContext, name: str) -> None:
        self.name = name
        self._context = context
        self._line = 0

    def __iter__(self) -> Iterator[Values]:
        for line, values in read_rows(self._context.references.folder, self.name):
            self._line = line
            yield values
        self._line = 0

    def position(self) -> str:
        return f"{self.name}:{self._line}" if self._line else ""
