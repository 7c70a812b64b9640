"""A manifest given as plain Python data instead of a file: a mapping as from YAML, or a list of items or of prompts."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from numbers import Integral, Real
from typing import Any

from batchgen.manifest.diagnostics import Diagnostics, FieldPath, Position, Remark, path_text, safe_repr
from batchgen.manifest.sources import DEPTH_MAX, RawEntry

DATA_NAME = "data"  # instead of a file's name
Items = Sequence[Mapping[str, Any] | str]
ManifestData = Mapping[str, Any] | Items


class DataDiagnostics(Diagnostics):
    """Diagnostics that name the item instead of a line: `data: items[3].prompt: …`. A position's line is the item's
    number from 1."""

    def __init__(self) -> None:
        super().__init__(DATA_NAME)

    def add(self, position: Position, field: str, message: str, *, item: str = "", kind: str = "") -> None:
        entry = f"items[{position[0] - 1}]" if position[0] else ""
        super().add((0, 0), ".".join(filter(None, (entry, field))), message, item=item, kind=kind)

    def place(self, line: int) -> str:
        return f"{self.file}: items[{line - 1}]"


class DataSource:
    """A copy of the data, so that the items are the same when they are read again. A text is an item's prompt."""

    default_max_items: int | None = None

    def __init__(self, data: ManifestData, name: str | None = None) -> None:
        """name: the job's, which replaces the one in the data."""
        head = dict(data) if isinstance(data, Mapping) else {}
        items = head.pop("items", None) if isinstance(data, Mapping) else data
        self.warnings: list[Remark] = []  # data has no text that could have meant something else
        self._problems: list[Remark] = []
        self._header: dict[str, Any] = self._copy({**head, **({"name": name} if name else {})}, (0, 0), ())
        self._items: list[Any] | None = None
        if isinstance(items, Sequence) and not isinstance(items, str | bytes):
            self._items = [self._copy(each, (number, 0), ()) for number, each in enumerate(items, 1)]
        else:
            problem = (
                "is missing; without a head, give just a list of items"
                if items is None
                else f"must be a list, not {safe_repr(items)}"
            )
            self._problems.append(((0, 0), "items", problem))

    def header(self, diagnostics: Diagnostics) -> RawEntry:
        for remark in self._problems:
            diagnostics.add(*remark)
        return RawEntry(0, self._header, "")

    def entries(self, diagnostics: Diagnostics) -> Iterator[RawEntry]:
        for number, entry in enumerate(self._items or (), 1):
            if isinstance(entry, str | dict):
                yield RawEntry(number, {"prompt": entry} if isinstance(entry, str) else entry, "")
            elif entry is not None or not self._problems:  # otherwise it was refused before
                message = f"an item must be a prompt or a mapping of fields, not {safe_repr(entry)}"
                diagnostics.add((number, 0), "", message)

    def position(self, raw: RawEntry, path: FieldPath) -> Position:
        return raw.line, 0

    def _copy(self, value: Any, position: Position, path: FieldPath) -> Any:
        """The value as JSON has it, with numbers and texts of other libraries, and paths, converted. Anything else
        becomes None, and a problem."""
        if len(path) > DEPTH_MAX:
            return self._refuse(position, path, f"nested deeper than {DEPTH_MAX} levels")
        match value:
            case None | bool():
                return value
            case str() | os.PathLike():
                return str(value)
            case Integral():
                return int(value)
            case Real():
                number = float(value)
                return number if math.isfinite(number) else self._refuse(position, path, f"{number} is not a number")
            case Mapping():
                if (key := next((key for key in value if not isinstance(key, str)), None)) is not None:
                    return self._refuse(position, path, f"a name must be text, not {safe_repr(key)}")
                return {str(key): self._copy(inner, position, (*path, str(key))) for key, inner in value.items()}
            case list() | tuple():
                return [self._copy(inner, position, (*path, index)) for index, inner in enumerate(value)]
        return self._refuse(
            position, path, f"must be text, a number, true, false, a list or a mapping, not {safe_repr(value)}"
        )

    def _refuse(self, position: Position, path: FieldPath, message: str) -> None:
        self._problems.append((position, path_text(path), message))
