"""All known AI models by id and alias, and what an unknown id is taken for."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from difflib import SequenceMatcher, get_close_matches
from functools import lru_cache
from typing import Any, Self

from batchgen.profiles.fields import FactError, model_name_problem, with_facts
from batchgen.profiles.file import built_in_profiles, profile_files, profiles_naming
from batchgen.profiles.packages import guess_package, package_models
from batchgen.profiles.profile import Profile

DEFAULT_MODEL = "flash"


class Catalogue:
    """The models. An override makes a new catalogue. Models of packages are added once a name is requested that is not
    built in, and cannot replace a built-in one. problems: why some could not be added, empty before that.

    Built-in models are read on demand: for a name, from the files that contain it, otherwise all.
    """

    def __init__(self, profiles: Iterable[Profile] = ()) -> None:
        """profiles: in addition to the built-in ones, and in place of those with the same ids."""
        self._by_id = {profile.id: profile for profile in profiles}
        self._id_by_alias = {alias: profile.id for profile in self._by_id.values() for alias in profile.aliases}
        self._has_all = False
        self._meant_by: dict[str, str | None] = {}
        self.problems: tuple[str, ...] = ()

    def _add(self, profiles: Iterable[Profile]) -> None:
        """Add profiles, except those whose names are taken."""
        for profile in profiles:
            if profile.id not in self._by_id:
                self._by_id[profile.id] = profile
                self._id_by_alias |= {alias: profile.id for alias in profile.aliases if alias not in self._id_by_alias}

    def _all(self) -> dict[str, Profile]:
        """All models by id, built-in ones first, in the order of their files."""
        if not self._has_all:
            ours = built_in_profiles()
            self._add(ours.values())
            self._by_id = {name: self._by_id[name] for name in (*ours, *self._by_id)}
            self._has_all = True
        return self._by_id

    def __iter__(self) -> Iterator[Profile]:
        """The models that make images, as far as is known."""
        return (profile for profile in self._all().values() if profile.may_make_images)

    @property
    def judges(self) -> tuple[Profile, ...]:
        """The models known to answer with text: they can look at images and judge them."""
        return tuple(profile for profile in self._all().values() if "text" in profile.makes)

    def __contains__(self, name: object) -> bool:
        return name in self._all() or name in self._id_by_alias

    @property
    def providers(self) -> frozenset[str]:
        """The providers of the models read so far, including all that packages bring and the manifest declares."""
        return frozenset(profile.provider for profile in self._by_id.values())

    def resolve(self, name: str) -> Profile:
        """The profile of an id or alias. An unknown id passes with status `unknown` and nothing checked."""
        name = name.removeprefix("models/")  # as the vendor's ListModels spells them
        known = self._find(name) or self.with_packages()._find(name)
        return known or unknown_profile(name, guess_provider(name))

    def _find(self, name: str) -> Profile | None:
        if not self._has_all and name not in self._by_id:
            self._add(profiles_naming(name).values())
        return self._by_id.get(name) or self._by_id.get(self._id_by_alias.get(name, ""))

    def with_packages(self) -> Self:
        """This catalogue, with the models of installed packages."""
        found = package_models()
        self.problems = found.problems
        self._all()
        self._add(profile for profile in found.profiles if profile.id not in self)
        return self

    def suggestions(self, name: str) -> list[str]:
        """Ids and aliases similar to this name, the likeliest first."""
        known = self._all()
        return get_close_matches(name, [*self._id_by_alias, *known], n=3, cutoff=0.6)

    def misspelt(self, name: str) -> str | None:
        """The known id or alias that differs from this name in one or two letters. Another number means another
        model."""
        if name not in self._meant_by:  # looked up once, however many items have it
            near = [known for known in self.suggestions(name) if _letters(known) != _letters(name)]
            most = 1 if len(name) < 6 else 2
            self._meant_by[name] = next((known for known in near if _edits(known, name) <= most), None)
        return self._meant_by[name]

    def with_overrides(self, overrides: Mapping[str, Mapping[str, Any]]) -> Catalogue:
        """This catalogue with the `models:` of a manifest on top; an unknown name adds a model. A status that is given
        holds, whatever shutdown date is known.

        Raises FactError naming the model, the key and the known keys.
        """
        profiles = dict(self._by_id)
        for name, facts in overrides.items():
            profile = self.resolve(name)
            if problem := model_name_problem(profile.id):
                raise FactError((name,), problem)
            if not isinstance(facts, Mapping):
                raise FactError((name,), f"must be a mapping of facts, not {facts!r}")
            provider = facts.get("provider", profile.provider)
            if profile.id not in self._by_id or provider != profile.provider:
                # Whoever declares a model vouches for it; what is known about it at another provider does not apply.
                unknown = unknown_profile(profile.id, provider)
                profile = dataclasses.replace(unknown, status="live", aliases=profile.aliases)
            if "status" in facts:
                profile = dataclasses.replace(profile, shutdown=None)
            try:
                profiles[profile.id] = with_facts(profile, facts)
            except FactError as error:
                raise FactError.under_key(name, error) from None
        return Catalogue(profiles.values())


def _letters(name: str) -> str:
    return re.sub(r"[\d.]", "", name)


def _edits(one: str, other: str) -> int:
    """The number of characters to change, insert or delete."""
    blocks = SequenceMatcher(None, one, other, autojunk=False).get_opcodes()
    return sum(max(j - i, n - m) for kind, i, j, m, n in blocks if kind != "equal")


def unknown_profile(model: str, provider: str) -> Profile:
    """The profile of an unknown model: nothing about it is checked except what its provider's codec can send."""
    return Profile(id=model, provider=provider, title=model, makes=())


def guess_provider(model: str) -> str:
    """The provider of an unknown id, from how each vendor spells its ids; packages' vendors come last."""
    anybody, *ours = profile_files()
    named = (str(file["provider"]) for file in reversed(ours) if re.fullmatch(file["ids"], model, re.DOTALL))
    return next(named, None) or guess_package(model) or str(anybody["provider"])


def load_catalogue() -> Catalogue:
    """The models this version knows, and on demand those of packages."""
    return Catalogue()


@dataclass(frozen=True, slots=True)
class UsageTier:
    """USD in any ten minutes and in a calendar month, for one account at one of `providers`."""

    usd_per_10_min: float
    usd_per_month: float
    providers: frozenset[str]


@lru_cache(maxsize=1)
def load_usage_tiers() -> dict[int, UsageTier]:
    facts = next(file["spend_tiers"] for file in profile_files() if "spend_tiers" in file)
    providers = frozenset(facts["providers"])
    return {
        int(number): UsageTier(float(tier["usd_per_10_min"]), float(tier["usd_per_month"]), providers)
        for number, tier in facts["tiers"].items()
    }
