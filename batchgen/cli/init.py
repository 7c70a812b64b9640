"""`batchgen init`: a manifest to start from."""

from __future__ import annotations

import click

from batchgen.cli.invocation import Invocation
from batchgen.cli.options import pass_invocation
from batchgen.errors import UsageError


@click.command("init")
@click.argument("file", type=click.Path(), default="batch.yaml")
@pass_invocation
def command(invocation: Invocation, file: str) -> None:
    """Write a small, commented manifest to FILE (default batch.yaml). Nothing is ever overwritten.

    \b
    Examples:
      batchgen init
      batchgen init jobs/catalog.yaml
    """
    from batchgen.manifest import starter

    if not file.endswith((".yaml", ".yml")):
        raise UsageError(f"{file}: the example is YAML; give it a name that ends in .yaml")
    try:
        with open(file, "x", encoding="utf-8", newline="\n") as target:
            target.write(starter())
    except FileExistsError:
        raise UsageError(f"{file} is there already and stays as it is; name another file") from None
    except OSError as error:
        raise UsageError(f"{file}: {error.strerror or error}") from None
    invocation.err.line(f"wrote {file}. Next: batchgen run {file} --emulate", "green")
