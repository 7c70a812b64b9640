"""A file of facts about one provider's models, built in or from a package: its shape, its models, and where in it a
fact is."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import yaml

from batchgen.profiles.fields import FactError, model_name_problem, with_facts
from batchgen.profiles.profile import Profile

KEYS = ("provider", "title", "checked", "order", "ids", "tables", "spend_tiers", "models")
NOT_ALIKE = (
    *("id", "provider", "title", "aliases", "status", "shutdown", "replacement", "note", "wire", "sources"),
    *("rpm", "rpd", "batch_tokens"),
)
FOLDER = Path(__file__).parent
_ORDER = re.compile(r"^order: (\d+)", re.MULTILINE)
_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # ten times faster, but missing on a few platforms


def load_file(text: str) -> Mapping[str, Any]:
    """Read a file. Raises YAMLError, and FactError if it is not a mapping of KEYS."""
    file = yaml.load(text, Loader=_Loader)  # noqa: S506 - a safe one
    if not isinstance(file, Mapping):
        raise FactError((), f"must be a mapping of {', '.join(KEYS)}")
    for key in file:
        if key not in KEYS:
            raise FactError((str(key),), f"not known here; there are {', '.join(KEYS)}")
    if not isinstance(file.get("provider"), str):
        raise FactError(("provider",), "must name the provider whose models these are")
    try:
        re.compile(file.get("ids", ""))
    except (TypeError, re.error) as error:
        raise FactError(("ids",), f"must be a regular expression: {error}") from None
    return file


@lru_cache(maxsize=1)
def _texts() -> tuple[str, ...]:
    """The texts of the built-in files, in the order in which their models are listed."""
    texts = [path.read_text(encoding="utf-8") for path in FOLDER.glob("*.yaml")]
    return tuple(sorted(texts, key=lambda text: int(_ORDER.findall(text)[0])))


@cache
def _file(number: int) -> Mapping[str, Any]:
    return load_file(_texts()[number])


@cache
def _profiles(number: int) -> Mapping[str, Profile]:
    """The profiles in one of the built-in files, by id."""
    others = dict[str, Profile]()
    for facts in _file(number)["models"]:
        others |= profiles_naming(facts["like"], number) if "like" in facts else {}
    return {profile.id: profile for profile in models_of(_file(number), others)}


def profile_files() -> tuple[Mapping[str, Any], ...]:
    """All built-in facts, one file for each provider, in the order in which its models are listed."""
    return tuple(_file(number) for number in range(len(_texts())))


def built_in_profiles() -> Mapping[str, Profile]:
    """The models this version knows, by id."""
    return {name: profile for number in range(len(_texts())) for name, profile in _profiles(number).items()}


def profiles_naming(name: str, before: int | None = None) -> Mapping[str, Profile]:
    """The profiles, by id, in the built-in files that contain this id or alias: reading all files takes 15 ms. before:
    files from this number on are left out."""
    word = re.compile(rf"(?<![\w./-]){re.escape(name)}(?![\w./-])")
    numbers = [number for number, text in enumerate(_texts()[:before]) if word.search(text)]
    return {found: profile for number in numbers for found, profile in _profiles(number).items()}


def models_of(file: Mapping[str, Any], others: Mapping[str, Profile]) -> Iterator[Profile]:
    """The models in a file, of its provider unless they name another. others: models that one may be `like`. Raises
    FactError."""
    entries = file.get("models")
    if not isinstance(entries, list):
        raise FactError(("models",), f"must be a list of models, each with an id, not {entries!r}")
    seen = set[str]()
    for number, facts in enumerate(entries):
        place = ("models", str(number))
        name = facts.get("id") if isinstance(facts, Mapping) else None
        if not isinstance(name, str) or (problem := model_name_problem(name)):
            raise FactError((*place, "id"), "must be text" if not isinstance(name, str) else str(problem))
        if name in seen:
            raise FactError((*place, "id"), f"{name} is there twice")
        seen.add(name)
        fresh, like = Profile(id=name, provider=file["provider"]), facts.get("like")
        if like is not None:
            if like not in others:
                raise FactError((*place, "like"), f"{like} is not a model of batchgen's own")
            fresh = _like(others[like], fresh)
        try:
            yield with_facts(fresh, {key: fact for key, fact in facts.items() if key not in ("id", "like")})
        except FactError as error:
            raise FactError((*place, *error.path), error.message) from None


def _like(same: Profile, fresh: Profile) -> Profile:
    """A model like one that another provider has, without what depends on the provider. same: that model."""
    prices = dataclasses.replace(same.prices, batch_factor=None, tier_factor={}, guessed_tiers=frozenset())
    own = {name: getattr(fresh, name) for name in NOT_ALIKE}
    return dataclasses.replace(same, **own, prices=prices)


def line_of(text: str, path: Iterable[str]) -> int:
    """The line, from 1, of the last of these keys that the text has. The text is valid YAML."""
    found = yaml.compose(text, Loader=yaml.SafeLoader)
    line = 1
    for key in path:
        mark, found = _child(found, key)
        if found is None:
            break
        line = mark.line + 1
    return line


def _child(node: Any, key: Hashable) -> tuple[Any, Any]:
    """Where a key of a node is, and its value; a merged key is where it was written."""
    if isinstance(node, yaml.SequenceNode):
        child = node.value[int(str(key))]
        return child.start_mark, child
    pairs: Sequence[tuple[Any, Any]] = node.value if isinstance(node, yaml.MappingNode) else ()
    for name, value in pairs:
        if name.value == key:
            return name.start_mark, value
    for name, value in pairs:
        if name.value == "<<":
            for merged in value.value if isinstance(value, yaml.SequenceNode) else [value]:
                if (found := _child(merged, key))[1] is not None:
                    return found
    return None, None
