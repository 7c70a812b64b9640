"""Runs the checks of one image in a worker process, and returns their verdicts."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field

from batchgen.derivatives.render_process import RenderProcess, RenderProcessDied
from batchgen.item import Check
from batchgen.records import Verdict
from batchgen.review.check_type import Asked, Finding
from batchgen.review.checks import FAILED, basis_of, ruling_of
from batchgen.review.twins import TwinIndex

EXAMINE = "batchgen.review.examine:answer"


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckTask:
    """One image to check. path: its file, where this machine can read it. references: the paths of its item's
    references that are local files, which it should not be a copy of. attempt: the one that made it."""

    path: str
    sha256: str
    item_id: str
    n: int
    checks: Sequence[Check]
    asked: Asked = field(default_factory=Asked)
    references: Sequence[str] = ()
    attempt: int | None = None


async def run_checks(process: RenderProcess, task: CheckTask, twins: TwinIndex) -> list[Verdict]:
    """One verdict for each check, in order. Free, and never raises for what an image or a check may do.

    A check that does not work (reason `check_failed`) warns, and has an empty basis, so that a later run tries again.
    """
    try:
        findings = await _examine(process, task, task.checks)
    except RenderProcessDied:
        # One of them is to blame: run each alone, so that the others count.
        findings = [finding for check in task.checks for finding in await _examine_alone(process, task, check)]
    verdicts = []
    for check, finding in zip(task.checks, findings, strict=True):
        verdict = _verdict(task, check, finding)
        verdicts.append(twins.judge(verdict, check) if check.name == "twin" else verdict)
    return verdicts


async def _examine(process: RenderProcess, task: CheckTask, checks: Sequence[Check]) -> list[Finding]:
    """Run checks in the process. Raises RenderProcessDied."""
    request = {
        "path": task.path,
        "sha256": task.sha256,
        "checks": [[check.name, dict(check.options)] for check in checks],
        "asked": asdict(task.asked),
        "references": list(task.references),
    }
    return [Finding(**finding) for finding in await process.ask(EXAMINE, request)]


async def _examine_alone(process: RenderProcess, task: CheckTask, check: Check) -> list[Finding]:
    try:
        return await _examine(process, task, [check])
    except RenderProcessDied as died:
        return [Finding(reason=FAILED, message=f"the process of the check {died}")]


def _verdict(task: CheckTask, check: Check, finding: Finding) -> Verdict:
    return Verdict(
        item_id=task.item_id,
        n=task.n,
        sha256=task.sha256,
        by="check",
        name=check.name,
        basis="" if finding.reason == FAILED else basis_of(check),
        ruling=ruling_of(check, finding),
        reason=finding.reason,
        message=finding.message,
        score=finding.score,
        details=finding.details,
        attempt=task.attempt,
        at=time.time(),
    )
