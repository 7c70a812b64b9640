"""Reads each field of a profile from YAML, in a built-in file or the `models:` of a manifest."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping
from datetime import date
from typing import Any, TypeVar, get_args

from batchgen.profiles.profile import SUPPORTABLE, Makes, Prices, Profile, Status, TypicalUsage

T = TypeVar("T")
# A name may become part of an address, where other characters would have a meaning: `..`, `//`, `@`, `?`, `#`, line
# ends.
MODEL_NAME_PATTERN = re.compile(r"[A-Za-z0-9](?:[\w.:@+-]|/(?=[A-Za-z0-9])){0,199}", re.ASCII)
URL_PATH_PATTERN = re.compile(r"(?:/[A-Za-z0-9][\w.:@+~-]{0,199}){1,20}/?", re.ASCII)
SCALE_OF_1K = {"512": 0.5, "1K": 1.0, "2K": 2.0, "4K": 4.0}


class FactError(ValueError):
    """What is wrong with a fact about a model. path: the keys that lead to it, starting with the model's name."""

    def __init__(self, path: tuple[str, ...], message: str) -> None:
        super().__init__(": ".join((*path, message)))
        self.path = path
        self.message = message

    @classmethod
    def under_key(cls, key: str, error: ValueError) -> FactError:
        return cls((key, *error.path), error.message) if isinstance(error, FactError) else cls((key,), str(error))


def model_name_problem(name: str) -> str | None:
    """Why a model cannot have this name; None if it can."""
    if MODEL_NAME_PATTERN.fullmatch(name):
        return None
    return "must be letters, digits and . _ - / : @ +, at most 200 of them, and begin with a letter or digit"


def with_facts(profile: Profile, facts: Mapping[str, Any]) -> Profile:
    """The profile with these facts in place of its own. Tables by size, prices and wire are merged, not replaced.

    Raises FactError naming the key and, for an unknown one, the known keys.
    """
    for key in facts:
        if key not in FACT_READERS:
            raise FactError((key,), f"no such fact of a model; there are {', '.join(ALLOWED_KEYS)}")
    sizes_first = {key: facts[key] for key in ("sizes", "default_size") if key in facts}  # tables by size need them
    profile = dataclasses.replace(profile, **_read(sizes_first, profile))
    values = _read({key: fact for key, fact in facts.items() if key not in sizes_first}, profile)
    if "pixels_1k" in values:
        values["pixels"] = _scaled(values.pop("pixels_1k"), profile.sizes)
    return dataclasses.replace(profile, **values)


def _read(facts: Mapping[str, Any], profile: Profile) -> dict[str, Any]:
    values = {}
    for key, fact in facts.items():
        try:
            values[key] = FACT_READERS[key](fact, profile)
        except ValueError as error:
            raise FactError.under_key(key, error) from None
    return values


def _scaled(pixels_1k: Mapping[str, tuple[int, int]], sizes: tuple[str, ...]) -> dict[str, dict[str, tuple[int, int]]]:
    """The pixels of all sizes: every documented size is half, twice or four times the one at 1K (checked for Gemini
    2.5, 3.x and Imagen 4)."""
    factors = {size: SCALE_OF_1K[size] for size in sizes if size in SCALE_OF_1K}
    return {
        ratio: {size: (int(width * factor), int(height * factor)) for size, factor in factors.items()}
        for ratio, (width, height) in pixels_1k.items()
    }


def _text(fact: Any, _: Profile) -> str:
    if not isinstance(fact, str):
        raise ValueError(f"must be text, not {fact!r}")
    return fact


def _name(fact: Any, profile: Profile) -> str:
    if problem := model_name_problem(text := _text(fact, profile)):
        raise ValueError(problem)
    return text


def _texts(fact: Any, _: Profile) -> tuple[str, ...]:
    if not isinstance(fact, (list, tuple)):
        raise ValueError(f"must be a list, not {fact!r}")
    return tuple(str(entry) for entry in fact)


