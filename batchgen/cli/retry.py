"""`batchgen retry`: take up again exactly what is named, and nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from batchgen.cli.invocation import Invocation
from batchgen.cli.job_folder import find_job
from batchgen.cli.options import (
    RETRY_STATES,
    execution_options,
    folder_option,
    job_argument,
    limit_option,
    limit_options,
    only_option,
    option_group,
    pass_invocation,
)
from batchgen.errors import UsageError
from batchgen.ledger.reader import Reader
from batchgen.planning.plan import RetrySelection


@click.command("retry")
@job_argument
@option_group(
    click.option("--failed", is_flag=True, help="What failed, reasons that `run` holds for final included."),
    click.option("--refused", is_flag=True, help="What the vendor refused; the same request often is refused again."),
    click.option("--uncertain", is_flag=True, help="What was sent and never answered; it may be billed twice."),
    click.option("--reason", "reasons", multiple=True, metavar="R", help="Only samples with this reason; repeatable."),
    folder_option,
    only_option,
    limit_option,
)
@limit_options
@execution_options
@pass_invocation
def command(
    invocation: Invocation,
    job: str,
    failed: bool,
    refused: bool,
    uncertain: bool,
    reasons: tuple[str, ...],
    **options: Any,
) -> int:
    """Ask again for samples of JOB that have no image. JOB is a manifest or a job folder.

    Without --failed, --refused or --uncertain, --reason alone picks from all three.

    \b
    Examples:
      batchgen retry catalog.yaml --refused
      batchgen retry catalog.yaml --failed --reason link_gone
      batchgen retry catalog/ --uncertain --max-cost 2
    """
    from batchgen.cli.post_run import PostRun
    from batchgen.cli.run_job import RunArguments, load_job, run_job

    arguments = RunArguments(**options)
    invocation.open_log(quiet=arguments.quiet)
    chosen = {"failed": failed, "refused": refused, "uncertain": uncertain}
    states = frozenset(state for state in RETRY_STATES if chosen[state])
    if not states and not reasons:
        raise UsageError("say what to take up again: --failed, --refused, --uncertain or --reason R")
    folder = find_job(job, arguments.output).folder
    manifest, emulated = find_manifest(job, folder)
    post_run = PostRun(invocation, manifest, arguments.summary, arguments.notify)
    with post_run.reporting_failure():
        opened = load_job(invocation, manifest, str(folder), emulate=emulated, post_run=post_run)
        retry_selection = RetrySelection(
            explicit=True, states=states or frozenset(RETRY_STATES), reasons=frozenset(reasons)
        )
        return run_job(invocation, opened, arguments, retry_selection, post_run)


def find_manifest(job: str, folder: Path) -> tuple[str, bool]:
    """(the manifest, whether the job is emulated): the ledger notes both. Raises UsageError when the manifest has gone."""
    with Reader.open(folder) as reader:
        recorded, emulated = reader.meta("manifest"), reader.meta("emulated") == "yes"
    if not Path(job).is_dir():
        return job, emulated
    if recorded is None:
        raise UsageError(
            f"{folder} does not say which manifest it was made from: name the manifest, with --output {folder}"
        )
    # Noted as it was typed: try it from here, then beside the folder, where a job lives by default.
    for place in (Path(recorded), folder.parent / Path(recorded).name):
        if place.is_file():
            return str(place), emulated
    raise UsageError(f"the manifest {recorded} is not there any more: name it, with --output {folder}")
