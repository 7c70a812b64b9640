"""The emulator's own command line: options in, one line with its address out, until a signal."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import signal
import sys
from collections.abc import Callable, Sequence
from typing import TypeVar

from batchgen.emulator import batch_arguments
from batchgen.emulator.faults import KNOWN
from batchgen.emulator.loopback import is_loopback
from batchgen.emulator.options import EmulatorOptions, Span
from batchgen.emulator.server import serve

Value = TypeVar("Value")


def span(text: str) -> Span:
    """`0.3-0.9` or `2`, in seconds."""
    least, _, most = text.partition("-")
    return float(least), float(most or least)


def _split(entries: Sequence[str], read: Callable[[str], Value], default: Value) -> tuple[Value, dict[str, Value]]:
    """`VALUE` for all and `MODEL=VALUE` for one, in any mixture."""
    general, by_model = default, {}
    for entry in entries:
        model, equals, value = entry.rpartition("=")
        if equals:
            by_model[model] = read(value)
        else:
            general = read(entry)
    return general, by_model


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="batchgen emulate", description="A local server that speaks the image APIs' wire and bills nothing."
    )
    add = parser.add_argument
    add("--host", default="127.0.0.1", help="address to listen on (default 127.0.0.1)")
    add("--port", type=int, default=0, help="port; 0 takes a free one (default)")
    add("--allow-remote", action="store_true", help="allow an address that other machines reach")
    add("--latency", action="append", default=[], metavar="[MODEL=]A-B", help="seconds an answer takes (0.3-0.9)")
    add("--rpm", action="append", default=[], metavar="[MODEL=]N", help="requests per minute; 0 = no limit")
    add("--rpd", action="append", default=[], metavar="[MODEL=]N", help="requests per day; 0 = no limit (default)")
    add("--count-rejected", action="store_true", help="requests answered 429 use up quota too")
    add("--fault", action="append", default=[], metavar="NAME=RATE", help=f"one of: {', '.join(sorted(KNOWN))}")
    add("--seed", type=int, default=0, help="of latencies and faults")
    add("--picture", choices=["full", "tiny"], default="full", help="tiny: a longest side of 64 pixels")
    add("--picture-px", type=int, metavar="N", help="longest side of every picture")
    add("--signature-bytes", type=int, default=2048, metavar="N", help="size of thought signatures")
    add("--drip", type=float, default=2.0, metavar="S", help="seconds that a slow answer takes to arrive")
    add("--file-life", type=float, default=48 * 3600.0, metavar="S", help="seconds an uploaded file lives (48 hours)")
    add(
        "--tier",
        action="append",
        default=[],
        metavar="NAME=STATUS",
        help="flex or priority: 400, 429, 503; 200 = downgrade",
    )
    add("--model", action="append", default=[], metavar="ID", help="the only AI models that keys may use (all)")
    add("--credit", type=int, default=1_000_000_000, metavar="N", help="of an AIML account before its first picture")
    add("--no-retired", action="store_true", help="answer 404 for AI models that the vendor has shut down")
    batch_arguments.add_to(parser)
    return parser


def options_from(arguments: argparse.Namespace) -> EmulatorOptions:
    """Raises ValueError with a sentence for the user."""
    latency_s, latency_s_by_model = _split(arguments.latency, span, (0.3, 0.9))
    rpm, rpm_by_model = _split(arguments.rpm, int, -1)
    rpd, rpd_by_model = _split(arguments.rpd, int, 0)
    _, faults = _split(arguments.fault, float, 0.0)
    _, tiers = _split(arguments.tier, int, 0)
    return EmulatorOptions(
        latency_s=latency_s,
        latency_s_by_model=latency_s_by_model,
        rpm=None if rpm < 0 else rpm,
        rpm_by_model=rpm_by_model,
        rpd=rpd,
        rpd_by_model=rpd_by_model,
        rejected_counts=arguments.count_rejected,
        faults=faults,
        seed=arguments.seed,
        picture=arguments.picture,
        picture_px=arguments.picture_px,
        signature_bytes=arguments.signature_bytes,
        drip_s=arguments.drip,
        file_life_s=arguments.file_life,
        tiers=tiers,
        models=tuple(arguments.model),
        credit=arguments.credit,
        serve_retired=not arguments.no_retired,
        batch=batch_arguments.options_from(arguments),
    )


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