def _supports(fact: Any, profile: Profile) -> frozenset[str]:
    names = frozenset(_texts(fact, profile))
    if unknown := sorted(names - SUPPORTABLE):
        raise ValueError(f"{', '.join(unknown)}: not one of {', '.join(sorted(SUPPORTABLE))}")
    return names


def _count(fact: Any, _: Profile) -> int:
    if not isinstance(fact, int) or isinstance(fact, bool) or fact < 1:
        raise ValueError(f"must be a whole number of at least 1, not {fact!r}")
    return fact


def _count_or_zero(fact: Any, profile: Profile) -> int:
    return 0 if fact == 0 and not isinstance(fact, bool) else _count(fact, profile)


def _positive(fact: Any) -> float:
    if not isinstance(fact, (int, float)) or isinstance(fact, bool) or not 0 <= fact < float("inf"):
        raise ValueError(f"must be a number, not {fact!r}")
    return float(fact)


def _status(fact: Any, _: Profile) -> str:
    if fact not in get_args(Status):
        raise ValueError(f"must be one of {', '.join(get_args(Status))}, not {fact!r}")
    return str(fact)


def _makes(fact: Any, profile: Profile) -> tuple[str, ...]:
    if not (names := _texts(fact, profile)) or not set(names) <= set(get_args(Makes)):
        raise ValueError(f"must be a list of {' and '.join(get_args(Makes))}, not {fact!r}")
    return names


def _day(fact: Any, _: Profile) -> str:
    if isinstance(fact, date):  # YAML reads a bare date as one
        return fact.isoformat()
    try:
        return date.fromisoformat(fact).isoformat()
    except (TypeError, ValueError):
        raise ValueError(f"must be a date like 2026-10-02, not {fact!r}") from None


def _mapping(fact: Any) -> Mapping[Any, Any]:
    if not isinstance(fact, Mapping):
        raise ValueError(f"must be a mapping, not {fact!r}")
    return fact


def _sizes_table(fact: Any, profile: Profile, current: Mapping[str, float]) -> dict[str, float]:
    """Numbers by size, or one number for all sizes."""
    if isinstance(fact, (int, float)):
        return dict.fromkeys({profile.default_size, *profile.sizes, *current}, _positive(fact))
    return _table(fact, current)


def _table(fact: Any, current: Mapping[str, float]) -> dict[str, float]:
    """Numbers by name, merged into the current ones."""
    return {**current, **{str(name): _positive(value) for name, value in _mapping(fact).items()}}


def _time_limits(fact: Any, profile: Profile) -> dict[str, float]:
    limits = _sizes_table(fact, profile, profile.time_limit_s)
    if not all(limits.values()):
        raise ValueError("must be more than 0: to an HTTP client, 0 seconds mean no limit")
    return limits


def _prices(fact: Any, profile: Profile) -> Prices:
    names = [field.name for field in dataclasses.fields(Prices)]
    values: dict[str, Any] = {}
    for key, value in _mapping(fact).items():
        if key not in names:
            raise ValueError(f"{key}: no such price; there are {', '.join(names)}")
        if key == "image_usd":
            values[key] = _sizes_table(value, profile, profile.prices.image_usd)
        elif key == "tier_factor":
            values[key] = _table(value, profile.prices.tier_factor)
            # Whoever gives a factor vouches for it.
            values.setdefault("guessed_tiers", profile.prices.guessed_tiers - set(map(str, value)))
        elif key == "quality_factor":
            values[key] = _table(value, profile.prices.quality_factor)
        elif key == "guessed_tiers":
            values[key] = frozenset(_texts(value, profile))
        else:
            values[key] = None if value is None else _positive(value)
    return dataclasses.replace(profile.prices, **values)


def _typical(fact: Any, profile: Profile) -> TypicalUsage:
    names = [field.name for field in dataclasses.fields(TypicalUsage)]
    values: dict[str, Any] = {}
    for key, value in _mapping(fact).items():
        if key not in names:
            raise ValueError(f"{key}: not known; there are {', '.join(names)}")
        if key == "text_tokens":
            values[key] = _positive(value)
        else:
            values[key] = _table(value, getattr(profile.typical, key))
    return dataclasses.replace(profile.typical, **values)


