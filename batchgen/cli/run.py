"""`batchgen run`: make what is missing."""

from __future__ import annotations

from typing import Any

import click

from batchgen.cli.invocation import Invocation
from batchgen.cli.options import (
    execution_options,
    limit_options,
    manifest_argument,
    output_options,
    pass_invocation,
    selection_options,
)


@click.command("run")
@manifest_argument
@output_options
@selection_options
@limit_options
@execution_options
@pass_invocation
def command(invocation: Invocation, manifest: str, **options: Any) -> int:
    """Make the images of MANIFEST that do not exist yet.

    Running again goes on where the last run stopped; only what is new, has changed or failed is asked for. The first
    Ctrl-C lets what is in flight finish, the second gives it up, the third leaves at once.

    \b
    Examples:
      batchgen run catalog.yaml
      batchgen run catalog.yaml --emulate            no key needed, nothing billed
      batchgen run catalog.yaml --only 'mug-*' --limit 3
      batchgen run catalog.yaml --until 06:00 --max-cost 20 --json
    """
    from batchgen.cli.post_run import PostRun
    from batchgen.cli.run_job import RunArguments, load_job, run_job

    arguments = RunArguments(**options)
    invocation.open_log(quiet=arguments.quiet)
    post_run = PostRun(invocation, manifest, arguments.summary, arguments.notify)
    with post_run.reporting_failure():
        job = load_job(invocation, manifest, arguments.output, emulate=arguments.emulate, post_run=post_run)
        return run_job(invocation, job, arguments, arguments.retry_selection, post_run)
