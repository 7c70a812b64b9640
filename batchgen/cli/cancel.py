"""`batchgen cancel`: withdraws what a cluster's workers have not begun, and cancels jobs at their vendors."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

from batchgen.cli.invocation import Invocation
from batchgen.cli.job_folder import find_job, find_manifest
from batchgen.cli.run_arguments import load_job
from batchgen.engine.jobs import CancelledJobs, cancel_jobs
from batchgen.errors import UsageError
from batchgen.ledger.location import read_pointer, server_address
from batchgen.ledger.reader import Reader
from batchgen.report import formatting

EXIT_GOING_ON = 9


def cancel_command(invocation: Invocation, job: str, output: str | None, dry_run: bool, as_json: bool) -> int:
    folder = find_job(job, output).folder
    withdrawn, left = _withdraw(folder, dry_run=dry_run)
    jobs = _cancel_jobs(invocation, job, folder, dry_run=dry_run)
    if jobs is None and withdrawn is None:
        raise UsageError(f"{folder}: nothing of it is with a cluster or a vendor; stop its run with Ctrl-C")
    jobs = jobs or CancelledJobs()
    if as_json:
        at_vendors = {"cancelled": jobs.cancelled, "made": jobs.made, "going_on": list(jobs.going_on)}
        facts = {"folder": str(folder), "dry_run": dry_run, "withdrawn": withdrawn or 0, "in_flight": left}
        invocation.answer({**facts, "jobs": at_vendors})
    elif withdrawn is not None:
        rest = f"; {formatting.count(left, 'sample')} in flight will be finished" if left else ""
        verb = "to withdraw" if dry_run else "withdrawn"
        invocation.out.line(f"{formatting.count(withdrawn, 'sample')} {verb}{rest}")
    for line in () if as_json else _lines(jobs, dry_run=dry_run):
        invocation.out.line(line)
    return EXIT_GOING_ON if jobs.going_on and not dry_run else 0


def _withdraw(folder: Path, *, dry_run: bool) -> tuple[int | None, int]:
    """Withdraw samples from the cluster's queue. Returns (samples withdrawn, samples that workers finish); None instead
    of the first if the job has no cluster."""
    there = read_pointer(folder)
    if there is None:
        return None, 0
    from batchgen.engine.cluster.queue import cancel  # loads the cluster, which most jobs do not have

    return cancel(server_address(folder, None) or "", there.schema, dry_run=dry_run)


def _cancel_jobs(invocation: Invocation, job: str, folder: Path, *, dry_run: bool) -> CancelledJobs | None:
    """Cancel jobs at their vendors. Returns None if there are none."""
    with Reader.open(folder) as reader:
        if not reader.open_jobs():
            return None
    manifest, emulated = find_manifest(job, folder)
    if emulated:
        return None  # its emulator ended with its run
    loaded = load_job(invocation, manifest, str(folder))
    return asyncio.run(cancel_jobs(loaded, dry_run=dry_run))


def _lines(jobs: CancelledJobs, *, dry_run: bool) -> Iterator[str]:
    if jobs.cancelled:
        rest = "; the run that is going on records how they end" if jobs.running else ""
        yield f"{formatting.count(jobs.cancelled, 'job')} {'to cancel' if dry_run else 'cancelled'} at the vendor's{rest}"
    if jobs.made:
        yield f"{formatting.count(jobs.made, 'job')} had ended before: the next run fetches what was made"
    if jobs.going_on:
        more = len(jobs.going_on) - 1
        yield f"{formatting.count(len(jobs.going_on), 'job')} not cancelled: {jobs.going_on[0]}{f' and {more} more' if more else ''}"
