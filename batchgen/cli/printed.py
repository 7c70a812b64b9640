"""`batchgen init`, `schema`, `metrics`, `completion` and `help`: ready-made texts for editors, dashboards, shells and
people."""

from __future__ import annotations

import io
from importlib.resources import files
from typing import Literal, cast

import click
from click.shell_completion import get_completion_class

from batchgen import manifest
from batchgen.cli.invocation import Invocation
from batchgen.cli.main import COMPLETION_VARIABLE, cli
from batchgen.errors import UsageError
from batchgen.report.console import Console

PAGES = files("batchgen") / "manual"
MAX_COLUMNS = 100  # longer lines are hard to read


def init_command(invocation: Invocation, file: str) -> None:
    if not file.endswith((".yaml", ".yml")):
        raise UsageError(f"{file}: the example is YAML; give it a name that ends in .yaml")
    try:
        with open(file, "x", encoding="utf-8", newline="\n") as target:
            target.write(manifest.starter())
    except FileExistsError:
        raise UsageError(f"{file} is there already and stays as it is; name another file") from None
    except OSError as error:
        raise UsageError(f"{file}: {error.strerror or error}") from None
    invocation.err.line(f"wrote {file}. Next: batchgen run {file} --emulate", "green")


def schema_command(invocation: Invocation, of_log: bool) -> None:
    if of_log:
        from batchgen.report.log_events import log_schema  # reads every event's type hints

        invocation.out.json(log_schema())
    else:
        invocation.out.json(manifest.json_schema())


def metrics_command(invocation: Invocation, grafana: bool) -> None:
    from batchgen.report import metrics  # reads ledgers: twice the time of `init`

    if grafana:
        click.echo(metrics.grafana(), nl=False)
        return
    rows = [(name, kind, " ".join(labels), help_text) for name, (kind, labels, help_text) in metrics.METRICS.items()]
    invocation.out.table(("name", "kind", "labels", "meaning"), rows, flexible=3)


def completion_command(invocation: Invocation, shell: str) -> None:
    found = get_completion_class(shell)
    if found is None:
        raise UsageError(f"no completion for {shell}")
    click.echo(found(cli, {}, "batchgen", COMPLETION_VARIABLE).source())


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
    """Show a page, formatted in the pager on a terminal, and as it is elsewhere."""
    if not out.tty:
        out.stream.write(text)
        return
    from rich import console, markdown  # 0.1 s that only a page on a terminal needs

    laid_out = io.StringIO()
    width = min(out.columns, MAX_COLUMNS)
    colours: Literal["standard"] | None = "standard" if out.colour else None
    console.Console(file=laid_out, width=width, force_terminal=True, color_system=colours).print(
        markdown.Markdown(text)
    )
    click.echo_via_pager(laid_out.getvalue(), color=out.colour)
