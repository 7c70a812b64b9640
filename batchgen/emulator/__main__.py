"""`python -m batchgen.emulator`."""

import sys

from batchgen.emulator.command_line import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
