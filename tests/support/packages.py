"""Packages of third parties, as an installer leaves them: files and metadata in a folder on the path, also for processes."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path

import pytest

from batchgen.profiles.packages import installed, package_models
from tests.docs.pages import page
from tests.support.paths import ROOT


def files_of_page() -> dict[str, str]:
    """The files of the package that the manual writes, by their paths in it."""
    found = re.findall(r"^`([\w./]+)`:.*?^```\w+\n(.*?)^```", page("providers"), re.DOTALL | re.MULTILINE)
    assert [path for path, _ in found] == [
        "pyproject.toml",
        "batchgen_paint/__init__.py",
        "batchgen_paint/models.yaml",
        "batchgen_paint/emulator.py",
        "tests/test_paint.py",
    ]
    return dict(found)


def write(folder: Path, files: Mapping[str, str]) -> None:
    for path, text in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text, encoding="utf-8")


def install(
    monkeypatch: pytest.MonkeyPatch, folder: Path, name: str, points: Mapping[str, str], files: Mapping[str, str] = {}
) -> None:
    """points: `GROUP:NAME` to what is registered. It is gone with the test, if a fixture forgets it."""
    lines = [f"[{key.partition(':')[0]}]\n{key.partition(':')[2]} = {value}\n" for key, value in points.items()]
    info = f"{name.replace('-', '_')}-1.0.dist-info"
    write(folder, {f"{info}/METADATA": f"Name: {name}\nVersion: 1.0\n", f"{info}/entry_points.txt": "".join(lines)})
    write(folder, files)
    monkeypatch.syspath_prepend(folder)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(folder), str(ROOT)]))
    forget()


def forget() -> None:
    """Entry points are read once in a process; from here on they are read again."""
    installed.cache_clear()
    package_models.cache_clear()
