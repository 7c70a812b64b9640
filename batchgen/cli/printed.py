"""`batchgen init`, `schema`, `metrics` and `completion`: texts that are ready, for editors, dashboards and shells."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

from batchgen import manifest
from batchgen.cli.invocation import Invocation
from batchgen.cli.main import COMPLETION_VARIABLE, cli
from batchgen.errors import UsageError


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
    from batchgen.report import metrics  # reads ledgers: twice what `init` takes

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
