"""The manifest: what should exist, read from a file. Its modules are imported on first use, as pydantic takes 0.2 s to
import."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from batchgen.manifest.read import Manifest, open_manifest
    from batchgen.manifest.schema import Limits, json_schema
    from batchgen.references.local import References

__all__ = ["Limits", "Manifest", "References", "json_schema", "open_manifest", "starter"]

_MODULES = {
    "Limits": "batchgen.manifest.schema",
    "Manifest": "batchgen.manifest.read",
    "References": "batchgen.references.local",
    "json_schema": "batchgen.manifest.schema",
    "open_manifest": "batchgen.manifest.read",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(name)
    from importlib import import_module  # at the top it would look like a public name

    return getattr(import_module(_MODULES[name]), name)


def starter() -> str:
    """The manifest that `batchgen init` writes: small, valid as it is, with comments that say what to change."""
    return Path(__file__).with_name("starter.yaml").read_text(encoding="utf-8")
