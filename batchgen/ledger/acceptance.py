"""Counts accepted images and what was spent on them: of a job, of one run, and by model and tag."""

from __future__ import annotations

from dataclasses import astuple, dataclass, field
from typing import NamedTuple, Self

from batchgen.ledger.database import column_list
from batchgen.ledger.reader import Reader
from batchgen.ledger.requests import COUNTED_SQL, MONEY_COLUMNS, Money
from batchgen.records import JUDGE_SUFFIX

# For a sample `s`: its image `i`, the one that counts.
_OF_SAMPLE = "i.item_id = s.item_id AND i.n = s.n AND i.role = 'image' AND i.fingerprint = s.made_fingerprint"
_NEWER = (
    "EXISTS (SELECT 1 FROM image newer WHERE newer.item_id = i.item_id AND newer.n = i.n AND newer.role = 'image'"
    " AND newer.fingerprint = i.fingerprint AND newer.attempt_id > i.attempt_id)"
)
_HAS_IMAGE = "s.state IN ('succeeded', 'rejected')"
_RUN_SECONDS = (  # of a run without an end: to its last answer
    "SELECT coalesce(sum(coalesce(ended_at, (SELECT max(a.ended_at) FROM attempt a WHERE a.run_id = run.id), started_at)"
    " - started_at), 0) FROM run"
)
_ANSWER_SECONDS = "sum(a.ended_at - coalesce(a.sent_at, a.started_at)) FILTER (WHERE a.chunk IS NULL)"


@dataclass(frozen=True, slots=True)
class Acceptance:
    """Accepted images and their cost. accepted, rejected: images. money: everything that was spent, also on images that
    were rejected or not chosen. seconds: of the runs; for a variant, the time in which its requests were under way,
    without batches."""

    accepted: int = 0
    rejected: int = 0
    money: Money = field(default_factory=Money)
    seconds: float = 0.0

    @property
    def usd_per_accepted(self) -> float | None:
        """The USD per accepted image, from the known prices; None if none is known, or nothing is accepted."""
        known, unknown = self.money.spent + self.money.estimated, self.money.unknown + self.money.maybe_requests
        return known / self.accepted if self.accepted and (known or not unknown) else None

    @property
    def minutes_per_accepted(self) -> float | None:
        return round(self.seconds / 60 / self.accepted, 4) if self.accepted else None

    def __add__(self, other: Self) -> Acceptance:
        money = Money(*(one + two for one, two in zip(astuple(self.money), astuple(other.money), strict=True)))
        return Acceptance(
            self.accepted + other.accepted, self.rejected + other.rejected, money, self.seconds + other.seconds
        )


class Rejection(NamedTuple):
    """The rejection of a sample's image. tags: as the ledger joins them. reason: a slug, `judge` or `person`."""

    item_id: str
    n: int
    model: str
    tags: str
    reason: str
    message: str


class CheckWarning(NamedTuple):
    """What a check found in an image that counts anyway."""

    item_id: str
    n: int
    reason: str
    message: str


class AcceptanceReader(Reader):
    def job_acceptance(self, now: float) -> Acceptance:
        """The acceptance of all runs. now: UTC seconds, the end of a run that is going on; 0 if there is none."""
        states, last = self.counts(), self.last_run()
        seconds = float(self._row(_RUN_SECONDS)[0])
        if now and last is not None and last.ended_at is None:
            seconds = float(self._row(f"{_RUN_SECONDS} WHERE id <> ?", last.id)[0]) + now - last.started_at
        return Acceptance(states.get("succeeded", 0), states.get("rejected", 0), self.money(), seconds)

    def run_acceptance(self, run_id: int, seconds: float | None) -> Acceptance:
        """The acceptance of the images that one run made, by their current state. seconds: how long it took; None for a
        run that died."""
        if seconds is None:
            seconds = float(self._row(f"{_RUN_SECONDS} WHERE id = ?", run_id)[0])
        sql = (
            "SELECT s.state, count(*) FROM attempt a JOIN image i ON i.attempt_id = a.id JOIN sample s ON"
            f" {_OF_SAMPLE} WHERE a.run_id = ? AND {_HAS_IMAGE} AND NOT {_NEWER} GROUP BY s.state"
        )
        states = dict(self._query(sql, run_id))
        return Acceptance(states.get("succeeded", 0), states.get("rejected", 0), self.money(run_id), seconds)

    def rejections(self, run_id: int | None = None) -> list[Rejection]:
        """The rejections, in the order of samples: of the images that a run made, or of all."""
        made = f"JOIN image i ON {_OF_SAMPLE} AND NOT {_NEWER} JOIN attempt a ON a.id = i.attempt_id AND a.run_id = ?"
        sql, values = f"SELECT {column_list(Rejection._fields, 's')} FROM sample s", () if run_id is None else (run_id,)
        sql = f"{sql} {made if values else ''} WHERE s.state = 'rejected' ORDER BY s.id"
        return [Rejection(*row) for row in self._query(sql, *values)]

    def check_warnings(self, run_id: int | None = None) -> list[CheckWarning]:
        """The warnings, in the order of samples: of the images that a run made, or of all. An image that a person
        accepted has none."""
        of_image = "v.item_id = i.item_id AND v.n = i.n AND v.sha256 = i.sha256"
        made, values = (
            ("", ()) if run_id is None else ("JOIN attempt a ON a.id = i.attempt_id AND a.run_id = ?", (run_id,))
        )
        sql = (
            f"SELECT s.item_id, s.n, v.reason, v.message FROM sample s JOIN image i ON {_OF_SAMPLE} AND NOT {_NEWER} {made}"
            f" JOIN verdict v ON {of_image} AND v.by = 'check' AND v.reason <> '' WHERE s.state = 'succeeded' AND NOT EXISTS"
            f" (SELECT 1 FROM verdict word WHERE {of_image.replace('v.', 'word.')} AND word.by = 'person'"
            " AND word.ruling = 'accept') ORDER BY s.id, v.name"
        )
        return [CheckWarning(*row) for row in self._query(sql, *values)]

    def variant_acceptance(self) -> dict[tuple[str, str], Acceptance]:
        """The acceptance by model and tags of the items, as the ledger joins them, without items that the manifest no
        longer has."""
        current = "SELECT item_id, n, model, tags FROM sample WHERE state <> 'superseded'"
        counts = "count(*) FILTER (WHERE state = 'succeeded'), count(*) FILTER (WHERE state = 'rejected')"
        sql = f"SELECT model, tags, {counts} FROM sample WHERE state <> 'superseded' GROUP BY model, tags"
        found = {(model, tags): Acceptance(*images) for model, tags, *images in self._query(sql)}
        sql = (
            f"SELECT s.model, s.tags, coalesce({_ANSWER_SECONDS}, 0), {MONEY_COLUMNS} FROM attempt a JOIN ({current}) s"
            f" ON s.item_id = replace(a.item_id, '{JUDGE_SUFFIX}', '') AND s.n = a.n WHERE {COUNTED_SQL}"
            " GROUP BY s.model, s.tags"
        )
        for model, tags, seconds, *amounts in self._query(sql):
            known = found.get((model, tags), Acceptance())  # the first question was asked a moment earlier
            found[model, tags] = known + Acceptance(0, 0, Money(*amounts), float(seconds))
        return found
