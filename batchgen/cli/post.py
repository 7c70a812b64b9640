"""`batchgen post`: makes derivatives of existing images without a run."""

from __future__ import annotations

import asyncio
from pathlib import Path

import batchgen
from batchgen.cli.invocation import Invocation
from batchgen.cli.job_folder import find_job
from batchgen.derivatives.diff import pending_files
from batchgen.engine.derivative_runner import make_derivatives
from batchgen.errors import UsageError
from batchgen.ledger.reader import Reader
from batchgen.report import formatting, view
from batchgen.report.queries import read_derivatives
from batchgen.report.summary import derivative_lines
from batchgen.store.store import open_store_of

EXIT_NOT_ALL_MADE = 3


def post_command(
    invocation: Invocation,
    job: str,
    *,
    output: str | None,
    only: tuple[str, ...],
    dry_run: bool,
    engine: str,
    as_json: bool,
) -> int:
    folder = find_job(job, output).folder
    with Reader.open(folder) as reader:
        manifest = job if Path(job).is_file() else reader.meta("manifest") or ""
    if not Path(manifest).is_file():
        raise UsageError(
            f"{folder}: its manifest {manifest} is gone; name it: batchgen post MANIFEST --output {folder}"
        )
    loaded = batchgen.load(manifest, output=folder, emulate=True)
    if dry_run:
        with Reader.open(folder) as reader:
            to_make, to_remove = pending_files(loaded.manifest, reader, open_store_of(folder, reader), only)
        if as_json:
            invocation.answer({"folder": str(folder), "to_make": to_make, "to_remove": to_remove})
        else:
            invocation.out.line(f"{formatting.count(to_make, 'file')} to make, {to_remove:,} to remove")
        return 0
    make = make_derivatives
    if engine == "cluster":
        from batchgen.engine.cluster.submit_derivatives import submit_and_wait as make  # no run loads the cluster
    counts = asyncio.run(make(loaded.manifest, folder, only, lambda message: invocation.err.line(message, "yellow")))
    with Reader.open(folder) as reader:
        derived = read_derivatives(counts, reader)
    if as_json:
        invocation.answer({"folder": str(folder), **view.as_json(derived)})
    else:
        for line in derivative_lines(derived) or ["nothing to do"]:
            invocation.err.line(line)
    return EXIT_NOT_ALL_MADE if counts.failed or not counts.finished else 0
