"""`batchgen schema`: the JSON Schema of a manifest, or of a log's lines."""

from __future__ import annotations

import click

from batchgen.cli.invocation import Invocation
from batchgen.cli.options import pass_invocation


@click.command("schema")
@click.option("--log", "of_log", is_flag=True, help="Of a line of `run --log-format json`, in place of a manifest.")
@pass_invocation
def command(invocation: Invocation, of_log: bool) -> None:
    """Print the JSON Schema of a manifest; an editor completes and checks by it.

    \b
    Examples:
      batchgen schema > batchgen.schema.json
      batchgen schema --log > log.schema.json
    """
    if of_log:
        from batchgen.report.log_events import log_schema

        invocation.out.json(log_schema())
        return
    from batchgen.manifest.schema import json_schema

    invocation.out.json(json_schema())
