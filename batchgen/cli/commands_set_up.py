"""The commands of `batchgen --help` that set things up: their options and their help."""

from __future__ import annotations

from pathlib import Path

import click
from click import Choice, FloatRange, IntRange

from batchgen.cli.command import Command
from batchgen.cli.options import (
    LEDGER,
    LOG,
    QUIET,
    json_option,
    option,
    read_address,
    read_duration,
    read_key_files,
    read_time_of_day,
    read_weekdays,
)

MANIFESTS = click.Argument(["manifests"], nargs=-1, type=click.Path(), metavar="[MANIFEST|GLOB|FOLDER]...")

INIT = Command(
    "init",
    "Write a manifest to start from.",
    (click.Argument(["file"], type=click.Path(), default="batch.yaml"),),
    """Write a small, commented manifest to FILE (default batch.yaml). Nothing is ever overwritten.

    \b
    Examples:
      batchgen init
      batchgen init jobs/catalog.yaml
    """,
    module="printed",
)
MODELS = Command(
    "models",
    "The AI models, their limits and prices.",
    (
        option("--all", "Include retired models.", "show_all"),
        option("--live", "Ask each API with a key which models it lists now; free."),
        json_option(),
    ),
    """List the AI models with their limits and prices, those of installed packages too. Ids that are not listed can also be used.

    Prices are for one image of that size, from the vendors' tables; `?` is unknown. Prompt, references, thoughts and
    searches are billed on top: `plan` counts them. The rpm is what batchgen keeps to unless the manifest's `models:` says
    otherwise.

    \b
    Examples:
      batchgen models
      batchgen models --all --json
      batchgen models --live
    """,
)
SCHEMA = Command(
    "schema",
    "The manifest's JSON Schema, for editors.",
    (option("--log", "The schema of a line of `run --log-format json`, in place of a manifest's.", "of_log"),),
    """Print the JSON Schema of a manifest; an editor completes and checks by it.

    \b
    Examples:
      batchgen schema > batchgen.schema.json
      batchgen schema --log > log.schema.json
    """,
    module="printed",
)
SCHEDULE = Command(
    "schedule",
    "Run it every night: units for a timer.",
    (
        click.Argument(["manifest"], type=click.Path()),
        option(
            "--at HH:MM",
            "When, on the local clock.  [default: `schedule:` in the manifest, with all that it says]",
            callback=read_time_of_day,
        ),
        option("--days DAYS", "Days, such as mon,thu or mon-fri; default every day.", callback=read_weekdays),
        option(
            "--as FORM",
            "What runs it: systemd, cron, launchd, kubernetes or github.",
            "form",
            type=Choice(["systemd", "cron", "launchd", "kubernetes", "github"]),
            required=True,
        ),
        option("--until HH:MM", "Start nothing after this time.", callback=read_time_of_day),
        option("--max-duration 4h", "Start nothing after this long.  [default: 22h]", callback=read_duration),
        option(
            "--key-file [NAME=]PATH",
            "A file with the API key; repeatable. NAME: a variable, by default that of the default model; NOTIFY_URL and"
            " BATCHGEN_LEDGER too.",
            "keys",
            multiple=True,
            callback=read_key_files,
        ),
        option("--name NAME", "Name of the units.  [default: batchgen- and the job's name]"),
        option("--timezone ZONE", "Time zone, such as Europe/Berlin.  [default: this machine's]"),
        option("--image NAME", "Container image, for kubernetes.", default="batchgen:latest"),
        option("--claim NAME", "Volume claim with the manifest, for kubernetes.", default="batchgen"),
        option("--install", "Install it (systemd user units, cron).", "action", flag_value="install"),
        option("--uninstall", "Uninstall it.", "action", flag_value="uninstall"),
        option("-n, --dry-run", "With --install: print what it would write."),
        click.Argument(["options"], nargs=-1, type=click.UNPROCESSED, metavar="[-- OPTIONS OF RUN]"),
    ),
    """Print what runs MANIFEST every night: units on stdout, what else there is to do on stderr.

    A run that was missed is made up for where the system can. Two runs never overlap. Budget, deadline and daily
    quota are not failures: the next run continues. Options of `run` follow after `--`.

    \b
    Examples:
      batchgen schedule catalog.yaml --at 01:30 --as systemd --install
      batchgen schedule catalog.yaml --at 01:30 --days mon-fri --as cron
      batchgen schedule catalog.yaml --at 01:30 --as github -- --max-cost 5
      batchgen schedule catalog.yaml --as kubernetes  when its `schedule:` says
    """,
)
WORKER = Command(
    "worker",
    "Make what `run --engine cluster` submits.",
    (
        LEDGER,
        option(
            "-j, --concurrency N",
            "Requests in flight for one job at most.  [default: as its manifest says]",
            type=IntRange(1, 1000),
        ),
        option(
            "--post-processes N",
            "Processes that make the files of `post:`; 0: this worker makes none.  [default: one fewer than cores, 8 at most]",
            type=IntRange(0, 1000),
        ),
        option("--until-empty", "Exit when nothing is left to make now; for batch systems."),
        option("--name NAME", "Name of this worker, unique among all.  [default: host, process and a few letters]"),
        option("--health-file FILE", "Touch this file every few seconds while the worker is alive.", type=click.Path()),
        option(
            "--metrics [HOST:]PORT",
            "Serve /healthz and /metrics there, for this machine alone unless a host is named.",
            callback=read_address,
        ),
        *(QUIET, *LOG),
    ),
    """Make the images that `batchgen run --engine cluster` has submitted, on any machine that reaches the ledger.

    The files of `post:` are made too, in processes. It needs the API keys (not for those files), and the job's folder
    under the same path, or a bucket as output. Any number of workers share
    quota and budgets. Of a submission that nobody watches, one of them writes the results and sends the message of
    `notify:`. The first Ctrl-C or SIGTERM gives back what has not begun and finishes what is in flight, the second
    gives that up too.

    \b
    Examples:
      BATCHGEN_LEDGER=postgresql://batchgen@db/batchgen batchgen worker
      batchgen worker --until-empty --concurrency 8
      batchgen worker --post-processes 16
      batchgen worker --metrics 0.0.0.0:9464  for Prometheus on another machine
    """,
    context_settings={"allow_extra_args": True},  # for the answer to a manifest, which older versions took
)
DAEMON = Command(
    "daemon",
    "Run all that has a schedule, for containers.",
    (
        MANIFESTS,
        option(
            "--jobs N",
            "Jobs to run at the same time; they share quota and budgets.",
            "places",
            type=IntRange(min=1),
            default=4,
        ),
        option(
            "--grace 60s",
            "After SIGTERM, how long runs may finish what is in flight. Give a container 30 s more to stop.",
            callback=read_duration,
            default="60s",
        ),
        option("--once", "Run what is due now, and exit."),
        option("-n, --dry-run, --list", "Show the jobs with their next and last run, and exit.", "listing"),
        json_option("With --list: answer with one JSON list on stdout."),
        option("--emulate", "Run each against a local emulator: nothing billed, NAME.emulated/."),
        LEDGER,
        option(
            "--log-format",
            "Format of the log on stderr; json is also passed to the runs.",
            type=Choice(["text", "json"]),
            default="text",
        ),
        option(
            "--health-file FILE",
            "Touch this file every minute, for a container's health check.",
            type=click.Path(path_type=Path),
        ),
    ),
    """Run every MANIFEST that has `schedule:` in its head; without one, those in jobs/ and here.

    A run that was missed is made up for once, within catch_up (24h); one that was killed continues. A job never overlaps
    itself. Edited manifests are read again each minute and on SIGHUP. SIGTERM lets the runs finish what is in flight.

    \b
    Examples:
      batchgen daemon
      batchgen daemon 'jobs/*.yaml' --log-format json
      batchgen daemon --list
      batchgen daemon --once                  what is due now, for tests and cron
    """,
)
MCP = Command(
    "mcp",
    "Let an assistant plan, run and look, in a budget.",
    (
        option("--folder DIR", "Folder with the manifests; nothing outside of it is used.", required=True),
        option(
            "--max-cost USD",
            "What all runs together may spend while this server lives.",
            type=FloatRange(min=0, min_open=True),
            required=True,
        ),
        option("--emulate", "Ask a local emulator: no key, nothing billed, into NAME.emulated/."),
        option(
            "--manifest-prices",
            "Count by the prices that a manifest's `models:` sets; without it, such a manifest is not run.",
        ),
        LEDGER,
    ),
    """Serve an assistant over stdin and stdout, by the Model Context Protocol.

    It can plan, run in the background, look at states and images, retry, and stop what it began. What spends needs the
    token of a plan that was shown: it works once, and only while manifest, options and price are what that plan said.
    Runs go on when the server ends.

    \b
    Examples:
      batchgen mcp --folder jobs --max-cost 5
      batchgen mcp --folder jobs --max-cost 5 --emulate
    """,
)
METRICS = Command(
    "metrics",
    "Names for Prometheus, a Grafana dashboard.",
    (option("--grafana", "Print a dashboard as JSON, for Grafana's import."),),
    """List the metrics of `run --metrics-file FILE`.

    Point FILE, which ends in .prom, into the folder of node_exporter's --collector.textfile.directory; one file for each job.

    \b
    Examples:
      batchgen run catalog.yaml --metrics-file /var/lib/node_exporter/catalog.prom
      batchgen metrics --grafana > batchgen.json
    """,
    module="printed",
)
DOCTOR = Command(
    "doctor",
    "Check key, addresses, folder and clock.",
    (
        click.Argument(["manifest"], type=click.Path(), required=False),
        option("--online", "Send free requests to each API with a key: check key, clock, balance."),
        option("--quota", "The same, and list what the key may use: models, limits."),
        *(LEDGER, json_option()),
    ),
    """Check keys, addresses, proxies, models, folder, clock and versions; with MANIFEST, what that one needs; with BATCHGEN_LEDGER
    set, the server, the queue and who works.

    Exit code 5 when something is missing that a run needs. Keys are named, never shown.

    \b
    Examples:
      batchgen doctor
      batchgen doctor catalog.yaml --online
      batchgen doctor --quota
    """,
)


