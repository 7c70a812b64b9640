"""Programs of others that judge ours: installed on first use, each in a place of its own in the user's cache, as their lock says.

When they cannot be fetched, their tests are skipped and say NOT TESTED; when what was fetched is not what was named, they fail.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import platformdirs
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
    """What the folder's lock names, beside the scripts that import it."""

    def build(new: Path) -> None:
        for name in ("package.json", "package-lock.json"):
            shutil.copy(folder / name, new)
        _fetch([str(NPM), "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"], new, folder)

    kept, link = _kept(folder / "package-lock.json", build) / "node_modules", folder / "node_modules"
    if link.resolve() != kept.resolve():
        shutil.rmtree(link) if link.is_dir() and not link.is_symlink() else link.unlink(missing_ok=True)
        link.symlink_to(kept, target_is_directory=True)


def python_with(folder: Path) -> Path:
    """An interpreter of its own that has what the folder's lock names."""
    program, lock = "Scripts/python.exe" if sys.platform == "win32" else "bin/python", folder / "requirements.lock"

    def build(new: Path) -> None:
        subprocess.run([sys.executable, "-m", "venv", str(new)], check=True)
        _fetch([str(new / program), "-m", "pip", "install", "--quiet", "--requirement", str(lock)], new, folder)

    return _kept(lock, build) / program


def _kept(lock: Path, build: Callable[[Path], None]) -> Path:
    """A folder that `build` has filled, for all checkouts of this user: another lock or interpreter means another folder."""
    digest = hashlib.sha256(lock.read_bytes() + f"{sys.version} {sys.base_prefix} {sys.platform}".encode()).hexdigest()[
        :16
    ]
    kept = platformdirs.user_cache_path("batchgen-tests") / f"{lock.parent.name}-{digest}"
    if not kept.exists():
        kept.parent.mkdir(parents=True, exist_ok=True)
        new = Path(tempfile.mkdtemp(dir=kept.parent))
        try:
            build(new)
            with contextlib.suppress(OSError):  # somebody else was quicker
                new.rename(kept)
        finally:
            shutil.rmtree(new, ignore_errors=True)
    return kept


def _fetch(command: Sequence[str], new: Path, folder: Path) -> None:
    done = subprocess.run(command, cwd=new, capture_output=True, text=True, check=False, timeout=600)
    if done.returncode:
        said = done.stdout + done.stderr
        assert not any(word in said for word in OUR_FAULT), said
        pytest.skip(f"NOT TESTED: {' '.join(Path(command[0]).name.split())} could not fetch what {folder.name} needs")
