"""The requests in a ledger: what was sent, how it ended, and what it cost."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from batchgen.errors import BatchgenError
from batchgen.ledger.database import MODEL_SQL, BaseReader, placeholders
from batchgen.records import JUDGE_SUFFIX, PendingJob, Sample, Usage, sample_key

IN_BATCH_REASON = "in a batch"
MAYBE_BILLED_SQL = "(maybe_billed <> 0 AND usd IS NULL)"  # may have been billed, and does not say what it used
# Billed, but nobody knows how much: it brought an image, or says what it used, and a price for that is missing.
UNPRICED_SQL = "(usd IS NULL AND coalesce(maybe_billed, 0) = 0 AND (outcome = 'succeeded' OR usage <> '{}'))"
JOB_INPUT = "job_input"  # among the facts of a request: finds its job in its vendor's list
RECENT_LATENCIES = 2000  # requests whose latency is considered
LATE_REASON = "late"  # the reason of a request whose sample already had an image from another one
# For `open_attempt_from_row`.
OPEN_ATTEMPT_COLUMNS = "id, item_id, n, images, lane, fingerprint, stem, started_at, estimate_usd, links, job, facts"
BILLED_SQL = (
    f"a.item_id NOT LIKE '%{JUDGE_SUFFIX}' AND (a.outcome IS NULL OR a.outcome = 'succeeded' OR a.maybe_billed <> 0)"
)
MONEY_COLUMNS = (  # the fields of `Money`
    "coalesce(sum(usd) FILTER (WHERE usd_source IN ('usage', 'vendor')), 0),"
    " coalesce(sum(usd) FILTER (WHERE usd_source IN ('estimate', 'guess')), 0),"
    " coalesce(sum(usd) FILTER (WHERE usd_source = 'guess'), 0),"
    f" count(*) FILTER (WHERE {UNPRICED_SQL}),"
    f" coalesce(sum(estimate_usd) FILTER (WHERE {MAYBE_BILLED_SQL}), 0), count(*) FILTER (WHERE {MAYBE_BILLED_SQL}),"
    f" count(*) FILTER (WHERE {MAYBE_BILLED_SQL} AND estimate_usd IS NULL),"
    """ count(*) FILTER (WHERE usd_source IN ('usage', 'guess') AND usage LIKE '%"queries"%')"""
)
COUNTED_SQL = "(outcome IS NOT NULL OR maybe_billed <> 0)"
LATEST_IMAGE_SQL = (
    "i.role = 'image' AND NOT EXISTS (SELECT 1 FROM image newer WHERE newer.item_id = i.item_id AND newer.n = i.n"
    " AND newer.role = 'image' AND newer.attempt_id > i.attempt_id)"
)


@dataclass(frozen=True, slots=True)
class Money:
    """USD, and the requests whose price is unknown.

    spent: charged by usage or the vendor's word. estimated: not known for certain, because usage was not stated or a
    factor of the price is a guess; guessed: the part with a guess. unknown: billed requests without a price. maybe:
    what may have been charged for requests without an answer or an image that do not say what they used; maybe_unknown:
    those of them without a price. searched: requests whose searches are included in what was spent, at the full price.
    """

    spent: float = 0.0
    estimated: float = 0.0
    guessed: float = 0.0
    unknown: int = 0
    maybe: float = 0.0
    maybe_requests: int = 0
    maybe_unknown: int = 0
    searched: int = 0


@dataclass(frozen=True, slots=True)
class LinkedAnswer:
    """An answer with links. links: those whose images still have to be downloaded, by the image's number in the answer.
    recorded: the numbers of the other images. pictures: how many there are. usage and text: what else it said. facts:
    of its request, from `answer.request_facts`, empty in ledgers of earlier versions."""

    links: Mapping[int, str]
    recorded: frozenset[int]
    pictures: int
    usage: Usage | None = None
    text: str = ""
    facts: Mapping[str, Any] = field(default_factory=dict)


class Fenced(BatchgenError):
    """A request may not be sent by this worker, or not any more; nothing has left. reason: taken | budget."""

    def __init__(self, key: str, reason: str) -> None:
        super().__init__(f"{key}: {reason}")
        self.reason = reason


@dataclass(frozen=True, slots=True)
class IntendedRequest:
    """A request that is about to be sent. number: which request of its sample it is. sent_as: how it differs from its
    item, in words. facts: needed to settle its answer, if that may come another day."""

    sample: Sample
    lane: str
    number: int
    estimate_usd: float | None
    sent_as: str = ""
    facts: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class OpenAttempt:
    """A request without a recorded end. answer: what came, if its images are behind links. job: if its API answers
    later. facts: needed to settle its answer."""

    id: int
    item_id: str
    n: int
    images: int
    lane: str
    fingerprint: str
    stem: str
    started_at: float
    estimate_usd: float | None
    answer: LinkedAnswer | None = None
    job: PendingJob | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)

    @property
    def links(self) -> Mapping[int, str]:
        return self.answer.links if self.answer else {}

    @property
    def is_with_vendor(self) -> bool:
        """Whether its API has accepted it as a job."""
        return self.job is not None and not self.links


@dataclass(frozen=True, slots=True)
class SurplusRequest:
    """A request that was or may have been billed and is not the source of any sample's latest image.

    doubtful: it may not have been billed at all. later: the attempt that replaced its image. linked: its answer came
    with links. set_aside: its image was reviewed, and has been a draft since.
    """

    key: str
    run_id: int
    fingerprint: str
    outcome: str | None
    reason: str
    doubtful: bool
    pictures: int
    made_later: bool
    later_fingerprint: str | None
    later_run: int | None
    linked: bool = False
    set_aside: bool = False


class AttemptQueries(BaseReader):
    def attempts(self, run_id: int | None = None) -> dict[str, int]:
        """The number of requests by outcome; `open` if not ended, `submitted` if their API answers later."""
        where, values = ("", ()) if run_id is None else ("WHERE run_id = ?", (run_id,))
        unended = "CASE WHEN chunk IS NULL AND job IS NULL THEN 'open' ELSE 'submitted' END"
        sql = f"SELECT coalesce(outcome, {unended}), count(*) FROM attempt {where} GROUP BY 1"
        return dict(self._query(sql, *values))

    def last_attempt_id(self) -> int:
        return int(self._row("SELECT coalesce(max(id), 0) FROM attempt")[0])

    def open_attempts(self) -> list[OpenAttempt]:
        """The open requests that this run or one before it sent by itself; those of chunks and workers are not
        included."""
        return self._attempts_where("outcome IS NULL AND chunk IS NULL AND worker IS NULL")

    def open_jobs(self) -> list[OpenAttempt]:
        """The requests of all processes that their API has accepted as jobs and not answered."""
        return self._attempts_where("outcome IS NULL AND job IS NOT NULL AND links IS NULL")

    def job_lanes(self) -> list[str]:
        """The lanes of requests that their API has accepted as jobs and not answered."""
        sql = "SELECT DISTINCT lane FROM attempt WHERE outcome IS NULL AND job IS NOT NULL"
        return [lane for (lane,) in self._query(sql)]

    def open_counts_of_others(self, worker: str) -> dict[str, int]:
        """By lane, the number of requests of all other workers that have not ended, including jobs."""
        sql = "SELECT lane, count(*) FROM attempt WHERE outcome IS NULL AND chunk IS NULL AND worker <> ? GROUP BY 1"
        return dict(self._query(sql, worker))

    def job_ids(self, since: float) -> list[str]:
        """The vendors' ids of jobs requested since then, in UTC seconds."""
        sql = "SELECT job FROM attempt WHERE job IS NOT NULL AND started_at >= ?"
        return [str(json.loads(job)["id"]) for (job,) in self._query(sql, since)]

    def unanswered_requests(self, lane: str) -> list[OpenAttempt]:
        """The requests, of this process and all workers, that may be jobs by now without anybody knowing which."""
        return self._attempts_where("outcome IS NULL AND lane = ? AND job IS NULL AND facts IS NOT NULL", lane)

    def attempt(self, number: int) -> OpenAttempt | None:
        """One request, ended or not."""
        return next(iter(self._attempts_where("id = ?", number)), None)

    def _attempts_where(self, condition: str, *values: Any) -> list[OpenAttempt]:
        """The requests that meet a condition, in the order of their start."""
        sql = f"SELECT {OPEN_ATTEMPT_COLUMNS} FROM attempt WHERE {condition} ORDER BY id"
        return [open_attempt_from_row(row) for row in self._query(sql, *values)]

    def recent_sends(self, lane: str, since: float) -> list[float]:
        """UTC seconds at which a lane's requests were sent, or recorded if the sending was not noted."""
        sql = "SELECT coalesce(sent_at, started_at) FROM attempt WHERE lane = ? AND started_at >= ? ORDER BY 1"
        return [row[0] for row in self._query(sql, lane, since)]

    def sent_count_since(self, lane: str, at: float) -> int:
        """The number of a lane's requests that left, or may have left, since then."""
        sql = (
            "SELECT count(*) FROM attempt WHERE lane = ? AND started_at >= ?"
            " AND (sent_at IS NOT NULL OR outcome IS NULL OR outcome <> 'failed')"
        )
        return int(self._row(sql, lane, at)[0])

    def recent_latencies(self) -> Iterator[tuple[str, str, str, float]]:
        """(lane, usage and `wire` as JSON, seconds from sent to answered) of recent requests that brought images,
        without batches."""
        sql = (
            "SELECT a.lane, coalesce(a.usage, '{}'), s.wire, a.ended_at - a.sent_at FROM attempt a"
            " JOIN sample s ON s.item_id = a.item_id AND s.n = a.n WHERE a.outcome = 'succeeded' AND a.chunk IS NULL"
            " AND a.sent_at IS NOT NULL AND a.ended_at IS NOT NULL ORDER BY a.id DESC LIMIT ?"
        )
        return self._query(sql, RECENT_LATENCIES)

    def max_accepted_per_minute(self, lane: str, since: float) -> int:
        """The most requests of a lane sent in one calendar minute; none if any was recently refused for the quota."""
        sql = (
            "SELECT CASE WHEN sum(refused) > 0 THEN 0 ELSE coalesce(max(number), 0) END FROM (SELECT count(*) AS number,"
            " count(*) FILTER (WHERE reason = 'rate_limited') AS refused FROM attempt WHERE lane = ? AND started_at >= ?"
            " AND sent_at IS NOT NULL GROUP BY CAST(sent_at AS BIGINT) / 60) minutes"
        )
        return int(self._row(sql, lane, since)[0])

    def sample_count_by_outcome(self, run_id: int) -> dict[str, int]:
        """The number of a run's samples by the outcome of their last request, without questions to a judge."""
        sql = (
            "SELECT coalesce(outcome, 'open'), count(*) FROM (SELECT outcome, row_number() OVER (PARTITION BY item_id, n"
            f" ORDER BY id DESC) AS place FROM attempt WHERE run_id = ? AND item_id NOT LIKE '%{JUDGE_SUFFIX}') ends"
            " WHERE place = 1 GROUP BY 1"
        )
        return dict(self._query(sql, run_id))

    def money(self, run_id: int | None = None) -> Money:
        where, values = _of_run("run_id", run_id)
        return Money(*self._row(f"SELECT {MONEY_COLUMNS} FROM attempt a WHERE {COUNTED_SQL} {where}", *values))

    def money_by_model(self, run_id: int | None = None) -> dict[str, Money]:
        """The money of one run, or of all, by model."""
        where, values = _of_run("run_id", run_id)
        sql = f"SELECT {MODEL_SQL}, {MONEY_COLUMNS} FROM attempt a WHERE {COUNTED_SQL} {where} GROUP BY 1 ORDER BY 1"
        return {model: Money(*amounts) for model, *amounts in self._query(sql, *values)}

    def money_by_run(self) -> dict[int, tuple[int, Money]]:
        """For each run, the number of requests that have ended, and their money."""
        sql = f"SELECT run_id, count(*), {MONEY_COLUMNS} FROM attempt a WHERE {COUNTED_SQL} GROUP BY 1 ORDER BY 1"
        return {run_id: (requests, Money(*amounts)) for run_id, requests, *amounts in self._query(sql)}

    def spent_since(self, at: float, lanes: Sequence[str] | None = None) -> float:
        """USD of requests begun since then: charged, estimated, and what may have been billed without an image.

        lanes: only of these.
        """
        of_lanes = "" if lanes is None else f" AND lane IN ({placeholders(lanes)})"
        sql = (
            "SELECT coalesce(sum(coalesce(usd, CASE WHEN maybe_billed <> 0 THEN estimate_usd END)), 0)"
            f" FROM attempt WHERE started_at >= ?{of_lanes}"
        )
        return float(self._row(sql, at, *(lanes or ()))[0])

    def unpriced_count_since(self, at: float) -> int:
        """The number of requests begun since then that were or may have been billed and have no price."""
        sql = f"SELECT count(*) FROM attempt WHERE started_at >= ? AND ({UNPRICED_SQL} OR ({MAYBE_BILLED_SQL} AND estimate_usd IS NULL))"
        return int(self._row(sql, at)[0])

    def requests_by_model(self) -> Iterator[tuple[Any, ...]]:
        """(AI model, outcome, requests that have ended) in all runs."""
        sql = f"SELECT {MODEL_SQL}, outcome, count(*) FROM attempt a WHERE outcome IS NOT NULL GROUP BY 1, 2"
        return self._query(sql)

    def usd_by_model(self) -> Iterator[tuple[Any, ...]]:
        """(AI model, source of the figure, USD) in all runs."""
        sql = f"SELECT {MODEL_SQL}, usd_source, sum(usd) FROM attempt a WHERE outcome IS NOT NULL AND usd IS NOT NULL GROUP BY 1, 2"
        return self._query(sql)

    def maybe_usd_by_model(self) -> Iterator[tuple[Any, ...]]:
        """(AI model, USD as `Money.maybe`, as `Money.unknown`, as `Money.maybe_unknown`) in all runs."""
        sql = (
            f"SELECT {MODEL_SQL}, coalesce(sum(estimate_usd) FILTER (WHERE {MAYBE_BILLED_SQL}), 0), count(*) FILTER (WHERE {UNPRICED_SQL}),"
            f" count(*) FILTER (WHERE {MAYBE_BILLED_SQL} AND estimate_usd IS NULL) FROM attempt a GROUP BY 1"
        )
        return self._query(sql)

    def billed_request_count(self, run_id: int | None = None) -> int:
        """The number of requests that were billed, may have been, or are not settled; of one run or of all."""
        where, values = _of_run("a.run_id", run_id)
        return int(self._row(f"SELECT count(*) FROM attempt a WHERE {BILLED_SQL} {where}", *values)[0])

    def picture_request_count(self, run_id: int | None = None) -> int:
        """The number of requests that are the source of a sample's latest image."""
        if run_id is None:
            return int(self._row(f"SELECT count(DISTINCT i.attempt_id) FROM image i WHERE {LATEST_IMAGE_SQL}")[0])
        holds = f"EXISTS (SELECT 1 FROM image i WHERE i.attempt_id = a.id AND {LATEST_IMAGE_SQL})"
        return int(self._row(f"SELECT count(*) FROM attempt a WHERE a.run_id = ? AND {holds}", run_id)[0])

    def surplus_requests(self, run_id: int | None = None) -> Iterator[SurplusRequest]:
        """The billed requests that are not, in the order in which they were sent."""
        where, values = _of_run("a.run_id", run_id)
        covers = "i.item_id = a.item_id AND i.n >= a.n AND i.n < a.n + a.images AND i.role = 'image'"
        later = f"FROM image i JOIN attempt l ON l.id = i.attempt_id WHERE {covers} AND i.attempt_id > a.id"
        sql = (
            "SELECT a.item_id, a.n, a.run_id, a.fingerprint, a.outcome,"
            f" coalesce(a.reason, CASE WHEN a.chunk IS NULL THEN '' ELSE '{IN_BATCH_REASON}' END),"
            f" CASE WHEN {MAYBE_BILLED_SQL} THEN 1 ELSE 0 END,"
            " (SELECT count(*) FROM image i WHERE i.attempt_id = a.id AND i.role = 'image'),"
            f" (SELECT count(*) {later}) > 0, (SELECT l.fingerprint {later} ORDER BY l.id LIMIT 1),"
            f" (SELECT l.run_id {later} ORDER BY l.id LIMIT 1), a.links IS NOT NULL, EXISTS (SELECT 1 FROM image i"
            " JOIN verdict v ON v.item_id = i.item_id AND v.n = i.n AND v.sha256 = i.sha256 WHERE i.attempt_id = a.id"
            f" AND i.role = 'draft') FROM attempt a WHERE {BILLED_SQL}"
            f" AND NOT EXISTS (SELECT 1 FROM image i WHERE i.attempt_id = a.id AND {LATEST_IMAGE_SQL}) {where} ORDER BY a.id"
        )
        rows = self._stream_query(sql, *values)
        return (SurplusRequest(sample_key(item_id, n), *facts) for item_id, n, *facts in rows)


