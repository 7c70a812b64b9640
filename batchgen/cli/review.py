"""`batchgen review`: exports and imports what people said about a job's images, shows figures, and updates the
ledger."""

from __future__ import annotations

import getpass
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any

from batchgen.cli.export import write_lines
from batchgen.cli.invocation import Invocation
from batchgen.cli.job_folder import find_job
from batchgen.engine.job_state import absorb_reviews_unless_locked
from batchgen.errors import UsageError
from batchgen.ledger.reviews import append_reviews, reviewed
from batchgen.ledger.verdicts import VerdictReader, last_ruling
from batchgen.records import HAS_IMAGE, Verdict, sample_key
from batchgen.report import formatting
from batchgen.report.dashboard.clients import read_clients, revoke_client
from batchgen.report.review_file import SHA256_MIN_CHARS, FileEntry, parse_review_file, review_file
from batchgen.sanitize import printable_json, redact_secrets

IDS_PER_QUERY = 5000
MAX_SHOWN = 10


@dataclass(slots=True)
class PersonCounts:
    accepted: int = 0
    rejected: int = 0
    stars: int = 0
    comments: int = 0


@dataclass(slots=True)
class ReviewCounts:
    """Counts of the images that samples have now. disputed: keys of images that people disagree about."""

    images: int = 0
    accepted: int = 0
    rejected: int = 0
    disputed: list[str] = field(default_factory=list)
    people: dict[str, PersonCounts] = field(default_factory=dict)

    @property
    def undecided(self) -> int:
        return self.images - self.accepted - self.rejected


@dataclass(frozen=True, slots=True, kw_only=True)
class ReviewOptions:
    """The parsed options. source: of --import; target: of --export; name: of the person who said what the file
    contains."""

    output: str | None
    source: str | None
    target: str | None
    name: str | None
    clients: bool
    revoke: str | None
    as_json: bool


def review_command(invocation: Invocation, job: str, **given: Any) -> int:
    options = ReviewOptions(**given)
    folder = find_job(job, options.output).folder
    if options.name is not None and options.source is None:
        raise UsageError("--name says whose verdicts --import brings: name a file with it")
    if options.revoke is not None:
        revoke_client(folder, options.revoke)
        invocation.err.line(f"the link of {options.revoke} opens nothing any more")
    if options.clients or options.revoke is not None:
        _list_clients(invocation, folder, as_json=options.as_json)
        return 0
    if options.source is not None:
        _import(invocation, folder, options.source, options.name or _user())
    pending = absorb_reviews_unless_locked(folder)
    if pending is None:
        invocation.err.line("a run holds this job: it takes in what people have said while it goes on", "dim")
    elif pending.unreadable:
        lines = formatting.count(pending.unreadable, "line")
        invocation.warn(f"{lines} of .batchgen/reviews.jsonl cut off by a crash: left out, the others count")
    with reviewed(VerdictReader.open(folder), folder) as reader:
        if options.target is not None:
            _export(invocation, reader, folder, options.target)
            return 0
        counts = count_reviews(reader)
    if options.as_json:
        invocation.answer({"folder": str(folder), **asdict(counts), "undecided": counts.undecided})
    else:
        _print(invocation, folder, counts)
    return 0


def _list_clients(invocation: Invocation, folder: Path, *, as_json: bool) -> None:
    clients, now = read_clients(folder), time.time()
    if as_json:
        links = [
            {"name": each.name, "until": formatting.utc_iso(each.expires_at), "open": not each.is_over(now)}
            for each in clients
        ]
        invocation.answer({"folder": str(folder), "clients": links})
        return
    for each in clients:
        until = formatting.local_time(each.expires_at, now)
        invocation.out.line(f"{each.name}: {'expired' if each.is_over(now) else 'open until'} {until}")
    if not clients:
        job = formatting.shell_path(str(folder))
        invocation.out.line(f"no client has a link: `batchgen serve {job} --client NAME` makes one")


def _user() -> str:
    with suppress(OSError, KeyError):
        return getpass.getuser()
    return "somebody"


def _import(invocation: Invocation, folder: Path, source: str, name: str) -> None:
    """Import a file. Raises UsageError if it is not such a file, or if nothing in it is about an existing image."""
    try:
        text = sys.stdin.read() if source == "-" else Path(source).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{source}: cannot be read: {getattr(error, 'strerror', None) or error}") from None
    entries = parse_review_file(text, source, name)
    with reviewed(VerdictReader.open(folder), folder) as reader:
        fitting = list(_fitting(reader, entries))
        known = {_key(each): each for _, said in people_of_current_images(reader) for each in said}
    if entries and not fitting:
        raise UsageError(
            f"{source}: none of its {formatting.count(len(entries), 'entry', 'entries')} is about an image that"
            f" {folder} has now: is it of another job, or were they made again since?"
        )
    new = [each for each in fitting if not _is_said(each, known)]
    append_reviews(folder, new)
    people = ", ".join(dict.fromkeys(each.name for each in fitting)) or name
    line = f"{formatting.count(len(new), 'verdict')} of {people} imported"
    if same := len(fitting) - len(new):
        line += f", {same:,} known before"
    invocation.err.line(line)
    if left := len(entries) - len(fitting):
        invocation.warn(
            f"{left:,} of {len(entries):,} are about images that are not there, or were made again since: left out"
        )


