"""`batchgen retry`: take up again exactly what is named, and nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from batchgen.cli.invocation import Invocation
from batchgen.cli.job_folder import find_job
from batchgen.cli.options import (
    STATES,
    chain,
    execution_options,
    folder_option,
    job_argument,
    limit_option,
    limit_options,
    only_option,
    pass_invocation,
)
from batchgen.errors import UsageError
from batchgen.ledger.reader import Reader
from batchgen.planning.plan import Wishes


@click.command("retry")
@job_argument
@chain(
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
def command(invocation: Invocation, job: str, **options: Any) -> int:
    """Ask again for samples of JOB that have no image. JOB is a manifest or a job folder.

    Without --failed, --refused or --uncertain, --reason alone picks from all three.

    \b
    Examples:
      batchgen retry catalog.yaml --refused
      batchgen retry catalog.yaml --failed --reason link_gone
      batchgen retry catalog/ --uncertain --max-cost 2
    """
    from batchgen.cli.post_run import Afterwards
    from batchgen.cli.run_job import Execution, carry_out, load_job

    invocation.open_log(quiet=options["quiet"])
    states = frozenset(state for state in STATES if options[state])
    if not states and not options["reasons"]:
        raise UsageError("say what to take up again: --failed, --refused, --uncertain or --reason R")
    folder = find_job(job, options["output"]).folder
    manifest, emulated = origin(job, folder)
    after = Afterwards(invocation, manifest, options["summary"], options["notify"])
    with after.of_failure():
        opened = load_job(invocation, manifest, str(folder), emulate=emulated, after=after)
        wishes = Wishes(explicit=True, states=states or frozenset(STATES), reasons=frozenset(options["reasons"]))
        return carry_out(invocation, opened, Execution.of(options, wishes), after)


def origin(job: str, folder: Path) -> tuple[str, bool]:
    """(the manifest, whether the job is emulated): the ledger notes both. Raises UsageError when the manifest has gone."""
    with Reader.open(folder) as reader:
        noted, emulated = reader.meta("manifest"), reader.meta("emulated") == "yes"
    if not Path(job).is_dir():
        return job, emulated
    if noted is None:
        raise UsageError(
            f"{folder} does not say which manifest it was made from: name the manifest, with --output {folder}"
        )
    # Noted as it was typed: try it from here, then beside the folder, where a job lives by default.
    for place in (Path(noted), folder.parent / Path(noted).name):
        if place.is_file():
            return str(place), emulated
    raise UsageError(f"the manifest {noted} is not there any more: name it, with --output {folder}")