def _pair(fact: Any) -> tuple[int, int]:
    if not isinstance(fact, (list, tuple)) or len(fact) != 2 or not all(isinstance(n, int) and n > 0 for n in fact):
        raise ValueError(f"must be [width, height] in pixels, not {fact!r}")
    return fact[0], fact[1]


def _pixels(fact: Any, profile: Profile) -> dict[str, Mapping[str, tuple[int, int]]]:
    table = {
        str(ratio): {str(size): _pair(pair) for size, pair in _mapping(row).items()}
        for ratio, row in _mapping(fact).items()
    }
    return {**profile.pixels, **table}


def _pixels_1k(fact: Any, _: Profile) -> dict[str, tuple[int, int]]:
    return {str(ratio): _pair(pair) for ratio, pair in _mapping(fact).items()}


def _by_tier(fact: Any, profile: Profile) -> dict[int, int]:
    """Numbers by tier. A manifest's keys are text, so a tier may be too."""
    facts = _mapping(fact)
    if not {str(tier) for tier in facts} <= {"1", "2", "3"}:
        raise ValueError(f"must name usage tiers 1, 2 or 3, not {fact!r}")
    return {int(tier): _count(number, profile) for tier, number in facts.items()}


def _path(fact: Any, profile: Profile) -> str:
    if not URL_PATH_PATTERN.fullmatch(text := _text(fact, profile)):
        raise ValueError("must be a path below the provider's address, such as /v1/images/generations")
    return text


def _wire(fact: Any, profile: Profile) -> dict[str, Any]:
    merged = dict(profile.wire)
    for key, value in _mapping(fact).items():
        try:
            value = None if value is None else _wire_value(key, value, profile)
        except ValueError as error:
            raise FactError.under_key(str(key), error) from None
        current = merged.get(key)
        merged[key] = {**current, **value} if isinstance(current, Mapping) and isinstance(value, Mapping) else value
    return merged


def _wire_value(key: str, value: Any, profile: Profile) -> Any:
    """Tables belong to the body, which is JSON and may contain any text; a value that is itself text may become part of
    an address."""
    if key in ("fields", "defaults"):
        return _mapping(value)
    if key == "values":
        return {
            ours: {str(said): their for said, their in _mapping(table).items()}
            for ours, table in _mapping(value).items()
        }
    if key == "unit_usd":
        return _positive(value)
    if key == "path":
        return _path(value, profile)
    return _name(value, profile) if isinstance(value, str) or key in ("model", "api_version") else value


def _optional(reader: Callable[[Any, Profile], T]) -> Callable[[Any, Profile], T | None]:
    return lambda fact, profile: None if fact is None else reader(fact, profile)


FACT_READERS: Mapping[str, Callable[[Any, Profile], Any]] = {
    "provider": _name,
    "title": _text,
    "aliases": _texts,
    "status": _status,
    "shutdown": _optional(_day),
    "replacement": _optional(_text),
    "note": _text,
    "makes": _makes,
    "ratios": _texts,
    "sizes": _texts,
    "default_size": _text,
    "pixels": _pixels,
    "pixels_1k": _pixels_1k,
    "references_max": _optional(_count_or_zero),
    "reference_mime_types": _texts,
    "request_max_bytes": _count,
    "supports": _supports,
    "thinking": _texts,
    "search": _texts,
    "person_generation": _texts,
    "quality": _texts,
    "background": _texts,
    "output_format": _texts,
    "rpm": _optional(_count),
    "rpd": _optional(_count),
    "max_jobs": _optional(_count),
    "batch_tokens": _by_tier,
    "images_per_request": _count,
    "prompt_max_chars": _optional(_count),
    "prices": _prices,
    "typical": _typical,
    "time_limit_s": _time_limits,
    "latency_s": lambda fact, profile: _sizes_table(fact, profile, profile.latency_s),
    "wire": _wire,
    "sources": _texts,
}
ALLOWED_KEYS = tuple(sorted(FACT_READERS))