def _fitting(reader: VerdictReader, entries: list[FileEntry]) -> Iterator[Verdict]:
    """The verdicts about the images that samples have now, with their whole hashes."""
    images = dict(_images(reader, sorted({each.review.item_id for each in entries})))
    for each in entries:
        sha256 = images.get((each.review.item_id, each.review.n), "")
        begins = each.review.sha256
        if len(begins) >= SHA256_MIN_CHARS and sha256.startswith(begins):
            yield replace(each.review, sha256=sha256)


def _images(reader: VerdictReader, item_ids: list[str]) -> Iterator[tuple[tuple[str, int], str]]:
    ids = iter(item_ids)
    while page := list(islice(ids, IDS_PER_QUERY)):
        yield from ((key, sha256) for key, (sha256, _) in reader.reviewable(page).items())


def _key(review: Verdict) -> tuple[str, int, str, str]:
    return review.item_id, review.n, review.sha256, review.name


def _is_said(review: Verdict, known: Mapping[tuple[str, int, str, str], Verdict]) -> bool:
    before = known.get(_key(review))
    return before is not None and replace(before, at=review.at) == review


def people_of_current_images(reader: VerdictReader) -> Iterator[tuple[tuple[str, int], list[Verdict]]]:
    """What people said about the images that samples have now, by sample, without what was withdrawn."""
    by_sample: dict[tuple[str, int], list[Verdict]] = {}
    for each in reader.all_verdicts():
        if each.by == "person" and (each.ruling != "none" or each.score or each.message):
            by_sample.setdefault((each.item_id, each.n), []).append(each)
    images = dict(_images(reader, sorted({item_id for item_id, _ in by_sample})))
    for key, verdicts in by_sample.items():
        if of_image := [each for each in verdicts if each.sha256 == images.get(key)]:
            yield key, of_image


def count_reviews(reader: VerdictReader) -> ReviewCounts:
    states = reader.counts()
    found = ReviewCounts(images=sum(states.get(state, 0) for state in HAS_IMAGE))
    for key, verdicts in people_of_current_images(reader):
        for each in verdicts:
            person = found.people.setdefault(each.name, PersonCounts())
            person.accepted += each.ruling == "accept"
            person.rejected += each.ruling == "reject"
            person.stars += each.score is not None
            person.comments += bool(each.message)
        ruling = last_ruling(verdicts)
        found.accepted += ruling is not None and ruling.ruling == "accept"
        found.rejected += ruling is not None and ruling.ruling == "reject"
        if {"accept", "reject"} <= {each.ruling for each in verdicts}:
            found.disputed.append(sample_key(*key))
    return found


def _print(invocation: Invocation, folder: Path, counts: ReviewCounts) -> None:
    out, job = invocation.out, formatting.shell_path(str(folder))
    out.line(
        f"{formatting.count(counts.images, 'image')}: {counts.accepted:,} accepted, {counts.rejected:,} rejected,"
        f" {counts.undecided:,} not decided",
        "bold",
    )
    if not counts.people:
        out.line(f"nobody has said anything yet: `batchgen serve {job}` or `batchgen report {job}` shows the images")
        return
    rows = [
        (name, *(f"{number:,}" for number in (each.accepted, each.rejected, each.stars, each.comments)))
        for name, each in sorted(counts.people.items())
    ]
    out.table(("who", "accepted", "rejected", "with stars", "comments"), rows, right=(1, 2, 3, 4))
    if counts.disputed:
        more = f" and {len(counts.disputed) - MAX_SHOWN:,} more" if len(counts.disputed) > MAX_SHOWN else ""
        out.line(f"people differ on {', '.join(counts.disputed[:MAX_SHOWN])}{more}: the later word counts", "yellow")
    if counts.rejected:
        out.line(f"`batchgen retry {job} --rejected` makes the rejected ones again, for money")


def _export(invocation: Invocation, reader: VerdictReader, folder: Path, target: str) -> None:
    by_sample = dict(people_of_current_images(reader))
    found = {
        (each.id, each.n): (each.image.path, each.prompt)
        for each in reader.results(HAS_IMAGE)
        if (each.id, each.n) in by_sample and each.image is not None
    }
    reviews = [each for key, verdicts in by_sample.items() if key in found for each in verdicts]
    file = review_file(
        reader.meta("name") or folder.name,
        emulated=reader.meta("emulated") == "yes",
        at=time.time(),
        reviews=reviews,
        images=found,
    )
    text = redact_secrets(printable_json(file, indent=1), invocation.out.secrets) + "\n"
    if target == "-":
        invocation.out.stream.write(text)
        return
    write_lines(target, iter([text]))
    invocation.err.line(f"{formatting.count(len(reviews), 'verdict')} written to {target}")
