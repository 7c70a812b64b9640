"""`python -m batchgen`, and where the installed `batchgen` command begins."""

from __future__ import annotations

import gc
import sys


def main() -> None:
    """Run the command line and exit with one of the exit codes that the README lists."""
    gc.disable()  # until everything is imported, which makes half a million objects and no garbage
    try:
        # Imported in here so that a Ctrl-C during the import is handled like any other.
        from batchgen.cli.standard_streams import ignore_failures, open_standard_streams

        open_standard_streams()
        try:
            from batchgen.cli.main import run_command_line  # once the streams are open
            from batchgen.settings import leave_out_pydantic_plugins  # likewise

            leave_out_pydantic_plugins()
            code = run_command_line(sys.argv[1:])
        finally:
            ignore_failures(sys.stdout)  # the interpreter flushes it once more
    except KeyboardInterrupt:
        code = 130
    sys.exit(code)


if __name__ == "__main__":
    main()
