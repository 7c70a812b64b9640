"""`batchgen validate`: all that is wrong with a manifest, nothing sent."""

from __future__ import annotations

import click

from batchgen.cli.invocation import Invocation
from batchgen.cli.options import json_option, manifest_argument, pass_invocation
from batchgen.report import formatting


@click.command("validate")
@manifest_argument
@json_option()
@pass_invocation
def command(invocation: Invocation, manifest: str, as_json: bool) -> None:
    """Check MANIFEST to its end. Every problem is one line, file:line:column first.

    \b
    Examples:
      batchgen validate catalog.yaml
      batchgen validate catalog.jsonl --json
    """
    from batchgen.cli.run_job import load_job

    job = load_job(invocation, manifest, None, emulate=False)
    items = samples = 0
    for item in job.manifest.items():
        items += 1
        samples += item.count
    warnings = [*job.settings.warnings, *job.manifest.warnings]
    for warning in warnings:
        invocation.err.line(f"warning: {warning}", "yellow")
    if as_json:
        invocation.out.json({"ok": True, "items": items, "samples": samples, "warnings": warnings})
    else:
        invocation.out.line(f"ok: {formatting.count(items, 'item')}, {formatting.count(samples, 'sample')}", "green")
