"""Programs of others that judge ours: installed on first use, each in a place of its own, in the versions that are named.

When they cannot be fetched, their tests are skipped and say NOT TESTED; when what was fetched is not what was named, they fail.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

NODE, NPM = shutil.which("node"), shutil.which("npm")
# What npm and pip say when the fault is ours or somebody's tampering, and not the network's.
OUR_FAULT = ("EINTEGRITY", "EUSAGE", "EJSONPARSE", "ENOLOCK", "ResolutionImpossible", "THESE PACKAGES DO NOT MATCH")

needs_node = pytest.mark.skipif(
    NODE is None or NPM is None,
    reason="NOT TESTED: a witness in JavaScript was not asked, because node or npm is missing",
)

EXIFTOOL = shutil.which("exiftool")
needs_exiftool = pytest.mark.skipif(
    EXIFTOOL is None, reason="NOT TESTED: exiftool was not asked what stands in the files (libimage-exiftool-perl)"
)


def metadata(*paths: Path) -> list[dict[str, Any]]:
    """What exiftool reads of each file, by `Group:Tag`, and its own judgement as `ExifTool:Validate`."""
    command = [str(EXIFTOOL), "-j", "-a", "-G1", "-validate", "-all", *map(str, paths)]
    done = subprocess.run(command, capture_output=True, check=True, timeout=120)
    found: list[dict[str, Any]] = json.loads(done.stdout)
    return found


def node_packages(folder: Path) -> None:
    """What the folder's lock names. The mark is written last, so half an installation is redone."""
    wanted = hashlib.sha256((folder / "package-lock.json").read_bytes()).hexdigest()
    mark = folder / "node_modules" / "installed"
    if not mark.exists() or mark.read_text() != wanted:
        _fetch([str(NPM), "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"], folder)
        mark.write_text(wanted)


def python_with(environment: Path, packages: Sequence[str]) -> Path:
    """An interpreter of its own that has the packages."""
    python = environment / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")
    mark = environment / "built"
    if not mark.exists() or mark.read_text() != " ".join(packages):
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(environment)], check=True)
        (environment / ".gitignore").write_text("*\n")
        _fetch([str(python), "-m", "pip", "install", "--quiet", *packages], environment)
        mark.write_text(" ".join(packages))
    return python


def _fetch(command: Sequence[str], folder: Path) -> None:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=600)
    if done.returncode:
        said = done.stdout + done.stderr
        assert not any(word in said for word in OUR_FAULT), said
        pytest.skip(f"NOT TESTED: {' '.join(Path(command[0]).name.split())} could not fetch what {folder.name} needs")
