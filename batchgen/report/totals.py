"""How much of a manifest is made, and what became of the rest: the same figures and words in every view."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from batchgen.ledger.reader import Reader
from batchgen.ledger.runs import FileState, QueueStatus, ReadManifest, RunRow
from batchgen.planning.reason import Reason, ReasonKind, reason_text
from batchgen.records import HAS_IMAGE
from batchgen.report import formatting
from batchgen.report.view import TotalsView, utc_time

WITH_WORKERS = reason_text(Reason(ReasonKind.WITH_WORKERS))
NOT_MADE_STATES = ("refused", "failed", "uncertain", "blocked", "submitted", "running")
STATE_WORDS = {
    "submitted": "with the vendor",
    "running": "sent and not answered yet",
    "wanted": "not tried",
    "superseded": "not in the manifest",
}


def read_totals(reader: Reader, samples: Mapping[str, int], manifest: str) -> TotalsView:
    """The totals. samples: by state, as the ledger has them now; manifest: the path of its file."""
    found = reader.last_read_manifest()
    totals = (
        _totals_of_earlier_version(samples, reader.last_run()) if found is None else _totals(samples, found, manifest)
    )
    return _with_queue(totals, reader.queue_status())


def _totals(samples: Mapping[str, int], found: ReadManifest, manifest: str) -> TotalsView:
    asked = found.totals
    made = max(0, has_image_count(samples) - asked.outdated)
    not_made = _not_made(samples)
    left_out = {why: number for why, number in asked.left_out.items() if number}
    rest = asked.images - made - asked.outdated - sum(not_made.values()) - sum(left_out.values())
    state = FileState.UNKNOWN if asked.file is None else asked.file.state_of(Path(manifest))
    return TotalsView(
        images=asked.images,
        made=made,
        not_made=not_made,
        left_out=left_out,
        limit=asked.limit,
        outdated=asked.outdated,
        rejected=samples.get("rejected", 0),
        not_tried=max(0, rest),
        not_in_manifest=samples.get("superseded", 0),
        read_by_run=found.run_id,
        read_at=utc_time(found.at),
        manifest=state,
    )


def _totals_of_earlier_version(samples: Mapping[str, int], run: RunRow | None) -> TotalsView:
    """The totals if no run noted what its manifest asks for: those of what was tried."""
    made, not_made = has_image_count(samples), _not_made(samples)
    seen = sum(number for state, number in samples.items() if state != "superseded")
    images = max(seen, run.wanted + run.kept) if run else seen
    return TotalsView(
        images=images,
        made=made,
        not_made=not_made,
        rejected=samples.get("rejected", 0),
        not_tried=max(0, images - made - sum(not_made.values())),
        not_in_manifest=samples.get("superseded", 0),
    )


def has_image_count(samples: Mapping[str, int]) -> int:
    """The number of samples with an image, accepted or not."""
    return sum(samples.get(state, 0) for state in HAS_IMAGE)


def _not_made(samples: Mapping[str, int]) -> dict[str, int]:
    return {state: samples[state] for state in NOT_MADE_STATES if samples.get(state)}


def _with_queue(totals: TotalsView, queue: QueueStatus | None) -> TotalsView:
    """The totals with a queue: what workers have is neither untried nor sent by this machine."""
    if queue is None or not queue.samples:
        return totals
    not_made = {**totals.not_made, "with_workers": queue.samples}
    sent = not_made.pop("running", 0)
    return replace(totals, not_made=not_made, not_tried=max(0, totals.not_tried + sent - queue.samples))


def totals_text(totals: TotalsView, of_those: str = "") -> str:
    """Text such as `3 of 37 images made; 1 refused, 33 left out by --limit 3`. of_those: the text about the images that
    are made."""
    rest = [f"{number:,} {_state_words(state)}" for state, number in totals.not_made.items()]
    for why, number in totals.left_out.items():
        limit = f" {totals.limit}" if why == "limit" and totals.limit is not None else ""
        rest.append(f"{number:,} {formatting.LEFT_OUT_WORDS[why]}{limit}")
    rest += [f"{totals.outdated:,} to be made again"] if totals.outdated else []
    rest += [f"{totals.not_tried:,} not tried"] if totals.not_tried else []
    rejected = f", {totals.rejected:,} of them rejected" if totals.rejected else ""
    made = f"{totals.made:,} of {formatting.count(totals.images, 'image')} made{rejected}{of_those}"
    return "; ".join([made, *([", ".join(rest)] if rest else [])])


def _state_words(state: str) -> str:
    return WITH_WORKERS if state == "with_workers" else STATE_WORDS.get(state, state)


def state_counts_text(counts: Mapping[str, int]) -> str:
    """Samples by state in words: `9 succeeded, 2 not in the manifest`."""
    return formatting.join_counts({_state_words(state): number for state, number in counts.items()})


def manifest_lines(totals: TotalsView, manifest: str) -> list[str]:
    """How far the totals can be trusted, and what the ledger has besides. manifest: the path of its file."""
    lines, name = [], os.path.basename(manifest)
    when = f"run {totals.read_by_run} read it {formatting.duration(totals.read_at.ago_s)} ago" if totals.read_at else ""
    if not totals.read_by_run:
        lines.append(
            "an earlier version of batchgen did not note how many images it asks for: only those tried are counted"
        )
    elif totals.manifest == FileState.CHANGED:
        lines.append(f"{name} has changed since {when}; `batchgen plan {name}` shows what is new")
    elif totals.manifest == FileState.GONE:
        lines.append(f"{name} is gone: the totals are as {when}")
    if removed := totals.not_in_manifest:
        lines.append(f"{formatting.count(removed, 'image')} no longer in the manifest; what was made is in superseded/")
    return lines