class Emulate(Command):
    """The `emulate` command: its options are the emulator's own, its help has the layout of all commands."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        from batchgen.cli.emulate import option_sections  # the emulator brings aiohttp

        for title, rows in option_sections():
            with formatter.section(title):
                formatter.write_dl(rows)


EMULATE = Emulate(
    "emulate",
    "Serve the APIs locally, bill nothing.",
    (click.Argument(["arguments"], nargs=-1, type=click.UNPROCESSED, metavar=""),),
    """Serve the image APIs on this machine and bill nothing: a local server that speaks their wire.

    It prints its address, and those of the emulators that installed packages bring; Ctrl-C ends it.

    \b
    Examples:
      batchgen emulate --port 8080
      batchgen emulate --rpm pro=15 --fault 503=0.1 --latency 2-8
    """,
    context_settings={"ignore_unknown_options": True},
)
COMPLETION = Command(
    "completion",
    "Print a completion script for your shell.",
    (click.Argument(["shell"], type=Choice(["bash", "zsh", "fish"])),),
    """Print a completion script for SHELL.

    \b
    Examples:
      batchgen completion bash >> ~/.bashrc
      batchgen completion zsh > ~/.zfunc/_batchgen
      batchgen completion fish > ~/.config/fish/completions/batchgen.fish
    """,
    module="printed",
)
HELP = Command(
    "help",
    "The manual: its pages, or one of them.",
    (click.Argument(["topic"], required=False),),
    """List the pages of the manual, or show one; a command's name shows that command's options.

    \b
    Examples:
      batchgen help
      batchgen help quotas
      batchgen help run
    """,
    module="printed",
)
COMMANDS = (INIT, MODELS, SCHEMA, SCHEDULE, WORKER, DAEMON, MCP, METRICS, DOCTOR, EMULATE, COMPLETION, HELP)
