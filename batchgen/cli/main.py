"""The command `batchgen`: its commands, and what happens to exceptions from them."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import click
from click.shell_completion import shell_complete

from batchgen import __version__
from batchgen.cli import commands_look, commands_make, commands_set_up
from batchgen.cli.error_report import report_failure
from batchgen.cli.invocation import Invocation, create_invocation
from batchgen.cli.standard_streams import ignore_failures, lost_output
from batchgen.schedule.timer_spec import RESUMABLE_EXIT_CODES
from batchgen.settings import LEDGER_VARIABLE, environment, set_ledger_url

COMPLETION_VARIABLE = "_BATCHGEN_COMPLETE"  # set by the shell to ask for completions
# Run for their effect or exit code: if stdout is closed, full or unread they lose lines and nothing else.
OUTPUT_OPTIONAL = frozenset(
    {"run", "retry", "post", "cancel", "report", "serve", "emulate", "validate", "verify", "doctor"}
)
SECTIONS = {"Make images": commands_make.COMMANDS, "Look": commands_look.COMMANDS, "Set up": commands_set_up.COMMANDS}
HELP = """Turn a manifest of prompts into a folder of verified images and a ledger of what happened to each.

\b
Start here:
  batchgen init                     write batch.yaml
  batchgen run batch.yaml --emulate try it without a key, nothing billed
  batchgen plan batch.yaml          what it would do and cost
  batchgen run batch.yaml           make the images
"""
EPILOG = """\b
Exit codes:
  0 all images exist and verify · 2 usage or manifest, nothing sent
  3 some not made · 4 none made · 5 key, billing, disk or settings
  6 budget · 7 deadline · 8 daily quota · 9 with the vendor or workers
  11 another run · 129, 130, 143 stopped by a signal

\b
More: `batchgen COMMAND -h`, `batchgen help COMMAND`, and `batchgen help`,
which lists the pages of the manual.
"""


class Group(click.Group):
    """Shows the commands in sections, and suggests commands similar to a mistyped one."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        for section, commands in SECTIONS.items():
            with formatter.section(section):
                formatter.write_dl([(f"{command.name:10}", command.summary) for command in commands])

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0]
        if name in OUTPUT_OPTIONAL:
            ignore_failures(sys.stdout)
        if name in self.commands or name.startswith("-"):
            return super().resolve_command(ctx, args)
        from difflib import get_close_matches  # only for messages

        near = get_close_matches(name, self.commands, n=1, cutoff=0.6)
        hint = f" Did you mean {near[0]!r}?" if near else " `batchgen --help` lists them."
        manifest = f" To run a manifest: batchgen run {name}" if name.endswith((".yaml", ".yml", ".jsonl")) else hint
        raise click.UsageError(f"There is no command {name!r}.{manifest}", ctx)


@click.group(
    cls=Group,
    commands=[command for section in SECTIONS.values() for command in section],
    help=HELP,
    epilog=EPILOG,
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.version_option(__version__, "-v", "-V", "--version", prog_name="batchgen", message="%(prog)s %(version)s")
def cli() -> None: ...


def run_command_line(argv: Sequence[str]) -> int:
    """Run one command and return the exit code. The only place that turns exceptions into messages and exit codes."""
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
        return shell_complete(cli, {}, "batchgen", COMPLETION_VARIABLE, instruction)
    try:
        # Not cli.main: it would report some errors itself.
        with cli.make_context("batchgen", list(argv), obj=invocation) as context:
            result = cli.invoke(context)
    except click.exceptions.Exit as leave:
        return leave.exit_code
    return result if isinstance(result, int) else 0
