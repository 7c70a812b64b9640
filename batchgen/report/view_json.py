"""Converts views to plain JSON data: every field is a key."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from batchgen.report import formatting

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

V = TypeVar("V", bound="DataclassInstance")


class UtcTime(float):
    """UTC seconds since 1970; in JSON text such as `2026-11-21T02:53:51Z`."""

    @property
    def iso(self) -> str:
        return str(formatting.utc_iso(self))

    @property
    def ago_s(self) -> float:
        return max(0.0, time.time() - self)


def utc_time(at: float | None) -> UtcTime | None:
    return None if at is None else UtcTime(at)


class Sparse:
    """A view whose JSON leaves out each field that has its default: a page has thousands of them."""

    __slots__ = ()


def as_json(value: Any) -> Any:
    """A view, or a part of one, as plain JSON data. A named tuple is a row without names: a page has thousands of
    those."""
    if isinstance(value, str | int | None):
        return value
    if isinstance(value, UtcTime):
        return value.iso
    if is_dataclass(value):
        found = [(field.name, getattr(value, field.name), field.default) for field in fields(value)]
        sparse = isinstance(value, Sparse)
        return {name: as_json(each) for name, each, default in found if not (sparse and each == default)}
    if isinstance(value, Mapping):
        return {name: as_json(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [as_json(each) for each in value]
    if isinstance(value, float):
        return round(value, 6)  # a millionth of a dollar, a microsecond: anything beyond is an artefact of sums
    return value


def view_of(kind: type[V], facts: Any, /, **others: Any) -> V:
    """A view with the fields that a row, or another view, has under the same names, except `others`."""
    same = (field.name for field in fields(kind) if field.name not in others)
    return kind(**{name: getattr(facts, name) for name in same}, **others)
