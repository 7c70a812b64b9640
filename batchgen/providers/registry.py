"""Finds the codec of a provider: batchgen's own first, then whatever is installed under `batchgen.providers`.

The built-in ones are listed here and nowhere else: reading entry points takes 20 ms, which a run without third-party
codecs does not pay, and an installed package can never replace one of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import suppress
from importlib import import_module
from typing import TYPE_CHECKING, Any, cast

from batchgen.endpoint import Endpoint
from batchgen.errors import UsageError
from batchgen.profiles.packages import CODECS, EMULATORS, installed, package_of
from batchgen.profiles.profile import Profile
from batchgen.providers import contract

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

BUILT_IN: Mapping[str, tuple[str, str]] = {
    "gemini": ("batchgen.providers.gemini", "Gemini"),
    "imagen": ("batchgen.providers.imagen", "Imagen"),
    "aimlapi": ("batchgen.providers.aimlapi", "AimlApi"),
    "openai": ("batchgen.providers.openai", "OpenAi"),
    "bfl": ("batchgen.providers.bfl", "Bfl"),
    "replicate": ("batchgen.providers.replicate", "Replicate"),
    "vertex": ("batchgen.providers.vertex", "Vertex"),
    "vertex-imagen": ("batchgen.providers.vertex", "VertexImagen"),
    "fal": ("batchgen.providers.fal", "Fal"),
}
PACKAGES_PATH = "/_packages"  # of the emulator: packages' emulators are below it, by provider


def provider_class(name: str) -> type[contract.Provider]:
    """The codec of this name. Raises UsageError that lists those there are."""
    if name in BUILT_IN:
        module, attribute = BUILT_IN[name]
        return cast("type[contract.Provider]", getattr(import_module(module), attribute))
    point = installed(CODECS).get(name)
    if point is None:
        raise UsageError(f"there is no provider {name!r}; installed are {', '.join(sorted(provider_names()))}")
    return cast("type[contract.Provider]", _load(point))


def _load(point: EntryPoint) -> Any:
    """Load an entry point. Raises UsageError."""
    try:
        return point.load()
    except Exception as error:  # whatever a third party's module does on import
        package = f" of {package_of(point)}" if point.dist is not None else ""
        raise UsageError(f"provider {point.name!r}{package} cannot be loaded from {point.value}: {error}") from error


def provider_for(profile: Profile) -> contract.Provider:
    """The codec for one AI model."""
    return provider_class(profile.provider)(profile)


def speaks_batches(profile: Profile) -> bool:
    """Whether its codec supports a batch API."""
    return isinstance(provider_for(profile), contract.SupportsBatches)


def encoded_fields(profile: Profile) -> frozenset[str]:
    """The manifest's fields that reach the wire for this model. Raises UsageError if there is no such provider."""
    return contract.encoded_fields(provider_class(profile.provider), profile)


def endpoint_of(provider: str) -> Endpoint:
    """The endpoint of a provider. Raises UsageError if there is no such provider."""
    return contract.endpoint_of(provider_class(provider), provider)


def endpoints(providers: Iterable[str] = BUILT_IN) -> dict[Endpoint, str]:
    """Each account of these providers once, with the first provider that uses it, without those that are not
    installed."""
    found = dict[Endpoint, str]()
    for name in providers:
        with suppress(UsageError):
            found.setdefault(endpoint_of(name), name)
    return found


def provider_names() -> list[str]:
    """The names of all providers, built-in ones first."""
    return list(dict.fromkeys([*BUILT_IN, *installed(CODECS)]))


def emulated_url(provider: str, emulator_url: str) -> str:
    """Where the emulator at this address serves a provider. Raises UsageError if the provider has no emulator."""
    if provider in BUILT_IN:
        return emulator_url
    emulator_class(provider)
    return f"{emulator_url}{PACKAGES_PATH}/{provider}"


def emulator_class(provider: str) -> type[contract.Emulator]:
    """The emulator that a package has for its provider. Raises UsageError."""
    point = installed(EMULATORS).get(provider)
    if point is not None and provider in installed(CODECS):
        return cast("type[contract.Emulator]", _load(point))
    codec = installed(CODECS).get(provider)
    brings = f": {package_of(codec)} brings none" if codec is not None else ""
    raise UsageError(f"provider {provider} has no emulator{brings}; it can only be run without --emulate")


def emulated_packages() -> list[str]:
    """The names of packages' providers that have one."""
    return sorted(installed(EMULATORS).keys() & installed(CODECS).keys() - BUILT_IN.keys())


def key_variables() -> str:
    """The variables for messages, such as `GEMINI_API_KEY or AIMLAPI_API_KEY`."""
    return " or ".join(endpoint.key_names[0] for endpoint in endpoints())
