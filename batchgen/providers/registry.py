"""Which class speaks for a provider: our own first, then whatever is installed under `batchgen.providers`.

Ours are listed here and nowhere else: reading entry points takes 20 ms, which a run with our own codecs does not pay, and
what is installed can never replace one of ours.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import suppress
from functools import lru_cache
from importlib import import_module
from typing import TYPE_CHECKING, cast

from batchgen.endpoint import Endpoint
from batchgen.errors import UsageError
from batchgen.profiles.profile import Profile
from batchgen.providers import contract

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

BUILT_IN: Mapping[str, tuple[str, str]] = {
    "gemini": ("batchgen.providers.gemini", "Gemini"),
    "imagen": ("batchgen.providers.imagen", "Imagen"),
    "aimlapi": ("batchgen.providers.aimlapi", "AimlApi"),
    "openai": ("batchgen.providers.openai", "OpenAi"),
    "replicate": ("batchgen.providers.replicate", "Replicate"),
    "vertex": ("batchgen.providers.vertex", "Vertex"),
    "vertex-imagen": ("batchgen.providers.vertex", "VertexImagen"),
}
ENTRY_POINTS = "batchgen.providers"


def provider_class(name: str) -> type[contract.Provider]:
    """The codec of this name. Raises UsageError naming those there are."""
    if name in BUILT_IN:
        module, attribute = BUILT_IN[name]
        return cast("type[contract.Provider]", getattr(import_module(module), attribute))
    point = installed().get(name)
    if point is None:
        raise UsageError(f"there is no provider {name!r}; installed are {', '.join(sorted(provider_names()))}")
    try:
        return cast("type[contract.Provider]", point.load())
    except Exception as error:  # whatever a third party's module does on import
        raise UsageError(f"provider {name!r} cannot be loaded from {point.value}: {error}") from error


def provider_for(profile: Profile) -> contract.Provider:
    """The codec for one AI model."""
    return provider_class(profile.provider)(profile)


def encoded_fields(profile: Profile) -> frozenset[str]:
    """The manifest's fields that reach the wire for this model. Raises UsageError when there is no such provider."""
    return contract.encoded_fields(provider_class(profile.provider), profile)


def endpoint_of(provider: str) -> Endpoint:
    """Raises UsageError when there is no such provider."""
    return contract.endpoint_of(provider_class(provider), provider)


def endpoints(providers: Iterable[str] = BUILT_IN) -> list[Endpoint]:
    """Of these providers, each account once; without those that are not installed."""
    found = dict[Endpoint, None]()
    for name in providers:
        with suppress(UsageError):
            found[endpoint_of(name)] = None
    return list(found)


def provider_names() -> list[str]:
    """All there are, ours first."""
    return list(dict.fromkeys([*BUILT_IN, *installed()]))


def key_variables() -> str:
    """`GEMINI_API_KEY or AIMLAPI_API_KEY`, for messages."""
    return " or ".join(endpoint.key_names[0] for endpoint in endpoints())


@lru_cache(maxsize=1)
def installed() -> Mapping[str, EntryPoint]:
    """Third parties' codecs, by name."""
    from importlib.metadata import entry_points  # 20 ms

    return {point.name: point for point in entry_points(group=ENTRY_POINTS)}
