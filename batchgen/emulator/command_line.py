"""The emulator's own command line: options in, one line with its address out, until a signal."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import signal
import sys
from collections.abc import Sequence

from batchgen.emulator.links import is_loopback
from batchgen.emulator.options import BatchOptions, EmulatorOptions, add_flags, from_flags
from batchgen.emulator.server import serve


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="batchgen emulate", description="A local server that speaks the image APIs' wire and bills nothing."
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default %(default)s)")
    parser.add_argument("--port", type=int, default=0, help="port; 0 takes a free one (default)")
    parser.add_argument("--allow-remote", action="store_true", help="allow an address that other machines reach")
    add_flags(parser, EmulatorOptions)
    add_flags(parser.add_argument_group("Batch API"), BatchOptions)
    return parser


def options_from(arguments: argparse.Namespace) -> EmulatorOptions:
    """Raises ValueError with a sentence for the user."""
    return from_flags(EmulatorOptions, arguments, batch=from_flags(BatchOptions, arguments))


async def _run(arguments: argparse.Namespace, options: EmulatorOptions) -> None:
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        with contextlib.suppress(NotImplementedError):  # Windows: Ctrl-C ends asyncio.run instead
            loop.add_signal_handler(number, stopped.set)
    async with await serve(options, arguments.host, arguments.port, allow_remote=arguments.allow_remote) as emulator:
        print(f"listening on {emulator.base_url}", flush=True)
        await stopped.wait()


def main(argv: Sequence[str] | None = None) -> int:
    """0 after SIGINT or SIGTERM, 2 for a wrong command line, 5 when the address cannot be had."""
    parser = _parser()
    arguments = parser.parse_args(argv)
    try:
        options = options_from(arguments)
    except ValueError as error:
        parser.error(str(error))
    if not arguments.allow_remote and not is_loopback(arguments.host):
        parser.error(f"{arguments.host} can be reached from other machines; say --allow-remote if that is meant")
    try:
        asyncio.run(_run(arguments, options))
    except KeyboardInterrupt:
        return 0
    except OSError as error:
        print(f"cannot listen: {error}", file=sys.stderr)
        return 5
    return 0
