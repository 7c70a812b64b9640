"""How often checks are wrong about labelled images. In this process, by the functions that a worker process calls."""

from __future__ import annotations

import hashlib
import itertools
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from batchgen.records import Verdict
from batchgen.review.check_type import Finding
from batchgen.review.checks import FAILED
from batchgen.review.examine import answer
from batchgen.review.twins import TwinIndex
from tests.support.labelled_images import FORMATS, Labelled, Size, encode, labelled


@dataclass
class Rates:
    """wrong, right: images of which a check should find something, or nothing. missed, false_alarms: of these it was wrong about."""

    check: str
    wrong: int = 0
    right: int = 0
    missed: int = 0
    false_alarms: int = 0
    cpu_s: float = 0.0
    errors: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)

    @property
    def images(self) -> int:
        return self.wrong + self.right

    def count(self, wrong: bool, found: bool, about: str) -> None:
        self.wrong += wrong
        self.right += not wrong
        self.missed += wrong and not found
        self.false_alarms += found and not wrong
        if wrong != found:
            self.errors.append(f"{'missed' if wrong else 'false alarm'}: {about}")


def rates(
    name: str, sizes: Sequence[Size], folder: Path, *, formats: Sequence[str] = FORMATS, most: int | None = None
) -> Rates:
    """most: images of each size and format."""
    found = Rates(name)
    for size in sizes:
        for one, _ in itertools.islice(labelled(name, [size]), most):
            for kind in ("png",) if name == "cut out" else formats:
                finding = _finding(one, kind, folder, found)
                about = f"{one.name}, {size[0]} x {size[1]} {kind}: {finding.message or finding.score}"
                if finding.reason == FAILED:
                    found.failed.append(about)
                found.count(one.wrong, bool(finding.reason), about)
    return found


def _finding(one: Labelled, kind: str, folder: Path, found: Rates) -> Finding:
    references = [] if one.reference is None else [one.reference]
    started_s = time.process_time()
    finding = _examine(one, encode(one.image, kind), [encode(image, kind) for image in references], folder)
    found.cpu_s += time.process_time() - started_s
    if one.earlier is None or finding.reason:
        return finding
    index = TwinIndex()
    index.add(_verdict("earlier", _examine(one, encode(one.earlier, "png"), [], folder)))
    verdict = index.judge(_verdict("this", finding), one.check)
    return Finding(reason=verdict.reason, message=verdict.message, score=verdict.score)


def _examine(one: Labelled, data: bytes, references: Sequence[bytes], folder: Path) -> Finding:
    path = folder / "image"
    path.write_bytes(data)
    paths = [folder / hashlib.sha256(reference).hexdigest() for reference in references]
    for reference, at in zip(references, paths, strict=True):
        at.write_bytes(reference)
    asked = {"prompt": "", "aspect_ratio": one.asked.aspect_ratio, "expected": one.asked.expected}
    request = {
        "path": str(path),
        "sha256": hashlib.sha256(data).hexdigest(),
        "references": list(map(str, paths)),
        "checks": [[one.check.name, dict(one.check.options)]],
        "asked": asked,
    }
    return Finding(**answer(request, lambda: True)[0])


def _verdict(item_id: str, finding: Finding) -> Verdict:
    return Verdict(item_id=item_id, n=1, sha256="", by="check", name="twin", ruling="accept", details=finding.details)
