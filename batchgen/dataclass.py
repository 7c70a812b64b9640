"""Dataclasses that take less of the start: CPython writes and compiles six functions for each frozen one, a third of a
millisecond. Of these, comparison, hash and text are the same for all but for the names of the fields, and are written here once.

For modules that every start loads; anywhere else the standard library's own is as good.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import Field, fields
from dataclasses import dataclass as standard
from functools import partial
from operator import attrgetter
from reprlib import recursive_repr
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dataclasses import dataclass as dataclass
else:

    def dataclass(cls=None, /, **options):
        """As `dataclasses.dataclass`, with the same meaning of every option and of what the class defines itself."""
        if cls is None:
            return partial(dataclass, **options)
        shared = {"__repr__", "__eq__", "__hash__"}
        if (
            not options.get("frozen")
            or options.keys() & {"order", "unsafe_hash", "eq", "repr"}
            or shared & {*vars(cls)}
        ):
            return standard(cls, **options)
        made = standard(cls, eq=False, repr=False, **options)
        made.__repr__ = _repr([field.name for field in fields(made) if field.repr])
        made.__eq__ = _eq(_values(field.name for field in fields(made) if field.compare))
        made.__hash__ = _hash(_values(field.name for field in fields(made) if _is_hashed(field)))
        return made


def _is_hashed(field: Field[Any]) -> bool:
    return field.compare if field.hash is None else field.hash


def _values(names: Iterable[str]) -> Callable[[Any], tuple[Any, ...]]:
    """A function that gives an object's values of these."""
    found = tuple(names)
    if len(found) < 2:
        return lambda self: tuple(getattr(self, name) for name in found)
    return attrgetter(*found)


def _repr(names: list[str]) -> Any:
    @recursive_repr("...")
    def text(self: Any) -> str:
        shown = ", ".join(f"{name}={getattr(self, name)!r}" for name in names)
        return f"{type(self).__qualname__}({shown})"

    return text


def _eq(values: Callable[[Any], tuple[Any, ...]]) -> Any:
    def equal(self: Any, other: object) -> bool:
        return bool(values(self) == values(other)) if other.__class__ is self.__class__ else NotImplemented

    return equal


def _hash(values: Callable[[Any], tuple[Any, ...]]) -> Any:
    def hashed(self: Any) -> int:
        return hash(values(self))

    return hashed
