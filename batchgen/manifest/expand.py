"""Makes many items of one entry: matrix, zip, rows, include and exclude give variables; templates turn them into
fields. Pure.

include and exclude mean what they mean in GitHub Actions: exclude drops every combination that has all its values, then
include adds its values to each combination whose own values it does not change, or is a combination of its own. Source:
docs.github.com/actions/writing-workflows/workflow-syntax-for-github-actions, `jobs.<job_id>.strategy.matrix`.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from batchgen.manifest.diagnostics import safe_repr

Values = dict[str, Any]
INTEGER_FIELDS = frozenset(("count", "seed", "priority"))
NUMBER_FIELDS = frozenset(("temperature",))


class ExpandError(ValueError):
    """What is wrong with an entry's expansion or one of its templates, and in which field. in_row: only in this row."""

    def __init__(self, field_name: str, message: str, *, in_row: bool = False) -> None:
        super().__init__(message)
        self.field = field_name
        self.message = message
        self.in_row = in_row


@dataclass(frozen=True, slots=True)
class Expansion:
    """How an entry multiplies. Rows of a file come separately, as a stream."""

    matrix: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    zip: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    include: Sequence[Values] = ()
    exclude: Sequence[Values] = ()

    def size(self) -> int:
        """The number of combinations of matrix and zip, before exclude and include: computed, without making them."""
        zipped = len(next(iter(self.zip.values()))) if self.zip else 1
        return math.prod(map(len, self.matrix.values())) * zipped

    def check(self, max_items: int | None) -> None:
        """Raises ExpandError."""
        lengths = {name: len(values) for name, values in self.zip.items()}
        if len(set(lengths.values())) > 1:
            lengths_text = ", ".join(f"{name} has {length}" for name, length in lengths.items())
            raise ExpandError("zip", f"the lists must be equally long: {lengths_text}")
        for kind, axes in (("matrix", self.matrix), ("zip", self.zip)):
            for name, values in axes.items():
                if not values:
                    raise ExpandError(f"{kind}.{name}", "is an empty list, so nothing would be made")
        if both := sorted(set(self.matrix) & set(self.zip)):
            raise ExpandError("zip", f"{both[0]!r} is in matrix too")
        if max_items is not None and self.size() > max_items:
            lists = [*self.matrix.values(), *itertools.islice(self.zip.values(), 1)]
            factors = " x ".join(str(len(values)) for values in lists)
            message = f"makes {factors} = {self.size():,} items, more than limits.max_items ({max_items:,})"
            raise ExpandError("matrix" if self.matrix else "zip", message)


def combinations(expansion: Expansion, rows: Iterable[Values] | None = None) -> Iterator[Values]:
    """The variables of each item to make, one by one. rows: of a file, None without one. Check the expansion first."""
    used = [False] * len(expansion.include)
    for axes in _axes(expansion, rows):
        if any(_matches(axes, unwanted) for unwanted in expansion.exclude):
            continue
        values = dict(axes)
        for index, extra in enumerate(expansion.include):
            if all(name not in axes or _same(axes[name], value) for name, value in extra.items()):
                values.update(extra)
                used[index] = True
        yield values
    for index, extra in enumerate(expansion.include):
        if not used[index]:
            yield dict(extra)


def _axes(expansion: Expansion, rows: Iterable[Values] | None) -> Iterator[Values]:
    if rows is None and not expansion.matrix and not expansion.zip:
        yield from () if expansion.include else ({},)  # include alone is the list of combinations
        return
    for row in rows if rows is not None else ({},):
        yield from _product(expansion, row)


def _product(expansion: Expansion, row: Values) -> Iterator[Values]:
    zipped = [dict(zip(expansion.zip, values, strict=True)) for values in zip(*expansion.zip.values(), strict=True)]
    for values in itertools.product(*expansion.matrix.values()):
        named = dict(zip(expansion.matrix, values, strict=True))
        for pair in zipped or ({},):
            yield {**row, **named, **pair}


def _matches(values: Values, wanted: Values) -> bool:
    return all(name in values and _same(values[name], value) for name, value in wanted.items())


def _same(left: Any, right: Any) -> bool:
    """Whether values are equal, or written alike: a row's cells are text, `year: 2024` in an exclude is a number."""
    return bool(left == right) or (isinstance(left, str) != isinstance(right, str) and str(left) == str(right))


def has_template(value: Any) -> bool:
    """Whether any text inside contains a template."""
    if isinstance(value, str):
        return "{" in value and ("{{" in value or "{%" in value or "{#" in value)
    if isinstance(value, dict):
        return any(has_template(key) or has_template(inner) for key, inner in value.items())
    return isinstance(value, list) and any(map(has_template, value))


def dropped_comment(text: str) -> str | None:
    """What to say about a `{# … #}` in a text, which is not sent; None without one."""
    if "{#" not in text:
        return None
    from batchgen.manifest.templates import AS_TEXT, comment_in  # late for the reason below

    comment = comment_in(text)
    return None if comment is None else f"{safe_repr(comment)} is a comment of the template and not sent; {AS_TEXT}"


def render_field(name: str, value: Any, variables: Mapping[str, Any]) -> Any:
    """A field's value with its templates rendered, as plain lists and dicts. Raises ExpandError.

    A number field may be a template that gives digits. In a list, a template that gives nothing leaves no element.
    """
    if not isinstance(value, (str, list, dict)):
        return value
    if not isinstance(value, str):
        return _render_nested(name, value, variables)
    if not has_template(value):
        return value
    # Jinja2 takes 50 ms to import, and most manifests of a million lines contain no template at all.
    from batchgen.manifest.templates import EmptyCellPrinted, TemplateError, render

    try:
        text = render(value, variables)
    except TemplateError as problem:
        raise ExpandError(name, str(problem), in_row=isinstance(problem, EmptyCellPrinted)) from None
    try:
        if name in INTEGER_FIELDS:
            return int(text)
        return float(text) if name in NUMBER_FIELDS else text
    except ValueError:
        return text  # the schema says what is wrong with it


def _render_nested(name: str, value: Any, variables: Mapping[str, Any]) -> Any:
    if isinstance(value, dict):
        return {
            render_field(name, key, variables): render_field(name, inner, variables) for key, inner in value.items()
        }
    filled = ((inner, render_field(name, inner, variables)) for inner in value)
    return [made for inner, made in filled if made != "" or not has_template(inner)]
