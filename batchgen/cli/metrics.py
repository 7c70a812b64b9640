"""`batchgen metrics`: the names that `run --metrics-file` writes, and a Grafana dashboard of them."""

from __future__ import annotations

import click

from batchgen.cli.invocation import Invocation
from batchgen.cli.options import pass_invocation


@click.command("metrics")
@click.option("--grafana", is_flag=True, help="Print a dashboard as JSON, for Grafana's import.")
@pass_invocation
def command(invocation: Invocation, grafana: bool) -> None:
    """List the metrics of `run --metrics-file FILE`.

    Point FILE, which ends in .prom, into the folder of node_exporter's --collector.textfile.directory; one file for each job.

    \b
    Examples:
      batchgen run catalog.yaml --metrics-file /var/lib/node_exporter/catalog.prom
      batchgen metrics --grafana > batchgen.json
    """
    from batchgen.report import metrics

    if grafana:
        click.echo(metrics.grafana(), nl=False)
        return
    rows = [(name, kind, " ".join(labels), help_text) for name, (kind, labels, help_text) in metrics.METRICS.items()]
    invocation.out.table(("name", "kind", "labels", "meaning"), rows, flexible=3)
