"""`batchgen emulate`: the emulator's own command line behind ours."""

from __future__ import annotations

from batchgen.cli.invocation import Invocation
from batchgen.emulator.__main__ import main


def emulate_command(invocation: Invocation, arguments: tuple[str, ...]) -> int:
    try:
        return main(list(arguments))
    except SystemExit as leave:  # its parser leaves like this, for --help too
        return leave.code if isinstance(leave.code, int) else 2
