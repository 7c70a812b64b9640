"""The command `batchgen`: which commands there are, and what becomes of whatever one of them raises."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module

import click

from batchgen import __version__
from batchgen.cli.error_report import report_failure
from batchgen.cli.invocation import Invocation, create_invocation
from batchgen.cli.standard_streams import ignore_failures, lost_output
from batchgen.schedule.timer_spec import RESUMABLE_EXIT_CODES
from batchgen.settings import LEDGER_VARIABLE, environment, set_ledger_url

COMPLETION_VARIABLE = "_BATCHGEN_COMPLETE"  # set by the shell when it asks what may follow
# Run for what they do, or for their exit code: a stdout that is closed, full or unread costs them lines and nothing else.
OUTPUT_OPTIONAL = frozenset(
    {"run", "retry", "post", "cancel", "report", "serve", "emulate", "validate", "verify", "doctor"}
)
SECTIONS = {
    "Make images": {
        "run": "Make what is missing; running again goes on.",
        "plan": "Show what a run would do, why and for how much.",
        "validate": "Check a manifest, nothing sent.",
        "post": "Make missing derivatives, nothing sent.",
        "retry": "Take up again what failed, was refused or is uncertain.",
        "cancel": "Withdraw what a cluster was given and has not begun.",
    },
    "Look": {
        "status": "How a job stands, while it runs and after.",
        "history": "The nights of one or many jobs, a line each.",
        "report": "Write a gallery of the pictures, for the browser.",
        "serve": "A live dashboard of one or many jobs.",
        "verify": "Compare every picture with the ledger.",
        "export": "One row for each sample, as JSON lines or CSV.",
    },
    "Set up": {
        "init": "Write a manifest to start from.",
        "models": "The AI models, their limits and prices.",
        "schema": "The manifest's JSON Schema, for editors.",
        "schedule": "Run it every night: a timer's units.",
        "worker": "Make what `run --engine cluster` submits.",
        "daemon": "Run all that has a schedule, for containers.",
        "metrics": "Names for Prometheus, a Grafana dashboard.",
        "doctor": "Check key, addresses, folder and clock.",
        "emulate": "Serve the APIs locally, bill nothing.",
        "completion": "Print a completion script for your shell.",
        "help": "The manual: its pages, or one of them.",
    },
}
HELP = """Turn a manifest of prompts into a folder of verified images and a ledger of what happened to each.

\b
Start here:
  batchgen init                     write batch.yaml
  batchgen run batch.yaml --emulate try it without a key, nothing billed
  batchgen plan batch.yaml          what it would do and cost
  batchgen run batch.yaml           make the images
"""
EPILOG = """\b
Exit codes: 0 all images exist and verify · 2 usage or manifest, nothing sent · 3 some not made · 4 none made
5 key, billing, disk or settings · 6 budget · 7 deadline · 8 daily quota · 9 with batches or workers · 11 another run
129 130 143 stopped by a signal
"""


class LazyGroup(click.Group):
    """A command's module is imported when the command is asked for, so that `--help` stays quick."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [name for commands in SECTIONS.values() for name in commands]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self.list_commands(ctx):
            return None
        command: click.Command = import_module(f"batchgen.cli.{cmd_name}").command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        for section, commands in SECTIONS.items():
            with formatter.section(section):
                formatter.write_dl([(f"{name:10}", words) for name, words in commands.items()])

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0]
        if name in OUTPUT_OPTIONAL:
            ignore_failures(sys.stdout)
        if name in self.list_commands(ctx) or name.startswith("-"):
            return super().resolve_command(ctx, args)
        from difflib import get_close_matches

        near = get_close_matches(name, self.list_commands(ctx), n=1, cutoff=0.6)
        hint = f" Did you mean {near[0]!r}?" if near else " `batchgen --help` lists them."
        manifest = f" To run a manifest: batchgen run {name}" if name.endswith((".yaml", ".yml", ".jsonl")) else hint
        raise click.UsageError(f"There is no command {name!r}.{manifest}", ctx)


@click.group(cls=LazyGroup, help=HELP, epilog=EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, "-V", "--version", prog_name="batchgen", message="%(prog)s %(version)s")
def cli() -> None: ...


def run_command_line(argv: Sequence[str]) -> int:
    """Run one command and answer the exit code. The only place that turns exceptions into words and codes."""
    invocation, ledger = create_invocation(), environment().get(LEDGER_VARIABLE)
    try:
        code = _invoke(argv, invocation)
        sys.stdout.flush()
    except Exception as error:
        code = report_failure(error, invocation)
    else:
        if why := lost_output(sys.stdout):
            invocation.warn(f"part of the output could not be written to stdout: {why}")
    finally:
        set_ledger_url(ledger)
        invocation.close_log()
    return 0 if invocation.later_ok and code in RESUMABLE_EXIT_CODES else code


def _invoke(argv: Sequence[str], invocation: Invocation) -> int:
    if instruction := environment().get(COMPLETION_VARIABLE):
        from click.shell_completion import shell_complete

        return shell_complete(cli, {}, "batchgen", COMPLETION_VARIABLE, instruction)
    try:
        # Not cli.main: it would answer some errors itself.
        with cli.make_context("batchgen", list(argv), obj=invocation) as context:
            result = cli.invoke(context)
    except click.exceptions.Exit as leave:
        return leave.exit_code
    return result if isinstance(result, int) else 0
