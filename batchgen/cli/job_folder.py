"""Finds the folder that a person means by JOB, without reading the whole manifest: `status` has to be quick."""

from __future__ import annotations

import contextlib
import json
import os
import re
from dataclasses import dataclass
from pathlib import Path

from batchgen.errors import UsageError
from batchgen.ledger.location import has_ledger, lost_ledger_in, no_ledger_error, verify_arguments
from batchgen.ledger.reader import Reader
from batchgen.manifest.addresses import has_url_scheme
from batchgen.manifest.names import MANIFEST_SUFFIXES
from batchgen.references.nearest import nearest_name

HEAD_BYTES = 65_536
EMULATED_SUFFIX = ".emulated"
_FIELD = re.compile(
    r"""^(name|output)\s*:\s*(?:"([^"\\]*)"|'([^']*)'|([^\s"'#&*!|>{\[][^#\n]*?))\s*(?:\s\#.*)?$""", re.MULTILINE
)


@dataclass(frozen=True, slots=True)
class JobFolder:
    """folder: has a ledger. emulated_folder: another one with a ledger, emulated if `folder` is real."""

    folder: Path
    emulated_folder: Path | None = None


def find_job(job: str, output: str | None = None) -> JobFolder:
    """The folder of a manifest, or the folder itself. Raises UsageError, and LedgerError if nothing has run there."""
    if output is not None and not has_url_scheme(output):
        if Path(output).is_file():
            raise UsageError(f"--output {output}: is a file; name the job's folder")
        if Path(output).suffix and not Path(output).is_dir():
            raise UsageError(
                f"--output {output}: that is the job's folder, and it is not there; --to FILE names a file to write"
            )
        return _require_ledger(Path(output))
    path = Path(job)
    if path.is_dir():
        return _require_ledger(path)
    if not path.is_file():
        raise UsageError(
            f"{job}: there is no such manifest or folder{nearest_name(str(path.parent), path.name, MANIFEST_SUFFIXES)}"
        )
    found = used_folders(path)
    if not found:
        real = manifest_folder(path)
        raise no_ledger_error(real, f"nothing has run there yet; `batchgen run {job}` starts it", job)
    if not has_ledger(found[0]):
        raise no_ledger_error(found[0], "", verify_arguments(job, found[0], manifest_folder(path)))
    return JobFolder(found[0].absolute(), found[1].absolute() if len(found) > 1 else None)


def used_folders(manifest: Path) -> list[Path]:
    """The folders of its job and its emulated job in which something has run, even if the ledger is lost."""
    real = manifest_folder(manifest)
    return [
        folder
        for folder in (real, real.with_name(real.name + EMULATED_SUFFIX))
        if has_ledger(folder) or lost_ledger_in(folder)
    ]


def find_job_folders(folder: Path) -> set[Path]:
    """Folders of jobs in a folder that have run, found by their manifests and by themselves; none in a folder of one
    job."""
    found = set[Path]()
    if not folder.is_dir() or has_ledger(folder):
        return found
    for path in folder.glob("*"):
        if path.is_dir() and (has_ledger(path) or lost_ledger_in(path)):
            found.add(path.absolute())
        elif path.suffix.lower() in MANIFEST_SUFFIXES and path.is_file():
            with contextlib.suppress(UsageError):  # it cannot be read
                found.update(folder.absolute() for folder in used_folders(path)[:1])
    return found


def _require_ledger(folder: Path) -> JobFolder:
    if not has_ledger(folder):
        raise no_ledger_error(folder, "nothing has run there yet, or it is not a job folder")
    return JobFolder(folder.absolute())


def find_manifest(job: str, folder: Path) -> tuple[str, bool]:
    """(the manifest, whether the job is emulated), both from the ledger. Raises UsageError if the manifest is gone."""
    with Reader.open(folder) as reader:
        recorded, emulated = reader.meta("manifest"), reader.meta("emulated") == "yes"
    if not Path(job).is_dir():
        return job, emulated
    if recorded == "":
        raise UsageError(f"{folder} was made by a Python program, from data and no manifest: run that program again")
    if recorded is None:
        raise UsageError(
            f"{folder} does not say which manifest it was made from: name the manifest, with --output {folder}"
        )
    # Recorded as typed: try it from here, then beside the folder, where a job is by default.
    for place in (Path(recorded), folder.parent / Path(recorded).name):
        if place.is_file():
            return str(place), emulated
    raise UsageError(f"the manifest {recorded} is not there any more: name it, with --output {folder}")


def manifest_folder(manifest: Path) -> Path:
    """The folder from `output:` or `name:` in the manifest's head, or else NAME beside it.

    Only plain values at the left margin are recognised, as nearly everyone writes them; for the rest there is
    `--output`.
    """
    fields = head_fields(manifest)
    if fields.get("output") and not has_url_scheme(fields["output"]):
        return Path(os.path.abspath(manifest.parent / fields["output"]))
    return manifest.parent / (fields.get("name") or manifest.stem)


def head_fields(manifest: Path) -> dict[str, str]:
    """`name` and `output` as found in the first 64 kB, without what cannot be understood. Raises UsageError if the file
    cannot be read."""
    try:
        with open(manifest, "rb") as file:
            text = file.read(HEAD_BYTES).decode("utf-8", errors="replace").removeprefix("\ufeff")
    except OSError as error:
        raise UsageError(f"{manifest}: cannot be read: {error.strerror}") from None
    if manifest.suffix.lower() == ".jsonl":
        return _jsonl_fields(text)
    return {match[1]: match[2] or match[3] or match[4] or "" for match in _FIELD.finditer(text.replace("\r\n", "\n"))}


def _jsonl_fields(text: str) -> dict[str, str]:
    """The fields of the header: the first non-blank line, if it has `version` or `defaults`."""
    line = next((line for line in text.split("\n") if line.strip()), "")
    try:
        header = json.loads(line)
    except (ValueError, RecursionError):
        return {}
    if not isinstance(header, dict) or not ("version" in header or "defaults" in header):
        return {}
    return {name: value for name in ("name", "output") if isinstance(value := header.get(name), str)}
