"""A folder to write manifests into."""

from __future__ import annotations

from tests.support.manifest_folder import folder, one

__all__ = ["folder", "one"]
