"""What workers write into a ledger on a server, many rows per statement: requests that begin, images that came, and
what waits for them.

Rows are sent as one JSON text, so that a statement is the same however many there are.
"""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from batchgen.ledger import work_queue
from batchgen.ledger.backlog import load_sample
from batchgen.ledger.changes import ASKED_SAMPLE_COLUMNS, ASKED_SAMPLE_CONFLICT, dump_usage, insert_blocked
from batchgen.ledger.database import Connection, PreparedSql, column_list
from batchgen.ledger.pictures import Receipt
from batchgen.ledger.requests import IntendedRequest
from batchgen.ledger.schema import IMAGE_COLUMNS
from batchgen.money import STEP_USD
from batchgen.planning.reason import blocked_message
from batchgen.records import Sample, is_judge_id

_START_SQL = PreparedSql(f"""
WITH r AS MATERIALIZED (SELECT * FROM jsonb_to_recordset(?::jsonb) AS r (place int, paid boolean, key text, item_id text, n bigint,
  images bigint, number bigint, lane text, fingerprint text, stem text, started_at float8, estimate_usd float8, sent_as text,
  facts text, model text, tags text, wire text, judged boolean)),
held AS MATERIALIZED (SELECT w.key FROM work w WHERE w.key IN (SELECT key FROM r) AND w.worker = ? ORDER BY w.key FOR UPDATE),
job AS (SELECT stopped_by, budget_usd FROM submission WHERE run_id = ?),
go AS (SELECT r.* FROM r JOIN held USING (key) CROSS JOIN job WHERE job.stopped_by = '' AND (r.paid OR job.budget_usd IS NULL)),
begun AS (INSERT INTO attempt (run_id, item_id, n, images, number, lane, fingerprint, stem, started_at, estimate_usd, sent_as, facts,
   worker) SELECT ?, item_id, n, images, number, lane, fingerprint, stem, started_at, estimate_usd, sent_as, facts, ? FROM go
  ORDER BY place RETURNING id, item_id, n),
asked AS (INSERT INTO sample ({ASKED_SAMPLE_COLUMNS}) SELECT item_id, each.n, model, tags, 'running', fingerprint, wire, 1, started_at
  FROM go CROSS JOIN generate_series(go.n, go.n + go.images - 1) AS each (n) WHERE NOT judged ORDER BY 1, 2 {ASKED_SAMPLE_CONFLICT})
SELECT r.place, begun.id, (held.key IS NULL)::int, job.stopped_by FROM r CROSS JOIN job LEFT JOIN held ON held.key = r.key
 LEFT JOIN begun ON begun.item_id = r.item_id AND begun.n = r.n
""")
_RESERVE_SQL = (
    "UPDATE submission SET spent_usd = spent_usd + ? WHERE run_id = ?"
    f" AND spent_usd + ? < budget_usd + {STEP_USD / 2} RETURNING 1"
)
# What was reserved of a budget and not spent is free again; without a budget nobody counts it.
_MADE_SQL = PreparedSql(f"""
WITH r AS MATERIALIZED (SELECT * FROM jsonb_to_recordset(?::jsonb) AS r (attempt_id bigint, item_id text, n bigint, fingerprint text,
  sent_at float8, ended_at float8, attempt_usd float8, usd_source text, usage text, reply_id text, model_version text, beside text,
  text text, usd float8, k bigint, role text, spool text, path text, placed bigint, sha256 text, bytes bigint, width bigint,
  height bigint, format text, flags text)),
ok AS MATERIALIZED (SELECT r.* FROM r JOIN attempt a ON a.id = r.attempt_id AND (a.outcome IS NULL OR a.outcome <> 'succeeded')
  JOIN sample s ON s.item_id = r.item_id AND s.n = r.n AND s.fingerprint = r.fingerprint
   AND s.state NOT IN ('succeeded', 'rejected', 'superseded') ORDER BY r.item_id, r.n FOR UPDATE OF a, s),
ended AS (UPDATE attempt SET outcome = 'succeeded', reason = '', message = '', maybe_billed = 0, sent_at = coalesce(ok.sent_at,
   attempt.sent_at), ended_at = ok.ended_at, http_status = 200, usd = ok.attempt_usd, usd_source = ok.usd_source, usage = ok.usage,
   reply_id = ok.reply_id, model_version = ok.model_version, beside = ok.beside FROM ok WHERE attempt.id = ok.attempt_id),
taken AS (UPDATE sample SET state = 'succeeded', path = ok.path, bytes = ok.bytes, made_fingerprint = sample.fingerprint,
   usd = ok.usd, usd_source = ok.usd_source, reason = '', message = '', text = ok.text, updated_at = ok.ended_at
  FROM ok WHERE sample.item_id = ok.item_id AND sample.n = ok.n),
kept AS (INSERT INTO image ({column_list(IMAGE_COLUMNS)}) SELECT {column_list(IMAGE_COLUMNS)} FROM ok
  ON CONFLICT (attempt_id, k) DO UPDATE SET {", ".join(f"{name} = excluded.{name}" for name in IMAGE_COLUMNS[2:])}),
spent AS (UPDATE submission SET spent_usd = spent_usd + d.usd FROM (SELECT a.run_id, sum(ok.attempt_usd - coalesce(a.estimate_usd, 0))
   AS usd FROM ok JOIN attempt a ON a.id = ok.attempt_id WHERE ok.attempt_usd IS NOT NULL GROUP BY 1) d
  WHERE submission.run_id = d.run_id AND budget_usd IS NOT NULL)
SELECT attempt_id FROM ok
""")
_ENDED_SQL = PreparedSql("""
WITH r AS MATERIALIZED (SELECT * FROM jsonb_to_recordset(?::jsonb) AS r (id bigint, usd float8)),
a AS MATERIALIZED (SELECT a.id, a.item_id, a.n, a.images, a.estimate_usd, a.run_id, a.outcome, r.usd FROM attempt a JOIN r USING (id)),
spent AS (UPDATE submission SET spent_usd = spent_usd + d.usd FROM (SELECT run_id, sum(usd - coalesce(estimate_usd, 0)) AS usd FROM a
   WHERE usd IS NOT NULL GROUP BY run_id) d WHERE submission.run_id = d.run_id AND budget_usd IS NOT NULL)
SELECT a.id, a.item_id, a.n, s.n, s.state, s.reason FROM a JOIN sample s ON s.item_id = a.item_id AND s.n >= a.n
   AND s.n < a.n + a.images WHERE a.outcome IS NULL OR a.outcome = 'succeeded' ORDER BY a.id, s.n
""")
_RELEASE_SQL = PreparedSql("""
WITH met AS (DELETE FROM need WHERE key = ANY(?::text[]) RETURNING work_id),
released AS (UPDATE work SET missing = missing - m.count FROM (SELECT work_id, count(*) AS count FROM met GROUP BY 1) m
  WHERE work.id = m.work_id RETURNING missing),
done AS (DELETE FROM work WHERE key = ANY(?::text[]) RETURNING id),
gone AS (DELETE FROM need USING done WHERE work_id = done.id)
SELECT count(*) FROM released WHERE missing = 0
""")
_PLACED_SQL = PreparedSql("""
UPDATE image SET placed = 1, stamp = coalesce(r.stamps ->> image.path, image.stamp)
 FROM jsonb_to_recordset(?::jsonb) AS r (attempt_id bigint, stamps jsonb) WHERE image.attempt_id = r.attempt_id
""")


