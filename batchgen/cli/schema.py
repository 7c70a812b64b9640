"""`batchgen schema`: the manifest's JSON Schema."""

from __future__ import annotations

import click

from batchgen.cli.invocation import Invocation
from batchgen.cli.options import pass_invocation


@click.command("schema")
@pass_invocation
def command(invocation: Invocation) -> None:
    """Print the JSON Schema of a manifest; an editor completes and checks by it.

    \b
    Example:
      batchgen schema > batchgen.schema.json
    """
    from batchgen.manifest.schema import json_schema

    invocation.out.json(json_schema())