def _of_run(column: str, run_id: int | None) -> tuple[str, tuple[int, ...]]:
    """A further condition and its values; none for all runs."""
    return ("", ()) if run_id is None else (f"AND {column} = ?", (run_id,))


def open_attempt_from_row(row: Sequence[Any]) -> OpenAttempt:
    """An open attempt. row: OPEN_ATTEMPT_COLUMNS."""
    attempt, item_id, n, images, lane, fingerprint, stem, started_at, estimate_usd, links, job, facts = row
    return OpenAttempt(
        *(attempt, item_id, n, images, lane, fingerprint, stem, started_at, estimate_usd),
        answer=parse_linked_answer(links) if links else None,
        job=PendingJob(**json.loads(job)) if job else None,
        facts=json.loads(facts or "{}"),
    )


def parse_linked_answer(text: str) -> LinkedAnswer:
    """An answer as `Ledger.links_received` wrote it; earlier versions wrote a bare list, or only links, usage and
    text."""
    found = json.loads(text)
    parsed: dict[str, Any] = {"links": found} if isinstance(found, list) else found
    recorded, inline = frozenset(parsed.get("recorded", ())), parsed.get("inline", 0)
    links = {inline + k: link for k, link in enumerate(parsed["links"]) if inline + k not in recorded}
    usage = Usage(**parsed["usage"]) if parsed.get("usage") else None
    return LinkedAnswer(
        links, recorded, inline + len(parsed["links"]), usage, parsed.get("text", ""), parsed.get("facts", {})
    )
