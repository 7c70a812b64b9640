"""The AI models that a manifest names: which are meant, and why one cannot be used."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from batchgen.errors import UsageError
from batchgen.manifest.diagnostics import API_KEY_PATTERN, FieldPath, safe_repr
from batchgen.profiles.catalogue import DEFAULT_MODEL, Catalogue, load_catalogue
from batchgen.profiles.fields import FactError, model_name_problem
from batchgen.profiles.profile import Profile
from batchgen.providers.contract import SupportsJudge
from batchgen.providers.registry import provider_class, provider_for

AllowRetired = Callable[[Profile], bool]


def no_retired_models(profile: Profile) -> bool:
    """Whether a model may be used when requests go to the vendor: a retired one may not."""
    return False


def declare_models(declared: Mapping[str, Any]) -> tuple[Catalogue, list[tuple[FieldPath, str]]]:
    """The catalogue with what a manifest says about models on top, and what is wrong with that: paths and messages."""
    catalogue = load_catalogue()
    wrong: list[tuple[FieldPath, str]] = []
    for name, facts in declared.items():
        try:
            catalogue = catalogue.with_overrides({name: facts})
        except FactError as error:
            wrong.append((tuple(error.path), API_KEY_PATTERN.sub("…", error.message)))
    return catalogue, wrong


class UnusableModelError(ValueError):
    """Why no request can be made for a model. profile: what is known about it anyway, None if nothing is."""

    def __init__(self, message: str, profile: Profile | None = None) -> None:
        super().__init__(message)
        self.profile = profile


class Models:
    """Profiles by the manifest's names for them; warns once about a model that is unknown or deprecated."""

    def __init__(self, catalogue: Catalogue, allow_retired: AllowRetired, warn: Callable[[str], None]) -> None:
        self.catalogue = catalogue
        self._allow_retired = allow_retired
        self._warn = warn
        self._profiles: dict[str, Profile] = {}

    def profile(self, name: str) -> Profile:
        profile = self._profiles.get(name)
        if profile is None:
            profile = self._profiles[name] = self.catalogue.resolve(name)
            self._warn_about(name, profile)
        return profile

    def usable(self, name: str | None) -> Profile:
        """A model that makes images. name: None for the default. Raises UnusableModelError."""
        profile = self._usable(name or DEFAULT_MODEL)
        if not profile.may_make_images:
            raise UnusableModelError(
                f"{profile.id} makes no images: it looks at them, as `judge: {{model: {profile.id}}}`{self._near(profile)}"
            )
        return profile

    def judge(self, name: str) -> Profile:
        """A model that can be asked how well an image meets a rubric. Raises UnusableModelError."""
        profile = self._usable(name)
        asks = isinstance(provider_for(profile), SupportsJudge)
        if asks and profile.may_judge:
            return profile
        why = (
            "makes images, and judges none"
            if asks
            else f"cannot judge: provider {profile.provider} asks about no images"
        )
        known = " or ".join(judge.id for judge in self.catalogue.judges if judge.status == "live")
        raise UnusableModelError(f"{profile.id} {why}; use {known}")

    def _near(self, profile: Profile) -> str:
        """A suggestion of related models that make images, if there are any."""
        near = [other.id for other in self.catalogue if other.status == "live" and other.id.startswith(profile.id)]
        return f"; for images use {' or '.join(near)}" if near else ""

    def _usable(self, name: str) -> Profile:
        if problem := model_name_problem(name):
            raise UnusableModelError(f"{safe_repr(name)}: a model's name {problem}")
        profile = self.profile(name)
        if profile.status == "unknown" and self.catalogue.problems:
            raise UnusableModelError(f"{safe_repr(name)} is not a known model, and {self.catalogue.problems[0]}")
        if profile.status == "unknown" and (meant := self.catalogue.misspelt(name)):
            declare = f"if there is such a model, declare it: `models: {{{name}: {{…}}}}` at the head"
            raise UnusableModelError(f"{safe_repr(name)} is not a known model (did you mean {meant!r}?); {declare}")
        try:
            provider_class(profile.provider)
        except UsageError as missing:
            raise UnusableModelError(f"{profile.id}: {missing}") from None
        if profile.status == "retired" and not self._allow_retired(profile):
            when = f" on {profile.shutdown}" if profile.shutdown else ""
            instead = f"use {profile.replacement}, or " if profile.replacement else ""
            override = f"`models: {{{profile.id}: {{status: live}}}}` at the head"
            message = f"{profile.id} was shut down{when}; {instead}if it still works for you, add {override}"
            raise UnusableModelError(message, profile)
        return profile

    def _warn_about(self, name: str, profile: Profile) -> None:
        if profile.status == "unknown":
            suggestion = self.catalogue.suggestions(name)
            hint = f" (did you mean {suggestion[0]!r}?)" if suggestion else ""
            self._warn(
                f"{safe_repr(name)} is not a known model{hint}: nothing about it is checked, its price is unknown"
            )
        elif profile.status == "deprecated":
            when = f" and will be shut down on {profile.shutdown}" if profile.shutdown else ""
            instead = f"; use {profile.replacement}" if profile.replacement else ""
            note = f" ({profile.note})" if profile.note else ""
            self._warn(f"{profile.id} is deprecated{when}{instead}{note}")
