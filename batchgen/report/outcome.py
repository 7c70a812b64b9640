"""How a run ended, as a Python program has it: its figures, the results of its job, and in a notebook a table with thumbnails."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from html import escape
from itertools import islice

from batchgen.engine.job import Job, Results
from batchgen.engine.outcome import Outcome as RunFigures
from batchgen.errors import BatchgenError, StoreError
from batchgen.records import HAS_IMAGE, WITHOUT_IMAGE, Result
from batchgen.report import formatting
from batchgen.sanitize import redact_secrets, sanitize, short_message
from batchgen.settings import hideable
from batchgen.store.store import open_store

MAX_WITHOUT_IMAGE, MAX_IMAGES = 8, 24  # rows of a notebook's table, which is stored in the notebook
HEAD = ("image", "id", "state", "pixels", "cost")
CELL = "text-align:left;vertical-align:middle;padding:2px 12px 2px 0"
ESTIMATED = ("estimate", "guess")  # sources of a price


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Outcome(RunFigures):
    """How a run ended. exit_code: the command line's; 0 if every wanted image exists. counts: samples by their state
    now; attempts: this run's requests by outcome. made: images of this run; kept: those that existed already.

    usd: charged by usage or the vendor's word; estimated_usd: from the price table; maybe_usd: for requests that may
    have been billed without an image. left: wanted and not tried; left_out: without an image because of `only` or
    `limit`. folder: of the images; bucket: if they are in one. acceptance: of the images of this run, and what each has
    cost. results: every sample with its state, its image and its cost. Shown as a table in a notebook.
    """

    results: Results

    @classmethod
    def of(cls, figures: RunFigures, results: Results) -> Outcome:
        return cls(**{field.name: getattr(figures, field.name) for field in fields(RunFigures)}, results=results)

    def __repr__(self) -> str:
        return f"<outcome of {self.results.job.manifest.name}: {' · '.join(self.facts())}>"

    def _repr_html_(self) -> str:
        """The HTML for a notebook."""
        return outcome_html(self)

    def facts(self) -> Iterator[str]:
        """The figures in words, the most important first."""
        if self.emulated:
            yield "EMULATED, no image is real and nothing is billed"
        yield f"{formatting.count(self.made, 'image')} made, {self.kept:,} kept"
        yield from (f"{number:,} {state}" for state in WITHOUT_IMAGE if (number := self.counts.get(state, 0)))
        if rejected := self.counts.get("rejected", 0):
            yield f"{rejected:,} rejected"
        if self.left:
            yield f"{self.left:,} not tried"
        if self.usd:
            yield f"{formatting.usd(self.usd)} {'that a vendor would have charged' if self.emulated else 'charged'}"
        if self.estimated_usd:
            yield f"{formatting.usd(self.estimated_usd)} estimated"
        if self.unpriced:
            yield f"{formatting.count(self.unpriced, 'request')} of unknown price"
        if self.maybe_requests and not self.emulated:
            yield f"{formatting.count(self.maybe_requests, 'request')} perhaps billed without an image"
        if self.stopped_by:
            yield f"stopped: {self.stopped_by.replace('_', ' ')}"
        yield f"exit code {self.exit_code}"


def outcome_html(outcome: Outcome) -> str:
    """A table of what went wrong and of the first images. Everything in it is escaped, and it loads nothing."""
    job = outcome.results.job
    try:
        table = _table(outcome)
    except BatchgenError as error:  # the folder is gone, or a server is away
        table = f"<p>{escape(short_message(str(error)))}</p>"
    name, facts = escape(job.manifest.name), escape(" · ".join(outcome.facts()))
    place = escape(outcome.bucket or outcome.folder)
    page = f"<div><p><strong>{name}</strong>: {facts}<br><code>{place}</code></p>{table}</div>"
    return redact_secrets(page, hideable(job.settings.all_keys()))


def _table(outcome: Outcome) -> str:
    results = outcome.results
    wrong = list(islice(results.in_states(WITHOUT_IMAGE), MAX_WITHOUT_IMAGE))
    made = list(islice(results.in_states(HAS_IMAGE), MAX_IMAGES))
    thumbnails = [*(b"" for _ in wrong), *_thumbnails(results.job, made)]
    rows = zip([*wrong, *made], thumbnails, strict=True)
    lines = "".join(_row(each, thumbnail, emulated=outcome.emulated) for each, thumbnail in rows)
    head = "".join(f'<th style="{CELL}">{name}</th>' for name in HEAD)
    more = len(results) - len(thumbnails)
    note = f"<p>… and {more:,} more in <code>outcome.results</code></p>" if more > 0 else ""
    return f"<table><thead><tr>{head}</tr></thead><tbody>{lines}</tbody></table>{note}"


def _thumbnails(job: Job, made: Sequence[Result]) -> list[bytes]:
    """A WebP of each image, empty if it cannot be read now."""
    from batchgen.report.thumbnails import Thumbnails  # it brings Pillow, and a run from the command line shows none

    pictures = [(each.image.path, each.image.sha256) if each.image else ("", "") for each in made]
    try:
        return list(Thumbnails(job.folder, open_store(job.folder, job.bucket)).all(pictures))
    except StoreError:  # a bucket that is away
        return [b""] * len(pictures)


def _row(result: Result, thumbnail: bytes, *, emulated: bool) -> str:
    key, address = escape(sanitize(result.key)), f"data:image/webp;base64,{base64.b64encode(thumbnail).decode()}"
    image = f'<img src="{address}" alt="{key}" style="max-width:96px;max-height:96px;display:block">'
    why = escape(short_message(f"{result.reason}: {result.message}")) if result.reason else ""
    cells = (
        image if thumbnail else "—",
        key,
        f"{result.state}<br><small>{why}</small>" if why else result.state,
        f"{result.width}&nbsp;×&nbsp;{result.height}" if result.image else "",
        escape(_cost(result, emulated=emulated)),
    )
    return "".join(["<tr>", *(f'<td style="{CELL}">{cell}</td>' for cell in cells), "</tr>"])


def _cost(result: Result, *, emulated: bool) -> str:
    """The cost of a result; estimated and emulated prices are marked as such."""
    if result.usd is None:
        return "unknown" if result.image else ""
    words = ["estimated"] if result.usd_source in ESTIMATED else []
    return " ".join([formatting.usd(result.usd), *words, *(["emulated"] if emulated else [])])