@dataclass(frozen=True, slots=True)
class Start:
    """A request that is about to be sent. at: UTC seconds."""

    request: IntendedRequest
    at: float


class EndedSample(NamedTuple):
    """What an attempt means for one of its samples. key_n: the number under which the attempt is in the queue."""

    attempt: int
    item_id: str
    key_n: int
    n: int
    state: str
    reason: str


def start_attempts(db: Connection, run_id: int, worker: str, starts: Sequence[Start]) -> list[int | str]:
    """Start attempts. Returns the number of each, or why it may not be sent: taken | stopped | budget. The work stays
    the worker's until the transaction ends."""
    answers: list[int | str] = ["taken"] * len(starts)
    unpaid = _start(db, run_id, worker, starts, range(len(starts)), answers, paid=False)
    paid = _reserve(db, run_id, {place: starts[place].request.estimate_usd or 0.0 for place in unpaid})
    for place in unpaid:
        answers[place] = "budget"
    if paid:
        _start(db, run_id, worker, starts, paid, answers, paid=True)
    return answers


def _reserve(db: Connection, run_id: int, usd: Mapping[int, float]) -> list[int]:
    """The indexes of the amounts for which the budget has room: all by one statement, as each worker waits for the
    row."""
    whole = sum(usd.values())
    if usd and db.execute(_RESERVE_SQL, (whole, run_id, whole)).fetchone() is not None:
        return list(usd)
    if len(usd) < 2:
        return []
    return [place for place, each in usd.items() if _reserve(db, run_id, {place: each})]


def _start(
    db: Connection,
    run_id: int,
    worker: str,
    starts: Sequence[Start],
    places: Sequence[int],
    answers: list[int | str],
    *,
    paid: bool,
) -> list[int]:
    """Fill in the answers. Returns the indexes of those that first need room in the budget."""
    rows = _dump([_start_row(place, starts[place], paid=paid) for place in places])
    unpaid = []
    for place, attempt, taken, stopped_by in db.execute(_START_SQL, (rows, worker, run_id, run_id, worker)).fetchall():
        if attempt is not None:
            answers[place] = attempt
        elif stopped_by:
            answers[place] = "taken" if taken else "stopped"
        elif not taken:
            unpaid.append(place)
    return sorted(unpaid)


def _start_row(place: int, start: Start, *, paid: bool) -> dict[str, Any]:
    request, sample, item = start.request, start.request.sample, start.request.sample.item
    return {
        "place": place,
        "paid": paid,
        "key": sample.key,
        "item_id": item.id,
        "n": sample.n,
        "images": sample.images,
        "number": request.number,
        "lane": request.lane,
        "fingerprint": sample.fingerprint,
        "stem": item.filename,
        "started_at": start.at,
        "estimate_usd": request.estimate_usd,
        "sent_as": request.sent_as or None,
        "facts": json.dumps(request.facts) if request.facts else None,
        "model": item.model,
        "tags": ",".join(item.tags),
        "wire": sample.wire,
        "judged": is_judge_id(item.id),
    }


