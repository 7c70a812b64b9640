"""A local server that speaks the wire formats of the image APIs, written from the vendors' documents alone."""

from batchgen.emulator.options import BatchOptions, EmulatorOptions
from batchgen.emulator.pictures import read_comment
from batchgen.emulator.server import RunningEmulator, serve

__all__ = ["BatchOptions", "EmulatorOptions", "RunningEmulator", "read_comment", "serve"]
