"""`batchgen report`: one page to look at what a job has made."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from batchgen.cli.invocation import Invocation
from batchgen.cli.job_folder import find_job
from batchgen.cli.options import job_argument, json_option, only_option, option_group, pass_invocation
from batchgen.errors import BatchgenError, UsageError
from batchgen.ledger.reader import HistoryReader
from batchgen.report import formatting
from batchgen.store.store import open_store_of

if TYPE_CHECKING:
    from batchgen.records import Item, Post
    from batchgen.report.gallery_data import ManifestInfo


@click.command("report")
@job_argument
@option_group(
    click.option(
        "-o", "--output", "target", metavar="FILE", type=click.Path(dir_okay=False),
        help="Where to; default: report.html in the folder of the job.",
    ),
    click.option(
        "--contact-sheet", "sheet", metavar="[FILE]", is_flag=False, flag_value="", type=click.Path(dir_okay=False),
        help="In place of the page one picture of all, .jpg, .png or .webp; default: contact-sheet.jpg in the folder.",
    ),
    click.option("--columns", type=click.IntRange(1, 60), default=6, show_default=True, help="Of the contact sheet."),
    click.option("--cell", type=click.IntRange(48, 1024), default=240, show_default=True, metavar="PX",
                 help="Side of a picture on the contact sheet."),
    only_option,
    json_option(),
)  # fmt: skip
@pass_invocation
def command(
    invocation: Invocation, job: str, target: str | None, sheet: str | None, columns: int, cell: int,
    only: tuple[str, ...], as_json: bool,
) -> None:  # fmt: skip
    """Write a gallery of JOB, a manifest or a job folder: report.html, which works from disk and from any static host.

    \b
    It shows every picture, prompt, setting, cost and attempt, and what the vendor said where there is no picture;
    filter, search, compare, pick (space) and reject (x), and save a manifest that makes the rejected again.
    Thumbnails are inside the page; full pictures are linked, so leave it beside them. It loads nothing from the network.

    \b
    Examples:
      batchgen report catalog.yaml
      batchgen report catalog/ -o public/index.html
      batchgen report catalog.yaml --contact-sheet
      batchgen report catalog.yaml --only 'mug-*' --contact-sheet mugs.png --columns 8 --cell 180
    """
    if sheet is not None:
        contact_sheet(invocation, job, sheet, SheetOptions(columns, cell, only), as_json=as_json)
        return
    if only:
        raise UsageError("--only is for --contact-sheet: the page has filters of its own")
    from batchgen.report.gallery import FILE_NAME, write_gallery
    from batchgen.report.gallery_data import gallery_page
    from batchgen.report.thumbnails import Thumbnails

    started_s = time.monotonic()
    found = find_job(job)
    folder = found.folder
    path = Path(target).absolute() if target else folder / FILE_NAME
    with HistoryReader.open(folder) as ledger:
        page, pictures = gallery_page(
            ledger, folder, manifest_info(ledger.meta("manifest") or "", invocation), time.time()
        )
        store = open_store_of(folder, ledger)
    thumbnails = Thumbnails(folder, store=store)
    link_folder = (
        path.parent if store.url else folder
    )  # of a bucket: the page finds full pictures once it lies there too
    size = write_gallery(
        path,
        page,
        thumbnails.all(pictures),
        link_folder,
        sorted(invocation.secrets, key=len, reverse=True),
    )
    seconds = time.monotonic() - started_s
    if as_json:
        invocation.out.json(
            {"report": str(path), "samples": len(page.samples), "thumbnails": len(pictures),
             "made": thumbnails.made, "bytes": size, "seconds": round(seconds, 2)}
        )  # fmt: skip
        return
    invocation.err.line(
        f"{formatting.count(len(page.samples), 'sample')}, {formatting.count(thumbnails.made, 'new thumbnail')},"
        f" {formatting.size(size)} in {formatting.duration(seconds)}"
    )
    if store.url:
        invocation.err.line(
            f"full pictures are in {store.url}: put the page there too, or look at them with `batchgen serve`", "dim"
        )
    if found.emulated_folder is not None:
        invocation.err.line(f"There is an emulated job too: batchgen report {found.emulated_folder}", "dim")
    invocation.out.line(str(path))


class SheetOptions(NamedTuple):
    columns: int
    cell: int
    only: tuple[str, ...]


def contact_sheet(invocation: Invocation, job: str, file: str, sheet_options: SheetOptions, *, as_json: bool) -> None:
    """file: empty for the default. More pictures than fit on one sheet go onto NAME-2 and so on, and it is said."""
    from batchgen.report.contact_sheet import FILE_NAME, FORMATS_BY_SUFFIX, Layout, cells_of, write_sheets

    found = find_job(job)
    target = Path(file).absolute() if file else found.folder / FILE_NAME
    if target.suffix.lower() not in FORMATS_BY_SUFFIX:
        raise UsageError(f"{file}: a contact sheet ends in {', '.join(FORMATS_BY_SUFFIX)}")
    with HistoryReader.open(found.folder) as ledger:
        ledger.snapshot()
        title = ledger.meta("name") or found.folder.name
        emulated = ledger.meta("emulated") == "yes"
        store = open_store_of(found.folder, ledger)
        cells = list(cells_of(ledger, sheet_options.only))
    if not cells:
        raise UsageError(f"{job}: nothing to show{' that --only names' if sheet_options.only else ''}")
    heading = f"{title} · {formatting.count(sum(bool(cell.path) for cell in cells), 'picture')}"
    paths = write_sheets(
        target, store, heading, cells, Layout(sheet_options.columns, sheet_options.cell), emulated=emulated
    )
    if as_json:
        invocation.out.json({"sheets": [str(path) for path in paths], "samples": len(cells)})
        return
    onto = formatting.count(len(paths), "sheet")
    invocation.err.line(f"{formatting.count(len(cells), 'sample')} on {onto}")
    if found.emulated_folder is not None:
        invocation.err.line(f"There is an emulated job too: batchgen report {found.emulated_folder}", "dim")
    for path in paths:
        invocation.out.line(str(path))


def manifest_info(manifest: str, invocation: Invocation) -> ManifestInfo:
    """Quotas, cap and order as the manifest has them; quotas as batchgen knows them when it is gone or broken."""
    from batchgen.api import load
    from batchgen.ledger.location import server_address
    from batchgen.manifest.post_section import post_fields
    from batchgen.profiles.catalogue import load_catalogue
    from batchgen.report.gallery_data import ManifestInfo
    from batchgen.settings import state_folder

    try:
        loaded = load(manifest, emulate=True)  # a model that has been retired since is no fault of the page's
        invocation.hide_keys(loaded.settings, loaded.manifest.catalogue.providers)
        found = loaded.manifest
        found.references.remote_references = None  # a page about a job has nothing to ask of a bucket
        order, unfingerprinted, conversations = dict[str, int](), dict[str, dict[str, Any]](), dict[str, list[str]]()
        for number, item in enumerate(found.items()):
            order[item.id] = number
            if wanted := unfingerprinted_fields(item, found.references.folder, found.post):
                unfingerprinted[item.id] = wanted
            if item.turn:
                conversations[item.id.removesuffix(f"-t{item.turn}")] = [*item.history, item.prompt]
        state = server_address(loaded.folder, None) or state_folder(loaded.settings)
    except (BatchgenError, OSError, ValueError):
        return ManifestInfo(load_catalogue())
    limits = found.limits
    spans = {"run": limits.budget_usd, "day": limits.budget_usd_per_day, "month": limits.budget_usd_per_month}
    budgets = {span: usd for span, usd in spans.items() if usd is not None}
    return ManifestInfo(
        found.catalogue, limits.concurrency, order, found.folder, unfingerprinted, conversations, post_fields(found.post), budgets, state
    )  # fmt: skip


def unfingerprinted_fields(item: Item, folder: str, post: Post | None) -> dict[str, Any]:
    """What no fingerprint holds of an item, as a manifest beside its own would say it. folder: of the manifest, which asks
    for `post` where an item says nothing else."""
    from batchgen.manifest.post_section import post_fields

    named = [
        name if name[:1] == "@" or "://" in name[:8] else os.path.relpath(name, folder) for name in item.references
    ]
    wanted = {
        "references": [name.replace(os.sep, "/") if name[:1] != "@" else name for name in named],
        "service_tier": item.service_tier,
        "fallback": [lane.partition("/")[2] for lane in item.fallback],
        "fallback_on": sorted(item.fallback_on) if item.fallback else [],
    }
    own = {} if item.post == post else {"post": post_fields(item.post)}
    return {**{name: value for name, value in wanted.items() if value}, **own}
