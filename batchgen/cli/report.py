"""`batchgen report`: one page to look at what a job has made."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import batchgen
from batchgen.cli.invocation import Invocation
from batchgen.cli.job_folder import JobFolder, find_job
from batchgen.errors import BatchgenError, UsageError
from batchgen.ledger.location import server_address
from batchgen.ledger.reviews import open_history
from batchgen.manifest.post_section import post_fields
from batchgen.manifest.review_section import review_fields
from batchgen.records import Item, Post
from batchgen.report import contact_sheet, formatting, gallery
from batchgen.report.gallery_data import ManifestInfo, gallery_page, is_elsewhere
from batchgen.report.thumbnails import Thumbnails
from batchgen.settings import state_folder
from batchgen.store.store import open_store_of


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportOptions:
    """output: the job's folder. target: where the page goes, or with `sheet` the contact sheet; None: into that folder."""

    output: str | None
    target: str | None
    sheet: bool
    columns: int
    cell: int
    only: tuple[str, ...]
    as_json: bool


def report_command(invocation: Invocation, job: str, **given: Any) -> None:
    options = ReportOptions(**given)
    if options.only and not options.sheet:
        raise UsageError("--only is for --contact-sheet: the page has filters of its own")
    write = write_contact_sheets if options.sheet else write_page
    write(invocation, job, options)


def write_page(invocation: Invocation, job: str, options: ReportOptions) -> None:
    started_s, found = time.monotonic(), find_job(job, options.output)
    folder = found.folder
    path = Path(options.target).absolute() if options.target else folder / gallery.FILE_NAME
    with open_history(folder) as ledger:
        info = manifest_info(ledger.meta("manifest") or "", invocation)
        page, (pictures, references) = gallery_page(ledger, folder, info, time.time())
        store = open_store_of(folder, ledger)
    thumbnails, of_references = Thumbnails(folder, source=store), Thumbnails(folder, source=references)
    small = chain(thumbnails.all(pictures), of_references.all((sha256, sha256) for sha256 in references.paths))
    # Of a bucket: the page finds full pictures once it lies there too.
    links = gallery.LinkFolders(path.parent if store.url else folder, info.folder)
    secrets = sorted(invocation.secrets, key=len, reverse=True)
    size = gallery.write_gallery(path, page, small, links, secrets)
    seconds = time.monotonic() - started_s
    if options.as_json:
        facts = {"report": str(path), "samples": len(page.samples), "thumbnails": len(pictures)}
        invocation.answer({**facts, "made": thumbnails.made, "bytes": size, "seconds": round(seconds, 2)})
        return
    invocation.err.line(
        f"{formatting.count(len(page.samples), 'sample')}, {formatting.count(thumbnails.made, 'new thumbnail')},"
        f" {formatting.size(size)} in {formatting.duration(seconds)}"
    )
    if store.url:
        invocation.err.line(
            f"full images are in {store.url}: put the page there too, or look at them with `batchgen serve`", "dim"
        )
    _print_paths(invocation, found, [path])


def write_contact_sheets(invocation: Invocation, job: str, options: ReportOptions) -> None:
    """More pictures than fit on one sheet go onto NAME-2 and so on, and it is said."""
    found = find_job(job, options.output)
    target = Path(options.target).absolute() if options.target else found.folder / contact_sheet.FILE_NAME
    if target.suffix.lower() not in contact_sheet.FORMATS_BY_SUFFIX:
        raise UsageError(f"{options.target}: a contact sheet ends in {', '.join(contact_sheet.FORMATS_BY_SUFFIX)}")
    with open_history(found.folder) as ledger:
        ledger.snapshot()
        title = ledger.meta("name") or found.folder.name
        emulated = ledger.meta("emulated") == "yes"
        store = open_store_of(found.folder, ledger)
        cells = list(contact_sheet.cells_of(ledger, found.folder, options.only))
    if not cells:
        raise UsageError(f"{job}: nothing to show{' that --only names' if options.only else ''}")
    heading = f"{title} · {formatting.count(sum(bool(cell.path) for cell in cells), 'image')}"
    layout = contact_sheet.Layout(options.columns, options.cell)
    paths = contact_sheet.write_sheets(target, store, heading, cells, layout, emulated=emulated)
    if options.as_json:
        invocation.answer({"sheets": [str(path) for path in paths], "samples": len(cells)})
        return
    onto = formatting.count(len(paths), "sheet")
    invocation.err.line(f"{formatting.count(len(cells), 'sample')} on {onto}")
    _print_paths(invocation, found, paths)


def _print_paths(invocation: Invocation, found: JobFolder, paths: list[Path]) -> None:
    if found.emulated_folder is not None:
        invocation.err.line(f"There is an emulated job too: batchgen report {found.emulated_folder}", "dim")
    for path in paths:
        invocation.out.line(str(path))


def manifest_info(manifest: str, invocation: Invocation) -> ManifestInfo:
    """Quotas, cap and order as the manifest has them; quotas as batchgen knows them when it is gone or broken."""
    try:
        loaded = batchgen.load(manifest, emulate=True)  # a model that has been retired since is no fault of the page's
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
        return ManifestInfo()
    limits = found.limits
    spans = {"run": limits.budget_usd, "day": limits.budget_usd_per_day, "month": limits.budget_usd_per_month}
    return ManifestInfo(
        found.catalogue,
        limits.concurrency,
        order,
        found.folder,
        unfingerprinted,
        conversations,
        post_fields(found.post),
        {span: usd for span, usd in spans.items() if usd is not None},
        state,
    )


def unfingerprinted_fields(item: Item, folder: str, post: Post | None) -> dict[str, Any]:
    """What no fingerprint holds of an item, as a manifest beside its own would say it; a mask is the last of the references.
    folder: of the manifest, which asks for `post` where an item says nothing else."""
    named = [
        name if is_elsewhere(name) else os.path.relpath(name, folder).replace(os.sep, "/") for name in item.references
    ]
    wanted = {
        "references": named,
        "service_tier": item.service_tier,
        "fallback": [lane.partition("/")[2] for lane in item.fallback],
        "fallback_on": sorted(item.fallback_on) if item.fallback else [],
    }
    own = {**({} if item.post == post else {"post": post_fields(item.post)}), **review_fields(item)}
    return {**{name: value for name, value in wanted.items() if value}, **own}
