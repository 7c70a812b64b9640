"""From one raw entry to its items: expansion, then each item's own checks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from pydantic import ValidationError

from batchgen.manifest import capability, schema
from batchgen.manifest.diagnostics import Complaints
from batchgen.manifest.expand import ExpandError, Expansion, combinations, templated
from batchgen.manifest.fast_path import Patterns
from batchgen.manifest.rows import RowError, read_rows
from batchgen.manifest.sources import FieldPath, Place, Raw
from batchgen.manifest.validate_item import OneItem, Setting, Telling, Values
from batchgen.records import Item

_ONE = Expansion()


class Assembler:
    """Holds what entries have in common, so that the millionth costs little."""

    def __init__(self, setting: Setting) -> None:
        self._set = setting
        self._patterns = Patterns()
        self._origin = f"{setting.file}:"
        self._learns = not templated(dict(setting.defaults)) and not {"filename", "prompt"} & setting.defaults.keys()

    def plain(self, raw: Raw) -> Item | None:
        """The item of an entry like an earlier one; None: `items` has to look at it."""
        return self._patterns.make(raw[1], f"{self._origin}{raw[0]}")

    def items(self, raw: Raw, locate: Callable[[FieldPath], Place], complaints: Complaints) -> Iterator[Item]:
        """The items of any entry, after every check. What is wrong goes to `complaints`, and makes no item."""
        tell = Telling(complaints, locate)
        entry: dict[str, Any] = raw.entry
        if not _known(entry, tell) or (expansion := self._expansion(entry, tell)) is None:
            return
        fields = {name: value for name, value in entry.items() if name not in schema.EXPANSION_NAMES}
        learns = self._learns and len(fields) == len(entry)
        rows = _Rows(self._set, entry["from"]) if entry.get("from") is not None else None
        index = 0
        try:
            for values in combinations(expansion, rows):
                index += 1
                if index == 2 and fields.get("id") is not None and not templated(fields["id"]):
                    variable = next(iter(values), "index")
                    tell(("id",), f"is the same for every item; put a variable into it, such as {{{{ {variable} }}}}")
                    return
                at = rows.place() if rows is not None else ""
                for made in OneItem(self._set, fields, {"index": index, **values}, tell, at).items(
                    at or f"{self._origin}{raw.line}"
                ):
                    if learns:
                        self._remember(entry, made)
                    yield made
        except RowError as problem:
            where = f"{_shown_path(rows, problem)}: " if problem.line else ""
            tell(("from",), where + problem.message)
        if rows is not None and not index and not tell.told:
            tell(("from",), "has no rows")

    def _expansion(self, entry: Mapping[str, Any], tell: Telling) -> Expansion | None:
        given = {name: entry[name] for name in schema.EXPANSION_NAMES if entry.get(name) is not None}
        if not given:
            return _ONE
        try:
            schema.Expansions.model_validate(given)
            expansion = Expansion(**{name: value for name, value in given.items() if name != "from"})
            expansion.check(self._set.max_items)
        except ValidationError as error:
            for path, message in schema.problems(error):
                tell(path, message)
            return None
        except ExpandError as problem:
            tell(tuple(problem.field.split(".")), problem.message)
            return None
        for kind in ("matrix", "zip"):
            for name in given.get(kind, {}):
                if not name.isidentifier():
                    tell((kind, name), "is no usable name for a variable: letters, digits and '_'")
        return None if tell.told else expansion

    def _remember(self, entry: Mapping[str, Any], item: Item) -> None:
        profile = self._set.profile(item.model)
        self._patterns.remember(entry, item, profile.prompt_max_chars, capability.seed_max(profile))


def _known(entry: Mapping[str, Any], tell: Telling) -> bool:
    """Whether every field is one that there is. Complains about the others."""
    for name in entry:
        if name not in schema.ENTRY_NAMES:
            header = name in schema.HEADER_NAMES
            hint = "belongs into the header: in JSONL the first line, with `version`"
            tell((name,), hint if header else schema.unknown_field(name, schema.ENTRY_NAMES))
    return not tell.told


def _shown_path(rows: _Rows | None, problem: RowError) -> str:
    place = f"{rows.name if rows else ''}:{problem.line}"
    return f"{place}:{problem.column}" if problem.column else place


class _Rows:
    """The rows of a file as variables; knows the line of the one given out last."""

    def __init__(self, setting: Setting, name: str) -> None:
        self.name = name
        self._setting = setting
        self._line = 0

    def __iter__(self) -> Iterator[Values]:
        for line, values in read_rows(self._setting.references.folder, self.name):
            self._line = line
            yield values
        self._line = 0

    def place(self) -> str:
        return f"{self.name}:{self._line}" if self._line else ""
