"""`batchgen verify --repair`: finds the folder of a job, and rebuilds its ledger from the files that are left."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import batchgen
from batchgen.cli.invocation import Invocation
from batchgen.cli.job_folder import head_fields, manifest_folder, used_folders
from batchgen.engine.recovery.repair import Repair, is_ledger_intact, repair
from batchgen.errors import UsageError
from batchgen.ledger.location import LedgerServer, configured_url, job_identity, read_pointer, validated_url
from batchgen.ledger.schema import ledger_path
from batchgen.manifest.addresses import has_url_scheme
from batchgen.report import formatting
from batchgen.store.store import last_location


def repair_ledger(invocation: Invocation, job: str, output: str | None) -> None:
    """Rebuild a ledger. With the manifest, fingerprints are kept too, so that the next run does not buy the same
    again."""
    folder, print_line = find_repair_folder(job, output), invocation.err.line
    if (there := read_pointer(folder)) is not None:
        raise UsageError(
            f"the ledger of {folder} is on a server, {there.server}, schema {there.schema}: --repair is for a ledger in the"
            " folder. Restore that one from the server's backups"
        )
    loaded = None
    if Path(job).is_file():
        loaded = batchgen.load(job, output=output if output and has_url_scheme(output) else folder, emulate=True)
    manifest, bucket = (None, last_location(folder)) if loaded is None else (loaded.manifest, loaded.bucket)
    if manifest is not None and not bucket and output is None and folder == Path(os.path.abspath(manifest.output)):
        bucket = manifest.bucket  # the folder no longer says so
    url = None if ledger_path(folder).is_file() else configured_url(folder)  # a damaged file is replaced by a file
    name = folder.name if manifest is None else manifest.name
    server = None if url is None else LedgerServer(validated_url(url), name, job_identity(bucket or str(folder)))
    done = repair(folder, manifest, bucket, server)
    if done is None:
        print_line("the ledger is whole: there is nothing to repair")
        return
    print_repair(done, print_line, with_manifest=manifest is not None)


def print_repair(done: Repair, print_line: Callable[..., None], *, with_manifest: bool) -> None:
    if done.kept_as:
        print_line(f"the damaged ledger is kept as {done.kept_as}")
    print_line(f"{formatting.count(done.restored, 'image')} back in the ledger")
    if done.unmarked:
        then = (
            "the manifest asks for something else now): the next run would make them again"
            if with_manifest
            else "no manifest was given): the next run keeps those whose prompt and model it still asks for"
        )
        print_line(f"{len(done.unmarked):,} of them without a fingerprint ({then}", "yellow")
    for path in done.by_name:
        print_line(f"matched by its file name only (nothing records its prompt): {path}", "yellow")
    for old, new in done.moved:
        print_line(f"{old} is {new} by its bytes, and has that name again")
    for label, paths in (
        ("missing or changed", done.gone),
        ("not a whole image, move it away", done.broken),
        ("belongs to no known request, kept as", done.unassigned),
    ):
        for path in paths:
            print_line(f"{label}: {path}", "yellow")
    if done.gone:
        print_line("put back what is missing or changed and repair again; or move it away, and a run makes it again")


def find_repair_folder(job: str, output: str | None) -> Path:
    """The job's folder, with or without a ledger: of the job and its emulated job, the one whose ledger is not whole.
    Raises UsageError."""
    if Path(job).is_dir() or (output is not None and not has_url_scheme(output)):
        return Path(output or job).absolute()
    if not Path(job).is_file():
        raise UsageError(f"{job}: there is no such manifest or folder")
    real, folders = manifest_folder(Path(job)), used_folders(Path(job))
    if real not in folders and (
        real.is_dir() or not folders or has_url_scheme(head_fields(Path(job)).get("output", ""))
    ):
        folders.append(real)
    return next((folder for folder in folders if not is_ledger_intact(folder)), folders[0]).absolute()
