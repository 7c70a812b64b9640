"""A folder for manifests, and fixtures that read them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from batchgen.errors import ManifestError
from batchgen.manifest import open_manifest
from batchgen.records import Item

PNG = b"\x89PNG\r\n\x1a\n" + b"\x00" * 24


class Folder:
    def __init__(self, path: Path) -> None:
        self.path = path

    def write(self, text: str | bytes, name: str = "job.yaml") -> Path:
        path = self.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    def items(self, text: str | bytes, name: str = "job.yaml", **options: Any) -> list[Item]:
        return list(open_manifest(self.write(text, name), **options).items())

    def error(self, text: str | bytes, name: str = "job.yaml", **options: Any) -> ManifestError:
        with pytest.raises(ManifestError) as caught:
            self.items(text, name, **options)
        return caught.value

    def complaint(self, text: str | bytes, name: str = "job.yaml", **options: Any) -> str:
        """The only one, without the folder's path."""
        error = self.error(text, name, **options)
        assert error.total == 1, str(error)
        return str(error).replace(f"{self.path}/", "")

    def complaints(self, text: str | bytes, name: str = "job.yaml", **options: Any) -> list[str]:
        return [str(problem).replace(f"{self.path}/", "") for problem in self.error(text, name, **options).problems]

    def warnings(self, text: str, name: str = "job.yaml") -> list[str]:
        manifest = open_manifest(self.write(text, name))
        for _ in manifest.items():
            pass
        return manifest.warnings


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path)


@pytest.fixture
def one(folder: Folder) -> Callable[..., Item]:
    """The only item of a manifest that has these fields."""

    def make(**fields: Any) -> Item:
        (item,) = folder.items(json.dumps({"id": "a", "prompt": "p", **fields}), "one.jsonl")
        return item

    return make
