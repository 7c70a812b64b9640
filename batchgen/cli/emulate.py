"""`batchgen emulate`: the emulator's own command line behind ours."""

from __future__ import annotations

import click


@click.command(
    "emulate",
    add_help_option=False,
    context_settings={"ignore_unknown_options": True, "allow_extra_args": True, "allow_interspersed_args": False},
)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def command(arguments: tuple[str, ...]) -> int:
    """Serve the image APIs on this machine and bill nothing. `batchgen emulate --help` lists what it can do."""
    from batchgen.emulator.__main__ import main

    try:
        return main(list(arguments))
    except SystemExit as leave:  # its parser leaves like this, for --help too
        return leave.code if isinstance(leave.code, int) else 2
