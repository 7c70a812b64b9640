"""From one raw entry to its items: expansion, then each item's own checks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from pydantic import ValidationError

from batchgen.manifest import capability, schema
from batchgen.manifest.diagnostics import Diagnostics
from batchgen.manifest.expand import ExpandError, Expansion, combinations, has_template
from batchgen.manifest.fast_path import EntryPatterns
from batchgen.manifest.rows import RowError, read_rows
from batchgen.manifest.sources import FieldPath, Position, RawEntry
from batchgen.manifest.validate_item import EntryContext, EntryDiagnostics, ItemValidator, Values
from batchgen.records import Item

_NO_EXPANSION = Expansion()


class Assembler:
    """Holds what entries have in common, so that the millionth costs little."""

    def __init__(self, context: EntryContext) -> None:
        self._context = context
        self._patterns = EntryPatterns()
        self._origin = f"{context.file}:"
        self._may_learn_patterns = (
            not has_template(dict(context.defaults)) and not {"filename", "prompt"} & context.defaults.keys()
        )

    def item_from_pattern(self, raw: RawEntry) -> Item | None:
        """The item of an entry like an earlier one; None: `items` has to look at it."""
        return self._patterns.make(raw[1], f"{self._origin}{raw[0]}")

    def items(self, raw: RawEntry, locate: Callable[[FieldPath], Position], diagnostics: Diagnostics) -> Iterator[Item]:
        """The items of any entry, after every check. What is wrong goes to `diagnostics`, and makes no item."""
        report = EntryDiagnostics(diagnostics, locate)
        entry: dict[str, Any] = raw.entry
        if not _has_known_fields(entry, report) or (expansion := self._expansion(entry, report)) is None:
            return
        fields = {name: value for name, value in entry.items() if name not in schema.EXPANSION_NAMES}
        learns = self._may_learn_patterns and len(fields) == len(entry)
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
                for item in ItemValidator(self._context, fields, {"index": index, **values}, report, at).items(
                    at or f"{self._origin}{raw.line}"
                ):
                    if learns:
                        self._remember(entry, item)
                    yield item
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
            expansion = Expansion(**{name: value for name, value in given.items() if name != "from"})
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
                    report((kind, name), "is no usable name for a variable: letters, digits and '_'")
        return None if report.reported else expansion

    def _remember(self, entry: Mapping[str, Any], item: Item) -> None:
        profile = self._context.profile(item.model)
        self._patterns.remember(entry, item, profile.prompt_max_chars, capability.seed_max(profile))


def _has_known_fields(entry: Mapping[str, Any], report: EntryDiagnostics) -> bool:
    """Whether every field is one that there is. Complains about the others."""
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
    """The rows of a file as variables; knows the line of the one given out last."""

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
