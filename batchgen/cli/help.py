"""`batchgen help`: the manual's pages, and the help of one command."""

from __future__ import annotations

from importlib.resources import files
from typing import cast

import click

from batchgen.cli.invocation import Invocation
from batchgen.errors import UsageError

PAGES = files("batchgen") / "manual"


def help_command(invocation: Invocation, topic: str | None) -> None:
    if topic is None:
        for name, title in titles().items():
            invocation.out.print_labelled(f"{name:14}", title)
        return
    if topic in titles():
        show_page((PAGES / f"{topic}.md").read_text(encoding="utf-8"))
        return
    root = click.get_current_context().find_root()
    found = cast(click.Group, root.command).get_command(root, topic)
    if found is None:
        raise UsageError(f"There is no page {topic!r} and no command of that name: `batchgen help` lists the pages.")
    invocation.out.stream.write(found.get_help(click.Context(found, parent=root, info_name=topic)) + "\n")


def titles() -> dict[str, str]:
    """The name of each page and its first line."""
    pages = sorted((page.name.removesuffix(".md"), page) for page in PAGES.iterdir() if page.name.endswith(".md"))
    return {name: page.read_text(encoding="utf-8").partition("\n")[0].removeprefix("# ") for name, page in pages}


def show_page(text: str) -> None:
    """In the pager of a terminal, else as it is written."""
    click.echo_via_pager(text)
