"""Our dataclass and the standard library's are the same to whoever uses them."""

from __future__ import annotations

import copy
import dataclasses
import pickle
from typing import Any, ClassVar

import pytest

from batchgen.dataclass import dataclass


class Point:
    kind: ClassVar[str] = "point"
    x: int
    y: float = 0.5
    label: str = dataclasses.field(default="", compare=False)
    secret: str = dataclasses.field(default="hush", repr=False)
    tags: tuple[str, ...] = dataclasses.field(default=(), hash=False)


class One:
    x: Any


class Nothing:
    pass


class Speaking:
    x: int

    def __repr__(self) -> str:
        return "as I say"


class Alike:
    x: int

    def __eq__(self, other: object) -> bool:
        return True


def both(cls: type, **options: Any) -> tuple[Any, Any]:
    """The same class by ours and by the standard one."""

    def copied() -> type:
        return type(cls.__name__, (), {**{k: v for k, v in vars(cls).items() if k not in ("__dict__", "__weakref__")}})

    return dataclass(**options)(copied()), dataclasses.dataclass(**options)(copied())


OPTIONS = [
    {"frozen": True, "slots": True},
    {"frozen": True, "kw_only": True},
    {"slots": True},
    {"frozen": True, "order": True},
]
VALUES = [
    {"x": 1},
    {"x": 2},
    {"x": 1, "y": 3.0},
    {"x": 1, "label": "a"},
    {"x": 1, "secret": "other"},
    {"x": 1, "tags": ("b",)},
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_what_is_equal_has_the_same_hash_and_text(options):
    ours, standard = both(Point, **options)
    made, wanted = [ours(**each) for each in VALUES], [standard(**each) for each in VALUES]
    assert [repr(each) for each in made] == [repr(each) for each in wanted]
    assert [[one == other for other in made] for one in made] == [[one == other for other in wanted] for one in wanted]
    if options.get("frozen"):
        assert [len({hash(one), hash(made[0])}) for one in made] == [
            len({hash(one), hash(wanted[0])}) for one in wanted
        ]
    assert made[0] != wanted[0]


@pytest.mark.parametrize("cls", [One, Nothing, Speaking, Alike])
def test_so_do_classes_of_one_field_of_none_and_with_methods_of_their_own(cls):
    made, wanted = (
        [kind(**({"x": 7} if kind.__annotations__ else {})) for _ in "ab"] for kind in both(cls, frozen=True)
    )
    assert repr(made[0]) == repr(wanted[0])
    assert made[0] == made[1]
    assert hash(made[0]) == hash(made[1])
    assert (made[0] == "x") == (wanted[0] == "x")


def test_a_value_that_is_not_equal_to_itself_is_still_the_same_one():
    made, wanted = (kind(float("nan")) for kind in both(One, frozen=True))
    assert (made == made) is (wanted == wanted) is True


def test_one_that_holds_itself_has_a_text():
    held: list[Any] = []
    made, wanted = (kind(held) for kind in both(One, frozen=True))
    held.append(made)
    assert repr(made) == "One(x=[...])"
    held[0] = wanted
    assert repr(wanted) == "One(x=[...])"


@dataclass(frozen=True, slots=True)
class Kept:
    x: int
    names: tuple[str, ...] = ()


def test_it_is_frozen_copied_changed_and_pickled_as_any():
    kept = Kept(1, ("a",))
    with pytest.raises(dataclasses.FrozenInstanceError):
        kept.x = 2  # type: ignore[misc]
    assert copy.copy(kept) == pickle.loads(pickle.dumps(kept)) == dataclasses.replace(kept) == kept  # noqa: S301 - our own
    assert dataclasses.asdict(kept) == {"x": 1, "names": ("a",)}
    match kept:
        case Kept(x, (name,)):
            assert (x, name) == (1, "a")
