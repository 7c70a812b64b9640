"""A local server that speaks the image APIs' wire: an independent witness of the vendors' documents."""

from batchgen.emulator.options import BatchOptions, EmulatorOptions
from batchgen.emulator.pictures import read_comment
from batchgen.emulator.server import RunningEmulator, serve

__all__ = ["BatchOptions", "EmulatorOptions", "RunningEmulator", "read_comment", "serve"]
