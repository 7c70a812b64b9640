"""What a case of the benchmark gives back, and how it is printed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from statistics import median
from typing import Any, Literal

from tests.benchmarks.measure import Run

NAMES = {
    "ours": "batchgen",
    "ours_looking": "batchgen, looks too",
    "careful": "careful client",
    "sdk": "google-genai loop",
    "bare": "bare aiohttp loop",
    "ours_references": "batchgen",
    "ours_batch": "batchgen, batches",
    "ours_postgresql": "batchgen, PostgreSQL",
    "ours_cluster": "batchgen, submits",
    "worker": "batchgen worker",
    "ours_plan": "batchgen plan",
}


@dataclass(frozen=True, slots=True)
class Target:
    """A promise and what was measured. sense: whether the measured figure may be at least or at most `wanted`."""

    what: str
    sense: Literal["at least", "at most", "exactly"]
    wanted: float
    measured: float
    unit: str = ""

    @property
    def met(self) -> bool:
        if self.sense == "exactly":
            return self.measured == self.wanted
        return self.measured >= self.wanted if self.sense == "at least" else self.measured <= self.wanted


@dataclass(slots=True)
class Case:
    """tables: a title and its runs; notes: what a reader has to know to judge the figures."""

    name: str
    title: str
    targets: list[Target] = field(default_factory=list)
    tables: dict[str, list[Run]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    extra: dict[str, Any] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "title": self.title,
            "targets": [asdict(target) | {"met": target.met} for target in self.targets],
            "tables": {title: [asdict(run) for run in runs] for title, runs in self.tables.items()},
            "notes": self.notes,
            "extra": self.extra,
        }


def report(case: Case) -> str:
    lines = [f"\n{case.title}"]
    for title, runs in case.tables.items():
        lines += ["", f"  {title}", *table(runs)]
    if case.targets:
        lines.append("")
    lines += [target_line(target) for target in case.targets]
    lines += [f"  note: {note}" for note in case.notes]
    return "\n".join(lines)


def table(runs: Sequence[Run]) -> list[str]:
    """Medians over the rounds, one line per contender."""
    head = f"  {'':20}{'runs':>5}{'images':>9}{'images/s':>10}{'wall s':>9}{'CPU ms/image':>14}{'peak MB':>9}"
    return [head, *(table_line(name, runs) for name in dict.fromkeys(run.contender for run in runs))]


def table_line(contender: str, all_runs: Sequence[Run]) -> str:
    runs = [run for run in all_runs if run.contender == contender]
    images = median(run.images for run in runs)
    per_s = median(run.images_per_s for run in runs)
    cpu_ms = median(run.cpu_s * 1000 / max(1, run.images) for run in runs)
    wall_s, rss_mb = median(run.wall_s for run in runs), max(run.rss_mb for run in runs)
    name = NAMES.get(contender, contender)
    return f"  {name:20}{len(runs):5}{images:9.0f}{per_s:10.1f}{wall_s:9.2f}{cpu_ms:14.2f}{rss_mb:9.0f}"


def target_line(target: Target) -> str:
    verdict = "met   " if target.met else "MISSED"
    unit = f" {target.unit}" if target.unit else ""
    return f"  {verdict} {target.what}: {number(target.measured)}{unit} ({target.sense} {number(target.wanted)}{unit})"


def number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 or value == int(value) else f"{value:.3g}"
