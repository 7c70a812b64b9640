"""`batchgen emulate`: the emulator's own command line as a command of batchgen."""

from __future__ import annotations

import argparse
from collections.abc import Iterator

from batchgen.cli.invocation import Invocation
from batchgen.emulator.__main__ import main, parser
from batchgen.http.package_emulators import package_routes
from batchgen.providers.registry import PACKAGES_PATH, emulated_packages


def emulate_command(invocation: Invocation, arguments: tuple[str, ...]) -> int:
    paths = {name: f"{PACKAGES_PATH}/{name}" for name in emulated_packages()}
    try:
        return main(list(arguments), package_routes(), paths)
    except SystemExit as leave:  # its parser exits like this, for --help too
        return leave.code if isinstance(leave.code, int) else 2


def option_sections() -> Iterator[tuple[str, list[tuple[str, str]]]]:
    """The title and (usage, meaning) of each option, for click to lay out."""
    flags = parser()
    for group in flags._action_groups:  # argparse has no other list of them
        rows = [(_usage(action), _meaning(action)) for action in group._group_actions]
        if rows:
            yield (group.title or "").capitalize(), rows


def _usage(action: argparse.Action) -> str:
    value = action.metavar or (f"[{'|'.join(action.choices)}]" if action.choices else "")
    value = value or ("" if action.nargs == 0 else action.dest.upper())
    return f"{', '.join(action.option_strings)} {value}".rstrip()


def _meaning(action: argparse.Action) -> str:
    if action.dest == "help":
        return "Show this message and exit."
    text = (action.help or "") % vars(action)
    names_value = text.partition(" ")[0].endswith(":")
    return f"{text if names_value else text[:1].upper() + text[1:]}."
