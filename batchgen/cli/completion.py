"""`batchgen completion`: what a shell needs to complete our commands."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

from batchgen.errors import UsageError


@click.command("completion")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def command(shell: str) -> None:
    """Print a completion script for SHELL.

    \b
    Examples:
      batchgen completion bash >> ~/.bashrc
      batchgen completion zsh > ~/.zfunc/_batchgen
      batchgen completion fish > ~/.config/fish/completions/batchgen.fish
    """
    from batchgen.cli.main import COMPLETION_VARIABLE, cli

    found = get_completion_class(shell)
    if found is None:
        raise UsageError(f"no completion for {shell}")
    click.echo(found(cli, {}, "batchgen", COMPLETION_VARIABLE).source())
