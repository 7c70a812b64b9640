"""`batchgen report`: a page to look at what a job has made."""

from __future__ import annotations

import time
from contextlib import closing
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

from batchgen.cli.gallery_manifest import manifest_info
from batchgen.cli.invocation import Invocation
from batchgen.cli.job_folder import JobFolder, find_job
from batchgen.errors import UsageError
from batchgen.ledger.reviews import open_history
from batchgen.report import contact_sheet, formatting, gallery
from batchgen.report.gallery_pages import GalleryIndex, GalleryPages
from batchgen.report.thumbnails import Thumbnails
from batchgen.sanitize import redact_secrets
from batchgen.store.store import open_store_of


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportOptions:
    """The parsed options. output: the job's folder. target: where the page goes, or with `sheet` the contact sheet;
    None puts it into that folder."""

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
    """Write the page. Samples that do not fit go onto NAME-2 and so on."""
    started_s, found = time.monotonic(), find_job(job, options.output)
    folder = found.folder
    path = Path(options.target).absolute() if options.target else folder / gallery.FILE_NAME
    with open_history(folder) as ledger, closing(GalleryIndex()) as index:
        info = manifest_info(ledger.meta("manifest") or "", invocation, index)
        store, pages = open_store_of(folder, ledger), GalleryPages(ledger, folder, info, index, time.time())
        # For a bucket: the page finds full images once it is there too.
        links = gallery.LinkFolders(path.parent if store.url else folder, info.folder)
        written = _write_pages(path, pages, Thumbnails(folder, store), links, invocation)
    seconds, number = time.monotonic() - started_s, len(pages.outlines)
    if options.as_json:
        facts = {"report": str(path), "pages": number, "samples": pages.samples, **written._asdict()}
        invocation.answer({**facts, "seconds": round(seconds, 2)})
        return
    invocation.err.line(
        f"{formatting.count(pages.samples, 'sample')}{f' on {number:,} pages' if number > 1 else ''},"
        f" {formatting.count(written.made, 'new thumbnail')}, {formatting.size(written.bytes)} in {formatting.duration(seconds)}"
    )
    if store.url:
        invocation.err.line(
            f"full images are in {store.url}: put the {'pages' if number > 1 else 'page'} there too, or look at them"
            f" with `batchgen serve {formatting.shell_path(str(folder))}`",
            "dim",
        )
    _print_paths(invocation, found, [path])


class _Written(NamedTuple):
    """The totals of all pages."""

    thumbnails: int
    made: int
    bytes: int


def _write_pages(
    target: Path, pages: GalleryPages, thumbnails: Thumbnails, links: gallery.LinkFolders, invocation: Invocation
) -> _Written:
    """Write the pages, the first one last: until then the old one is there."""
    secrets = sorted(invocation.secrets, key=len, reverse=True)
    gallery.refuse_to_overwrite_pages(target, len(pages.outlines))

    def write(number: int) -> tuple[int, int]:
        page, (pictures, references) = pages.page(number, target)
        of_references = Thumbnails(thumbnails.job_folder, references)
        small = chain(thumbnails.all(pictures), of_references.all((sha256, sha256) for sha256 in references.paths))
        return len(pictures), gallery.write_gallery(gallery.page_path(target, number), page, small, links, secrets)

    shown, sizes = zip(*map(write, reversed(range(len(pages.outlines)))), strict=True)  # one page in memory at a time
    gallery.remove_further_pages(target, len(pages.outlines), redact_secrets(pages.job, secrets))
    return _Written(sum(shown), thumbnails.made, sum(sizes))


def write_contact_sheets(invocation: Invocation, job: str, options: ReportOptions) -> None:
    """Write contact sheets. Images that do not fit go onto NAME-2 and so on, which is reported."""
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
