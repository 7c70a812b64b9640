"""`python -m batchgen`, and where the installed `batchgen` command begins."""

from __future__ import annotations

import sys


def main() -> None:
    """Never returns: leaves with the exit code that the README lists."""
    try:
        from batchgen.cli.main import run_command_line

        code = run_command_line(sys.argv[1:])
    except KeyboardInterrupt:
        code = 130
    sys.exit(code)


if __name__ == "__main__":
    main()
