"""`batchgen post`: make the derivatives that are missing. Nothing is sent, no key is needed."""

from __future__ import annotations

import asyncio
from pathlib import Path

import click

from batchgen.cli.invocation import Invocation
from batchgen.cli.job_folder import find_job
from batchgen.cli.options import folder_option, job_argument, json_option, only_option, pass_invocation
from batchgen.errors import UsageError
from batchgen.ledger.reader import Reader

EXIT_NOT_ALL_MADE = 3


@click.command("post")
@job_argument
@folder_option
@only_option
@click.option(
    "--engine", type=click.Choice(["here", "cluster"]), default="here", show_default=True,
    help="Who makes them: this machine, or the workers of the job's PostgreSQL ledger.",
)  # fmt: skip
@json_option()
@pass_invocation
def command(
    invocation: Invocation, job: str, output: str | None, only: tuple[str, ...], engine: str, as_json: bool
) -> int:
    """Make what `post:` asks for and is not there, of the pictures that JOB, a manifest or a job folder, has.

    Every run does so by itself. Nothing is sent and no key is needed; what the manifest no longer asks for is removed.

    \b
    Examples:
      batchgen post catalog.yaml
      batchgen post catalog.yaml --only 'mug-*'
      batchgen post catalog.yaml --engine cluster
    """
    import batchgen
    from batchgen.engine.derivative_runner import make_derivatives
    from batchgen.report.queries import read_derivatives
    from batchgen.report.summary import derivative_lines
    from batchgen.report.view import as_json as to_json

    folder = find_job(job, output).folder
    with Reader.open(folder) as reader:
        manifest = job if Path(job).is_file() else reader.meta("manifest") or ""
    if not Path(manifest).is_file():
        raise UsageError(
            f"{folder}: its manifest {manifest} is gone; name it: batchgen post MANIFEST --output {folder}"
        )
    loaded = batchgen.load(manifest, output=folder, emulate=True)
    make = make_derivatives
    if engine == "cluster":
        from batchgen.engine.cluster.submit_derivatives import submit_and_wait as make
    counts = asyncio.run(make(loaded.manifest, folder, only, lambda message: invocation.err.line(message, "yellow")))
    with Reader.open(folder) as reader:
        derived = read_derivatives(counts, reader)
    if as_json:
        invocation.out.json({"folder": str(folder), **to_json(derived)})
    else:
        for line in derivative_lines(derived) or ["nothing to do"]:
            invocation.err.line(line)
    return EXIT_NOT_ALL_MADE if counts.failed or not counts.finished else 0
