"""`batchgen cancel`: take back what was submitted to the cluster and has not begun."""

from __future__ import annotations

import click

from batchgen.cli.invocation import Invocation
from batchgen.cli.job_folder import find_job
from batchgen.cli.options import folder_option, job_argument, json_option, pass_invocation
from batchgen.errors import UsageError
from batchgen.ledger.location import read_pointer, server_address
from batchgen.report import formatting


@click.command("cancel")
@job_argument
@folder_option
@json_option()
@pass_invocation
def command(invocation: Invocation, job: str, output: str | None, as_json: bool) -> None:
    """Withdraw what `run --engine cluster` has submitted and no worker has begun; what is in flight is finished.

    JOB is a manifest or a job folder. Running it again submits what is still missing.

    \b
    Examples:
      batchgen cancel catalog.yaml
    """
    folder = find_job(job, output).folder
    there = read_pointer(folder)
    if there is None:
        raise UsageError(
            f"{folder} has its ledger in a file: nothing of it is with a cluster; stop its run with Ctrl-C"
        )
    from batchgen.engine.cluster.stop import cancel

    withdrawn, left = cancel(server_address(folder, None) or "", there.schema)
    if as_json:
        invocation.out.json({"folder": str(folder), "withdrawn": withdrawn, "in_flight": left})
        return
    rest = f"; {formatting.count(left, 'sample')} in flight will be finished" if left else ""
    invocation.out.line(f"{formatting.count(withdrawn, 'sample')} withdrawn{rest}")