def is_plain(receipt: Receipt) -> bool:
    """Whether an answer brought exactly the one image that was requested."""
    return len(receipt.pictures) == 1 and receipt.pictures[0].file.role == "image" and not receipt.missing


def record_pictures(db: Connection, receipts: Sequence[Receipt]) -> list[bool]:
    """Record plain receipts. Returns for each whether its sample accepted the image, which is then recorded with its
    attempt. Otherwise nothing is: the attempt has its image already, or the sample does not wait for one of exactly
    this request."""
    first: dict[tuple[str, int], Receipt] = {}
    for receipt in receipts:
        first.setdefault((receipt.item, receipt.pictures[0].n), receipt)
    rows = _dump([_receipt_row(receipt, time.time()) for receipt in first.values()])
    taken = {attempt for (attempt,) in db.execute(_MADE_SQL, (rows,)).fetchall()}
    return [receipt.attempt in taken and first[receipt.item, receipt.pictures[0].n] is receipt for receipt in receipts]


def _receipt_row(receipt: Receipt, at: float) -> dict[str, Any]:
    (picture,), file = receipt.pictures, receipt.pictures[0].file
    return {
        "attempt_id": receipt.attempt,
        "item_id": receipt.item,
        "n": picture.n,
        "fingerprint": receipt.fingerprint,
        "sent_at": receipt.sent_at,
        "ended_at": at,
        "attempt_usd": receipt.usd,
        "usd_source": receipt.usd_source,
        "usage": dump_usage(receipt.usage),
        "reply_id": receipt.reply_id,
        "model_version": receipt.model_version,
        "beside": json.dumps(dict(receipt.beside)) if receipt.beside else None,
        "text": receipt.text,
        "usd": picture.usd,
        "k": picture.k,
        "spool": picture.spool,
        "placed": 0,
        **dataclasses.asdict(file),
        "flags": ",".join(file.flags),
    }


def made_samples(receipts: Sequence[Receipt]) -> list[EndedSample]:
    """The samples that `record_pictures` has recorded."""
    return [
        EndedSample(receipt.attempt, receipt.item, receipt.n, picture.n, "succeeded", "")
        for receipt in receipts
        for picture in receipt.pictures
    ]


def ended_samples(db: Connection, attempts: Mapping[int, float | None]) -> list[EndedSample]:
    """What attempts that have just ended mean for their samples, without those that are retried. attempts: with their
    cost in USD, None if unknown."""
    rows = _dump([{"id": attempt, "usd": usd} for attempt, usd in attempts.items()])
    return [EndedSample(*row) for row in db.execute(_ENDED_SQL, (rows,)).fetchall()]


def end_work(db: Connection, made: Sequence[str], done: Sequence[str]) -> bool:
    """End work. made: keys of samples that have their images; done: of work that has ended. Returns whether there is
    work that waited for nothing else."""
    return bool(db.execute(_RELEASE_SQL, (list(made), list(done))).fetchone()[0])


def mark_placed(db: Connection, placed: Sequence[tuple[int, Sequence[tuple[str, str]]]]) -> list[None]:
    """Record that images are in their places. placed: (attempt, (path, stamp) of its images that have one)."""
    stamps: dict[int, dict[str, str]] = {}
    for attempt, of_paths in placed:
        stamps.setdefault(attempt, {}).update(of_paths)
    rows = [{"attempt_id": attempt, "stamps": of_paths} for attempt, of_paths in stamps.items()]
    db.execute(_PLACED_SQL, (_dump(rows),))
    return [None] * len(placed)


def _dump(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows as JSON, without zero bytes in texts, which PostgreSQL does not support."""
    clean = [
        {
            name: value.replace("\0", "\N{REPLACEMENT CHARACTER}") if isinstance(value, str) else value
            for name, value in row.items()
        }
        for row in rows
    ]
    return json.dumps(clean, ensure_ascii=False)


def block_dependents(db: Connection, ended: Sequence[tuple[str, str, str]]) -> list[tuple[Sample, str]]:
    """Block everything that waits for samples which end without images, and return it with reasons. ended: key, state
    and reason of each."""
    blocked: dict[str, tuple[Sample, str]] = {}
    left, gone = list(ended), list[str]()
    while left:
        key, state, reason = left.pop()
        why = blocked_message(key, state, reason)
        for name, body, images in work_queue.dependents_of(db, key):
            gone.append(name)
            if not images:  # there will be no image to make files from
                continue
            sample = load_sample(body)
            for n in range(sample.n, sample.n + sample.images):
                single = replace(sample, n=n, images=1)
                if single.key not in blocked:
                    blocked[single.key] = (single, why)
                    left.append((single.key, "blocked", ""))
    work_queue.delete_work(db, gone)
    found = list(blocked.values())
    insert_blocked(db, found)
    return found
