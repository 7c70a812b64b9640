"""`python -m batchgen.emulator`: options in, one line with the address out, until a signal."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import signal
import sys
from collections.abc import Mapping, Sequence

from aiohttp import web

from batchgen.emulator.options import BatchOptions, EmulatorOptions, add_flags, from_flags
from batchgen.emulator.pictures import is_loopback
from batchgen.emulator.server import serve


def parser() -> argparse.ArgumentParser:
    flags = argparse.ArgumentParser(
        prog="batchgen emulate",
        usage="%(prog)s [OPTIONS]",
        description="A local server that speaks the image APIs' wire and bills nothing.",
    )
    flags.add_argument("--host", default="127.0.0.1", help="address to listen on (default %(default)s)")
    flags.add_argument("--port", type=int, default=0, help="port; 0 takes a free one (default)")
    flags.add_argument("--allow-remote", action="store_true", help="allow an address that other machines reach")
    add_flags(flags, EmulatorOptions)
    add_flags(flags.add_argument_group("Batch API"), BatchOptions)
    return flags


def options_from(arguments: argparse.Namespace) -> EmulatorOptions:
    """Read the options. Raises ValueError with a sentence for the user."""
    return from_flags(EmulatorOptions, arguments, batch=from_flags(BatchOptions, arguments))


async def _run(
    arguments: argparse.Namespace, options: EmulatorOptions, routes: Sequence[web.RouteDef], paths: Mapping[str, str]
) -> None:
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        with contextlib.suppress(NotImplementedError):  # Windows: Ctrl-C ends asyncio.run instead
            loop.add_signal_handler(number, stopped.set)
    async with await serve(
        options, arguments.host, arguments.port, allow_remote=arguments.allow_remote, more_routes=routes
    ) as emulator:
        also = (f"{name} at {emulator.base_url}{path}" for name, path in paths.items())
        print(f"listening on {emulator.base_url}", *also, sep="\n", flush=True)
        await stopped.wait()


def main(
    argv: Sequence[str] | None = None,
    more_routes: Sequence[web.RouteDef] = (),
    more_paths: Mapping[str, str] | None = None,
) -> int:
    """Serve until a signal, and return 0 after SIGINT or SIGTERM, 2 for a wrong command line, 5 if it cannot listen there.

    more_routes: of servers that others bring. more_paths: the paths of each of those, by its name.
    """
    flags = parser()
    arguments = flags.parse_args(argv)
    try:
        options = options_from(arguments)
    except ValueError as error:
        flags.error(str(error))
    if not arguments.allow_remote and not is_loopback(arguments.host):
        flags.error(f"{arguments.host} can be reached from other machines; say --allow-remote if that is meant")
    try:
        asyncio.run(_run(arguments, options, more_routes, more_paths or {}))
    except KeyboardInterrupt:
        return 0
    except OSError as error:
        print(f"cannot listen: {error}", file=sys.stderr)
        return 5
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
