"""What the kit judges: a model's codec, its emulator and the credentials that a key gives."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from typing import Any, ClassVar

from batchgen.profiles.catalogue import Catalogue, load_catalogue
from batchgen.profiles.profile import Profile
from batchgen.providers import contract, registry
from batchgen.providers.credentials import FoundCredentials
from batchgen.testing.server import VendorServer, serving

KEY = "kit/KEY+91c5a7=never-to-be-written"


class Subject:
    """model: id or alias. facts: what a manifest's `models:` says of it besides. emulator: by default that which the package has
    registered."""

    model: ClassVar[str]
    facts: ClassVar[Mapping[str, Any]] = {}
    emulator: ClassVar[type[contract.Emulator] | None] = None

    @property
    def catalogue(self) -> Catalogue:
        return load_catalogue().with_packages().with_overrides({self.model: self.facts} if self.facts else {})

    @property
    def profile(self) -> Profile:
        return self.catalogue.resolve(self.model)

    @property
    def codec(self) -> contract.Provider:
        return registry.provider_for(self.profile)

    def new_emulator(self, base_url: str) -> contract.Emulator:
        return (self.emulator or registry.emulator_class(self.profile.provider))(base_url)

    def credentials(self) -> FoundCredentials:
        found = contract.find_credentials(type(self.codec), KEY, {})
        if found is None:
            raise AssertionError("a key is set, and the codec finds no credentials by it")
        return found

    def vendor(self) -> AbstractAsyncContextManager[VendorServer]:
        return serving(self.new_emulator)
