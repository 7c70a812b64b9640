"""`batchgen report`: one page to look at what a job has made."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from batchgen.cli.invocation import Invocation
from batchgen.cli.job_folder import find_job
from batchgen.cli.options import chain, job_argument, json_option, pass_invocation
from batchgen.errors import BatchgenError
from batchgen.ledger.chronicle import Chronicle
from batchgen.report import figures

if TYPE_CHECKING:
    from batchgen.records import Item
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

    try:
        loaded = load(manifest, emulate=True)  # a model that has been retired since is no fault of the page's
        invocation.keep_secret(loaded.settings)
        found = loaded.manifest
        order, asks, conversations = dict[str, int](), dict[str, dict[str, Any]](), dict[str, list[str]]()
        for number, item in enumerate(found.items()):
            order[item.id] = number
            if wanted := asks_of(item, found.references.folder):
                asks[item.id] = wanted
            if item.turn:
                conversations[item.id.removesuffix(f"-t{item.turn}")] = [*item.history, item.prompt]
    except (BatchgenError, OSError, ValueError):
        return Declared(load_catalogue())
    return Declared(found.catalogue, found.limits.concurrency, order, found.folder, asks, conversations)


def asks_of(item: Item, folder: str) -> dict[str, Any]:
    """What no fingerprint holds of an item, as a manifest beside its own would say it. folder: of the manifest."""
    from batchgen.manifest.references import is_link

    named = [name if name[:1] == "@" or is_link(name) else os.path.relpath(name, folder) for name in item.references]
    wanted = {
        "references": [name.replace(os.sep, "/") if name[:1] != "@" else name for name in named],
        "service_tier": item.service_tier,
        "fallback": [lane.partition("/")[2] for lane in item.fallback],
        "fallback_on": sorted(item.fallback_on) if item.fallback else [],
    }
    return {name: value for name, value in wanted.items() if value}
