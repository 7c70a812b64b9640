"""Which class speaks for a provider: our own first, then whatever is installed under `batchgen.providers`."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import cast

from batchgen.errors import UsageError
from batchgen.profiles.profile import Profile
from batchgen.providers.contract import Provider

BUILT_IN: Mapping[str, tuple[str, str]] = {
    "gemini": ("batchgen.providers.gemini", "Gemini"),
    "imagen": ("batchgen.providers.imagen", "Imagen"),
    "aimlapi": ("batchgen.providers.aimlapi", "AimlApi"),
}
ENTRY_POINTS = "batchgen.providers"


def provider_class(name: str) -> type[Provider]:
    """The codec of this name. Raises UsageError naming those there are."""
    if name in BUILT_IN:
        module, attribute = BUILT_IN[name]
        return cast("type[Provider]", getattr(import_module(module), attribute))
    from importlib.metadata import entry_points  # 20 ms that a run with our own codecs does not pay

    found = entry_points(group=ENTRY_POINTS)
    for point in found:
        if point.name == name:
            return cast("type[Provider]", point.load())
    known = sorted({*BUILT_IN, *(point.name for point in found)})
    raise UsageError(f"there is no provider {name!r}; installed are {', '.join(known)}")


def provider_for(profile: Profile) -> Provider:
    """The codec for one AI model."""
    return provider_class(profile.provider)(profile)
