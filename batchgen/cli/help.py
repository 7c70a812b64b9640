"""`batchgen help`: the manual's pages, and the help of one command with the page of its name."""

from __future__ import annotations

import io
from importlib.resources import files
from typing import Literal, cast

import click

from batchgen.cli.invocation import Invocation
from batchgen.errors import UsageError
from batchgen.report.console import Console

PAGES = files("batchgen") / "manual"
MAX_COLUMNS = 100  # longer lines are hard to read


def help_command(invocation: Invocation, topic: str | None) -> None:
    if topic is None:
        for name, title in titles().items():
            invocation.out.print_labelled(f"{name:14}", title)
        return
    root = click.get_current_context().find_root()
    command = cast(click.Group, root.command).get_command(root, topic)
    if command is not None:
        invocation.out.stream.write(command.get_help(click.Context(command, parent=root, info_name=topic)) + "\n")
        if topic in titles():
            invocation.out.line()
    elif topic not in titles():
        raise UsageError(f"There is no page {topic!r} and no command of that name: `batchgen help` lists the pages.")
    if topic in titles():
        show_page(invocation.out, (PAGES / f"{topic}.md").read_text(encoding="utf-8"))


def titles() -> dict[str, str]:
    """The name of each page and its first line."""
    pages = sorted((page.name.removesuffix(".md"), page) for page in PAGES.iterdir() if page.name.endswith(".md"))
    return {name: page.read_text(encoding="utf-8").partition("\n")[0].removeprefix("# ") for name, page in pages}


def show_page(out: Console, text: str) -> None:
    """Laid out and in the pager of a terminal, else as it is written."""
    if not out.tty:
        out.stream.write(text)
        return
    from rich import console, markdown  # 0.1 s that only a page at a terminal needs

    laid_out = io.StringIO()
    width = min(out.columns, MAX_COLUMNS)
    colours: Literal["standard"] | None = "standard" if out.colour else None
    console.Console(file=laid_out, width=width, force_terminal=True, color_system=colours).print(
        markdown.Markdown(text)
    )
    click.echo_via_pager(laid_out.getvalue(), color=out.colour)
