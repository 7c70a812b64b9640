"""What installed packages have registered: their entry points, by group and name.

Reading them takes 20 ms, so nothing here is asked before a name is met that is not among ours.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

CODECS = "batchgen.providers"  # name of a provider = "package:Class"
MODELS = "batchgen.models"  # name of a provider = "package:FILE.yaml"
EMULATORS = "batchgen.emulators"  # name of a provider = "package.module:Class"


@lru_cache(maxsize=8)
def installed(group: str) -> Mapping[str, EntryPoint]:
    """What packages have registered in a group, by name."""
    from importlib.metadata import entry_points  # 20 ms

    return {point.name: point for point in sorted(entry_points(group=group), key=package_of, reverse=True)}


def package_of(point: EntryPoint) -> str:
    """Name and version."""
    return f"{point.dist.name} {point.dist.version}" if point.dist is not None else point.value
