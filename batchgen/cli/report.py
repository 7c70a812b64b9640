"""`batchgen report`: one page to look at what a job has made."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from batchgen.cli.invocation import Invocation
from batchgen.cli.job_folder import find_job
from batchgen.cli.options import chain, job_argument, json_option, pass_invocation
from batchgen.errors import BatchgenError
from batchgen.ledger.chronicle import Chronicle
from batchgen.report import figures

if TYPE_CHECKING:
    from batchgen.report.gallery_facts import Declared


@click.command("report")
@job_argument
@chain(
    click.option(
        "-o", "--output", "target", metavar="FILE", type=click.Path(dir_okay=False),
        help="Where to; default: report.html in the folder of the job.",
    ),
    json_option(),
)  # fmt: skip
@pass_invocation
def command(invocation: Invocation, job: str, target: str | None, as_json: bool) -> None:
    """Write a gallery of JOB, a manifest or a job folder: report.html, which works from disk and from any static host.

    \b
    It shows every picture, prompt, setting, cost and attempt, and what the vendor said where there is no picture;
    filter, search, compare, pick (space) and reject (x), and save a manifest that makes the rejected again.
    Thumbnails are inside the page; full pictures are linked, so leave it beside them. It loads nothing from the network.

    \b
    Examples:
      batchgen report catalog.yaml
      batchgen report catalog/ -o public/index.html
    """
    from batchgen.report.gallery import FILE_NAME, write_gallery
    from batchgen.report.gallery_facts import gallery_facts
    from batchgen.report.thumbnails import Thumbnails

    started_s = time.monotonic()
    found = find_job(job)
    folder = found.folder
    path = Path(target).absolute() if target else folder / FILE_NAME
    with Chronicle.open(folder) as ledger:
        shown = gallery_facts(ledger, folder, declared(ledger.meta("manifest") or "", invocation), time.time())
    thumbnails = Thumbnails(folder)
    size = write_gallery(
        path, shown.facts, thumbnails.all(shown.pictures), folder, sorted(invocation.secrets, key=len, reverse=True)
    )
    seconds = time.monotonic() - started_s
    if as_json:
        facts = {"report": str(path), "samples": len(shown.facts["samples"]), "thumbnails": len(shown.pictures),
                 "made": thumbnails.made, "bytes": size, "seconds": round(seconds, 2)}  # fmt: skip
        invocation.out.json(facts)
        return
    invocation.err.line(
        f"{figures.count(len(shown.facts['samples']), 'sample')}, {figures.count(thumbnails.made, 'new thumbnail')},"
        f" {figures.size(size)} in {figures.duration(seconds)}"
    )
    if found.other is not None:
        invocation.err.line(f"There is an emulated job too: batchgen report {found.other}", "dim")
    invocation.out.line(str(path))


def declared(manifest: str, invocation: Invocation) -> Declared:
    """Quotas, cap and order as the manifest has them; quotas as batchgen knows them when it is gone or broken."""
    from batchgen.job import load
    from batchgen.profiles.catalogue import load_catalogue
    from batchgen.report.gallery_facts import Declared
    from batchgen.settings import state_folder

    try:
        loaded = load(manifest)
        invocation.keep_secret(loaded.settings)
        order = {item.id: number for number, item in enumerate(loaded.manifest.items())}
        state = state_folder(loaded.settings)
    except (BatchgenError, OSError, ValueError):
        return Declared(load_catalogue())
    limits = loaded.manifest.limits
    spans = {"run": limits.budget_usd, "day": limits.budget_usd_per_day, "month": limits.budget_usd_per_month}
    budgets = {span: usd for span, usd in spans.items() if usd is not None}
    return Declared(loaded.manifest.catalogue, limits.concurrency, order, budgets, state)
