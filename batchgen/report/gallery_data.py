"""What a job's page shows, as a file or live: every sample with its images and attempts, and each run with its
statistics.

A field's name is its key in the JSON of the page: a new column is one field.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from batchgen.ledger.reader import AttemptRow, DerivativeFileRow, HistoryReader, PictureRow, SampleRow
from batchgen.profiles.catalogue import Catalogue, load_catalogue
from batchgen.records import Verdict, lane_model
from batchgen.report.acceptance import ComparedView, read_acceptance_text
from batchgen.report.picture_views import SHA256_BEGINS_CHARS, PictureView, SidecarFiles, SourcesView, picture_views
from batchgen.report.run_statistics import RunStatistics, run_statistics, start_of
from batchgen.report.view import Sparse, view_of

MAX_RUNS = 30
SampleKey = tuple[str, int]
JsonObject = Mapping[str, Any]
R = TypeVar("R", PictureRow, DerivativeFileRow, Verdict)


@dataclass(frozen=True, slots=True)
class ManifestInfo:
    """What the manifest says and the ledger does not. concurrency: requests in flight at once. order: the position of
    an item by its id.

    folder: the manifest's. unfingerprinted: by item, what a manifest that requests it again needs and no fingerprint
    contains: names of references, service tier, fallback, post. conversations: all turns, by the id without its turn.
    post: from the manifest, for items whose `unfingerprinted` has none; None for none. budgets: USD by run, day and
    month. state: the folder or server where the spending of all jobs is stored, None if only this job's counts.
    """

    catalogue: Catalogue = field(default_factory=load_catalogue)
    concurrency: int | None = None
    order: Mapping[str, int] = field(default_factory=dict)
    folder: Path | None = None
    unfingerprinted: Mapping[str, JsonObject] = field(default_factory=dict)
    conversations: Mapping[str, Sequence[str]] = field(default_factory=dict)
    post: JsonObject | None = None
    budgets: Mapping[str, float] = field(default_factory=dict)
    state: Path | str | None = None

    def place(self, item_id: str) -> int:
        """The position of an item among all; items that the manifest no longer has come last."""
        return self.order.get(item_id, len(self.order))


class AttemptView(NamedTuple):
    """A request. seconds: from sent to answered. usd_source: `maybe` if it may have been billed. sent_as: how it
    differed from its item, in words."""

    started: float
    seconds: float | None
    model: str
    outcome: str
    reason: str
    message: str
    status: int | None
    usd: float | None
    usd_source: str
    run: int
    sent_as: str


class MadeFile(NamedTuple):
    """A file that `post:` made from the image that a sample has now."""

    path: str
    width: int
    height: int
    bytes: int
    sha: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleView(Sparse):
    """A sample. settings: their number among those of the page. place: its item's position in the manifest. seconds,
    served_by, tier: of the request that brought the image. files: beside the image. thoughts: what the model showed of
    its thinking. asks: what no fingerprint contains."""

    id: str
    n: int
    place: int
    state: str
    model: str
    prompt: str = ""
    settings: int
    at: int
    tags: Sequence[str] = ()
    usd: float | None = None
    usd_source: str = ""
    reason: str = ""
    message: str = ""
    text: str = ""
    seconds: float | None = None
    served_by: str | None = None
    tier: str | None = None
    attempts: Sequence[AttemptView] = ()
    pictures: Sequence[PictureView]
    sources: SourcesView | None = None
    files: Sequence[str] = ()
    thoughts: str = ""
    asks: JsonObject | None = None
    derivatives: Sequence[MadeFile] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplesView:
    """Samples of a job, all or those that have changed, and what they share. settings: what reached the wire, by
    number. providers: by model, if its id alone would mean another. wanted: by the last run. accepted: how many images
    are, and what each has cost, in words."""

    job: str
    manifest: str = ""
    emulated: bool = False
    at: float
    wanted: int = 0
    settings: Sequence[JsonObject] = ()
    providers: Mapping[str, str] = field(default_factory=dict)
    accepted: str = ""
    samples: Sequence[SampleView] = ()


class PageLink(NamedTuple):
    """One of several pages. first, last: ids of its items; states: the number of its samples by state."""

    file: str
    first: str
    last: str
    states: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class PagesView:
    """What a page knows about a job that does not fit on it. at: its own number among the pages, from 0. wanted, made:
    samples of all pages. usd: for those made; estimated: the estimated part; unpriced: how many have no price."""

    at: int
    links: Sequence[PageLink]
    wanted: int
    made: int
    usd: float
    estimated: float
    unpriced: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PageView(SamplesView):
    """Everything that a page starts with. pages: None if it is the only one. related: samples of other pages from whose
    images some of this page's were made. beside: the path from the manifest to the images; conversations and post: what
    a manifest that requests items again needs. key: for the picks that a browser stores. base, manifest_base: the
    beginning of a link to an image and to a reference. references: thumbnails of reference files, by SHA-256, which a
    live page requests. nights, compared: None if the page requests them."""

    beside: str | None = None
    conversations: Mapping[str, Sequence[str]] = field(default_factory=dict)
    post: JsonObject | None = None
    key: str
    base: str = ""
    manifest_base: str | None = None
    references: Mapping[str, int] = field(default_factory=dict)
    pages: PagesView | None = None
    related: Sequence[SampleView] = ()
    nights: Sequence[RunStatistics] | None = None
    compared: Sequence[ComparedView] | None = None


class ValueIndex:
    """Numbers equal values from 0, in the order in which they came."""

    def __init__(self) -> None:
        self._index_by_key: dict[Any, int] = {}
        self.values: list[Any] = []

    def index_of(self, key: Any, value: Any) -> int:
        if key not in self._index_by_key:
            self._index_by_key[key] = len(self.values)
            self.values.append(value)
        return self._index_by_key[key]


class AttemptIndex:
    """Requests by their samples; one may be for several. One that is read again replaces itself."""

    def __init__(self) -> None:
        self._by_sample: dict[SampleKey, dict[int, AttemptRow]] = defaultdict(dict)

    def add(self, row: AttemptRow) -> None:
        for n in range(row.n, row.n + row.images):
            self._by_sample[row.item_id, n][row.id] = row

    def of(self, key: SampleKey) -> list[AttemptRow]:
        return list(self._by_sample[key].values()) if key in self._by_sample else []


def first_start(ledger: HistoryReader) -> float | None:
    """When the first run that sent anything started doing so, in UTC seconds."""
    for run in reversed(ledger.runs()):
        if spans := ledger.lane_spans(run.id):
            return start_of(spans)
    return None


def read_nights(ledger: HistoryReader, manifest_info: ManifestInfo) -> list[RunStatistics]:
    """The statistics of the last runs that sent anything, the newest last. Requests are read one by one, and none is
    kept."""
    found = []
    for run in ledger.runs():
        spans = ledger.lane_spans(run.id)
        if spans:
            models = {lane_model(each.lane) for each in spans}
            rpm = {model: manifest_info.catalogue.resolve(model).rpm for model in models}
            requests, money = ledger.attempts_of_run(run.id), ledger.money_by_model(run.id)
            found.append(run_statistics(run, spans, requests, money, rpm, manifest_info.concurrency))
        if len(found) == MAX_RUNS:
            break
    return found[::-1]


def page_view(ledger: HistoryReader, folder: Path, builder: SampleBuilder, now: float, **more: Any) -> PageView:
    """A page. builder: of the samples, after it made them. more: fields that differ from page to page."""
    run, manifest_info, settings = ledger.last_run(), builder.manifest_info, builder.settings.values
    return PageView(
        job=ledger.meta("name") or folder.name,
        manifest=Path(ledger.meta("manifest") or "").name,  # its folder is nobody else's business
        emulated=ledger.meta("emulated") == "yes",
        at=now,
        wanted=run.wanted + run.kept if run else 0,  # there is no row yet for what was not tried
        settings=settings,
        providers=unusual_providers(settings, manifest_info.catalogue),
        accepted=read_acceptance_text(ledger),
        beside=_relative_folder(folder, manifest_info.folder),
        conversations=manifest_info.conversations,
        post=manifest_info.post,
        **more,
    )


def unusual_providers(settings: Sequence[JsonObject], catalogue: Catalogue) -> dict[str, str]:
    """Model -> provider, if the model's id alone would mean another: a manifest that requests it again has to say
    so."""
    pairs = {(wire.get("model", ""), wire.get("provider", "")) for wire in settings}
    return {model: provider for model, provider in pairs if model and catalogue.resolve(model).provider != provider}


def _relative_folder(folder: Path, manifest_folder: Path | None) -> str | None:
    """The path from the manifest's folder to the job's, with which a reference to one of its images begins; None if it
    is elsewhere."""
    if manifest_folder is None:
        return None
    try:
        relative = folder.resolve().relative_to(manifest_folder.resolve())
    except (ValueError, OSError):
        return None
    return "" if relative == Path() else f"{relative.as_posix()}/"


def _by_sample(rows: Iterable[R]) -> Mapping[SampleKey, Sequence[R]]:
    table: dict[SampleKey, list[R]] = defaultdict(list)
    for row in rows:
        table[row.item_id, row.n].append(row)
    return table


@dataclass(frozen=True, slots=True)
class SampleBuilder:
    """Makes the views of samples. thumbnail: how the page requests one. references: by SHA-256, the paths of the files
    that were sent along, from the manifest's folder; filled as samples are made."""

    files: SidecarFiles
    manifest_info: ManifestInfo
    settings: ValueIndex
    thumbnail: Callable[[PictureRow], int | str]
    attempts: AttemptIndex
    references: dict[str, str] = field(default_factory=dict)

    def build(self, ledger: HistoryReader, item_ids: Sequence[str] | None = None) -> Iterator[SampleView]:
        """The views, in the order of the manifest. item_ids: only these items."""
        pictures, made = _by_sample(ledger.pictures(item_ids)), _by_sample(ledger.derivatives(item_ids))
        said = ledger.notable_verdicts(item_ids)
        for row in sorted(ledger.samples(item_ids), key=lambda row: self.manifest_info.place(row.item_id)):
            key = row.item_id, row.n
            yield self._sample(row, pictures.get(key, ()), made.get(key, ()), said.get(key, ()))

    def _sample(
        self, row: SampleRow, pictures: Sequence[PictureRow], made: Sequence[DerivativeFileRow], said: Sequence[Verdict]
    ) -> SampleView:
        wire = _parse_object(row.wire)
        prompt = wire.pop("prompt", "")
        wire.pop("v", None)
        self._note_references(row.item_id, wire.get("references", ()))
        attempts = self.attempts.of((row.item_id, row.n))
        last = next((a for a in reversed(attempts) if a.outcome == "succeeded" and a.ended_at), None)
        served_by = lane_model(last.lane) if last else None
        shown = picture_views(row, pictures, said, self.thumbnail)
        current = next((picture.path for picture in shown if picture.kind == "image"), None)
        return view_of(
            SampleView,
            row,
            id=row.item_id,
            place=self.manifest_info.place(row.item_id),
            prompt=prompt,
            settings=self.settings.index_of(json.dumps(wire, sort_keys=True), wire),
            at=round(row.updated_at),
            tags=tuple(row.tags.split(",")) if row.tags else (),
            seconds=round(last.seconds, 2) if last and last.seconds is not None else None,
            served_by=served_by if served_by != wire.get("model", row.model) else None,
            tier=_parse_object(last.usage or "").get("tier") or None if last else None,
            attempts=tuple(map(_attempt, attempts)),
            pictures=shown,
            sources=self.files.sources(current) if current else None,
            files=self.files.beside(current) if current else (),
            thoughts=self.files.thoughts(current) if current else "",
            asks=self.manifest_info.unfingerprinted.get(row.item_id),
            derivatives=tuple(
                MadeFile(file.path, file.width, file.height, file.bytes, file.sha256[:SHA256_BEGINS_CHARS])
                for file in made
            ),
        )

    def _note_references(self, item_id: str, digests: Sequence[str]) -> None:
        """Note the reference files of an item. Names come from the current manifest, digests from the request: they
        belong together if there are equally many. If the manifest cannot be read there are no names, but there may be
        previews."""
        names = self.manifest_info.unfingerprinted.get(item_id, {}).get("references") or [""] * len(digests)
        if len(names) == len(digests):
            pairs = zip(digests, names, strict=True)
            self.references.update(
                {sha: name for sha, name in pairs if not is_elsewhere(name) and not is_elsewhere(sha)}
            )


def is_elsewhere(name: str) -> bool:
    """Whether a reference is another item's image, a link or in a bucket, rather than a file beside the manifest."""
    return name.startswith("@") or "://" in name[:8]


def thumbnail_path(picture: PictureRow) -> str:
    """The address of an image's thumbnail by the image's number in the ledger. What follows the `?` changes with the
    image, so browsers may cache it."""
    return f"{picture.attempt_id}-{picture.k}?{picture.sha256[:SHA256_BEGINS_CHARS]}"


def _parse_object(text: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _attempt(row: AttemptRow) -> AttemptView:
    maybe = row.usd is None and row.maybe_billed
    return AttemptView(
        started=round(row.started_at, 1),
        seconds=None if row.seconds is None else round(row.seconds, 2),
        model=lane_model(row.lane),
        outcome=row.outcome or "open",
        reason=row.reason or "",
        message=row.message or "",
        status=row.http_status,
        usd=row.estimate_usd if maybe else row.usd,
        usd_source="maybe" if maybe else row.usd_source or "",
        run=row.run_id,
        sent_as=row.sent_as or "",
    )
